#include "exporter/tracefs/instance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>

namespace kmem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kPath = "/sys/kernel/tracing/instances/kmem_exporter";
constexpr const char* kNoLockdown = "[none] integrity confidentiality\n";
constexpr const char* kIntegrity = "none [integrity] confidentiality\n";
constexpr const char* kConfidentiality = "none integrity [confidentiality]\n";

TracingError Described(int error, const char* lockdown = kNoLockdown, const char* label = "") {
  TracingError described = DescribeTracefsFailure(error, kPath, lockdown, label);
  EXPECT_THAT(described.what(),
              AllOf(StartsWith("tracefs: "), HasSubstr(kPath), Not(HasSubstr("\n"))));
  return described;
}

TEST(TracefsFailureTest, NothingThereSaysHowToMountIt) {
  for (const int error : {ENOENT, ENOTDIR}) {
    const TracingError described = Described(error);
    EXPECT_EQ(described.problem(), TracingProblem::kAbsent);
    EXPECT_EQ(described.reason(), "absent");
    EXPECT_THAT(described.what(),
                AllOf(HasSubstr("mount -t tracefs"), HasSubstr("--path.tracefs")));
  }
}

TEST(TracefsFailureTest, NotPermittedSaysAsWhomToRun) {
  for (const int error : {EACCES, EPERM, EROFS}) {
    const TracingError described = Described(error);
    EXPECT_EQ(described.problem(), TracingProblem::kNotPermitted);
    EXPECT_EQ(described.reason(), "not_permitted");
    EXPECT_THAT(described.what(), HasSubstr("uid 0"));
  }
}

TEST(TracefsFailureTest, AppArmorsProfileIsNamedWhereItMayBeWhy) {
  constexpr const char* kProfile = "cri-containerd.apparmor.d (enforce)";
  EXPECT_THAT(Described(EACCES, kNoLockdown, kProfile).what(),
              AllOf(HasSubstr("uid 0"), HasSubstr(kProfile), HasSubstr("--path.tracefs")));
  EXPECT_THAT(Described(EROFS, kNoLockdown, kProfile).what(), Not(HasSubstr("AppArmor")));
  for (const char* label : {"", "unconfined", "docker-default (complain)", "u:r:container_t:s0"}) {
    EXPECT_THAT(Described(EACCES, kNoLockdown, label).what(), Not(HasSubstr("AppArmor"))) << label;
  }
}

TEST(TracefsFailureTest, AReadOnlyTracefsIsToldFromAFilesMode) {
  EXPECT_THAT(Described(EROFS).what(), HasSubstr("Read-only file system"));
  EXPECT_THAT(Described(EACCES).what(), HasSubstr("Permission denied"));
}

TEST(TracefsFailureTest, ConfidentialityLockdownIsAStateOfItsOwn) {
  for (const int error : {EPERM, ENOENT}) {
    const TracingError described = Described(error, kConfidentiality);
    EXPECT_EQ(described.problem(), TracingProblem::kLockedDown);
    EXPECT_EQ(described.reason(), "locked_down");
    EXPECT_THAT(described.what(), AllOf(HasSubstr("lockdown"), HasSubstr("confidentiality")));
  }
}

TEST(TracefsFailureTest, OtherLockdownsForbidNothing) {
  for (const char* lockdown : {kNoLockdown, kIntegrity, ""}) {
    EXPECT_EQ(Described(EPERM, lockdown).problem(), TracingProblem::kNotPermitted) << lockdown;
    EXPECT_EQ(Described(ENOENT, lockdown).problem(), TracingProblem::kAbsent) << lockdown;
  }
}

TEST(TracefsFailureTest, UnderLockdownOtherErrorsKeepTheirMeaning) {
  EXPECT_EQ(Described(EACCES, kConfidentiality).problem(), TracingProblem::kNotPermitted);
  EXPECT_EQ(Described(EBUSY, kConfidentiality).problem(), TracingProblem::kInUse);
}

TEST(TracefsFailureTest, WhereLockdownCannotBeReadItIsSuspected) {
  EXPECT_THAT(Described(EPERM, "").what(), HasSubstr("lockdown"));
  EXPECT_THAT(Described(EPERM, kNoLockdown).what(), Not(HasSubstr("lockdown")));
  EXPECT_THAT(Described(EACCES, "").what(), Not(HasSubstr("lockdown")));
}

TEST(TracefsFailureTest, InUseNamesASecondCopy) {
  for (const int error : {EBUSY, EEXIST}) {
    const TracingError described = Described(error);
    EXPECT_EQ(described.problem(), TracingProblem::kInUse);
    EXPECT_EQ(described.reason(), "in_use");
    EXPECT_THAT(described.what(),
                AllOf(HasSubstr("in use"), HasSubstr("second"), HasSubstr("tracefs.instance")));
  }
}

TEST(TracefsFailureTest, AnyOtherErrorIsGivenByItsName) {
  const TracingError described = Described(ENOMEM);
  EXPECT_EQ(described.problem(), TracingProblem::kFailed);
  EXPECT_EQ(described.reason(), "failed");
  EXPECT_THAT(described.what(), HasSubstr("Cannot allocate memory"));
}

TEST(TracefsFailureTest, TheStatesHaveDifferentMessages) {
  const std::set<std::string> messages{Described(ENOENT).what(),
                                       Described(EACCES).what(),
                                       Described(EPERM).what(),
                                       Described(EROFS).what(),
                                       Described(EBUSY).what(),
                                       Described(ENOMEM).what(),
                                       Described(EPERM, kConfidentiality).what()};
  EXPECT_EQ(messages.size(), 7U);
}

TEST(InstanceTest, ADirectoryThatIsNoTracefsIsAbsent) {
  for (const std::string& dir : {::testing::TempDir(), std::string("/proc"),
                                 std::string("/nowhere"), std::string("/dev/null")}) {
    try {
      const Instance instance(dir, "kmem_exporter_unit_test");
      ADD_FAILURE() << dir << " passed for a tracefs";
    } catch (const TracingError& error) {
      EXPECT_NE(error.problem(), TracingProblem::kInUse) << error.what();
      EXPECT_NE(error.problem(), TracingProblem::kFailed) << error.what();
      EXPECT_THAT(error.what(), AllOf(HasSubstr(dir), Not(HasSubstr("\n"))));
    }
    EXPECT_THROW(Instance::RemoveStale(dir, "kmem_exporter_unit_test"), TracingError) << dir;
  }
}

}  // namespace
}  // namespace kmem
