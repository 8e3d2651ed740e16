#include "collectors/proc_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr std::string_view kBuddyinfo =
    "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1 "
    "     3 \n"
    "Node 0, zone    DMA32      1      1      4      2      5      4      3      3      4      2 "
    "   752 \n"
    "Node 0, zone   Normal   2364   1721   1655   1337    953    641    369    203     73     14 "
    "   104 \n";

// Two nodes, the second of them with one zone; fewer orders than on x86-64.
constexpr std::string_view kTwoNodeBuddyinfo =
    "Node 0, zone      DMA      1      0      2 \n"
    "Node 0, zone   Normal     10     20     30 \n"
    "Node 1, zone   Normal      7      8      9 \n";

constexpr std::string_view kVmstat =
    "nr_free_pages 880114\n"
    "nr_free_pages_blocks 822272\n"
    "allocstall_dma 0\n"
    "allocstall_dma32 1\n"
    "allocstall_normal 18446744073709551615\n"
    "compact_stall 12\n"
    "compact_fail 5\n"
    "compact_success 7\n"
    "nr_unstable 0\n";

// The layout of 6.18, most of the statistics left out. Two CPUs, and a node without memory.
constexpr std::string_view kZoneinfo =
    "Node 0, zone      DMA\n"
    "  per-node stats\n"
    "      nr_inactive_anon 1463\n"
    "      nr_mapped    2663\n"
    "  pages free     3840\n"
    "        boost    0\n"
    "        min      60\n"
    "        low      75\n"
    "        high     90\n"
    "        promo    105\n"
    "        spanned  4095\n"
    "        present  3998\n"
    "        managed  3840\n"
    "        cma      0\n"
    "        protection: (0, 3019, 4171, 4171, 4171)\n"
    "      nr_free_pages 3840\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count:    0\n"
    "              high:     0\n"
    "              batch:    1\n"
    "              high_min: 37\n"
    "              high_max: 240\n"
    "  vm stats threshold: 4\n"
    "    cpu: 1\n"
    "              count:    0\n"
    "              high:     0\n"
    "              batch:    1\n"
    "              high_min: 37\n"
    "              high_max: 240\n"
    "  vm stats threshold: 4\n"
    "  node_unreclaimable:  0\n"
    "  start_pfn:           1\n"
    "Node 0, zone   Normal\n"
    "  pages free     44104\n"
    "        high     9999\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count:    1021\n"
    "              high:     1520\n"
    "              batch:    63\n"
    "              high_min: 1008\n"
    "              high_max: 4608\n"
    "  vm stats threshold: 20\n"
    "    cpu: 1\n"
    "              count:    310\n"
    "              high:     1008\n"
    "              batch:    63\n"
    "              high_min: 1008\n"
    "              high_max: 4608\n"
    "  vm stats threshold: 20\n"
    "  node_unreclaimable:  0\n"
    "  start_pfn:           1048576\n"
    "Node 0, zone  Movable\n"
    "  pages free     0\n"
    "        high     32\n"
    "        protection: (0, 0, 0, 0, 0)\n"
    "Node 1, zone  Movable\n"
    "  pages free     0\n"
    "        high     32\n"
    "        protection: (0, 0, 0, 0, 0)\n";

// The layout of 5.10: other spaces, no `boost`, no high_min.
constexpr std::string_view kOldZoneinfo =
    "Node 0, zone    DMA32\n"
    "  pages free     56218\n"
    "        min      664\n"
    "        low      830\n"
    "        high     996\n"
    "        spanned  126976\n"
    "        protection: (0, 0, 0, 0, 0)\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count: 203\n"
    "              high:  186\n"
    "              batch: 31\n"
    "  vm stats threshold: 12\n"
    "  node_unreclaimable:  0\n"
    "  start_pfn:           4096\n";

