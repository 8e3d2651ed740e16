#include "collectors/compaction.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "collectors/proc_tables.h"

namespace kmem {
namespace {

constexpr std::string_view kCompact = "compact_";
constexpr std::string_view kAllocstall = "allocstall_";
constexpr std::array<std::string_view, 2> kPrefixes{kCompact, kAllocstall};

void AppendCounter(const VmstatCounters& counters, std::string_view key, std::string_view name,
                   std::string_view help, Families& out) {
  const auto found = counters.find(key);
  if (found == counters.end()) return;
  FamilyBuilder(out, FamilyBuilder::Type::Counter, name, help)
      .Add({}, static_cast<double>(found->second));
}

// By the zone's name as /proc/buddyinfo has it. vmstat's names differ from it in one place (compare
// TEXTS_FOR_ZONES in mm/vmstat.c with zone_names[], 5.10 to 6.18). No allocation can ask for
// ZONE_DEVICE (GFP_ZONE_TABLE, include/linux/gfp.h, 5.10 to 6.18), so that one is left out.
std::vector<std::pair<std::string_view, double>> AllocationStalls(const VmstatCounters& counters) {
  std::vector<std::pair<std::string_view, double>> stalls;
  for (const auto& [key, value] : counters) {
    if (!key.starts_with(kAllocstall)) continue;
    std::string_view zone = std::string_view(key).substr(kAllocstall.size());
    if (zone == "device") continue;
    if (zone == "high") zone = "highmem";
    stalls.emplace_back(zone, static_cast<double>(value));
  }
  return stalls;
}

}  // namespace

void CompactionCollector::Collect(const ProcReader& proc, const KernelFacts& /*facts*/,
                                  Families& out) const {
  const VmstatCounters counters = ParseVmstat(proc.Read("vmstat"), kPrefixes);
  AppendCounter(counters, "compact_stall", "kmem_compaction_stalls_total",
                "Allocations that had to compact memory themselves: successes and failures. "
                "compact_stall of /proc/vmstat, kernels with CONFIG_COMPACTION.",
                out);
  AppendCounter(counters, "compact_success", "kmem_compaction_successes_total",
                "Allocations that got their pages after they had compacted memory. "
                "compact_success of /proc/vmstat, kernels with CONFIG_COMPACTION.",
                out);
  AppendCounter(counters, "compact_fail", "kmem_compaction_failures_total",
                "Allocations that didn't get their pages although they had compacted memory. "
                "compact_fail of /proc/vmstat, kernels with CONFIG_COMPACTION.",
                out);
  const auto stalls = AllocationStalls(counters);
  if (stalls.empty()) return;
  FamilyBuilder family(
      out, FamilyBuilder::Type::Counter, "kmem_allocation_stalls_total",
      "Times that an allocation had to reclaim memory itself, by the highest zone that it may use; "
      "reclaim for a cgroup's limit is not counted. allocstall_* of /proc/vmstat, all kernels.");
  for (const auto& [zone, count] : stalls) family.Add({{"mem_zone", zone}}, count);
}

}  // namespace kmem
