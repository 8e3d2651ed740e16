#include "collectors/fragmentation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace kmem {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

// Two nodes with memory and a third one without. The rows are those that the indices are computed
// for by hand below.
constexpr const char* kBuddyinfo =
    "Node 0, zone   Normal      8      4      2      1      0      0      0      0      0      0 "
    "     0 \n"
    "Node 1, zone   Normal      0      0      0      0      0      0      0      0      0      1 "
    "     1 \n"
    "Node 1, zone  Movable      0      0      0      0      0      0      0      0      0      0 "
    "     0 \n";
constexpr const char* kZoneinfo =
    "Node 0, zone   Normal\n"
    "        managed  1000\n"
    "Node 1, zone   Normal\n"
    "        managed  24\n"
    "Node 1, zone  Movable\n"
    "        managed  0\n"
    "Node 2, zone  Movable\n";
class MemoryProc : public ProcReader {
 public:
  MemoryProc(std::initializer_list<std::pair<const std::string, std::string>> files)
      : files_(files) {}

  [[nodiscard]] std::string Read(std::string_view path) const override {
    ++reads_[std::string(path)];
    const auto file = files_.find(std::string(path));
    if (file == files_.end()) throw ProcError(std::string(path) + ": Permission denied");
    return file->second;
  }

  [[nodiscard]] int reads(const std::string& path) const { return reads_[path]; }

 private:
  std::map<std::string, std::string> files_;
  mutable std::map<std::string, int> reads_;
};

MemoryProc WholeProc() {
  return {
      {"buddyinfo", kBuddyinfo}, {"zoneinfo", kZoneinfo}, {"sys/vm/min_free_kbytes", "11264\n"}};
}

// A pageblock order that is not the default.
KernelFacts Facts() {
  KernelFacts facts;
  facts.pageblock_order = 10;
  return facts;
}

Families Collected(const ProcReader& proc, const KernelFacts& facts = Facts()) {
  Families out;
  FragmentationCollector().Collect(proc, facts, out);
  return out;
}

std::vector<std::string> Names(const Families& families) {
  std::vector<std::string> names;
  for (const auto& family : families) names.push_back(family.name);
  return names;
}

// The samples of a family, by the values of their labels in the order they stand.
std::map<std::vector<std::string>, double> Samples(const Families& families,
                                                   const std::string& name) {
  std::map<std::vector<std::string>, double> samples;
  for (const auto& family : families) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      std::vector<std::string> labels;
      for (const auto& label : metric.label) labels.push_back(label.value);
      samples[labels] = metric.gauge.value;
    }
  }
  return samples;
}

std::optional<double> Sample(const Families& families, const std::string& name) {
  const auto samples = Samples(families, name);
  if (samples.size() != 1) return std::nullopt;
  return samples.begin()->second;
}

// P = 8 + 4*2 + 2*4 + 1*8 = 32 free pages in B = 15 blocks.
constexpr std::array<std::uint64_t, 11> kSmallBlocks{8, 4, 2, 1};

TEST(FragmentationIndexTest, UnusableIsTheShareOfFreePagesInSmallerBlocks) {
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 0), 0);
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 1), 0.25);  // 8 of 32 pages
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 2), 0.5);
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 3), 0.75);
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 4), 1);
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(kSmallBlocks, 9), 1);
}

TEST(FragmentationIndexTest, NoFreeMemoryIsWhollyUnusable) {
  EXPECT_DOUBLE_EQ(UnusableFreeIndex(std::array<std::uint64_t, 11>{}, 3), 1);
}

TEST(FragmentationIndexTest, IsMinusOneWhereAnAllocationNeedNotFail) {
  EXPECT_DOUBLE_EQ(FragmentationIndex(kSmallBlocks, 1), -1);
  EXPECT_DOUBLE_EQ(FragmentationIndex(kSmallBlocks, 3), -1);
}

TEST(FragmentationIndexTest, IsNearOneWhereFreeMemoryIsInManySmallBlocks) {
  EXPECT_DOUBLE_EQ(FragmentationIndex(kSmallBlocks, 4), 0.8);              // 1 - (1 + 32/16) / 15
  EXPECT_DOUBLE_EQ(FragmentationIndex(kSmallBlocks, 9), 1 - 1.0625 / 15);  // 32/512 = 0.0625
}

