#include "collectors/compaction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class MemoryVmstat : public ProcReader {
 public:
  explicit MemoryVmstat(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] std::string Read(std::string_view path) const override {
    if (path != "vmstat") throw ProcError(std::string(path) + ": No such file or directory");
    return text_;
  }

 private:
  std::string text_;
};

Families Collected(const std::string& text) {
  Families out;
  CompactionCollector().Collect(MemoryVmstat(text), {}, out);
  return out;
}

// The value of each family that has no labels.
std::map<std::string, double> Values(const Families& families) {
  std::map<std::string, double> values;
  for (const auto& family : families) {
    if (family.metric.size() == 1 && family.metric[0].label.empty()) {
      values[family.name] = family.metric[0].counter.value;
    }
  }
  return values;
}

std::map<std::string, double> AllocationStallsByZone(const Families& families) {
  std::map<std::string, double> values;
  for (const auto& family : families) {
    if (family.name != "kmem_allocation_stalls_total") continue;
    for (const auto& metric : family.metric) {
      EXPECT_EQ(metric.label.at(0).name, "mem_zone");
      values[metric.label[0].value] = metric.counter.value;
    }
  }
  return values;
}

constexpr const char* kVmstat =
    "nr_free_pages 880114\n"
    "allocstall_dma 0\n"
    "allocstall_dma32 3\n"
    "allocstall_normal 40\n"
    "allocstall_movable 500\n"
    "allocstall_device 0\n"
    "compact_migrate_scanned 77\n"
    "compact_stall 12\n"
    "compact_fail 5\n"
    "compact_success 7\n"
    "compact_daemon_wake 99\n";

TEST(CompactionCollectorTest, GivesStallsSuccessesAndFailures) {
  EXPECT_THAT(Values(Collected(kVmstat)), ElementsAre(Pair("kmem_compaction_failures_total", 5),
                                                      Pair("kmem_compaction_stalls_total", 12),
                                                      Pair("kmem_compaction_successes_total", 7)));
}

TEST(CompactionCollectorTest, GivesAllocationStallsOfTheZonesThatAnAllocationCanAskFor) {
  EXPECT_THAT(
      AllocationStallsByZone(Collected(kVmstat)),
      ElementsAre(Pair("dma", 0), Pair("dma32", 3), Pair("movable", 500), Pair("normal", 40)));
}

TEST(CompactionCollectorTest, NamesHighMemoryAsBuddyinfoDoes) {
  EXPECT_THAT(AllocationStallsByZone(Collected("allocstall_high 1\n")),
              ElementsAre(Pair("highmem", 1)));
}

TEST(CompactionCollectorTest, KernelsWithoutCompactionLackItsFamilies) {
  const Families families = Collected("allocstall_normal 1\n");
  ASSERT_EQ(families.size(), 1U);
  EXPECT_EQ(families[0].name, "kmem_allocation_stalls_total");
}

TEST(CompactionCollectorTest, KernelsWithoutEventCountersHaveNoFamilies) {
  EXPECT_THAT(Collected("nr_free_pages 1\n"), IsEmpty());
}

TEST(CompactionCollectorTest, AllFamiliesAreCountersWithHelp) {
  const Families families = Collected(kVmstat);
  EXPECT_EQ(families.size(), 4U);
  for (const auto& family : families) {
    EXPECT_EQ(family.type, prometheus::MetricType::Counter);
    EXPECT_TRUE(family.name.ends_with("_total"));
    EXPECT_FALSE(family.help.empty());
  }
}

TEST(CompactionCollectorTest, ATableThatCannotBeReadOrUnderstoodIsAnError) {
  EXPECT_THROW(Collected("compact_stall x\n"), ProcError);
  EXPECT_THROW(Collected(""), ProcError);
}

TEST(CompactionCollectorTest, TheTablesOfRealKernelsGiveAllFamilies) {
  for (const std::string kernel : {"5.10", "6.1", "6.12"}) {
    std::ifstream file(KMEM_TEST_DATA "/proc/" + kernel + "/vmstat");
    const Families families = Collected({std::istreambuf_iterator<char>(file), {}});
    EXPECT_EQ(families.size(), 4U) << kernel;
    EXPECT_THAT(AllocationStallsByZone(families),
                ElementsAre(Pair("dma", ::testing::Ge(0)), Pair("dma32", ::testing::Ge(0)),
                            Pair("movable", ::testing::Ge(0)), Pair("normal", ::testing::Ge(0))))
        << kernel;
  }
}

}  // namespace
}  // namespace kmem
