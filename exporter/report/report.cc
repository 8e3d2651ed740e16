#include "exporter/report/report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <utility>

#include "exporter/report/report_parts.h"

namespace kmem {
namespace {

// A collector that was traced for less of the time than this was sampled.
constexpr double kWholeShare = 0.98;

int Whole(const std::string& text) { return static_cast<int>(Number(text).value_or(-1)); }

// When the values of a scrape were true.
double TakenAt(const Families& families, double scraped_at) {
  return scraped_at -
         Sum(Interval(families, families).Values("kmem_exporter_snapshot_age_seconds"));
}

Trust ReadTrust(const Interval& interval, const std::vector<std::string>& wanted,
                std::optional<double> seconds) {
  Trust trust;
  trust.events_read = Sum(interval.Growth("kmem_exporter_events_read_total"));
  trust.lost = NonZero(SumBy(interval.Growth("kmem_exporter_events_lost_total"), "reason"));
  trust.record_errors =
      NonZero(SumBy(interval.Growth("kmem_exporter_record_errors_total"), "cause"));
  trust.interference = NonZero(SumBy(interval.Growth("kmem_exporter_interference_total"), "kind"));
  if (seconds.value_or(0) > 0) {
    for (const auto& [collector, traced] :
         SumBy(interval.Growth("kmem_exporter_traced_seconds_total"), "collector")) {
      const double share = traced / *seconds;
      if (share < kWholeShare) trust.traced_share[collector] = share;
    }
  }
  const Counts enabled = SumBy(interval.Values("kmem_exporter_tracepoint_enabled"), "tracepoint");
  for (const std::string& tracepoint : wanted) {
    const auto at = enabled.find(tracepoint);
    if (at == enabled.end()) {
      trust.missing_tracepoints.push_back(tracepoint);
    } else if (at->second == 0) {
      trust.failed_tracepoints.push_back(tracepoint);
    }
  }
  return trust;
}

std::optional<Pages> ReadPages(const Interval& interval) {
  constexpr std::string_view kAllocations = "kmem_page_allocations_total";
  if (!interval.Has(kAllocations)) return std::nullopt;
  Pages pages;
  for (const Sample& sample : interval.Growth(kAllocations)) {
    pages.orders[Whole(sample.Label("order"))].allocations[sample.Label("migratetype")] +=
        sample.value;
  }
  for (const Sample& sample : interval.Growth("kmem_page_frees_total")) {
    pages.orders[Whole(sample.Label("order"))].frees += sample.value;
  }
  for (const Sample& sample : interval.Growth("kmem_page_allocation_failures_total")) {
    pages.orders[Whole(sample.Label("order"))].failures[sample.Label("nowarn")] += sample.value;
  }
  pages.allocated_bytes = SumBy(interval.Growth("kmem_page_allocated_bytes_total"), "migratetype");
  pages.freed_bytes = Sum(interval.Growth("kmem_page_freed_bytes_total"));
  return pages;
}

std::optional<ZoneLock> ReadZoneLock(const Interval& interval) {
  constexpr std::string_view kBlocks = "kmem_page_zone_locked_allocations_total";
  if (!interval.Has(kBlocks)) return std::nullopt;
  ZoneLock lock;
  const Samples blocks = interval.Growth(kBlocks);
  lock.refill_blocks = Sum(With(blocks, {{"percpu_refill", "true"}}));
  for (const auto& [order, count] : SumBy(With(blocks, {{"percpu_refill", "false"}}), "order")) {
    if (count > 0) lock.direct_blocks[Whole(order)] = count;
  }
  if (interval.Has("kmem_pcp_refills_total")) {
    lock.refills = Sum(interval.Growth("kmem_pcp_refills_total"));
    lock.drains = Sum(interval.Growth("kmem_pcp_drains_total"));
  }
  lock.frees = Sum(interval.Growth("kmem_page_frees_total"));
  lock.batched_frees = Sum(interval.Growth("kmem_page_batched_frees_total"));
  return lock;
}

std::optional<PerCpuLists> ReadPerCpuLists(const Interval& interval) {
  constexpr std::string_view kRefills = "kmem_pcp_refills_total";
  if (!interval.Has(kRefills)) return std::nullopt;
  PerCpuLists lists;
  const auto add = [&](std::string_view family, double CpuLists::*member) {
    for (const auto& [cpu, count] : SumBy(interval.Growth(family), "cpu")) {
      lists.cpus[Whole(cpu)].*member = count;
    }
  };
  add(kRefills, &CpuLists::refills);
  add("kmem_pcp_refill_pages_total", &CpuLists::refill_pages);
  add("kmem_pcp_drains_total", &CpuLists::drains);
  add("kmem_pcp_drain_pages_total", &CpuLists::drain_pages);
  const Samples batches = interval.Values("kmem_pcp_batch_pages");
  const Samples highs = interval.Values("kmem_pcp_high_pages");
  lists.limits.reserve(highs.size());
  for (const Sample& high : highs) {
    ListLimits limits{high.Label("numa_node"), high.Label("mem_zone"), high.value, 0};
    limits.batch_pages =
        Sum(With(batches, {{"numa_node", limits.numa_node}, {"mem_zone", limits.mem_zone}}));
    lists.limits.push_back(std::move(limits));
  }
  return lists;
}

std::optional<CrossCpu> ReadCrossCpu(const Interval& interval) {
  if (!interval.Has("kmem_page_same_cpu_frees_total")) return std::nullopt;
  CrossCpu frees;
  frees.same_cpu = Sum(interval.Growth("kmem_page_same_cpu_frees_total"));
  frees.cross_cpu = Sum(interval.Growth("kmem_page_cross_cpu_frees_total"));
  if (interval.Has("kmem_page_cross_node_frees_total")) {
    frees.cross_node = Sum(interval.Growth("kmem_page_cross_node_frees_total"));
  }
  return frees;
}

std::optional<std::vector<Fallback>> ReadFallbacks(const Interval& interval) {
  constexpr std::string_view kEvents = "kmem_extfrag_events_total";
  if (!interval.Has(kEvents)) return std::nullopt;
  std::map<std::pair<std::string, std::string>, Fallback> by_types;
  for (const Sample& sample : interval.Growth(kEvents)) {
    if (sample.value == 0) continue;
    const auto alloc = sample.Label("alloc_migratetype");
    const auto from = sample.Label("fallback_migratetype");
    Fallback& fallback = by_types[{alloc, from}];
    fallback.alloc_migratetype = alloc;
    fallback.fallback_migratetype = from;
    fallback.events += sample.value;
    if (sample.Label("fragmenting") == "true") fallback.fragmenting += sample.value;
    fallback.change_ownership[sample.Label("change_ownership")] += sample.value;
  }
  std::vector<Fallback> fallbacks;
  fallbacks.reserve(by_types.size());
  for (auto& [types, fallback] : by_types) fallbacks.push_back(std::move(fallback));
  std::ranges::stable_sort(fallbacks, std::greater<>(), &Fallback::events);
  return fallbacks;
}

std::optional<std::vector<FreeMemory>> ReadFreeMemory(const Interval& interval) {
  constexpr std::string_view kIndex = "kmem_unusable_free_index";
  if (!interval.Has(kIndex)) return std::nullopt;
  std::vector<FreeMemory> zones;
  for (const Sample& sample : interval.Values(kIndex)) {
    const auto node = sample.Label("numa_node");
    const auto zone = sample.Label("mem_zone");
    if (zones.empty() || zones.back().numa_node != node || zones.back().mem_zone != zone) {
      zones.push_back({node, zone, {}});
    }
    zones.back().unusable_index[Whole(sample.Label("order"))] = sample.value;
  }
  return zones;
}

Fragmentation ReadFragmentation(const Interval& interval, const Observation& observation) {
  Fragmentation result;
  result.fallbacks = ReadFallbacks(interval);
  result.free_memory = ReadFreeMemory(interval);
  if (interval.Has("kmem_pageblock_order")) {
    result.pageblock_order = static_cast<int>(Sum(interval.Values("kmem_pageblock_order")));
  }
  if (interval.Has("kmem_min_free_bytes") && interval.Has("kmem_min_free_step_bytes")) {
    result.min_free = {.bytes = Sum(interval.Values("kmem_min_free_bytes")),
                       .step_bytes = Sum(interval.Values("kmem_min_free_step_bytes")),
                       .memory_bytes = observation.memory_bytes};
  }
  // These count since the boot of the machine, not for as long as the trace was recorded.
  if (!observation.trace_file.empty()) return result;
  if (interval.Has("kmem_compaction_stalls_total")) {
    result.compaction = {.stalls = Sum(interval.Growth("kmem_compaction_stalls_total")),
                         .successes = Sum(interval.Growth("kmem_compaction_successes_total")),
                         .failures = Sum(interval.Growth("kmem_compaction_failures_total"))};
  }
  if (interval.Has("kmem_allocation_stalls_total")) {
    result.allocation_stalls =
        NonZero(SumBy(interval.Growth("kmem_allocation_stalls_total"), "mem_zone"));
  }
  return result;
}

}  // namespace

std::optional<double> Number(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || rest != end) return std::nullopt;
  return number;
}

