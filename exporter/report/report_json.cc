#include "exporter/report/report_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace kmem {
namespace {

// Raised when a member changes its meaning or goes; new ones may come at any time.
constexpr int kVersion = 1;

using Json = nlohmann::ordered_json;

// Whole numbers without a fraction.
Json Number(double value) {
  constexpr double kExact = 9007199254740992;  // 2^53: above, doubles leave out some
  if (std::floor(value) == value && std::abs(value) <= kExact) {
    return static_cast<std::int64_t>(value);
  }
  return value;
}

Json Number(const std::optional<double>& value) { return value ? Number(*value) : Json(); }

Json Object(const Counts& counts) {
  Json object = Json::object();
  for (const auto& [name, count] : counts) object[name] = Number(count);
  return object;
}

// What `make` gives of each row.
template <class Rows, class Make>
Json Array(const Rows& rows, Make make) {
  Json array = Json::array();
  for (const auto& row : rows) array.push_back(make(row));
  return array;
}

// What `make` gives of the value, or null.
template <class Value, class Make>
Json OrNull(const std::optional<Value>& value, Make make) {
  return value ? Json(make(*value)) : Json();
}

Json SourceJson(const Report& report) {
  const bool live = report.trace_file.empty();
  return {{"kind", live ? "live" : "trace"},
          {"file", live ? Json() : Json(report.trace_file)},
          {"seconds", Number(report.seconds)},
          {"engine", report.engine},
          {"reason", report.reason}};
}

Json TrustJson(const Trust& trust) {
  return {{"events_read", Number(trust.events_read)},
          {"events_lost", Object(trust.lost)},
          {"record_errors", Object(trust.record_errors)},
          {"interference", Object(trust.interference)},
          {"traced_share", Object(trust.traced_share)},
          {"missing_tracepoints", trust.missing_tracepoints},
          {"failed_tracepoints", trust.failed_tracepoints}};
}

Json AllocatorsJson(const Slab& slab) {
  Json allocators = Json::object();
  for (const auto& [name, traffic] : slab.allocators) {
    allocators[name] = {{"allocations", Number(traffic.allocations)},
                        {"failures", Number(traffic.failures)},
                        {"frees", Number(traffic.frees)},
                        {"requested_bytes", Number(traffic.requested_bytes)},
                        {"allocated_bytes", Number(traffic.allocated_bytes)}};
  }
  return allocators;
}

Json CallSiteJson(const CallSite& row) {
  return {{"call_site", row.site.call_site},
          {"module", row.site.module},
          {"allocations", Number(row.allocations)},
          {"requested_bytes", Number(row.requested_bytes)},
          {"allocated_bytes", Number(row.allocated_bytes)},
          {"waste_bytes", Number(row.waste_bytes())},
          {"size_classes", Number(row.size_classes)},
          {"fixed_size_bytes", Number(row.fixed_size_bytes)},
          {"wants_cache", row.wants_cache()}};
}

Json LiveJson(const Live& live) {
  return {{"complete", live.complete},
          {"one_in", Number(live.one_in)},
          {"dropped", Object(live.dropped)},
          {"sites", Array(live.sites, [](const LiveSite& row) {
             Json aged = Json::object();
             for (const auto& [age, bytes] : row.aged_bytes) {
               aged[Number(age).dump()] = Number(bytes);
             }
             return Json{{"call_site", row.site.call_site},
                         {"module", row.site.module},
                         {"lasting_objects", Number(row.lasting_objects)},
                         {"lasting_bytes", Number(row.lasting_bytes)},
                         {"objects", Number(row.objects)},
                         {"bytes", Number(row.bytes)},
                         {"grown_bytes", Number(row.grown_bytes)},
                         {"aged_bytes", std::move(aged)}};
           })}};
}

Json SlabJson(const Slab& slab) {
  return {{"allocators", AllocatorsJson(slab)},
          {"symbols_hidden", slab.symbols_hidden},
          {"call_sites",
           OrNull(slab.call_sites, [](const auto& sites) { return Array(sites, CallSiteJson); })},
          {"size_classes", OrNull(slab.size_classes,
                                  [](const auto& classes) {
                                    return Array(classes, [](const SizeClass& row) {
                                      return Json{{"size_class", row.size_class},
                                                  {"allocations", Number(row.allocations)},
                                                  {"requested_bytes", Number(row.requested_bytes)},
                                                  {"waste_bytes", Number(row.waste_bytes)}};
                                    });
                                  })},
          {"caches", OrNull(slab.caches,
                            [](const auto& caches) {
                              return Array(caches, [](const Cache& cache) {
                                return Json{{"cache", cache.cache},
                                            {"allocations", Number(cache.allocations)},
                                            {"allocated_bytes", Number(cache.allocated_bytes)},
                                            {"frees", Number(cache.frees)}};
                              });
                            })},
          {"live", OrNull(slab.live, LiveJson)}};
}

Json PagesJson(const Pages& pages) {
  return {{"orders", Array(pages.orders,
                           [](const auto& order) {
                             return Json{{"order", order.first},
                                         {"allocations", Object(order.second.allocations)},
                                         {"frees", Number(order.second.frees)},
                                         {"failures", Object(order.second.failures)}};
                           })},
          {"allocated_bytes", Object(pages.allocated_bytes)},
          {"freed_bytes", Number(pages.freed_bytes)}};
}

Json ZoneLockJson(const ZoneLock& lock) {
  Json direct = Json::object();
  for (const auto& [order, blocks] : lock.direct_blocks) {
    direct[std::to_string(order)] = Number(blocks);
  }
  return {{"refill_blocks", Number(lock.refill_blocks)},
          {"direct_blocks", std::move(direct)},
          {"refills", Number(lock.refills)},
          {"drains", Number(lock.drains)},
          {"single_frees", Number(lock.single_frees())},
          {"batched_frees", Number(lock.batched_frees)}};
}

Json PerCpuListsJson(const PerCpuLists& lists) {
  return {{"cpus", Array(lists.cpus,
                         [](const auto& cpu) {
                           return Json{{"cpu", cpu.first},
                                       {"refills", Number(cpu.second.refills)},
                                       {"refill_pages", Number(cpu.second.refill_pages)},
                                       {"drains", Number(cpu.second.drains)},
                                       {"drain_pages", Number(cpu.second.drain_pages)}};
                         })},
          {"displaced_share", Number(lists.displaced_share())},
          {"limits", Array(lists.limits, [](const ListLimits& limits) {
             return Json{{"numa_node", limits.numa_node},
                         {"mem_zone", limits.mem_zone},
                         {"high_pages", Number(limits.high_pages)},
                         {"batch_pages", Number(limits.batch_pages)}};
           })}};
}

Json CrossCpuJson(const CrossCpu& frees) {
  return {{"same_cpu_frees", Number(frees.same_cpu)},
          {"cross_cpu_frees", Number(frees.cross_cpu)},
          {"cross_node_frees", Number(frees.cross_node)}};
}

Json FallbackJson(const Fallback& fallback) {
  return {{"alloc_migratetype", fallback.alloc_migratetype},
          {"fallback_migratetype", fallback.fallback_migratetype},
          {"events", Number(fallback.events)},
          {"fragmenting", Number(fallback.fragmenting)},
          {"change_ownership", Object(fallback.change_ownership)},
          {"lasting", fallback.lasting()}};
}

Json FreeMemoryJson(const FreeMemory& zone) {
  Json index = Json::object();
  for (const auto& [order, value] : zone.unusable_index) index[std::to_string(order)] = value;
  return {{"numa_node", zone.numa_node},
          {"mem_zone", zone.mem_zone},
          {"unusable_index", std::move(index)}};
}

Json MinFreeJson(const MinFree& min_free) {
  return {{"bytes", Number(min_free.bytes)},
          {"step_bytes", Number(min_free.step_bytes)},
          {"memory_bytes", Number(min_free.memory_bytes)},
          {"next_bytes", Number(min_free.next_bytes())}};
}

Json FragmentationJson(const Fragmentation& fragmentation) {
  return {
      {"fallbacks",
       OrNull(fragmentation.fallbacks, [](const auto& rows) { return Array(rows, FallbackJson); })},
      {"lasting_events", fragmentation.fallbacks ? Number(fragmentation.lasting_events()) : Json()},
      {"pageblock_order",
       fragmentation.pageblock_order ? Json(*fragmentation.pageblock_order) : Json()},
      {"free_memory", OrNull(fragmentation.free_memory,
                             [](const auto& rows) { return Array(rows, FreeMemoryJson); })},
      {"min_free", OrNull(fragmentation.min_free, MinFreeJson)},
      {"compaction", OrNull(fragmentation.compaction,
                            [](const Compaction& compaction) {
                              return Json{{"stalls", Number(compaction.stalls)},
                                          {"successes", Number(compaction.successes)},
                                          {"failures", Number(compaction.failures)}};
                            })},
      {"allocation_stalls", OrNull(fragmentation.allocation_stalls, Object)}};
}

}  // namespace

std::string ReportJson(const Report& report) {
  const Json json{{"version", kVersion},
                  {"source", SourceJson(report)},
                  {"trust", TrustJson(report.trust)},
                  {"slab", OrNull(report.slab, SlabJson)},
                  {"pages", OrNull(report.pages, PagesJson)},
                  {"zone_lock", OrNull(report.zone_lock, ZoneLockJson)},
                  {"per_cpu_lists", OrNull(report.per_cpu_lists, PerCpuListsJson)},
                  {"cross_cpu", OrNull(report.cross_cpu, CrossCpuJson)},
                  {"fragmentation", FragmentationJson(report.fragmentation)}};
  // Names may hold any bytes: those that are not UTF-8 become U+FFFD.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace kmem
