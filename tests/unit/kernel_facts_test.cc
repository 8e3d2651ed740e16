#include "exporter/kernel_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <system_error>
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

TEST(CpuListTest, IsNumbersAndRanges) {
  EXPECT_THAT(ParseCpuList("0-3,8\n"), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(ParseCpuList("5"), ElementsAre(5));
  EXPECT_THAT(ParseCpuList("\n"), IsEmpty());
  EXPECT_THAT(ParseCpuList(""), IsEmpty());
  EXPECT_THAT(ParseCpuList("3-1,7"), ElementsAre(7));
  EXPECT_THAT(ParseCpuList("1,x"), ElementsAre(1));
  EXPECT_THAT(ParseCpuList("1-"), IsEmpty());
  EXPECT_THAT(ParseCpuList("99999999999"), IsEmpty());
  EXPECT_EQ(ParseCpuList("0-4294967295").size(), 65536U);
}

class CpuNodesTest : public ::testing::Test {
 protected:
  CpuNodesTest() {
    std::string name = ::testing::TempDir() + "kmem_nodes_XXXXXX";
    if (mkdtemp(name.data()) != nullptr) directory_ = name;
  }
  ~CpuNodesTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  void AddNode(const std::string& name, const std::string& cpulist) const {
    std::filesystem::create_directory(directory_ / name);
    std::ofstream(directory_ / name / "cpulist") << cpulist;
  }
  std::filesystem::path directory_;
};

TEST_F(CpuNodesTest, AreReadFromTheNodesLists) {
  constexpr std::uint32_t kNone = KernelFacts::kNoNode;
  EXPECT_THAT(ReadCpuNodes(directory_), IsEmpty());
  AddNode("node0", "0-1,4\n");
  AddNode("node10", "6\n");
  AddNode("node2", "\n");  // memory alone
  AddNode("nodes", "3\n");
  AddNode("node", "3\n");
  std::filesystem::create_directory(directory_ / "power");
  KernelFacts facts;
  facts.cpu_nodes = ReadCpuNodes(directory_);
  EXPECT_THAT(facts.cpu_nodes, ElementsAre(0, 0, kNone, kNone, 0, kNone, 10));
  EXPECT_EQ(facts.NodeOf(6), 10U);
  EXPECT_EQ(facts.NodeOf(7), kNone);
  EXPECT_TRUE(facts.HasSeveralNodes());
}

TEST_F(CpuNodesTest, OneNodeWithCpusIsNotSeveral) {
  AddNode("node0", "\n");
  AddNode("node1", "0-3\n");
  KernelFacts facts;
  facts.cpu_nodes = ReadCpuNodes(directory_);
  EXPECT_FALSE(facts.HasSeveralNodes());
  EXPECT_FALSE(KernelFacts{}.HasSeveralNodes());
}

TEST_F(CpuNodesTest, WithoutNodesThereAreNone) {
  EXPECT_THAT(ReadCpuNodes(directory_ / "absent"), IsEmpty());
}

}  // namespace
}  // namespace kmem
