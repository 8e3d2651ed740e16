#include "collectors/extfrag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectors/extfrag_tally.h"
#include "metric_lookup.h"
#include "tally_rig.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;

using ExtfragRig = TallyRig<ExtfragCollector, extfrag_tally>;

constexpr const char* kEvents = "kmem_extfrag_events_total";

KernelFacts Facts() {
  KernelFacts facts;
  facts.migratetypes = {"unmovable", "movable", "reclaimable", "highatomic", "cma", "isolate"};
  return facts;
}

extfrag_event Event(std::int32_t alloc_order, std::int32_t fallback_order,
                    std::int32_t alloc_type = 0, std::int32_t fallback_type = 1,
                    std::int32_t ownership = 0) {
  return {.alloc_order = alloc_order,
          .fallback_order = fallback_order,
          .alloc_migratetype = alloc_type,
          .fallback_migratetype = fallback_type,
          .change_ownership = ownership};
}

kmem_verdict Count(ExtfragRig& rig, const extfrag_event& event, std::uint32_t cpu = 0) {
  const kmem_context context{.time_ns = 1000, .cpu = cpu, .bytes = 0, .common = nullptr};
  return extfrag_count(rig.On(cpu), &event, &context);
}

LabelMap Series(const std::string& alloc, const std::string& fallback,
                const std::string& fragmenting, const std::string& ownership) {
  return {{"alloc_migratetype", alloc},
          {"fallback_migratetype", fallback},
          {"fragmenting", fragmenting},
          {"change_ownership", ownership}};
}

TEST(ExtfragTest, FallbacksThatTheKernelCanMakeHaveTheirSeriesFromTheStart) {
  const Families families = ExtfragRig(Facts()).Export();
  const std::vector<std::string> types{"unmovable", "movable", "reclaimable"};
  for (const std::string& alloc : types) {
    for (const std::string& fallback : types) {
      for (const char* fragmenting : {"false", "true"}) {
        for (const char* ownership : {"false", "true"}) {
          EXPECT_EQ(HasSeries(families, kEvents, Series(alloc, fallback, fragmenting, ownership)),
                    alloc != fallback)
              << alloc << " " << fallback;
        }
      }
    }
  }
  EXPECT_EQ(SeriesIn(families, kEvents), 6U * 2 * 2);
  EXPECT_EQ(Total(families, kEvents), 0);
}

TEST(ExtfragTest, AnEventCountsInItsSeriesOnly) {
  ExtfragRig rig(Facts());
  EXPECT_EQ(Count(rig, Event(0, 3, 0, 1, 0)), KMEM_COUNTED);
  EXPECT_EQ(Count(rig, Event(0, 3, 0, 1, 1)), KMEM_COUNTED);
  EXPECT_EQ(Count(rig, Event(1, 10, 2, 1, 1)), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, kEvents, Series("unmovable", "movable", "true", "false")), 1);
  EXPECT_EQ(Value(families, kEvents, Series("unmovable", "movable", "true", "true")), 1);
  EXPECT_EQ(Value(families, kEvents, Series("reclaimable", "movable", "false", "true")), 1);
  EXPECT_EQ(Total(families, kEvents), 3);
}

TEST(ExtfragTest, ABlockBelowThePageblockOrderIsFragmentingAndOneOfItIsNot) {
  for (const int pageblock_order : {1, 9, 10, 13}) {
    KernelFacts facts = Facts();
    facts.pageblock_order = pageblock_order;
    ExtfragRig rig(facts);
    Count(rig, Event(0, pageblock_order - 1));
    Count(rig, Event(0, pageblock_order));
    Count(rig, Event(0, pageblock_order + 1));
    const Families families = rig.Export();
    EXPECT_EQ(Total(families, kEvents, {{"fragmenting", "true"}}), 1) << pageblock_order;
    EXPECT_EQ(Total(families, kEvents, {{"fragmenting", "false"}}), 2) << pageblock_order;
  }
}

TEST(ExtfragTest, OwnershipIsUnknownOnlyWhereItIsNotTold) {
  ExtfragRig rig(Facts());
  EXPECT_EQ(Total(rig.Export(), kEvents, {{"change_ownership", "unknown"}}), 0);
  EXPECT_FALSE(HasSeries(rig.Export(), kEvents, Series("unmovable", "movable", "true", "unknown")));
  EXPECT_EQ(Count(rig, Event(0, 3, 0, 1, EXTFRAG_OWNERSHIP_UNKNOWN)), KMEM_COUNTED);
  EXPECT_EQ(Value(rig.Export(), kEvents, Series("unmovable", "movable", "true", "unknown")), 1);
}

TEST(ExtfragTest, AnEngineThatCanNotTellTheOwnershipHasTheSeriesThatSaySo) {
  KernelFacts facts = Facts();
  facts.change_ownership_told = false;
  const Families families = ExtfragRig(facts).Export();
  EXPECT_TRUE(HasSeries(families, kEvents, Series("unmovable", "movable", "true", "unknown")));
  for (const char* told : {"true", "false"}) {
    EXPECT_FALSE(HasSeries(families, kEvents, Series("unmovable", "movable", "true", told)));
  }
}

