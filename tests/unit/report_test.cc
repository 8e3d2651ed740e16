#include "exporter/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "exporter/report/run_report.h"
#include "report_families.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// Ten seconds of the live kernel.
Observation TenSeconds() {
  Observation observation;
  observation.start_seconds = 100;
  observation.end_seconds = 110;
  return observation;
}

// A counter that grew from the one value to the other.
void Grow(Observation& observation, std::string_view name, Labels labels, double from, double to) {
  AddCounter(observation.start, name, labels, from);
  AddCounter(observation.end, name, labels, to);
}

void AddCallSite(Observation& observation, std::string_view name, std::string_view module,
                 double allocations, double requested, double allocated) {
  const Labels site{{"call_site", name}, {"module", module}};
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  AddCounter(observation.end, "kmem_slab_callsite_allocations_total", site, allocations);
  AddCounter(observation.end, "kmem_slab_callsite_requested_bytes_total", site, requested);
  AddCounter(observation.end, "kmem_slab_callsite_allocated_bytes_total", site, allocated);
}

TEST(ReportTest, WithoutAnyFamilyNothingWasCounted) {
  const Report report = MakeReport(TenSeconds());
  EXPECT_FALSE(report.slab);
  EXPECT_FALSE(report.pages);
  EXPECT_FALSE(report.zone_lock);
  EXPECT_FALSE(report.per_cpu_lists);
  EXPECT_FALSE(report.cross_cpu);
  EXPECT_FALSE(report.fragmentation.fallbacks);
  EXPECT_FALSE(report.fragmentation.free_memory);
  EXPECT_FALSE(report.fragmentation.min_free);
  EXPECT_FALSE(report.fragmentation.compaction);
  EXPECT_FALSE(report.fragmentation.allocation_stalls);
}

TEST(ReportTest, TheTimeIsThatBetweenTheValuesNotBetweenTheScrapes) {
  Observation observation = TenSeconds();
  AddGauge(observation.start, "kmem_exporter_snapshot_age_seconds", {}, 0.5);
  AddGauge(observation.end, "kmem_exporter_snapshot_age_seconds", {}, 0.25);
  EXPECT_DOUBLE_EQ(*MakeReport(observation).seconds, 10.25);
}

TEST(ReportTest, ATraceHasNoTimeAndItsTotalsAreCounted) {
  Observation observation;
  observation.trace_file = "a.dat";
  AddCounter(observation.end, "kmem_slab_allocations_total", {{"allocator", "kmalloc"}}, 7);
  const Report report = MakeReport(observation);
  EXPECT_EQ(report.trace_file, "a.dat");
  EXPECT_FALSE(report.seconds);
  EXPECT_EQ(report.slab->allocators.at("kmalloc").allocations, 7);
}

TEST(ReportTest, CountersAreDifferencesAndThoseThatAppearBeganAtZero) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_slab_allocations_total", {{"allocator", "kmalloc"}}, 100, 130);
  Grow(observation, "kmem_slab_requested_bytes_total", {{"allocator", "kmalloc"}}, 1000, 1600);
  Grow(observation, "kmem_slab_allocated_bytes_total", {{"allocator", "kmalloc"}}, 1024, 1824);
  AddCounter(observation.end, "kmem_slab_allocations_total", {{"allocator", "kmem_cache"}}, 5);
  const auto allocators = MakeReport(observation).slab->allocators;
  EXPECT_EQ(allocators.at("kmalloc").allocations, 30);
  EXPECT_EQ(allocators.at("kmalloc").requested_bytes, 600);
  EXPECT_EQ(allocators.at("kmalloc").allocated_bytes, 800);
  EXPECT_EQ(allocators.at("kmem_cache").allocations, 5);
}

TEST(ReportTest, CallSitesAreOrderedByWasteAndOtherIsLast) {
  Observation observation = TenSeconds();
  AddCallSite(observation, "small", "", 10, 90, 100);
  AddCallSite(observation, "other", "", 99, 100, 900);
  AddCallSite(observation, "large", "ext4", 20, 100, 300);
  AddCallSite(observation, "other", "ext4", 5, 100, 350);  // a function that is really named so
  AddCallSite(observation, "idle", "", 0, 0, 0);
  const auto sites = *MakeReport(observation).slab->call_sites;
  ASSERT_EQ(sites.size(), 4U);
  EXPECT_EQ(sites[0].site, (Site{"other", "ext4"}));
  EXPECT_EQ(sites[1].site, (Site{"large", "ext4"}));
  EXPECT_EQ(sites[1].waste_bytes(), 200);
  EXPECT_EQ(sites[1].allocations, 20);
  EXPECT_EQ(sites[2].site, (Site{"small", ""}));
  EXPECT_TRUE(sites[3].site.is_other());
}

