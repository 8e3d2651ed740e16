// How many series the default configuration makes on a machine of 64 CPUs and two nodes.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "dispatch_rig.h"
#include "exporter/exposition.h"
#include "exporter/scraper.h"
#include "memory_proc.h"
#include "recorded_data.h"

namespace kmem {
namespace {

constexpr std::uint32_t kCpus = 64;
constexpr std::size_t kMostSeries = 1500;
constexpr const char* kNewest = "6.18";

struct Zone {
  int node;
  const char* name;
};
constexpr Zone kZones[] = {{0, "DMA"}, {0, "DMA32"}, {0, "Normal"}, {1, "Normal"}};

MapProc MachineOfTwoNodes() {
  std::ostringstream buddyinfo;
  std::ostringstream zoneinfo;
  for (const Zone& zone : kZones) {
    const std::string head = "Node " + std::to_string(zone.node) + ", zone " + zone.name + " ";
    buddyinfo << head;
    for (int order = 0; order < 11; ++order) buddyinfo << " " << 100 - order;
    buddyinfo << " \n";
    zoneinfo << head << "\n  pages free     1000\n        min      10\n        low      20\n"
             << "        high     30\n        spanned  4096\n        present  4096\n"
             << "        managed  4000\n  pagesets\n";
    for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      zoneinfo << "    cpu: " << cpu << "\n              count: 5\n              high:  378\n"
               << "              batch: 63\n  vm stats threshold: 24\n";
    }
  }
  std::ostringstream stat;
  stat << "cpu  1 2 3 4\n";
  for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) stat << "cpu" << cpu << " 1 2 3 4\n";
  stat << "intr 1\n";
  // CMA is configured: the most types that a kernel has.
  std::string pagetypeinfo =
      "Page block order: 9\nPages per block:  512\n\n"
      "Free pages count per migrate type at order       0      1      2      3      4      5      "
      "6      7      8      9     10 \n";
  for (const Zone& zone : kZones) {
    for (const char* type :
         {"Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate"}) {
      pagetypeinfo += "Node    " + std::to_string(zone.node) + ", zone " + zone.name + ", type " +
                      type + " 0 0 0 0 0 0 0 0 0 0 0 \n";
    }
  }
  pagetypeinfo +=
      "\nNumber of blocks type     Unmovable      Movable  Reclaimable   HighAtomic          CMA   "
      "   Isolate \n";
  return MapProc({{"buddyinfo", buddyinfo.str()},
                  {"zoneinfo", zoneinfo.str()},
                  {"pagetypeinfo", pagetypeinfo},
                  {"stat", stat.str()},
                  {"sys/vm/min_free_kbytes", "90112\n"},
                  {"vmstat",
                   "allocstall_dma 1\nallocstall_dma32 1\nallocstall_normal 1\n"
                   "allocstall_movable 1\ncompact_stall 5\ncompact_fail 2\ncompact_success 3\n"}});
}

