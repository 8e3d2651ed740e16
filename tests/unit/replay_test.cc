#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/replay/result_pipe.h"
#include "exporter/replay/trace_file.h"
#include "recorded_data.h"

namespace kmem {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using Counts = std::map<std::string, std::uint64_t>;

TraceFileResult Read(const std::string& path, const std::vector<std::string>& extra = {}) {
  return ReadTraceFile(path, MakeTraceCollectors({}), extra);
}

Counts CountsOf(const EventState& state) {
  Counts counts;
  for (std::size_t i = 0; i < state.tracepoints.size(); ++i) {
    for (const CpuCounts& cpu : state.cpus) counts[state.tracepoints[i].name] += cpu.events.at(i);
  }
  return counts;
}

// What ReadTraceFile says when it refuses; nothing if it does not.
std::optional<std::string> ErrorOf(const std::string& path) {
  try {
    Read(path);
  } catch (const ReplayError& error) {
    return error.what();
  }
  return std::nullopt;
}

// A directory of this process's own, and a trace file in it that can be written anew.
class ReplayErrorTest : public ::testing::Test {
 protected:
  ReplayErrorTest() {
    std::string name = ::testing::TempDir() + "/kmem_replay_XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir_ = name;
    path_ = dir_ + "/trace.dat";
  }
  ~ReplayErrorTest() override { std::filesystem::remove_all(dir_); }

  void Write(std::string_view bytes) const {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) throw std::runtime_error("can't write " + path_);
  }
  // One line that names the file and says this.
  void ExpectRefused(std::string_view why) const {
    const std::optional<std::string> error = ErrorOf(path_);
    ASSERT_TRUE(error.has_value()) << why;
    EXPECT_THAT(*error,
                AllOf(StartsWith(path_ + ": "), HasSubstr(std::string(why)), Not(HasSubstr("\n"))));
  }

  std::string dir_;
  std::string path_;
};

struct RecordedTrace {
  std::string kernel;
  Counts events;
  std::vector<std::string> missing;
};

const std::vector<std::string> kNodeEvents{"kmalloc_node", "kmem_cache_alloc_node"};

// The counts are those of
//   trace-cmd report tests/data/traces/kmem-NAME.dat 2>/dev/null |
//     awk '/\[[0-9]+\]/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) {
//                           event = $(i + 1); sub(":", "", event); count[event]++; break } }
//          END { for (event in count) print event, count[event] }' | sort
const std::vector<RecordedTrace> kTraces{
    {"5.10",
     {{"kfree", 327},
      {"kmalloc", 251},
      {"kmalloc_node", 74},
      {"kmem_cache_alloc", 1029},
      {"kmem_cache_alloc_node", 62},
      {"kmem_cache_free", 1167},
      {"mm_page_alloc", 1125},
      {"mm_page_alloc_extfrag", 30},
      {"mm_page_alloc_zone_locked", 1089},
      {"mm_page_free", 856},
      {"mm_page_free_batched", 740},
      {"mm_page_pcpu_drain", 792}},
     {}},
    {"6.1",
     {{"kfree", 344},
      {"kmalloc", 327},
      {"kmem_cache_alloc", 1309},
      {"kmem_cache_free", 1523},
      {"mm_page_alloc", 1102},
      {"mm_page_alloc_extfrag", 24},
      {"mm_page_alloc_zone_locked", 1086},
      {"mm_page_free", 835},
      {"mm_page_free_batched", 732},
      {"mm_page_pcpu_drain", 762}},
     kNodeEvents},
    {"6.12",
     {{"kfree", 476},
      {"kmalloc", 337},
      {"kmem_cache_alloc", 1386},
      {"kmem_cache_free", 2576},
      {"mm_page_alloc", 1100},
      {"mm_page_alloc_extfrag", 292},
      {"mm_page_alloc_zone_locked", 760},
      {"mm_page_free", 870},
      {"mm_page_free_batched", 753},
      {"mm_page_pcpu_drain", 787}},
     kNodeEvents},
    {"6.18",
     {{"kfree", 513},
      {"kmalloc", 336},
      {"kmem_cache_alloc", 1306},
      {"kmem_cache_free", 2442},
      {"mm_page_alloc", 1119},
      {"mm_page_alloc_extfrag", 403},
      {"mm_page_alloc_zone_locked", 634},
      {"mm_page_free", 846},
      {"mm_page_free_batched", 636},
      {"mm_page_pcpu_drain", 729}},
     kNodeEvents},
    {"7.3",
     {{"kfree", 538},
      {"kmalloc", 351},
      {"kmem_cache_alloc", 1293},
      {"kmem_cache_free", 1272},
      {"mm_page_alloc", 1111},
      {"mm_page_alloc_extfrag", 433},
      {"mm_page_alloc_zone_locked", 673},
      {"mm_page_free", 791},
      {"mm_page_free_batched", 611},
      {"mm_page_pcpu_drain", 776}},
     kNodeEvents},
};