TEST(ReportTest, ADedicatedCacheSuitsWhoWastesMuchInOneSize) {
  Observation observation = TenSeconds();
  const auto add = [&](std::string_view name, double waste, double classes) {
    AddCallSite(observation, name, "", 1, 100, 100 + waste);
    AddGauge(observation.end, "kmem_slab_callsite_size_classes",
             {{"call_site", name}, {"module", ""}}, classes);
  };
  const auto add_fixed = [&](std::string_view name, double waste, double size) {
    add(name, waste, 1);
    AddGauge(observation.end, "kmem_slab_callsite_fixed_size_bytes",
             {{"call_site", name}, {"module", ""}}, size);
  };
  add_fixed("one", 29, 100);
  add("one_class", 28, 1);
  add("many", 27, 4);
  add("other", 26, 1);
  AddCallSite(observation, "unknown", "", 1, 100, 125);
  add_fixed("one_class_not_one_size", 24, 0);
  add_fixed("wastes_no_more_than_a_slab_of_its_own", 6, 100);
  add_fixed("fits", 0, 100);
  std::vector<std::string> names;
  const Report report = MakeReport(observation);
  for (const CallSite& row : *report.slab->call_sites) {
    if (row.wants_cache()) names.push_back(row.site.call_site);
  }
  EXPECT_THAT(names, ElementsAre("one", "one_class"));
}

TEST(ReportTest, HiddenSymbolsAreTold) {
  Observation observation = TenSeconds();
  AddCallSite(observation, "other", "", 1, 1, 1);
  EXPECT_FALSE(MakeReport(observation).slab->symbols_hidden);
  AddGauge(observation.end, "kmem_exporter_symbols_available", {}, 0);
  EXPECT_TRUE(MakeReport(observation).slab->symbols_hidden);
}

TEST(ReportTest, SizeClassesAreAscendingAndWasteWhereTheirSizeIsANumber) {
  Observation observation = TenSeconds();
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  const auto add = [&](std::string_view size, double allocations, double requested) {
    AddCounter(observation.end, "kmem_slab_kmalloc_allocations_total", {{"size_class", size}},
               allocations);
    AddCounter(observation.end, "kmem_slab_kmalloc_requested_bytes_total", {{"size_class", size}},
               requested);
  };
  add("1024", 2, 1500);
  add("other", 1, 9000);
  add("96", 3, 200);
  add("8", 0, 0);
  const auto classes = *MakeReport(observation).slab->size_classes;
  ASSERT_EQ(classes.size(), 3U);
  EXPECT_EQ(classes[0].size_class, "96");
  EXPECT_EQ(classes[0].waste_bytes, 88);
  EXPECT_EQ(classes[1].size_class, "1024");
  EXPECT_EQ(classes[1].waste_bytes, 548);
  EXPECT_EQ(classes[2].size_class, "other");
  EXPECT_FALSE(classes[2].waste_bytes);
}

TEST(ReportTest, CachesAreThereWhereOnlyFreesNameThem) {
  Observation observation = TenSeconds();
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  AddCounter(observation.end, "kmem_slab_cache_frees_total", {{"cache", "dentry"}}, 4);
  AddCounter(observation.end, "kmem_slab_cache_frees_total", {{"cache", "filp"}}, 9);
  AddCounter(observation.end, "kmem_slab_cache_frees_total", {{"cache", "other"}}, 90);
  const auto caches = *MakeReport(observation).slab->caches;
  ASSERT_EQ(caches.size(), 3U);
  EXPECT_EQ(caches[0].cache, "filp");
  EXPECT_EQ(caches[0].frees, 9);
  EXPECT_FALSE(caches[0].allocations);
  EXPECT_EQ(caches[1].cache, "dentry");
  EXPECT_TRUE(caches[2].is_other());
}

