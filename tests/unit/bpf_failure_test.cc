#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "exporter/bpf/failure.h"

namespace kmem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kNoLockdown = "[none] integrity confidentiality\n";
constexpr const char* kConfidentiality = "none integrity [confidentiality]\n";

TracingError Described(int error, const char* lockdown = kNoLockdown, const char* detail = "") {
  TracingError described = DescribeBpfFailure(error, "loading the programs", lockdown, detail);
  EXPECT_THAT(described.what(),
              AllOf(StartsWith("bpf: loading the programs: "), Not(HasSubstr("\n"))));
  return described;
}

TEST(BpfFailureTest, NotPermittedNamesTheCapabilities) {
  const TracingError described = Described(EPERM);
  EXPECT_EQ(described.problem(), TracingProblem::kNotPermitted);
  EXPECT_THAT(described.what(),
              AllOf(HasSubstr("CAP_BPF"), HasSubstr("CAP_PERFMON"), HasSubstr("seccomp")));
}

TEST(BpfFailureTest, AKernelWithoutBpfIsAbsence) {
  EXPECT_EQ(Described(ENOSYS).problem(), TracingProblem::kAbsent);
}

TEST(BpfFailureTest, ConfidentialityLockdownIsAStateOfItsOwnWhateverTheVerifierSays) {
  const TracingError described =
      Described(EINVAL, kConfidentiality, "unknown func bpf_probe_read_kernel#113");
  EXPECT_EQ(described.problem(), TracingProblem::kLockedDown);
  EXPECT_THAT(described.what(), AllOf(HasSubstr("lockdown"), HasSubstr("bpf_probe_read_kernel")));
  EXPECT_EQ(Described(EPERM, kConfidentiality).problem(), TracingProblem::kLockedDown);
}

TEST(BpfFailureTest, WhatTheVerifierSaysIsInTheLine) {
  const TracingError described = Described(EACCES, kNoLockdown, "R8 unbounded memory access");
  EXPECT_EQ(described.problem(), TracingProblem::kFailed);
  EXPECT_THAT(described.what(), HasSubstr("R8 unbounded memory access"));
}

TEST(BpfFailureTest, AKernelWithoutAtomicExchangeIsAbsence) {
  const TracingError described = Described(EINVAL, kNoLockdown, "BPF_STX uses reserved fields");
  EXPECT_EQ(described.problem(), TracingProblem::kAbsent);
  EXPECT_THAT(described.what(), AllOf(HasSubstr("atomic exchange"), HasSubstr("5.18")));
}

TEST(BpfFailureTest, OtherErrorsAreInTheirWords) {
  const TracingError described = Described(ENOMEM);
  EXPECT_EQ(described.problem(), TracingProblem::kFailed);
  EXPECT_THAT(described.what(), HasSubstr("Cannot allocate memory"));
}

TEST(BpfFailureTest, OfWhatLibbpfSaysTheVerifiersVerdictCounts) {
  const char* text =
      "libbpf: prog 'kfree': BPF program load failed: Permission denied\n"
      "libbpf: prog 'kfree': -- BEGIN PROG LOAD LOG --\n"
      "0: R1=ctx(off=0,imm=0) R10=fp0\n"
      "57: (79) r5 = *(u64 *)(r8 +16)\n"
      "R8 unbounded memory access, make sure to bounds check any such access\n"
      "processed 57 insns (limit 1000000) max_states_per_insn 0\n"
      "-- END PROG LOAD LOG --\n"
      "libbpf: failed to load object 'kmem_bpf'\n";
  EXPECT_EQ(EssenceOfLibbpfLog(text),
            "R8 unbounded memory access, make sure to bounds check any such access");
  EXPECT_EQ(EssenceOfLibbpfLog("libbpf: map 'x': failed to create\nlibbpf: failed to load\n"),
            "map 'x': failed to create");
  EXPECT_EQ(EssenceOfLibbpfLog(""), "");
  EXPECT_EQ(EssenceOfLibbpfLog("processed "), "");
}

}  // namespace
}  // namespace kmem