std::string TracePath(const std::string& kernel) {
  return TestData("traces/kmem-" + kernel + ".dat");
}

// More than the pipe holds, so that it is killed in the midst of it.
TEST(ResultPipeTest, AnAnswerWhoseSenderDiedIsNone) {
  TraceFileResult result;
  for (std::uint64_t i = 0; i < 10'000; ++i) result.symbols[i] = {"function", "kernel"};
  ResultPipe pipe;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pipe.Send(result);
    _exit(0);
  }
  std::string state;
  while (state != "S") {  // it waits for room in the pipe
    std::string number;
    std::string name;
    std::ifstream("/proc/" + std::to_string(child) + "/stat") >> number >> name >> state;
    ASSERT_NE(state, "Z");
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const ResultPipe::Received received = pipe.Receive();
  EXPECT_FALSE(received.result.has_value());
  EXPECT_EQ(received.error, "");
}

TEST(ReplayTest, EveryRecordedTraceIsTestedHere) {
  std::vector<std::string> kernels;
  for (const RecordedTrace& trace : kTraces) kernels.push_back(trace.kernel);
  EXPECT_THAT(RecordedKernels(), ::testing::UnorderedElementsAreArray(kernels));
}

class RecordedTraceTest : public ::testing::TestWithParam<RecordedTrace> {};
INSTANTIATE_TEST_SUITE_P(Kernels, RecordedTraceTest, ::testing::ValuesIn(kTraces),
                         [](const auto& param) {
                           return KernelTestName({param.param.kernel, param.index});
                         });

TEST_P(RecordedTraceTest, HoldsAsManyEventsAsTraceCmdReports) {
  const TraceFileResult result = Read(TracePath(GetParam().kernel));
  EXPECT_EQ(CountsOf(result.state), GetParam().events);
  for (const TracepointState& tracepoint : result.state.tracepoints) {
    EXPECT_TRUE(tracepoint.enabled) << tracepoint.name;
  }
}

TEST_P(RecordedTraceTest, NamesTheTracepointsThatItsKernelLacks) {
  EXPECT_EQ(Read(TracePath(GetParam().kernel)).missing_events, GetParam().missing);
}

TEST_P(RecordedTraceTest, HasNoErrorsAndNoLosses) {
  const TraceFileResult result = Read(TracePath(GetParam().kernel));
  EXPECT_THAT(result.state.record_errors, ::testing::Each(0U));
  for (const CpuCounts& cpu : result.state.cpus) EXPECT_THAT(cpu.lost, ::testing::Each(0U));
}

TEST_P(RecordedTraceTest, TellsTheFactsOfItsKernelNotOfThisMachine) {
  const KernelFacts facts = Read(TracePath(GetParam().kernel)).facts;
  EXPECT_EQ(facts.page_size, 4096U);
  EXPECT_EQ(facts.pageblock_order, 9);
  EXPECT_THAT(facts.online_cpus, ElementsAre(0, 1));
  Formats formats;
  AddFormats(GetParam().kernel, formats);
  EXPECT_EQ(facts.gfp_nowarn, formats.GfpBit("__GFP_NOWARN"));
  EXPECT_THAT(facts.migratetypes, ElementsAre("unmovable", "movable", "reclaimable", "highatomic"));
}

TEST_P(RecordedTraceTest, ReadTwiceGivesTheSame) {
  const TraceFileResult first = Read(TracePath(GetParam().kernel));
  const TraceFileResult second = Read(TracePath(GetParam().kernel));
  for (std::size_t i = 0; i < first.state.tallies.size(); ++i) {
    for (std::uint32_t cpu = 0; cpu < 2; ++cpu) {
      Tallies a = first.state.tallies[i];
      Tallies b = second.state.tallies[i];
      EXPECT_TRUE(std::equal(a.At(cpu), a.At(cpu) + a.stride(), b.At(cpu)));
    }
  }
}

TEST(ReplayTest, AnExtraEventThatTheTraceLacksIsMissing) {
  const TraceFileResult result = Read(TracePath("5.10"), {"no_such_event"});
  EXPECT_THAT(result.missing_events, ElementsAre("no_such_event"));
}

TEST(ReplayTest, EventsThatNoCollectorWantsAreNoErrors) {
  CollectorsConfig config;
  config.slab = config.page = config.pcp = false;
  const TraceFileResult result = ReadTraceFile(TracePath("6.1"), MakeTraceCollectors(config), {});
  EXPECT_EQ(CountsOf(result.state), (Counts{{"mm_page_alloc_extfrag", 24}}));
  EXPECT_THAT(result.state.record_errors, ::testing::Each(0U));
}

TEST_F(ReplayErrorTest, AnAbsentFileIsRefused) { ExpectRefused("No such file"); }

TEST_F(ReplayErrorTest, AnEmptyFileIsRefused) {
  Write("");
  ExpectRefused("empty");
}

TEST_F(ReplayErrorTest, ADirectoryIsRefused) {
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  ExpectRefused("not a regular file");
}

TEST_F(ReplayErrorTest, AFifoIsRefusedWithoutWaitingForAWriter) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  ExpectRefused("not a regular file");
}