TEST(ReportTest, WhatLastsIsTheMostSuspectThenTheOldestLiveMemory) {
  Observation observation = TenSeconds();
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  const auto add = [&](Families& families, std::string_view name, double bytes, double older) {
    const Labels site{{"call_site", name}, {"module", ""}};
    AddGauge(families, "kmem_slab_callsite_live_bytes", site, bytes);
    AddGauge(families, "kmem_slab_callsite_live_objects", site, bytes / 64);
    AddGauge(families, "kmem_slab_callsite_live_aged_bytes",
             {{"call_site", name}, {"module", ""}, {"min_age_seconds", "60"}}, older);
  };
  add(observation.start, "young", 640, 0);
  add(observation.end, "young", 6400, 0);
  add(observation.end, "old", 128, 64);
  add(observation.end, "gone", 0, 0);
  add(observation.end, "lasts", 64, 0);
  const Labels lasts{{"call_site", "lasts"}, {"module", ""}};
  AddGauge(observation.end, "kmem_slab_callsite_live_lasting_bytes", lasts, 64);
  AddGauge(observation.end, "kmem_slab_callsite_live_lasting_objects", lasts, 1);
  observation.live_one_in = 4;
  add(observation.end, "other", 64000, 6400);
  const Live live = *MakeReport(observation).slab->live;
  ASSERT_EQ(live.sites.size(), 4U);
  EXPECT_EQ(live.sites[0].site.call_site, "lasts");
  EXPECT_EQ(live.sites[0].lasting_bytes, 64);
  EXPECT_EQ(live.sites[0].lasting_objects, 1);
  EXPECT_EQ(live.sites[1].site.call_site, "old");
  EXPECT_THAT(live.sites[1].aged_bytes, ElementsAre(Pair(60, 64)));
  EXPECT_EQ(live.sites[1].objects, 2);
  EXPECT_EQ(live.sites[1].lasting_objects, 0);
  EXPECT_EQ(live.sites[2].site.call_site, "young");
  EXPECT_EQ(live.sites[2].grown_bytes, 5760);
  EXPECT_TRUE(live.sites[3].site.is_other());
  EXPECT_EQ(live.one_in, 4);
  EXPECT_TRUE(live.complete);
}

TEST(ReportTest, OfManyCpusASampleOfTheObjectsIsFollowed) {
  const auto one_in = [](std::uint32_t cpus, std::uint32_t configured) {
    CollectorsConfig config;
    config.slab_options.live.sample_one_in = configured;
    config = CollectorsOfReport(config, cpus);
    EXPECT_TRUE(config.slab_options.live.enabled);
    return config.slab_options.live.sample_one_in;
  };
  EXPECT_EQ(one_in(1, 1), 1U);
  EXPECT_EQ(one_in(8, 1), 1U);
  EXPECT_EQ(one_in(9, 1), 2U);
  EXPECT_EQ(one_in(64, 1), 8U);
  EXPECT_EQ(one_in(64, 16), 16U) << "as configured";
  EXPECT_EQ(one_in(65536, 1), 1024U);
}

TEST(ReportTest, LossesOfLiveMemoryAreTold) {
  Observation observation = TenSeconds();
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  AddGauge(observation.end, "kmem_slab_callsite_live_bytes", {}, 0);
  AddGauge(observation.end, "kmem_exporter_live_complete", {}, 0);
  Grow(observation, "kmem_exporter_live_dropped_total", {{"reason", "table_full"}}, 1, 4);
  Grow(observation, "kmem_exporter_live_dropped_total", {{"reason", "free_unseen"}}, 2, 2);
  const Live live = *MakeReport(observation).slab->live;
  EXPECT_FALSE(live.complete);
  EXPECT_THAT(live.dropped, ElementsAre(Pair("table_full", 3)));
}

