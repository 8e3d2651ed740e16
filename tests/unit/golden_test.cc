// Pins the whole exposition of a recorded trace and the /proc tables of its kernel: every name,
// TYPE, HELP, label and value. Where a change is meant, write the golden files anew and read their
// diff: KMEM_UPDATE_GOLDEN=1 unit_tests --gtest_filter='*Golden*'
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/exposition.h"
#include "exporter/proc_files.h"
#include "exporter/replay/replay_source.h"
#include "exporter/scraper.h"
#include "recorded_data.h"

namespace kmem {
namespace {

// The line with what can't be constant replaced: the values of process_* and of the collectors'
// durations, the values of build_info's labels.
std::string Normalized(const std::string& line) {
  if (line.starts_with("#")) return line;
  if (line.starts_with("process_") ||
      line.starts_with("kmem_exporter_scrape_collector_duration_seconds{")) {
    return line.substr(0, line.rfind(' ')) + " VALUE";
  }
  if (!line.starts_with("kmem_exporter_build_info{")) return line;
  std::string normal;
  bool in_value = false;
  for (const char c : line) {
    if (c == '"') {
      in_value = !in_value;
      normal += in_value ? "\"LABEL" : "\"";
    } else if (!in_value) {
      normal += c;
    }
  }
  return normal;
}

// One scrape of a replay with the tables of the same kernel.
std::string ScrapeReplay(const std::string& kernel, Config config = {}) {
  config.paths.procfs = TestData("proc/" + kernel);
  const ProcFiles proc(config.paths.procfs);
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  const ProcCollectors proc_collectors = MakeProcCollectors(config.collectors);
  Tracing tracing([&] {
    return std::make_unique<ReplaySource>(TestData("traces/kmem-" + kernel + ".dat"), config,
                                          trace_collectors);
  });
  tracing.Start();
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  std::istringstream lines(Serialize(scraper.Scrape({{200, 7}}), TextFormat::kPrometheus));
  std::string text;
  for (std::string line; std::getline(lines, line);) text += Normalized(line) + "\n";
  return text;
}

std::string GoldenPath(const std::string& kernel) {
  return std::string(KMEM_TEST_GOLDEN) + "/kmem-" + kernel + ".prom";
}

class GoldenTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, GoldenTest, ::testing::Values("5.10", "6.1", "6.18"),
                         KernelTestName);

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void ExpectGolden(const std::string& text, const std::string& path) {
  if (std::getenv("KMEM_UPDATE_GOLDEN") != nullptr) {
    std::ofstream file(path, std::ios::trunc);
    ASSERT_TRUE(file << text) << path;
  }
  const std::vector<std::string> lines = LinesOf(text);
  const std::vector<std::string> golden = LinesOf(ReadWhole(path));
  const auto [line, expected] = std::ranges::mismatch(lines, golden);
  const std::string how =
      "\nwhere the change is meant: KMEM_UPDATE_GOLDEN=1 unit_tests "
      "--gtest_filter='*Golden*', and read the diff of tests/golden";
  ASSERT_FALSE(line != lines.end() && expected != golden.end())
      << "line " << line - lines.begin() + 1 << ":\n  is     " << *line << "\n  golden "
      << *expected << how;
  ASSERT_EQ(lines.size(), golden.size()) << "the shorter one is the beginning of the other" << how;
}

TEST_P(GoldenTest, TheExpositionIsTheGoldenOne) {
  ExpectGolden(ScrapeReplay(GetParam()), GoldenPath(GetParam()));
}

// What is off by default: its families alone.
TEST(GoldenLiveTest, TheFamiliesOfLiveMemoryAreTheGoldenOnes) {
  Config config;
  config.collectors.slab_options.live.enabled = true;
  std::string text;
  for (const std::string& line : LinesOf(ScrapeReplay("6.18", config))) {
    const bool is_of_it = line.find("_live") != std::string::npos ||
                          line.find("kmem_slab_same_cpu") != std::string::npos ||
                          line.find("kmem_slab_cross_") != std::string::npos;
    if (is_of_it) text += line + "\n";
  }
  ExpectGolden(text, std::string(KMEM_TEST_GOLDEN) + "/live-6.18.prom");
}

// What a replay does not have: what tracing a live kernel costs.
TEST(GoldenOverheadTest, TheExpositionIsTheGoldenOne) {
  const TraceCollectors collectors = MakeTraceCollectors({});
  EventState state;
  state.overhead = Overhead{.budget_ratio = 0.01,
                            .event_cost_seconds = 4e-8,
                            .trace_seconds = 1.5,
                            .drain_seconds = 0.25,
                            .toggle_seconds = 0.125,
                            .traced_seconds = {2.5, 100, 100, 100}};
  Families families;
  AppendOverheadMetrics(state, collectors, "bpf", families);
  ExpectGolden(Serialize(families, TextFormat::kPrometheus),
               std::string(KMEM_TEST_GOLDEN) + "/overhead.prom");
}

// A rate of 0 would say that it is sampled.
TEST(GoldenOverheadTest, ACollectorWithoutATracepointInUseHasNoTimeTraced) {
  const TraceCollectors collectors = MakeTraceCollectors({});
  EventState state;
  state.overhead.emplace().traced_seconds = {2.5, std::nullopt, 100, 100};
  Families families;
  AppendOverheadMetrics(state, collectors, "bpf", families);
  const std::string text = Serialize(families, TextFormat::kPrometheus);
  EXPECT_EQ(text.find("kmem_exporter_traced_seconds_total{collector=\"page\""), std::string::npos);
  EXPECT_NE(text.find("kmem_exporter_traced_seconds_total{collector=\"pcp\"} 100"),
            std::string::npos);
}

// Those that every kernel has, of the metric contract.
const std::set<std::string> kFamilies{
    "kmem_tracepoint_events_total",
    "kmem_exporter_events_read_total",
    "kmem_exporter_tracepoint_enabled",
    "kmem_slab_allocations_total",
    "kmem_slab_allocation_failures_total",
    "kmem_slab_frees_total",
    "kmem_slab_requested_bytes_total",
    "kmem_slab_allocated_bytes_total",
    "kmem_slab_request_size_bytes",
    "kmem_slab_waste_bytes",
    "kmem_slab_callsite_allocations_total",
    "kmem_slab_callsite_requested_bytes_total",
    "kmem_slab_callsite_allocated_bytes_total",
    "kmem_slab_callsite_size_classes",
    "kmem_slab_callsite_fixed_size_bytes",
    "kmem_slab_kmalloc_allocations_total",
    "kmem_slab_kmalloc_requested_bytes_total",
    "kmem_exporter_symbols_available",
    "kmem_exporter_series_folded",
    "kmem_page_allocations_total",
    "kmem_page_allocated_bytes_total",
    "kmem_page_allocation_failures_total",
    "kmem_page_frees_total",
    "kmem_page_freed_bytes_total",
    "kmem_page_batched_frees_total",
    "kmem_page_zone_locked_allocations_total",
    "kmem_page_same_cpu_frees_total",
    "kmem_page_cross_cpu_frees_total",
    "kmem_exporter_cross_cpu_evicted_total",
    "kmem_pcp_refill_pages_total",
    "kmem_pcp_drain_pages_total",
    "kmem_pcp_refills_total",
    "kmem_pcp_drains_total",
    "kmem_pcp_refill_batch_pages",
    "kmem_pcp_drain_batch_pages",
    "kmem_pcp_high_pages",
    "kmem_pcp_batch_pages",
    "kmem_extfrag_events_total",
    "kmem_extfrag_alloc_order",
    "kmem_extfrag_fallback_order",
    "kmem_free_blocks",
    "kmem_unusable_free_index",
    "kmem_fragmentation_index",
    "kmem_pageblock_order",
    "kmem_min_free_bytes",
    "kmem_min_free_step_bytes",
    "kmem_managed_bytes",
    "kmem_compaction_stalls_total",
    "kmem_compaction_successes_total",
    "kmem_compaction_failures_total",
    "kmem_allocation_stalls_total",
    "kmem_exporter_events_lost_total",
    "kmem_exporter_record_errors_total",
    "kmem_exporter_interference_total",
    "kmem_exporter_buffer_bytes",
    "kmem_exporter_drain_duration_seconds",
    "kmem_exporter_snapshot_age_seconds",
    "kmem_exporter_engine_info",
    "kmem_exporter_tracing_up",
    "kmem_exporter_replay",
    "kmem_exporter_build_info",
    "kmem_exporter_scrape_collector_duration_seconds",
    "kmem_exporter_scrape_collector_success",
    "kmem_exporter_http_requests_total",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
};

// Those that name a cache; 5.10 names none, 6.1 those of frees.
std::set<std::string> CacheFamilies(const std::string& kernel) {
  if (kernel == "5.10") return {};
  if (kernel == "6.1") return {"kmem_slab_cache_frees_total"};
  return {"kmem_slab_cache_allocations_total", "kmem_slab_cache_allocated_bytes_total",
          "kmem_slab_cache_frees_total"};
}

TEST_P(GoldenTest, EveryFamilyOfTheContractIsThereOnceWithHelpTypeAndSamples) {
  std::multiset<std::string> helped;
  std::multiset<std::string> typed;
  std::set<std::string> sampled;
  for (const std::string& line : LinesOf(ReadWhole(GoldenPath(GetParam())))) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word != "#") {
      sampled.insert(word.substr(0, word.find('{')));
      continue;
    }
    std::string name;
    words >> word >> name;
    (word == "HELP" ? helped : typed).insert(name);
    if (word == "HELP") {
      EXPECT_TRUE(words >> word) << name << " has no help";
    }
  }
  std::set<std::string> families = CacheFamilies(GetParam());
  families.insert(kFamilies.begin(), kFamilies.end());
  const std::multiset<std::string> expected(families.begin(), families.end());
  EXPECT_EQ(helped, expected);
  EXPECT_EQ(typed, expected);
  for (const std::string& family : families) {
    EXPECT_TRUE(sampled.contains(family) || sampled.contains(family + "_count")) << family;
  }
}

TEST(GoldenNormalizationTest, ReplacesOnlyWhatCannotBeConstant) {
  EXPECT_EQ(Normalized("process_open_fds 5"), "process_open_fds VALUE");
  EXPECT_EQ(Normalized("# HELP process_open_fds Number 5"), "# HELP process_open_fds Number 5");
  EXPECT_EQ(Normalized("kmem_exporter_scrape_collector_duration_seconds{collector=\"pcp\"} 0.5"),
            "kmem_exporter_scrape_collector_duration_seconds{collector=\"pcp\"} VALUE");
  EXPECT_EQ(Normalized("kmem_exporter_build_info{version=\"1.2\",branch=\"a b\"} 1"),
            "kmem_exporter_build_info{version=\"LABEL\",branch=\"LABEL\"} 1");
  EXPECT_EQ(Normalized("kmem_slab_frees_total{allocator=\"kmalloc\"} 5"),
            "kmem_slab_frees_total{allocator=\"kmalloc\"} 5");
}

}  // namespace
}  // namespace kmem