TEST_F(ReplayErrorTest, ADeviceIsRefused) {
  EXPECT_THAT(ErrorOf("/dev/zero").value_or(""), HasSubstr("not a regular file"));
}

TEST_F(ReplayErrorTest, RandomBytesAreNoTrace) {
  std::mt19937 random(7);  // NOLINT(*-msc51-cpp): the same bytes in each run
  for (const std::size_t size : {1UL, 9UL, 10UL, 64UL, 4096UL, 100000UL}) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    Write(bytes);
    ExpectRefused("not a trace.dat");
  }
}

TEST_F(ReplayErrorTest, RandomBytesBehindAGoodHeaderAreCorrupt) {
  std::mt19937 random(8);  // NOLINT(*-msc51-cpp): the same bytes in each run
  const std::string good = ReadWhole(TracePath("5.10"));
  for (int round = 0; round < 20; ++round) {
    std::string bytes = good.substr(0, 19);
    for (int i = 0; i < 5000; ++i) bytes += static_cast<char>(random());
    Write(bytes);
    ExpectRefused("");
  }
}

TEST_F(ReplayErrorTest, AWrongByteInTheMagicIsNoTrace) {
  const std::string good = ReadWhole(TracePath("5.10"));
  for (std::size_t at = 0; at < 10; ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    Write(bytes);
    ExpectRefused("not a trace.dat");
  }
}

// Behind the magic: the version with its NUL, endianness, size of a long, page size.
constexpr std::size_t kEndianAt = 12;
constexpr std::size_t kLongSizeAt = 13;
constexpr std::size_t kPageSizeAt = 14;

TEST_F(ReplayErrorTest, AnotherArchitectureIsNamed) {
  for (const std::string kernel : {"5.10", "6.1"}) {
    const std::string good = ReadWhole(TracePath(kernel));
    ASSERT_EQ(good[kEndianAt], 0);
    ASSERT_EQ(good[kLongSizeAt], 8);
    std::string bytes = good;
    bytes[kEndianAt] = 1;
    Write(bytes);
    ExpectRefused("64-bit big-endian");
    bytes = good;
    bytes[kLongSizeAt] = 4;
    Write(bytes);
    ExpectRefused("32-bit little-endian");
    bytes[kEndianAt] = 1;
    Write(bytes);
    ExpectRefused("32-bit big-endian");
    for (const int size : {0, 1, 16, 127, 255}) {
      bytes = good;
      bytes[kLongSizeAt] = static_cast<char>(size);
      Write(bytes);
      ExpectRefused("only 64-bit little-endian");
    }
  }
}

TEST_F(ReplayErrorTest, APageSizeThatNoMachineHasIsCorrupt) {
  const std::string good = ReadWhole(TracePath("5.10"));
  for (const std::uint32_t size : {0U, 1U, 512U, 4095U, 4097U, 1U << 21, UINT32_MAX}) {
    std::string bytes = good;
    std::memcpy(bytes.data() + kPageSizeAt, &size, sizeof size);
    Write(bytes);
    ExpectRefused("page size");
  }
}