TEST(ReportTest, PagesAreCountedByOrderTypeAndFailure) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_page_allocations_total", {{"order", "3"}, {"migratetype", "movable"}}, 1,
       5);
  Grow(observation, "kmem_page_allocations_total", {{"order", "3"}, {"migratetype", "unmovable"}},
       0, 2);
  Grow(observation, "kmem_page_frees_total", {{"order", "3"}}, 0, 6);
  Grow(observation, "kmem_page_allocation_failures_total", {{"order", "9"}, {"nowarn", "true"}}, 0,
       1);
  Grow(observation, "kmem_page_allocated_bytes_total", {{"migratetype", "movable"}}, 0, 131072);
  Grow(observation, "kmem_page_freed_bytes_total", {}, 0, 196608);
  const Pages pages = *MakeReport(observation).pages;
  EXPECT_THAT(pages.orders.at(3).allocations,
              ElementsAre(Pair("movable", 4), Pair("unmovable", 2)));
  EXPECT_EQ(pages.orders.at(3).frees, 6);
  EXPECT_THAT(pages.orders.at(9).failures, ElementsAre(Pair("true", 1)));
  EXPECT_THAT(pages.allocated_bytes, ElementsAre(Pair("movable", 131072)));
  EXPECT_EQ(pages.freed_bytes, 196608);
}

TEST(ReportTest, ZoneLockIsTakenByBatchesAndByBlocksForCallers) {
  Observation observation = TenSeconds();
  const auto add = [&](std::string_view order, std::string_view refill, double blocks) {
    AddCounter(observation.end, "kmem_page_zone_locked_allocations_total",
               {{"order", order}, {"migratetype", "movable"}, {"percpu_refill", refill}}, blocks);
  };
  add("0", "true", 60);
  add("4", "false", 3);
  add("5", "false", 2);
  add("6", "false", 0);
  AddCounter(observation.end, "kmem_page_frees_total", {{"order", "0"}}, 10);
  AddCounter(observation.end, "kmem_page_batched_frees_total", {}, 7);
  ZoneLock lock = *MakeReport(observation).zone_lock;
  EXPECT_EQ(lock.refill_blocks, 60);
  EXPECT_EQ(lock.direct(), 5);
  EXPECT_THAT(lock.direct_blocks, ElementsAre(Pair(4, 3), Pair(5, 2)));
  EXPECT_EQ(lock.single_frees(), 3);
  EXPECT_FALSE(lock.refills) << "the collector pcp is off";

  AddCounter(observation.end, "kmem_pcp_refills_total", {{"cpu", "0"}}, 4);
  AddCounter(observation.end, "kmem_pcp_drains_total", {{"cpu", "0"}}, 6);
  lock = *MakeReport(observation).zone_lock;
  EXPECT_EQ(lock.refills, 4);
  EXPECT_EQ(lock.drains, 6);
}

PerCpuLists Lists(const std::vector<std::pair<double, double>>& refilled_and_drained) {
  PerCpuLists lists;
  int cpu = 0;
  for (const auto& [refilled, drained] : refilled_and_drained) {
    lists.cpus[cpu++] = {.refill_pages = refilled, .drain_pages = drained};
  }
  return lists;
}

TEST(ReportTest, DisplacementIsTheShareOfPagesThatOtherCpusDrain) {
  EXPECT_EQ(Lists({{100, 50}, {300, 150}}).displaced_share(), 0);
  EXPECT_EQ(Lists({{100, 0}, {0, 80}}).displaced_share(), 1);
  EXPECT_EQ(Lists({{100, 50}, {100, 150}}).displaced_share(), 0.25);
  EXPECT_EQ(Lists({{100, 0}, {300, 0}}).displaced_share(), std::nullopt);
  EXPECT_EQ(Lists({}).displaced_share(), std::nullopt);
}

TEST(ReportTest, PerCpuListsAreReadByCpuAndTheirLimitsByZone) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_pcp_refills_total", {{"cpu", "11"}}, 1, 3);
  Grow(observation, "kmem_pcp_refill_pages_total", {{"cpu", "11"}}, 10, 72);
  Grow(observation, "kmem_pcp_drains_total", {{"cpu", "2"}}, 0, 1);
  Grow(observation, "kmem_pcp_drain_pages_total", {{"cpu", "2"}}, 0, 63);
  for (const auto* zone : {"dma", "normal"}) {
    const Labels labels{{"numa_node", "0"}, {"mem_zone", zone}};
    AddGauge(observation.end, "kmem_pcp_high_pages", labels, 500);
    AddGauge(observation.end, "kmem_pcp_batch_pages", labels, 63);
  }
  const PerCpuLists lists = *MakeReport(observation).per_cpu_lists;
  EXPECT_EQ(lists.cpus.at(11).refills, 2);
  EXPECT_EQ(lists.cpus.at(11).refill_pages, 62);
  EXPECT_EQ(lists.cpus.at(2).drain_pages, 63);
  EXPECT_EQ(lists.total().drains, 1);
  ASSERT_EQ(lists.limits.size(), 2U);
  EXPECT_EQ(lists.limits[1].mem_zone, "normal");
  EXPECT_EQ(lists.limits[1].batch_pages, 63);
}