Counts NonZero(Counts counts) {
  std::erase_if(counts, [](const auto& count) { return count.second == 0; });
  return counts;
}

double ZoneLock::direct() const {
  double sum = 0;
  for (const auto& [order, blocks] : direct_blocks) sum += blocks;
  return sum;
}

double ZoneLock::single_frees() const { return std::max(0.0, frees - batched_frees); }

CpuLists PerCpuLists::total() const {
  CpuLists sum;
  for (const auto& [cpu, lists] : cpus) {
    sum.refills += lists.refills;
    sum.refill_pages += lists.refill_pages;
    sum.drains += lists.drains;
    sum.drain_pages += lists.drain_pages;
  }
  return sum;
}

std::optional<double> PerCpuLists::displaced_share() const {
  const CpuLists sum = total();
  if (sum.refill_pages == 0 || sum.drain_pages == 0) return std::nullopt;
  double difference = 0;
  for (const auto& [cpu, lists] : cpus) {
    difference +=
        std::abs(lists.drain_pages / sum.drain_pages - lists.refill_pages / sum.refill_pages);
  }
  return difference / 2;
}

bool Fallback::lasting() const {
  return fragmenting > 0 && fallback_migratetype == "movable" &&
         (alloc_migratetype == "unmovable" || alloc_migratetype == "reclaimable");
}