// A source that has traced all twelve tracepoints of such a machine, or all that its kernel has,
// and more call sites, caches and sizes than may have series.
class LargeMachine : public EventSource {
 public:
  LargeMachine(const std::string& kernel, const TraceCollectors& collectors, const ProcReader& proc)
      : facts_(ReadKernelFacts(proc)), dispatcher_(collectors, facts_, kCpus, state_) {
    Formats formats;
    AddFormats(kernel, formats);
    formats.CompleteFacts(facts_);
    facts_.symbols = std::make_shared<NamedByAddress>();
    for (const std::string& event : WantedEvents(collectors, {})) {
      if (formats.Has(event)) dispatcher_.Bind(event, formats);
    }
    state_.overhead.emplace().traced_seconds.assign(collectors.size(), 0);
    dispatcher_.ReadCommon(1);
    FillTables(kernel);
    dispatcher_.ReadCommon(UINT64_C(60'000'000'000));
  }
  [[nodiscard]] std::string_view engine() const override { return "tracefs"; }
  [[nodiscard]] std::string_view reason() const override { return "test"; }
  [[nodiscard]] const KernelFacts& facts() const override { return facts_; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override { return missing_; }
  [[nodiscard]] EventState Snapshot() override { return state_; }

 private:
  void FillTables(const std::string& kernel) {
    constexpr std::uint64_t kNames = 120;
    const DispatchRig records(kernel);
    for (std::uint64_t i = 0; i < kNames; ++i) {
      const std::uint64_t site = 0xffffffff81000000 + 16 * i;
      const std::uint64_t size = UINT64_C(8) << i % 11;
      const std::string cache = "cache-" + std::to_string(i);
      for (const std::string& event : records.wanted()) {
        if (event.starts_with("mm_")) continue;
        Dispatch(records.MakeNamedRecord(
            event, {{"call_site", site}, {"bytes_req", size - 1}, {"bytes_alloc", size}}, cache));
      }
    }
  }
  void Dispatch(const HeapPage& record) {
    dispatcher_.OnRecord(0, 1000, record.data(), static_cast<std::uint32_t>(record.size()));
  }

  KernelFacts facts_;
  EventState state_;
  Dispatcher dispatcher_;
  std::vector<std::string> missing_;
};

// Samples by family, as Prometheus stores them: each bucket, sum and count of a histogram is one.
std::map<std::string, std::size_t> CountSeries(const std::string& exposition) {
  std::map<std::string, std::size_t> series;
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && !line.starts_with("#")) ++series[line.substr(0, line.find_first_of("{ "))];
  }
  return series;
}

// By the formats of a kernel: the older names no caches, but has events of their own by node.
class SeriesCountTest : public testing::TestWithParam<const char*> {};

TEST_P(SeriesCountTest, TheDefaultMakesAtMost1500On64CpusAndTwoNodes) {
  const Config config;
  const MapProc proc = MachineOfTwoNodes();
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  const ProcCollectors proc_collectors = MakeProcCollectors(config.collectors);
  Tracing tracing(
      [&] { return std::make_unique<LargeMachine>(GetParam(), trace_collectors, proc); });
  tracing.Start();
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  const std::string text =
      Serialize(scraper.Scrape({{200, 1}, {405, 1}, {404, 1}, {503, 1}}), TextFormat::kPrometheus);
  const auto series = CountSeries(text);
  std::size_t total = 0;
  for (const auto& [name, count] : series) total += count;
  std::cout << "series of the default configuration at its caps, Linux " << GetParam() << ": "
            << total << ", " << text.size() << " bytes\n";
  RecordProperty("series", static_cast<int>(total));
  EXPECT_LE(total, kMostSeries) << text;

  // It is the machine that was meant, and nothing failed.
  EXPECT_EQ(series.at("kmem_pcp_refills_total"), kCpus);
  EXPECT_EQ(series.at("kmem_free_blocks"), std::size(kZones) * 11);
  EXPECT_EQ(series.at("kmem_page_allocations_total"), 11U * 4);
  EXPECT_GE(series.at("kmem_tracepoint_events_total"), 10U);
  EXPECT_EQ(series.at("kmem_pcp_high_pages"), std::size(kZones));
  EXPECT_EQ(series.at("kmem_allocation_stalls_total"), 4U);
  // As many names as may have series, and `other`.
  const std::size_t named = config.collectors.slab_options.callsites.max_series + 1;
  EXPECT_EQ(series.at("kmem_slab_callsite_allocations_total"), named);
  EXPECT_EQ(series.count("kmem_slab_cache_allocations_total"), GetParam() == kNewest ? 1U : 0U);
  EXPECT_EQ(series.at("kmem_exporter_traced_seconds_total"), trace_collectors.size());
  EXPECT_EQ(series.at("kmem_exporter_scrape_collector_success"), 6U);
  EXPECT_EQ(text.find("kmem_exporter_scrape_collector_success{collector=\"pcp\"} 0"),
            std::string::npos);
  EXPECT_EQ(text.find("kmem_exporter_scrape_collector_success{collector=\"fragmentation\"} 0"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Kernels, SeriesCountTest, testing::Values("5.10", kNewest));

}  // namespace
}  // namespace kmem