TEST(ReportTest, FreesOnOtherCpusAndNodes) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_page_same_cpu_frees_total", {}, 16, 316);
  Grow(observation, "kmem_page_cross_cpu_frees_total", {}, 0, 100);
  EXPECT_EQ(MakeReport(observation).cross_cpu->same_cpu, 300);
  EXPECT_EQ(MakeReport(observation).cross_cpu->cross_cpu, 100);
  EXPECT_FALSE(MakeReport(observation).cross_cpu->cross_node);
  Grow(observation, "kmem_page_cross_node_frees_total", {}, 0, 20);
  EXPECT_EQ(MakeReport(observation).cross_cpu->cross_node, 20);
}

void AddFallback(Observation& observation, std::string_view alloc, std::string_view from,
                 std::string_view fragmenting, std::string_view owner, double events) {
  AddCounter(observation.end, "kmem_extfrag_events_total",
             {{"alloc_migratetype", alloc},
              {"fallback_migratetype", from},
              {"fragmenting", fragmenting},
              {"change_ownership", owner}},
             events);
}

TEST(ReportTest, FallbacksAreSummedByTypesAndOnlyWhatCannotMoveFragmentsForGood) {
  Observation observation = TenSeconds();
  AddFallback(observation, "unmovable", "movable", "true", "false", 5);
  AddFallback(observation, "unmovable", "movable", "false", "true", 2);
  AddFallback(observation, "movable", "unmovable", "true", "false", 9);
  AddFallback(observation, "reclaimable", "movable", "true", "unknown", 1);
  AddFallback(observation, "reclaimable", "unmovable", "true", "false", 0);
  const Fragmentation fragmentation = MakeReport(observation).fragmentation;
  const auto& fallbacks = *fragmentation.fallbacks;
  ASSERT_EQ(fallbacks.size(), 3U);
  EXPECT_EQ(fallbacks[0].alloc_migratetype, "movable");
  EXPECT_FALSE(fallbacks[0].lasting());
  EXPECT_EQ(fallbacks[1].events, 7);
  EXPECT_EQ(fallbacks[1].fragmenting, 5);
  EXPECT_THAT(fallbacks[1].change_ownership, ElementsAre(Pair("false", 5), Pair("true", 2)));
  EXPECT_EQ(fragmentation.lasting_events(), 6);
}

TEST(ReportTest, ASeriesThatEndedAndCountersThatFellAreNotNegative) {
  Observation observation = TenSeconds();
  AddCounter(observation.end, "kmem_slab_allocations_total", {}, 0);
  const Labels site{{"call_site", "f"}, {"module", ""}};
  const Labels gone{{"call_site", "gone"}, {"module", ""}};
  Grow(observation, "kmem_slab_callsite_allocations_total", site, 9, 5);
  AddCounter(observation.start, "kmem_slab_callsite_allocations_total", gone, 7);
  EXPECT_THAT(*MakeReport(observation).slab->call_sites, IsEmpty());
}

TEST(ReportTest, MinFreeIsRaisedByAStepButNeverBeyondItsShareOfMemory) {
  constexpr double kMiB = 1 << 20;
  MinFree min_free{.bytes = 64 * kMiB, .step_bytes = 6 * kMiB, .memory_bytes = 1400 * kMiB};
  EXPECT_EQ(min_free.next_bytes(), 70 * kMiB);
  min_free.memory_bytes = 1399 * kMiB;
  EXPECT_EQ(min_free.next_bytes(), std::nullopt);
  min_free.memory_bytes.reset();
  EXPECT_EQ(min_free.next_bytes(), std::nullopt) << "no memory is known";
}