TEST(FragmentationIndexTest, IsNearZeroWhereLittleIsFree) {
  EXPECT_DOUBLE_EQ(FragmentationIndex(std::array<std::uint64_t, 11>{}, 3), 0);
  // One page: 1 - (1 + 1/8) / 1. The kernel gives -0.125 too.
  EXPECT_DOUBLE_EQ(FragmentationIndex(std::array<std::uint64_t, 11>{1}, 3), -0.125);
}

TEST(FragmentationIndexTest, SurvivesCountsThatNoMachineHas) {
  std::vector<std::uint64_t> blocks(64, ~std::uint64_t{0});
  EXPECT_DOUBLE_EQ(FragmentationIndex(blocks, 63), -1);
  EXPECT_LE(UnusableFreeIndex(blocks, 63), 1);
  EXPECT_GE(UnusableFreeIndex(blocks, 63), 0);
}

TEST(FragmentationCollectorTest, GivesFreeBlocksByNodeZoneAndOrder) {
  const auto samples = Samples(Collected(WholeProc()), "kmem_free_blocks");
  EXPECT_EQ(samples.size(), 33U);
  EXPECT_EQ(samples.at({"0", "normal", "0"}), 8);
  EXPECT_EQ(samples.at({"0", "normal", "3"}), 1);
  EXPECT_EQ(samples.at({"1", "movable", "10"}), 0);
}

TEST(FragmentationCollectorTest, LabelsAreNumaNodeMemZoneAndOrder) {
  const Families families = Collected(WholeProc());
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<std::string> labels;
    for (const auto& label : families[i].metric[0].label) labels.push_back(label.name);
    EXPECT_THAT(labels, ElementsAre("numa_node", "mem_zone", "order"));
  }
}

TEST(FragmentationCollectorTest, GivesTheIndicesForSmallOrdersAndThePageblock) {
  const Families families = Collected(WholeProc());
  const auto unusable = Samples(families, "kmem_unusable_free_index");
  EXPECT_EQ(unusable.size(), 15U);  // 3 zones, orders 1 2 3 4 10
  EXPECT_DOUBLE_EQ(unusable.at({"0", "normal", "2"}), 0.5);
  EXPECT_DOUBLE_EQ(unusable.at({"1", "normal", "10"}), 512.0 / 1536);  // the order-9 block
  EXPECT_DOUBLE_EQ(unusable.at({"1", "movable", "1"}), 1);
  const auto fragmentation = Samples(families, "kmem_fragmentation_index");
  EXPECT_EQ(fragmentation.size(), 15U);
  EXPECT_DOUBLE_EQ(fragmentation.at({"0", "normal", "4"}), 0.8);
  EXPECT_DOUBLE_EQ(fragmentation.at({"0", "normal", "10"}), 1 - (1 + 32.0 / 1024) / 15);
  EXPECT_DOUBLE_EQ(fragmentation.at({"1", "normal", "10"}), -1);
}

TEST(FragmentationCollectorTest, APageblockOfASmallOrderIsNotGivenTwice) {
  MemoryProc proc{{"buddyinfo", kBuddyinfo}};
  KernelFacts facts;
  facts.pageblock_order = 3;
  EXPECT_EQ(Samples(Collected(proc, facts), "kmem_unusable_free_index").size(), 12U);
}

TEST(FragmentationCollectorTest, OrdersThatTheKernelDoesNotHaveAreLeftOut) {
  MemoryProc proc{{"buddyinfo", "Node 0, zone Normal 1 2 3 \n"}};
  const auto samples = Samples(Collected(proc), "kmem_unusable_free_index");
  EXPECT_EQ(samples.size(), 2U);
  EXPECT_EQ(samples.count({"0", "normal", "2"}), 1U);
}

TEST(FragmentationCollectorTest, TheStepIsThreePageblocksPerOnlineNode) {
  const Families families = Collected(WholeProc());
  EXPECT_EQ(Sample(families, "kmem_pageblock_order"), 10);
  EXPECT_EQ(Sample(families, "kmem_min_free_bytes"), 11534336);       // 11264 KiB
  EXPECT_EQ(Sample(families, "kmem_min_free_step_bytes"), 37748736);  // 3 * 4 MiB * 3 nodes
}