TEST_F(ReplayErrorTest, APageSizeThatIsNotTheFilesNeverGivesFewerEventsSilently) {
  const std::string good = ReadWhole(TracePath("5.10"));
  for (const std::uint32_t size : {1024U, 2048U, 8192U, 65536U, 1U << 20}) {
    std::string bytes = good;
    std::memcpy(bytes.data() + kPageSizeAt, &size, sizeof size);
    Write(bytes);
    try {
      const TraceFileResult result = Read(path_);
      std::uint64_t errors = 0;
      for (const std::uint64_t count : result.state.record_errors) errors += count;
      EXPECT_NE(errors, 0U) << size;
    } catch (const ReplayError& error) {
      EXPECT_THAT(error.what(), StartsWith(path_ + ": ")) << size;
    }
  }
}

TEST_F(ReplayErrorTest, ATraceOfOtherSystemsEventsIsRefused) {
  std::string bytes = ReadWhole(TracePath("5.10"));
  // The name of the system in front of its formats; no other change of the file.
  const std::size_t system = bytes.find(std::string("kmem\0", 5));
  ASSERT_NE(system, std::string::npos);
  bytes.replace(system, 4, "memk");
  Write(bytes);
  ExpectRefused("no events");
}

// Reads the file at each size, from the largest down, to which it is then cut.
class TruncatedTraceTest : public ReplayErrorTest,
                           public ::testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    whole_ = ReadWhole(TracePath(GetParam()));
    Write(whole_);
  }
  void ExpectRefusedWhenCutTo(std::size_t size) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(size)), 0);
    try {
      Read(path_);
      FAIL() << "was read, cut to " << size;
    } catch (const ReplayError& error) {
      ASSERT_THAT(error.what(), AllOf(StartsWith(path_ + ": "), Not(HasSubstr("\n")))) << size;
    }
  }
  void ExpectRefusedAtEachSize(std::size_t from, std::size_t to) {
    for (std::size_t size = from; size-- > to;) {
      ASSERT_NO_FATAL_FAILURE(ExpectRefusedWhenCutTo(size));
    }
  }

  std::string whole_;
};
// One file of version 6, one of version 7.
INSTANTIATE_TEST_SUITE_P(Kernels, TruncatedTraceTest, ::testing::Values("5.10", "6.1"),
                         KernelTestName);

// In several tests, so that they can run side by side.
TEST_P(TruncatedTraceTest, IsRefusedAtEachByteOfItsFirstKiB) { ExpectRefusedAtEachSize(1024, 0); }
TEST_P(TruncatedTraceTest, IsRefusedAtEachByteOfItsSecondKiB) {
  ExpectRefusedAtEachSize(2048, 1024);
}
TEST_P(TruncatedTraceTest, IsRefusedAtEachByteOfItsThirdKiB) {
  ExpectRefusedAtEachSize(3072, 2048);
}
TEST_P(TruncatedTraceTest, IsRefusedAtEachByteOfItsFourthKiB) {
  ExpectRefusedAtEachSize(4097, 3072);
}

TEST_P(TruncatedTraceTest, IsRefusedWhereverItIsCutBehind) {
  const std::size_t step = (whole_.size() - 4096) / 300;
  for (std::size_t size = whole_.size() - 1; size > 4096 + step; size -= step) {
    ASSERT_NO_FATAL_FAILURE(ExpectRefusedWhenCutTo(size));
  }
}

TEST_P(TruncatedTraceTest, IsRefusedAtEachOfItsLastBytes) {
  ExpectRefusedAtEachSize(whole_.size(), whole_.size() - 400);
}

TEST_P(TruncatedTraceTest, IsReadOrRefusedWithABitFlipped) {
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  std::mt19937 random(3);  // NOLINT(*-msc51-cpp): the same bits in each run
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    // Half of the flips in the first 4 KiB, where the file is described.
    const std::size_t at = random() % (round % 2 == 0 ? 4096 : whole_.size());
    const auto flipped = static_cast<char>(whole_[at] ^ (1 << random() % 8));
    file.seekp(static_cast<std::streamoff>(at)).put(flipped).flush();
    const auto begin = std::chrono::steady_clock::now();
    const std::optional<std::string> error = ErrorOf(path_);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << at;
    if (error) {
      ++refused;
      ASSERT_THAT(*error, AllOf(StartsWith(path_ + ": "), Not(HasSubstr("\n")))) << at;
    }
    file.seekp(static_cast<std::streamoff>(at)).put(whole_[at]).flush();
  }
  ASSERT_TRUE(file.good());
  EXPECT_GT(refused, 0);
  EXPECT_EQ(ErrorOf(path_), std::nullopt) << "the file is whole again";
}

}  // namespace
}  // namespace kmem