TEST(ReportTest, FreeMemoryAndMinFreeAreThoseOfTheEnd) {
  Observation observation = TenSeconds();
  observation.memory_bytes = 1e9;
  AddGauge(observation.start, "kmem_min_free_bytes", {}, 1);
  AddGauge(observation.end, "kmem_min_free_bytes", {}, 4096);
  AddGauge(observation.end, "kmem_min_free_step_bytes", {}, 8192);
  AddGauge(observation.end, "kmem_pageblock_order", {}, 9);
  for (const auto* order : {"3", "9"}) {
    AddGauge(observation.end, "kmem_unusable_free_index",
             {{"numa_node", "1"}, {"mem_zone", "normal"}, {"order", order}}, 0.5);
  }
  const Fragmentation fragmentation = MakeReport(observation).fragmentation;
  EXPECT_EQ(fragmentation.min_free->bytes, 4096);
  EXPECT_EQ(fragmentation.min_free->next_bytes(), 12288);
  EXPECT_EQ(fragmentation.pageblock_order, 9);
  ASSERT_EQ(fragmentation.free_memory->size(), 1U);
  EXPECT_THAT(fragmentation.free_memory->front().unusable_index,
              ElementsAre(Pair(3, 0.5), Pair(9, 0.5)));
}

TEST(ReportTest, WhatCountsSinceTheBootIsNotATraces) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_compaction_stalls_total", {}, 10, 12);
  Grow(observation, "kmem_allocation_stalls_total", {{"mem_zone", "normal"}}, 5, 6);
  Grow(observation, "kmem_allocation_stalls_total", {{"mem_zone", "dma"}}, 5, 5);
  EXPECT_EQ(MakeReport(observation).fragmentation.compaction->stalls, 2);
  EXPECT_THAT(*MakeReport(observation).fragmentation.allocation_stalls,
              ElementsAre(Pair("normal", 1)));
  observation.trace_file = "a.dat";
  EXPECT_FALSE(MakeReport(observation).fragmentation.compaction);
  EXPECT_FALSE(MakeReport(observation).fragmentation.allocation_stalls);
}

TEST(ReportTest, LossesErrorsAndInterferenceAreToldByReason) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_exporter_events_read_total", {{"tracepoint", "kfree"}}, 1, 11);
  Grow(observation, "kmem_exporter_events_lost_total", {{"reason", "dropped"}}, 2, 5);
  Grow(observation, "kmem_exporter_events_lost_total", {{"reason", "overrun"}}, 7, 7);
  Grow(observation, "kmem_exporter_record_errors_total", {{"cause", "short_payload"}}, 0, 1);
  Grow(observation, "kmem_exporter_interference_total", {{"kind", "clock"}}, 0, 1);
  const Trust trust = MakeReport(observation).trust;
  EXPECT_EQ(trust.events_read, 10);
  EXPECT_THAT(trust.lost, ElementsAre(Pair("dropped", 3)));
  EXPECT_THAT(trust.record_errors, ElementsAre(Pair("short_payload", 1)));
  EXPECT_THAT(trust.interference, ElementsAre(Pair("clock", 1)));
}

TEST(ReportTest, CollectorsThatWereTracedPartOfTheTimeAreTold) {
  Observation observation = TenSeconds();
  Grow(observation, "kmem_exporter_traced_seconds_total", {{"collector", "slab"}}, 50, 51.5);
  Grow(observation, "kmem_exporter_traced_seconds_total", {{"collector", "page"}}, 50, 59.99);
  EXPECT_THAT(MakeReport(observation).trust.traced_share, ElementsAre(Pair("slab", 0.15)));
}

TEST(ReportTest, TracepointsAreMissingOrFailed) {
  Observation observation = TenSeconds();
  observation.wanted_tracepoints = {"kfree", "kmalloc", "kmalloc_node"};
  AddGauge(observation.end, "kmem_exporter_tracepoint_enabled", {{"tracepoint", "kfree"}}, 1);
  AddGauge(observation.end, "kmem_exporter_tracepoint_enabled", {{"tracepoint", "kmalloc"}}, 0);
  const Trust trust = MakeReport(observation).trust;
  EXPECT_THAT(trust.missing_tracepoints, UnorderedElementsAre("kmalloc_node"));
  EXPECT_THAT(trust.failed_tracepoints, UnorderedElementsAre("kmalloc"));
}

}  // namespace
}  // namespace kmem