constexpr std::string_view kPagetypeinfo =
    "Page block order: 9\n"
    "Pages per block:  512\n"
    "\n"
    "Free pages count per migrate type at order       0      1      2 \n"
    "Node    0, zone      DMA, type    Unmovable      0      0      1 \n"
    "Node    0, zone      DMA, type      Movable      0 >100000      3 \n"
    "Node    0, zone      DMA, type  Reclaimable      0      0      0 \n"
    "Node    0, zone      DMA, type   HighAtomic      0      0      0 \n"
    "Node    0, zone      DMA, type          CMA      0      0      0 \n"
    "Node    0, zone      DMA, type      Isolate      0      0      0 \n"
    "Node    0, zone   Normal, type    Unmovable    210    348    302 \n"
    "Node    0, zone   Normal, type      Movable   1812   1338   1335 \n"
    "Node    0, zone   Normal, type  Reclaimable    342     35     18 \n"
    "Node    0, zone   Normal, type   HighAtomic      0      0      0 \n"
    "Node    0, zone   Normal, type          CMA      0      0      0 \n"
    "Node    0, zone   Normal, type      Isolate      0      0      0 \n"
    "\n"
    "Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic          CMA      "
    "Isolate \n"
    "Node 0, zone      DMA            1            7            0            0            0        "
    " "
    "   0 \n"
    "Node 0, zone   Normal           48          492           36            0            0        "
    " "
    "   0 \n"
    "Page block order: 9\n"
    "Pages per block:  512\n"
    "\n"
    "Free pages count per migrate type at order       0      1      2 \n"
    "Node    1, zone   Normal, type    Unmovable    210    348    302 \n";

constexpr std::array<std::string_view, 2> kStallPrefixes{"compact_", "allocstall_"};

using Parser = std::function<void(std::string_view)>;

// The table's parser without its result.
struct Table {
  std::string_view name;
  std::string_view text;
  Parser parse;
};

std::vector<Table> AllTables() {
  return {
      {"buddyinfo", kBuddyinfo, [](std::string_view text) { (void)ParseBuddyinfo(text); }},
      {"vmstat", kVmstat, [](std::string_view text) { (void)ParseVmstat(text, kStallPrefixes); }},
      {"zoneinfo", kZoneinfo, [](std::string_view text) { (void)ParseZoneinfo(text); }},
      {"zoneinfo", kOldZoneinfo, [](std::string_view text) { (void)ParseZoneinfo(text); }},
      {"pagetypeinfo", kPagetypeinfo, [](std::string_view text) { (void)ParsePagetypeinfo(text); }},
      {"sys/vm/min_free_kbytes", "11264\n",
       [](std::string_view text) { (void)ParseSysctlNumber(text, "sys/vm/min_free_kbytes"); }},
  };
}

// What the parser says against the text; empty where it takes it.
std::string ErrorOf(const Parser& parse, std::string_view text) {
  try {
    parse(text);
    return {};
  } catch (const ProcError& error) {
    return error.what();
  }
}

std::string BuddyinfoError(std::string_view text) {
  return ErrorOf([](std::string_view t) { (void)ParseBuddyinfo(t); }, text);
}

std::string ZoneinfoError(std::string_view text) {
  return ErrorOf([](std::string_view t) { (void)ParseZoneinfo(t); }, text);
}

std::string PagetypeinfoError(std::string_view text) {
  return ErrorOf([](std::string_view t) { (void)ParsePagetypeinfo(t); }, text);
}

std::string VmstatError(std::string_view text) {
  return ErrorOf([](std::string_view t) { (void)ParseVmstat(t, kStallPrefixes); }, text);
}

std::string Replaced(std::string_view text, std::string_view what, std::string_view with) {
  std::string copy(text);
  copy.replace(copy.find(what), what.size(), with);
  return copy;
}