TEST(FragmentationCollectorTest, WhatIsManagedIsTheSumOfTheZones) {
  EXPECT_EQ(Sample(Collected(WholeProc()), "kmem_managed_bytes"), 1024 * 4096);
  KernelFacts facts = Facts();
  facts.page_size = 65536;
  EXPECT_EQ(Sample(Collected(WholeProc(), facts), "kmem_managed_bytes"), 1024 * 65536);
}

TEST(FragmentationCollectorTest, WithoutBuddyinfoThereIsNothing) {
  MemoryProc none{{"zoneinfo", kZoneinfo}};
  EXPECT_THROW(Collected(none), ProcError);
  MemoryProc broken{{"buddyinfo", "Node 0, zone\n"}};
  EXPECT_THROW(Collected(broken), ProcError);
}

TEST(FragmentationCollectorTest, WithoutTheOtherTablesTheRestIsStillGiven) {
  MemoryProc proc{{"buddyinfo", kBuddyinfo}};
  KernelFacts facts;
  facts.page_size = 65536;
  facts.pageblock_order = 5;
  const Families families = Collected(proc, facts);
  EXPECT_THAT(Names(families), Not(Contains("kmem_min_free_bytes")));
  EXPECT_THAT(Names(families), Not(Contains("kmem_managed_bytes")));
  EXPECT_EQ(Sample(families, "kmem_pageblock_order"), 5);
  EXPECT_EQ(Sample(families, "kmem_min_free_step_bytes"), 12582912);  // 3 * 2 MiB * 2 nodes
  EXPECT_EQ(Samples(families, "kmem_unusable_free_index").count({"0", "normal", "5"}), 1U);
}

TEST(FragmentationCollectorTest, BrokenOptionalTablesAreAsGoodAsNone) {
  MemoryProc proc{
      {"buddyinfo", kBuddyinfo}, {"zoneinfo", "x\n"}, {"sys/vm/min_free_kbytes", "x\n"}};
  const Families families = Collected(proc, KernelFacts{});
  EXPECT_THAT(Names(families), Not(Contains("kmem_min_free_bytes")));
  EXPECT_THAT(Names(families), Not(Contains("kmem_managed_bytes")));
  EXPECT_EQ(Sample(families, "kmem_pageblock_order"), 9);
  EXPECT_EQ(Sample(families, "kmem_min_free_step_bytes"), 12582912);  // 3 * 2 MiB * 2 nodes
}

TEST(FragmentationCollectorTest, NeverReadsTheDearPagetypeinfo) {
  const MemoryProc proc = WholeProc();
  Collected(proc);
  EXPECT_EQ(proc.reads("pagetypeinfo"), 0);
  EXPECT_EQ(proc.reads("buddyinfo"), 1);
}

TEST(FragmentationCollectorTest, AllFamiliesAreGauges) {
  const Families families = Collected(WholeProc());
  EXPECT_THAT(Names(families),
              ElementsAre("kmem_free_blocks", "kmem_unusable_free_index",
                          "kmem_fragmentation_index", "kmem_pageblock_order", "kmem_min_free_bytes",
                          "kmem_min_free_step_bytes", "kmem_managed_bytes"));
  for (const auto& family : families) {
    EXPECT_EQ(family.type, prometheus::MetricType::Gauge);
    EXPECT_FALSE(family.help.empty());
  }
}

class DataProc : public ProcReader {
 public:
  explicit DataProc(const std::string& kernel) : root_(KMEM_TEST_DATA "/proc/" + kernel + "/") {}
  [[nodiscard]] std::string Read(std::string_view path) const override {
    std::ifstream file(root_ + std::string(path));
    if (!file) throw ProcError(std::string(path));
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string root_;
};

TEST(FragmentationCollectorTest, TheTablesOfRealKernelsGiveAllFamilies) {
  for (const char* kernel : {"5.10", "6.1", "6.12"}) {
    const Families families = Collected(DataProc(kernel), KernelFacts{});
    EXPECT_EQ(families.size(), 7U) << kernel;
    EXPECT_EQ(Sample(families, "kmem_pageblock_order"), 9) << kernel;
    EXPECT_EQ(Sample(families, "kmem_min_free_step_bytes"), 6291456) << kernel;  // one node
  }
}

}  // namespace
}  // namespace kmem