TEST(ExtfragTest, OtherTypesGetTheirSeriesWhenSeenByNumberWhereTheyHaveNoName) {
  KernelFacts facts = Facts();
  facts.migratetypes.resize(4);
  ExtfragRig rig(facts);
  Count(rig, Event(0, 0, 1, 3, 0));
  Count(rig, Event(0, 0, 1, 4, 0));
  Count(rig, Event(0, 0, 7, 7, 1));
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, kEvents, Series("movable", "highatomic", "true", "false")), 1);
  EXPECT_EQ(Value(families, kEvents, Series("movable", "4", "true", "false")), 1);
  EXPECT_EQ(Value(families, kEvents, Series("7", "7", "true", "true")), 1);
  EXPECT_EQ(SeriesIn(families, kEvents), 24U + 3);
}

TEST(ExtfragTest, OrdersHaveOneBucketEach) {
  ExtfragRig rig(Facts());
  std::vector<double> expected{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  expected.push_back(std::numeric_limits<double>::infinity());
  for (const char* name : {"kmem_extfrag_alloc_order", "kmem_extfrag_fallback_order"}) {
    EXPECT_EQ(Histogram(rig.Export(), name).bounds, expected);
  }
  for (std::int32_t order = 0; order <= 10; ++order) Count(rig, Event(order, 10 - order / 2));
  const Families families = rig.Export();
  const Buckets asked = Histogram(families, "kmem_extfrag_alloc_order");
  EXPECT_THAT(asked.counts, ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0));
  EXPECT_EQ(asked.sum, 55);
  const Buckets taken = Histogram(families, "kmem_extfrag_fallback_order");
  EXPECT_THAT(taken.counts, ElementsAre(0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 0));
  EXPECT_EQ(taken.sum, 5 + 2 * (6 + 7 + 8 + 9 + 10));
}

TEST(ExtfragTest, AKernelWithMoreOrdersHasMoreBuckets) {
  KernelFacts facts = Facts();
  facts.order_count = 14;
  ExtfragRig rig(facts);
  Count(rig, Event(13, 13));
  EXPECT_EQ(Histogram(rig.Export(), "kmem_extfrag_alloc_order").OnlyBound(), 13);
}

TEST(ExtfragTest, EvenAKernelWithEveryOrderThatIsPlausibleHasAnInfiniteBucket) {
  KernelFacts facts = Facts();
  facts.order_count = KMEM_ORDERS;
  ExtfragRig rig(facts);
  Count(rig, Event(15, 15));
  const Buckets orders = Histogram(rig.Export(), "kmem_extfrag_alloc_order");
  EXPECT_EQ(orders.OnlyBound(), 15);
  EXPECT_EQ(orders.bounds.back(), std::numeric_limits<double>::infinity());
}

TEST(ExtfragTest, OrdersAboveTheKernelsAreInTheInfiniteBucket) {
  ExtfragRig rig(Facts());
  Count(rig, Event(11, 15));
  Count(rig, Event(12, 15));
  const Buckets asked = Histogram(rig.Export(), "kmem_extfrag_alloc_order");
  EXPECT_EQ(asked.counts.back(), 2U);
  EXPECT_EQ(asked.count, 2U);
  EXPECT_EQ(asked.sum, 23);
}

TEST(ExtfragTest, ImplausibleValuesCountNothing) {
  ExtfragRig rig(Facts());
  for (const std::int32_t bad : {-1, 16, INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(Count(rig, Event(bad, 0)), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Count(rig, Event(0, bad)), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Count(rig, Event(0, 0, bad)), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Count(rig, Event(0, 0, 0, bad)), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Count(rig, Event(0, 0, 0, 1, bad)), KMEM_IMPLAUSIBLE);
  }
  EXPECT_EQ(Count(rig, Event(0, 0, 8)), KMEM_IMPLAUSIBLE);
  EXPECT_EQ(Count(rig, Event(0, 0, 0, 8)), KMEM_IMPLAUSIBLE);
  EXPECT_EQ(Count(rig, Event(0, 0, 0, 1, 3)), KMEM_IMPLAUSIBLE);
  const Families families = rig.Export();
  EXPECT_EQ(Total(families, kEvents), 0);
  EXPECT_EQ(Histogram(families, "kmem_extfrag_alloc_order").count, 0U);
  EXPECT_EQ(Histogram(families, "kmem_extfrag_fallback_order").count, 0U);
}

TEST(ExtfragTest, CpusAreAddedUp) {
  ExtfragRig rig(Facts(), 3);
  for (std::uint32_t cpu = 0; cpu < 3; ++cpu) Count(rig, Event(2, 8), cpu);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, kEvents, Series("unmovable", "movable", "true", "false")), 3);
  EXPECT_EQ(Histogram(families, "kmem_extfrag_alloc_order").In(2), 3U);
}

TEST(ExtfragTest, ItAsksForItsOneTracepoint) {
  std::vector<std::string_view> names;
  const ExtfragCollector collector;
  for (const EventSpec& event : collector.events()) names.push_back(event.name);
  EXPECT_THAT(names, ElementsAre("mm_page_alloc_extfrag"));
}

}  // namespace
}  // namespace kmem