std::string FileText(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(ProcTablesTest, BuddyinfoGivesEachZoneAndItsFreeBlocksByOrder) {
  const std::vector<BuddyRow> rows = ParseBuddyinfo(kBuddyinfo);
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(rows[1].node, 0);
  EXPECT_EQ(rows[1].zone, "dma32");
  EXPECT_THAT(rows[1].free_blocks, ElementsAre(1, 1, 4, 2, 5, 4, 3, 3, 4, 2, 752));
  EXPECT_EQ(rows[2].zone, "normal");
}

TEST(ProcTablesTest, BuddyinfoMayHaveAnyNumberOfColumnsAndNodes) {
  const std::vector<BuddyRow> rows = ParseBuddyinfo(kTwoNodeBuddyinfo);
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(rows[2].node, 1);
  EXPECT_THAT(rows[2].free_blocks, ElementsAre(7, 8, 9));
}

TEST(ProcTablesTest, BuddyinfoErrorsSayTableAndLine) {
  EXPECT_EQ(BuddyinfoError(Replaced(kBuddyinfo, "1721", "17x1")),
            "buddyinfo: line 3: not a number");
  EXPECT_EQ(BuddyinfoError(""), "buddyinfo: empty");
  EXPECT_EQ(BuddyinfoError("Node 0, zone Normal 1"),
            "buddyinfo: cut off: the last line has no end");
  EXPECT_EQ(BuddyinfoError("\n"), "buddyinfo: line 1: expected 'Node '");
  EXPECT_EQ(BuddyinfoError("Node 0, zone Normal \n"), "buddyinfo: line 1: no columns");
}

TEST(ProcTablesTest, BuddyinfoRefusesNumbersThatDoNotFit) {
  EXPECT_EQ(BuddyinfoError("Node 0, zone Normal 18446744073709551615 \n"), "");
  EXPECT_EQ(BuddyinfoError("Node 0, zone Normal 18446744073709551616 \n"),
            "buddyinfo: line 1: number too large");
  EXPECT_EQ(BuddyinfoError("Node 2147483648, zone Normal 1 \n"),
            "buddyinfo: line 1: number too large");
  EXPECT_EQ(BuddyinfoError("Node 0, zone Normal -1 \n"), "buddyinfo: line 1: expected a number");
}

TEST(ProcTablesTest, BuddyinfoRefusesRowsOfDifferentLengthAndZonesThatComeTwice) {
  EXPECT_EQ(BuddyinfoError("Node 0, zone DMA 1 2 \nNode 0, zone Normal 1 \n"),
            "buddyinfo: line 2: not as many columns as in the lines before");
  EXPECT_EQ(BuddyinfoError("Node 0, zone DMA 1 2 \nNode 0, zone DMA 1 2 \n"),
            "buddyinfo: line 2: this zone of this node came before");
}

TEST(ProcTablesTest, BuddyinfoRefusesMoreOrdersThanAnAddressHasBits) {
  std::string row = "Node 0, zone Normal";
  for (int order = 0; order < kMaxOrders; ++order) row += " 1";
  EXPECT_EQ(BuddyinfoError(row + " \n"), "");
  EXPECT_EQ(BuddyinfoError(row + " 1 \n"), "buddyinfo: line 1: too many columns");
}

TEST(ProcTablesTest, VmstatGivesTheCountersAskedForAndNoOthers) {
  const VmstatCounters counters = ParseVmstat(kVmstat, kStallPrefixes);
  EXPECT_THAT(counters, SizeIs(6));
  EXPECT_EQ(counters.at("compact_stall"), 12);
  EXPECT_EQ(counters.at("allocstall_normal"), 18446744073709551615U);
  EXPECT_FALSE(counters.contains("nr_free_pages"));
}

TEST(ProcTablesTest, VmstatWithoutTheCountersAskedForGivesNone) {
  EXPECT_THAT(ParseVmstat("nr_free_pages 1\n", kStallPrefixes), IsEmpty());
}

TEST(ProcTablesTest, VmstatErrorsSayTableAndLine) {
  EXPECT_EQ(VmstatError("nr_free_pages 1\ncompact_stall\n"), "vmstat: line 2: expected a number");
  EXPECT_EQ(VmstatError("compact_stall 1 2\n"), "vmstat: line 1: more than a name and a number");
  EXPECT_EQ(VmstatError("compact_stall 18446744073709551616\n"),
            "vmstat: line 1: number too large");
  EXPECT_EQ(VmstatError("compact_stall 1\ncompact_stall 2\n"),
            "vmstat: line 2: this name came before");
  EXPECT_EQ(VmstatError("\n"), "vmstat: line 1: expected a name");
}

TEST(ProcTablesTest, ZoneinfoGivesTheLargestLimitsOfTheCpus) {
  const Zoneinfo zoneinfo = ParseZoneinfo(kZoneinfo);
  ASSERT_THAT(zoneinfo.pagesets, SizeIs(2));
  EXPECT_EQ(zoneinfo.pagesets[0].zone, "dma");
  EXPECT_EQ(zoneinfo.pagesets[0].high, 0U);
  EXPECT_EQ(zoneinfo.pagesets[0].batch, 1U);
  EXPECT_EQ(zoneinfo.pagesets[1].zone, "normal");
  EXPECT_EQ(zoneinfo.pagesets[1].node, 0);
  EXPECT_EQ(zoneinfo.pagesets[1].high, 1520U);
  EXPECT_EQ(zoneinfo.pagesets[1].batch, 63U);
}

TEST(ProcTablesTest, ZoneinfoNamesNodesWithoutMemoryToo) {
  EXPECT_THAT(ParseZoneinfo(kZoneinfo).nodes, ElementsAre(0, 1));
}

TEST(ProcTablesTest, ZoneinfoSumsUpWhatTheZonesManage) {
  EXPECT_EQ(ParseZoneinfo(kZoneinfo).managed_pages, 3840) << "the other zones don't tell";
  const std::string more = std::string(kZoneinfo) + "        managed  160\n";
  EXPECT_EQ(ParseZoneinfo(more).managed_pages, 4000);
  EXPECT_EQ(ParseZoneinfo(kOldZoneinfo).managed_pages, std::nullopt);
  const std::string most = "Node 0, zone DMA\n managed 18446744073709551615\n";
  EXPECT_EQ(ParseZoneinfo(most + "Node 1, zone DMA\n managed 18446744073709551615\n").managed_pages,
            0x1p65);
  EXPECT_EQ(ZoneinfoError("Node 0, zone DMA\n managed x\n"), "zoneinfo: line 2: expected a number");
}

TEST(ProcTablesTest, ZoneinfoOfOldKernelsIsUnderstood) {
  const Zoneinfo zoneinfo = ParseZoneinfo(kOldZoneinfo);
  ASSERT_THAT(zoneinfo.pagesets, SizeIs(1));
  EXPECT_EQ(zoneinfo.pagesets[0].high, 186U);
  EXPECT_EQ(zoneinfo.pagesets[0].batch, 31U);
}

TEST(ProcTablesTest, ZoneinfoErrorsSayTableAndLine) {
  EXPECT_EQ(ZoneinfoError("  pages free 1\n"), "zoneinfo: line 1: expected a node and a zone");
  EXPECT_EQ(ZoneinfoError("Node 0, zone DMA rest\n"),
            "zoneinfo: line 1: more than a node and a zone");
  EXPECT_EQ(ZoneinfoError("Node 0, zone DMA\nNode \n"), "zoneinfo: line 2: expected a number");
  EXPECT_EQ(ZoneinfoError("Node 0, zone DMA\nNode 0, zone DMA\n"),
            "zoneinfo: line 2: this zone of this node came before");
  EXPECT_EQ(ZoneinfoError(Replaced(kZoneinfo, "high:     1520", "high:     2147483648")),
            "zoneinfo: line 40: number too large");
}

TEST(ProcTablesTest, ZoneinfoRefusesACpuWithoutItsLimits) {
  const std::string error = "pagesets: a CPU without high or batch";
  const std::string zone = "Node 0, zone DMA\n  pagesets\n";
  EXPECT_THAT(ZoneinfoError(zone), HasSubstr(error));
  EXPECT_THAT(ZoneinfoError(zone + " cpu: 0\n high: 1\n"), HasSubstr(error));
  EXPECT_THAT(ZoneinfoError(zone + " cpu: 0\n high: 1\n cpu: 1\n high: 1\n batch: 1\n"),
              HasSubstr(error));
  EXPECT_EQ(ZoneinfoError(zone + " cpu: 0\n high: 1\n batch: 1\n"), "");
}

TEST(ProcTablesTest, PagetypeinfoGivesThePageblockOrderAndTheMigratetypesByNumber) {
  const Pagetypeinfo info = ParsePagetypeinfo(kPagetypeinfo);
  EXPECT_EQ(info.pageblock_order, 9);
  EXPECT_THAT(info.migratetypes,
              ElementsAre("unmovable", "movable", "reclaimable", "highatomic", "cma", "isolate"));
}

TEST(ProcTablesTest, PagetypeinfoRefusesATableOfTypesThatWasCutOff) {
  const std::string gap =
      Replaced(Replaced(kPagetypeinfo,
                        "Node    0, zone      DMA, type          CMA      0      0      0 \n", ""),
               "Node    0, zone   Normal, type          CMA      0      0      0 \n", "");
  EXPECT_EQ(PagetypeinfoError(gap),
            "pagetypeinfo: line 16: migrate types differ from the table before");
  EXPECT_EQ(PagetypeinfoError("Page block order: 9\n"),
            "pagetypeinfo: line 1: cut off: no migrate types");
}

TEST(ProcTablesTest, PagetypeinfoRefusesAnOrderAndTypesThatNoKernelHas) {
  EXPECT_EQ(PagetypeinfoError("Page block order: 64\n"), "pagetypeinfo: line 1: number too large");
  std::string text = "Page block order: 9\n";
  for (char c = 'a'; c <= 'i'; ++c) {
    text += "Node 0, zone DMA, type " + std::string(1, c) + " 0 \n";
  }
  EXPECT_EQ(PagetypeinfoError(text), "pagetypeinfo: line 10: too many migrate types");
}

TEST(ProcTablesTest, SysctlIsOneNumberOnOneLine) {
  EXPECT_EQ(ParseSysctlNumber("11264\n", "x"), 11264U);
  EXPECT_THROW((void)ParseSysctlNumber("11264 1\n", "x"), ProcError);
  EXPECT_THROW((void)ParseSysctlNumber("11264\n1\n", "x"), ProcError);
  EXPECT_THROW((void)ParseSysctlNumber("-1\n", "x"), ProcError);
}

TEST(ProcTablesTest, ATextCutInsideALineIsRefusedByEveryParser) {
  for (const Table& table : AllTables()) {
    EXPECT_EQ(ErrorOf(table.parse, table.text), "");
    for (std::size_t size = 0; size < table.text.size(); ++size) {
      const std::string error = ErrorOf(table.parse, table.text.substr(0, size));
      const bool at_line_end = size > 0 && table.text[size - 1] == '\n';
      if (!at_line_end) {
        EXPECT_THAT(error, ::testing::StartsWith(std::string(table.name) + ": ")) << size;
      }
    }
  }
}

TEST(ProcTablesTest, ATextCutBetweenLinesGivesTheZonesBeforeTheCutOrAnError) {
  const std::vector<BuddyRow> whole = ParseBuddyinfo(kBuddyinfo);
  const std::size_t first_line = kBuddyinfo.find('\n') + 1;
  EXPECT_EQ(ParseBuddyinfo(kBuddyinfo.substr(0, first_line)).at(0).free_blocks,
            whole[0].free_blocks);
  const std::size_t types_end = kPagetypeinfo.find("Number of blocks");
  EXPECT_THAT(PagetypeinfoError(kPagetypeinfo.substr(0, types_end)), HasSubstr("cut off"));
}

// What comes of it doesn't matter here: the parsers must return, and throw nothing but ProcError.
TEST(ProcTablesTest, AnyByteReplacedByAnythingIsSurvivedByEveryParser) {
  using std::string_view_literals::operator""sv;
  for (const Table& table : AllTables()) {
    for (std::size_t at = 0; at < table.text.size(); ++at) {
      for (const char byte : "\0 \n9-,:>ZN\xff"sv) {
        std::string hostile(table.text);
        hostile[at] = byte;
        (void)ErrorOf(table.parse, hostile);
      }
    }
  }
}

TEST(ProcTablesTest, ATextThatIsTooLongIsRefusedByEveryParser) {
  const std::string text(kMaxTableBytes + 1, '\n');
  for (const Table& table : AllTables()) {
    EXPECT_EQ(ErrorOf(table.parse, text), std::string(table.name) + ": too long");
  }
}

TEST(ProcTablesTest, TheErrorsDoNotRepeatTheText) {
  EXPECT_THAT(BuddyinfoError("Node 0, zone \x1b[31m 1 \n"), Not(HasSubstr("\x1b")));
}

class RealProcTablesTest : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] std::string Text(const std::string& name) const {
    return FileText(std::string(KMEM_TEST_DATA) + "/proc/" + GetParam() + "/" + name);
  }
};