double Fragmentation::lasting_events() const {
  double sum = 0;
  if (!fallbacks) return sum;
  for (const Fallback& fallback : *fallbacks) {
    if (fallback.lasting()) sum += fallback.fragmenting;
  }
  return sum;
}

std::optional<double> MinFree::next_bytes() const {
  const double next = bytes + step_bytes;
  if (!memory_bytes || next > *memory_bytes * kMostOfMemory) return std::nullopt;
  return next;
}

Report MakeReport(const Observation& observation) {
  const Interval interval(observation.start, observation.end);
  Report report;
  report.trace_file = observation.trace_file;
  if (observation.trace_file.empty()) {
    report.seconds = std::max(0.0, TakenAt(observation.end, observation.end_seconds) -
                                       TakenAt(observation.start, observation.start_seconds));
  }
  const Samples engine = interval.Values("kmem_exporter_engine_info");
  if (!engine.empty()) {
    report.engine = engine.front().Label("engine");
    report.reason = engine.front().Label("reason");
  }
  report.trust = ReadTrust(interval, observation.wanted_tracepoints, report.seconds);
  report.slab = ReadSlab(interval);
  if (report.slab && report.slab->live) report.slab->live->one_in = observation.live_one_in;
  report.pages = ReadPages(interval);
  report.zone_lock = ReadZoneLock(interval);
  report.per_cpu_lists = ReadPerCpuLists(interval);
  report.cross_cpu = ReadCrossCpu(interval);
  report.fragmentation = ReadFragmentation(interval, observation);
  return report;
}

}  // namespace kmem
