#include "exporter/kernel_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "exporter/proc_files.h"
#include "memory_proc.h"
#include "recorded_data.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

const std::vector<std::string> kCommon{"unmovable", "movable", "reclaimable", "highatomic"};

class RecordedFactsTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, RecordedFactsTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(RecordedFactsTest, AreReadFromTheKernelsTables) {
  const KernelFacts facts = ReadKernelFacts(ProcFiles(TestData("proc/" + GetParam())));
  EXPECT_EQ(facts.order_count, 11);
  EXPECT_EQ(facts.pageblock_order, 9);
  // The heads of the table's last columns; whether there is a CMA is up to the kernel.
  const std::string table = ReadWhole(TestData("proc/" + GetParam() + "/pagetypeinfo"));
  const std::string head = "Number of blocks type";
  std::string line = table.substr(table.find(head) + head.size());
  line = line.substr(0, line.find('\n'));
  std::ranges::transform(line, line.begin(), [](unsigned char c) { return std::tolower(c); });
  std::istringstream words(line);
  const std::vector<std::string> names(std::istream_iterator<std::string>(words), {});
  EXPECT_THAT(names, ::testing::Contains("isolate"));
  EXPECT_EQ(facts.migratetypes, names);
  EXPECT_EQ(facts.page_size, static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
}

TEST(KernelFactsTest, WhereNothingCanBeReadTheDefaultsStand) {
  const KernelFacts facts = ReadKernelFacts(MapProc({}));
  const KernelFacts defaults;
  EXPECT_EQ(facts.order_count, defaults.order_count);
  EXPECT_EQ(facts.pageblock_order, defaults.pageblock_order);
  EXPECT_EQ(facts.migratetypes, kCommon);
  EXPECT_THAT(facts.online_cpus, IsEmpty());
  EXPECT_EQ(facts.gfp_nowarn, 0U);
}

TEST(KernelFactsTest, EachTableMayBeBrokenByItself) {
  const std::string buddyinfo = "Node 0, zone Normal 1 2 3 4 5 6 7 8 9 10 11 12 13 14\n";
  const std::string stat = "cpu  1\ncpu0 1\n";
  const KernelFacts no_types =
      ReadKernelFacts(MapProc({{"buddyinfo", buddyinfo}, {"pagetypeinfo", "x"}, {"stat", stat}}));
  EXPECT_EQ(no_types.order_count, 14);
  EXPECT_EQ(no_types.migratetypes, kCommon);
  EXPECT_THAT(no_types.online_cpus, ElementsAre(0));
  const KernelFacts no_buddies = ReadKernelFacts(MapProc({{"buddyinfo", "x"}, {"stat", stat}}));
  EXPECT_EQ(no_buddies.order_count, 11);
  EXPECT_THAT(no_buddies.online_cpus, ElementsAre(0));
}

TEST(KernelFactsTest, ATableCutAtAnyByteNeverGivesNonsense) {
  for (const char* table : {"buddyinfo", "pagetypeinfo"}) {
    const std::string whole = ReadWhole(TestData(std::string("proc/6.1/") + table));
    for (std::size_t length = 0; length <= whole.size(); ++length) {
      const KernelFacts facts = ReadKernelFacts(MapProc({{table, whole.substr(0, length)}}));
      EXPECT_GE(facts.order_count, 1) << table << " cut at " << length;
      EXPECT_LE(facts.order_count, 11) << table << " cut at " << length;
      EXPECT_EQ(facts.pageblock_order, 9) << table << " cut at " << length;
      ASSERT_GE(facts.migratetypes.size(), 4U) << table << " cut at " << length;
      for (std::size_t type = 0; type < 4; ++type) {
        EXPECT_EQ(facts.migratetypes[type], kCommon[type]) << table << " cut at " << length;
      }
    }
  }
}

TEST(MigratetypeNameTest, AnUnknownTypeIsItsNumber) {
  KernelFacts facts;
  facts.migratetypes = {"unmovable"};
  EXPECT_EQ(facts.MigratetypeName(0), "unmovable");
  EXPECT_EQ(facts.MigratetypeName(1), "1");
  EXPECT_EQ(facts.MigratetypeName(4'000'000'000), "4000000000");
}

TEST(OnlineCpusTest, AreThoseOfTheLinesWithANumber) {
  EXPECT_THAT(ParseOnlineCpus("cpu  10 20 30\ncpu0 5 10 15\ncpu1 5 10 15\nintr 1 2 3\n"),
              ElementsAre(0, 1));
}

TEST(OnlineCpusTest, NumbersMayHaveGaps) {
  EXPECT_THAT(ParseOnlineCpus("cpu  1\ncpu0 1\ncpu3 1\ncpu127 1\nctxt 5\n"),
              ElementsAre(0, 3, 127));
}

TEST(OnlineCpusTest, LinesBehindTheCpusAreNotLookedAt) {
  EXPECT_THAT(ParseOnlineCpus("cpu  1\ncpu0 1\nintr 1\ncpu1 1\n"), ElementsAre(0));
}

TEST(OnlineCpusTest, NonsenseGivesNone) {
  for (const char* text :
       {"", "\n", "cpu", "cpu  1", "x", "intr 1\n", "cpux 1\n", "cpu99999999999999999999 1\n"}) {
    EXPECT_THAT(ParseOnlineCpus(text), IsEmpty()) << text;
  }
}

TEST(OnlineCpusTest, ATextCutAtAnyByteGivesNoCpuThatItDoesNotName) {
  const std::string whole = "cpu  10 20\ncpu0 5 10\ncpu1 5 10\ncpu12 5 10\nintr 1\n";
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    const std::vector<std::uint32_t> cpus = ParseOnlineCpus(whole.substr(0, length));
    const std::vector<std::uint32_t> expected{0, 1, 12};
    ASSERT_LE(cpus.size(), 3U);
    for (std::size_t i = 0; i < cpus.size(); ++i) {
      // The last number may be cut: "cpu1" of "cpu12".
      EXPECT_TRUE(cpus[i] == expected[i] || (i == 2 && cpus[i] == 1)) << length;
    }
  }
}

TEST(OnlineCpusTest, AThousandCpusAreAllThere) {
  std::string text = "cpu  1\n";
  std::vector<std::uint32_t> expected;
  for (std::uint32_t cpu = 0; cpu < 1000; ++cpu) {
    text += "cpu" + std::to_string(cpu) + " 1 2 3\n";
    expected.push_back(cpu);
  }
  EXPECT_THAT(ParseOnlineCpus(text), ElementsAreArray(expected));
}

TEST(CommonMigratetypesTest, AreThoseThatEveryKernelHas) {
  EXPECT_EQ(CommonMigratetypes(), kCommon);
}

}  // namespace
}  // namespace kmem
