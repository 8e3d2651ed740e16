#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

#include "exporter/report/report_parts.h"

namespace kmem {
namespace {

// Orders by `key`, the largest first, but what `is_other` says comes last.
template <class Rows, class Key, class IsOther>
void SortBy(Rows& rows, Key key, IsOther is_other) {
  std::ranges::stable_sort(rows, [&](const auto& a, const auto& b) {
    if (std::invoke(is_other, a) != std::invoke(is_other, b)) return std::invoke(is_other, b);
    return std::invoke(key, a) > std::invoke(key, b);
  });
}

Site SiteOf(const Sample& sample) { return {sample.Label("call_site"), sample.Label("module")}; }

std::map<std::string, SlabTraffic> ReadAllocators(const Interval& interval) {
  std::map<std::string, SlabTraffic> allocators;
  const auto add = [&](std::string_view family, double SlabTraffic::*member) {
    for (const auto& [allocator, count] : SumBy(interval.Growth(family), "allocator")) {
      allocators[allocator].*member = count;
    }
  };
  add("kmem_slab_allocations_total", &SlabTraffic::allocations);
  add("kmem_slab_allocation_failures_total", &SlabTraffic::failures);
  add("kmem_slab_frees_total", &SlabTraffic::frees);
  add("kmem_slab_requested_bytes_total", &SlabTraffic::requested_bytes);
  add("kmem_slab_allocated_bytes_total", &SlabTraffic::allocated_bytes);
  return allocators;
}

std::optional<std::vector<CallSite>> ReadCallSites(const Interval& interval) {
  constexpr std::string_view kAllocations = "kmem_slab_callsite_allocations_total";
  if (!interval.Has(kAllocations)) return std::nullopt;
  std::map<Site, CallSite> by_site;
  const auto add = [&](std::string_view family, double CallSite::*member) {
    for (const Sample& sample : interval.Growth(family)) {
      by_site[SiteOf(sample)].*member += sample.value;
    }
  };
  add(kAllocations, &CallSite::allocations);
  add("kmem_slab_callsite_requested_bytes_total", &CallSite::requested_bytes);
  add("kmem_slab_callsite_allocated_bytes_total", &CallSite::allocated_bytes);
  const auto add_size = [&](std::string_view family, std::optional<double> CallSite::*member) {
    for (const Sample& sample : interval.Values(family)) {
      const auto at = by_site.find(SiteOf(sample));
      if (at != by_site.end() && !at->first.is_other()) at->second.*member = sample.value;
    }
  };
  add_size("kmem_slab_callsite_size_classes", &CallSite::size_classes);
  add_size("kmem_slab_callsite_fixed_size_bytes", &CallSite::fixed_size_bytes);
  std::vector<CallSite> sites;
  for (auto& [site, counts] : by_site) {
    if (counts.allocations == 0) continue;
    counts.site = site;
    sites.push_back(std::move(counts));
  }
  SortBy(sites, &CallSite::waste_bytes, [](const CallSite& row) { return row.site.is_other(); });
  return sites;
}

std::optional<std::vector<SizeClass>> ReadSizeClasses(const Interval& interval) {
  constexpr std::string_view kAllocations = "kmem_slab_kmalloc_allocations_total";
  if (!interval.Has(kAllocations)) return std::nullopt;
  const Counts requested =
      SumBy(interval.Growth("kmem_slab_kmalloc_requested_bytes_total"), "size_class");
  std::vector<SizeClass> classes;
  for (const auto& [name, allocations] : SumBy(interval.Growth(kAllocations), "size_class")) {
    if (allocations == 0) continue;
    SizeClass& row = classes.emplace_back();
    row.size_class = name;
    row.allocations = allocations;
    const auto at = requested.find(name);
    if (at != requested.end()) row.requested_bytes = at->second;
    if (const auto size = Number(name)) row.waste_bytes = *size * allocations - row.requested_bytes;
  }
  std::ranges::stable_sort(classes, std::less<>(), [](const SizeClass& row) {
    return Number(row.size_class).value_or(HUGE_VAL);
  });
  return classes;
}

std::optional<std::vector<Cache>> ReadCaches(const Interval& interval) {
  constexpr std::string_view kFrees = "kmem_slab_cache_frees_total";
  constexpr std::string_view kAllocations = "kmem_slab_cache_allocations_total";
  if (!interval.Has(kFrees) && !interval.Has(kAllocations)) return std::nullopt;
  std::map<std::string, Cache> by_name;
  for (const auto& [name, count] : SumBy(interval.Growth(kAllocations), "cache")) {
    by_name[name].allocations = count;
  }
  for (const auto& [name, bytes] :
       SumBy(interval.Growth("kmem_slab_cache_allocated_bytes_total"), "cache")) {
    by_name[name].allocated_bytes = bytes;
  }
  for (const auto& [name, count] : SumBy(interval.Growth(kFrees), "cache")) {
    by_name[name].frees = count;
  }
  std::vector<Cache> caches;
  for (auto& [name, cache] : by_name) {
    if (cache.allocations.value_or(0) == 0 && cache.frees.value_or(0) == 0) continue;
    cache.cache = name;
    caches.push_back(std::move(cache));
  }
  SortBy(
      caches,
      [](const Cache& cache) {
        return std::tuple(cache.allocated_bytes.value_or(0), cache.frees.value_or(0));
      },
      &Cache::is_other);
  return caches;
}

// What a leak is suspected by: what lasts first, then bytes of the greatest age, then all.
std::vector<double> Suspicion(const LiveSite& row) {
  std::vector<double> bytes{row.bytes};
  for (const auto& [age, aged] : row.aged_bytes) bytes.push_back(aged);
  bytes.push_back(row.lasting_bytes);
  std::ranges::reverse(bytes);
  return bytes;
}

std::optional<Live> ReadLive(const Interval& interval) {
  constexpr std::string_view kBytes = "kmem_slab_callsite_live_bytes";
  if (!interval.Has(kBytes)) return std::nullopt;
  std::map<Site, LiveSite> by_site;
  for (const Sample& sample : interval.Values(kBytes)) {
    LiveSite& site = by_site[SiteOf(sample)];
    site.bytes += sample.value;
    site.grown_bytes += sample.value;
  }
  for (const Sample& sample : interval.ValuesAtStart(kBytes)) {
    const auto at = by_site.find(SiteOf(sample));
    if (at != by_site.end()) at->second.grown_bytes -= sample.value;
  }
  for (const Sample& sample : interval.Values("kmem_slab_callsite_live_objects")) {
    by_site[SiteOf(sample)].objects += sample.value;
  }
  for (const Sample& sample : interval.Values("kmem_slab_callsite_live_lasting_objects")) {
    by_site[SiteOf(sample)].lasting_objects += sample.value;
  }
  for (const Sample& sample : interval.Values("kmem_slab_callsite_live_lasting_bytes")) {
    by_site[SiteOf(sample)].lasting_bytes += sample.value;
  }
  for (const Sample& sample : interval.Values("kmem_slab_callsite_live_aged_bytes")) {
    const auto age = Number(sample.Label("min_age_seconds"));
    if (age) by_site[SiteOf(sample)].aged_bytes[*age] += sample.value;
  }
  Live live;
  for (auto& [site, counts] : by_site) {
    if (counts.objects == 0 && counts.bytes == 0) continue;
    counts.site = site;
    live.sites.push_back(std::move(counts));
  }
  SortBy(live.sites, Suspicion, [](const LiveSite& row) { return row.site.is_other(); });
  live.complete = std::ranges::none_of(interval.Values("kmem_exporter_live_complete"),
                                       [](const Sample& sample) { return sample.value == 0; });
  live.dropped = NonZero(SumBy(interval.Growth("kmem_exporter_live_dropped_total"), "reason"));
  return live;
}

}  // namespace

std::optional<Slab> ReadSlab(const Interval& interval) {
  if (!interval.Has("kmem_slab_allocations_total")) return std::nullopt;
  Slab slab;
  slab.allocators = ReadAllocators(interval);
  slab.call_sites = ReadCallSites(interval);
  const Samples symbols = interval.Values("kmem_exporter_symbols_available");
  slab.symbols_hidden = !symbols.empty() && symbols.front().value == 0;
  slab.size_classes = ReadSizeClasses(interval);
  slab.caches = ReadCaches(interval);
  slab.live = ReadLive(interval);
  return slab;
}

}  // namespace kmem