TEST_P(RealProcTablesTest, TheTablesOfTheKernelAreUnderstoodAndAgree) {
  const std::vector<BuddyRow> rows = ParseBuddyinfo(Text("buddyinfo"));
  const Zoneinfo zoneinfo = ParseZoneinfo(Text("zoneinfo"));
  const Pagetypeinfo pagetypeinfo = ParsePagetypeinfo(Text("pagetypeinfo"));
  ASSERT_THAT(zoneinfo.pagesets, SizeIs(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].zone, zoneinfo.pagesets[i].zone);
    EXPECT_THAT(rows[i].free_blocks, SizeIs(11));
    EXPECT_GT(zoneinfo.pagesets[i].batch, 0U);
  }
  EXPECT_EQ(pagetypeinfo.pageblock_order, 9);
  EXPECT_THAT(pagetypeinfo.migratetypes, ::testing::IsSupersetOf({"unmovable", "movable"}));
  EXPECT_TRUE(ParseVmstat(Text("vmstat"), kStallPrefixes).contains("allocstall_dma32"));
  EXPECT_GT(ParseSysctlNumber(Text("sys/vm/min_free_kbytes"), "min_free_kbytes"), 0U);
}

INSTANTIATE_TEST_SUITE_P(Kernels, RealProcTablesTest, ::testing::Values("5.10", "6.1", "6.12"),
                         [](const auto& kernel) {
                           std::string name = "v" + kernel.param;
                           name[name.find('.')] = '_';
                           return name;
                         });

TEST(ProcTablesTest, TheTablesOfTheRunningKernelAreUnderstood) {
  const std::vector<BuddyRow> rows = ParseBuddyinfo(FileText("/proc/buddyinfo"));
  EXPECT_THAT(ParseZoneinfo(FileText("/proc/zoneinfo")).pagesets, SizeIs(rows.size()));
  EXPECT_THAT(ParseVmstat(FileText("/proc/vmstat"), kStallPrefixes), Not(IsEmpty()));
  const std::string pagetypeinfo = FileText("/proc/pagetypeinfo");
  if (!pagetypeinfo.empty()) {  // mode 0400
    EXPECT_THAT(ParsePagetypeinfo(pagetypeinfo).migratetypes,
                ::testing::IsSupersetOf({"unmovable", "movable", "reclaimable", "highatomic"}));
  }
}

}  // namespace
}  // namespace kmem
