#include "collectors/pcp_lists.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class MemoryZoneinfo : public ProcReader {
 public:
  explicit MemoryZoneinfo(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] std::string Read(std::string_view path) const override {
    if (path != "zoneinfo") throw ProcError(std::string(path) + ": No such file or directory");
    return text_;
  }

 private:
  std::string text_;
};

// Two nodes, two CPUs; the zone Movable has no pages.
constexpr const char* kZoneinfo =
    "Node 0, zone   Normal\n"
    "  pages free     44104\n"
    "        high     9999\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count:    1021\n"
    "              high:     1008\n"
    "              batch:    63\n"
    "              high_min: 1008\n"
    "              high_max: 4608\n"
    "    cpu: 1\n"
    "              count:    310\n"
    "              high:     1520\n"
    "              batch:    31\n"
    "              high_min: 1008\n"
    "              high_max: 4608\n"
    "Node 0, zone  Movable\n"
    "  pages free     0\n"
    "        high     32\n"
    "Node 1, zone   Normal\n"
    "  pages free     44104\n"
    "  pagesets\n"
    "    cpu: 0\n"
    "              count: 1\n"
    "              high:  186\n"
    "              batch: 31\n"
    "    cpu: 1\n"
    "              count: 1\n"
    "              high:  186\n"
    "              batch: 31\n";

Families Collected(const std::string& text) {
  Families out;
  PcpListsCollector().Collect(MemoryZoneinfo(text), {}, out);
  return out;
}

// By node and zone.
std::map<std::pair<std::string, std::string>, double> Samples(
    const prometheus::MetricFamily& family) {
  std::map<std::pair<std::string, std::string>, double> samples;
  for (const auto& metric : family.metric) {
    EXPECT_EQ(metric.label.at(0).name, "numa_node");
    EXPECT_EQ(metric.label.at(1).name, "mem_zone");
    samples[{metric.label[0].value, metric.label[1].value}] = metric.gauge.value;
  }
  return samples;
}

TEST(PcpListsCollectorTest, GivesTheLargestHighAndBatchOfTheCpusOfEachZoneWithPages) {
  const Families families = Collected(kZoneinfo);
  ASSERT_EQ(families.size(), 2U);
  EXPECT_EQ(families[0].name, "kmem_pcp_high_pages");
  EXPECT_THAT(Samples(families[0]),
              ElementsAre(Pair(Pair("0", "normal"), 1520), Pair(Pair("1", "normal"), 186)));
  EXPECT_EQ(families[1].name, "kmem_pcp_batch_pages");
  EXPECT_THAT(Samples(families[1]),
              ElementsAre(Pair(Pair("0", "normal"), 63), Pair(Pair("1", "normal"), 31)));
}

TEST(PcpListsCollectorTest, BothFamiliesAreGaugesWithHelp) {
  for (const auto& family : Collected(kZoneinfo)) {
    EXPECT_EQ(family.type, prometheus::MetricType::Gauge);
    EXPECT_FALSE(family.help.empty());
  }
}

TEST(PcpListsCollectorTest, ATableThatCannotBeUnderstoodIsAnError) {
  EXPECT_THROW(Collected(""), ProcError);
  EXPECT_THROW(Collected("Node 0, zone Normal\n  pagesets\n"), ProcError);
}

TEST(PcpListsCollectorTest, TheTablesOfRealKernelsGiveBothFamilies) {
  for (const std::string kernel : {"5.10", "6.1", "6.12"}) {
    std::ifstream file(KMEM_TEST_DATA "/proc/" + kernel + "/zoneinfo");
    const Families families = Collected({std::istreambuf_iterator<char>(file), {}});
    ASSERT_EQ(families.size(), 2U) << kernel;
    EXPECT_GT(Samples(families[0]).at({"0", "dma32"}), 0) << kernel;
    EXPECT_GT(Samples(families[1]).at({"0", "dma32"}), 0) << kernel;
  }
}

}  // namespace
}  // namespace kmem
