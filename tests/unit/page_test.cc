#include "collectors/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "collectors/page_tally.h"
#include "metric_lookup.h"
#include "tally_rig.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;

using PageRig = TallyRig<PageCollector, page_tally>;

constexpr kmem_context kContext{.time_ns = 1000, .cpu = 0, .bytes = 0, .common = nullptr};
constexpr std::uint64_t kNowarn = 0x2000;

KernelFacts Facts(std::vector<std::string> migratetypes = {"unmovable", "movable", "reclaimable",
                                                           "highatomic", "cma", "isolate"}) {
  KernelFacts facts;
  facts.gfp_nowarn = kNowarn;
  facts.migratetypes = std::move(migratetypes);
  return facts;
}

kmem_verdict Allocate(PageRig& rig, std::uint32_t order, std::int32_t type, std::uint64_t pfn = 1,
                      std::uint64_t gfp = 0, std::uint32_t cpu = 0) {
  const page_alloc_event event{.pfn = pfn, .gfp_flags = gfp, .order = order, .migratetype = type};
  return page_count_alloc(rig.On(cpu), &event, &kContext);
}

kmem_verdict TakeFromZone(PageRig& rig, std::uint32_t order, std::int32_t type,
                          std::int32_t refill) {
  const page_zone_locked_event event{.order = order, .migratetype = type, .percpu_refill = refill};
  return page_count_zone_locked(rig.On(0), &event, &kContext);
}

kmem_verdict Free(PageRig& rig, std::uint32_t order, std::uint32_t cpu = 0) {
  const page_free_event event{.pfn = 1, .order = order};
  return page_count_free(rig.On(cpu), &event, &kContext);
}

LabelMap OrderAndType(const std::string& order, const std::string& type) {
  return {{"order", order}, {"migratetype", type}};
}
LabelMap ZoneLocked(const std::string& order, const std::string& type, const std::string& refill) {
  return {{"order", order}, {"migratetype", type}, {"percpu_refill", refill}};
}
LabelMap Failure(const std::string& order, const std::string& nowarn) {
  return {{"order", order}, {"nowarn", nowarn}};
}

TEST(PageTest, SeriesOfEachOrderAndOfTheTypesThatCanBeAskedForExistFromTheStart) {
  const Families families = PageRig(Facts()).Export();
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocations_total"), 11U * 4);
  EXPECT_EQ(SeriesIn(families, "kmem_page_zone_locked_allocations_total"), 11U * 4 * 2);
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocated_bytes_total"), 4U);
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocation_failures_total"), 11U * 2);
  EXPECT_EQ(SeriesIn(families, "kmem_page_frees_total"), 11U);
  for (int order = 0; order < 11; ++order) {
    for (const char* type : {"unmovable", "movable", "reclaimable", "cma"}) {
      EXPECT_EQ(
          Value(families, "kmem_page_allocations_total", OrderAndType(std::to_string(order), type)),
          0);
      for (const char* refill : {"true", "false"}) {
        EXPECT_EQ(Value(families, "kmem_page_zone_locked_allocations_total",
                        ZoneLocked(std::to_string(order), type, refill)),
                  0);
      }
    }
    for (const char* nowarn : {"true", "false"}) {
      EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total",
                      Failure(std::to_string(order), nowarn)),
                0);
    }
    EXPECT_EQ(Value(families, "kmem_page_frees_total", {{"order", std::to_string(order)}}), 0);
  }
  EXPECT_EQ(Value(families, "kmem_page_freed_bytes_total"), 0);
  EXPECT_EQ(Value(families, "kmem_page_batched_frees_total"), 0);
}

TEST(PageTest, WithoutCmaNoSeriesSpeaksOfIt) {
  const Families families =
      PageRig(Facts({"unmovable", "movable", "reclaimable", "highatomic", "isolate"})).Export();
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocations_total"), 11U * 3);
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocated_bytes_total"), 3U);
}

TEST(PageTest, ThereAreAsManyOrdersAsTheKernelHas) {
  KernelFacts facts = Facts();
  facts.order_count = 14;
  const Families families = PageRig(facts).Export();
  EXPECT_EQ(SeriesIn(families, "kmem_page_frees_total"), 14U);
  EXPECT_EQ(SeriesIn(families, "kmem_page_allocations_total"), 14U * 4);
  EXPECT_TRUE(HasSeries(families, "kmem_page_frees_total", {{"order", "13"}}));
}

TEST(PageTest, AnAllocationCountsInItsOrderAndType) {
  PageRig rig(Facts());
  EXPECT_EQ(Allocate(rig, 3, 1), KMEM_COUNTED);
  EXPECT_EQ(Allocate(rig, 3, 1), KMEM_COUNTED);
  EXPECT_EQ(Allocate(rig, 0, 2), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("3", "movable")), 2);
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("0", "reclaimable")), 1);
  EXPECT_EQ(Total(families, "kmem_page_allocations_total"), 3);
  EXPECT_EQ(Value(families, "kmem_page_allocated_bytes_total", {{"migratetype", "movable"}}),
            2 * 8 * 4096);
  EXPECT_EQ(Value(families, "kmem_page_allocated_bytes_total", {{"migratetype", "reclaimable"}}),
            4096);
  EXPECT_EQ(Value(families, "kmem_page_allocated_bytes_total", {{"migratetype", "unmovable"}}), 0);
}

TEST(PageTest, BytesAreOfTheKernelsPageSize) {
  KernelFacts facts = Facts();
  facts.page_size = 65536;
  PageRig rig(facts);
  Allocate(rig, 1, 0);
  Free(rig, 2);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocated_bytes_total", {{"migratetype", "unmovable"}}),
            2 * 65536);
  EXPECT_EQ(Value(families, "kmem_page_freed_bytes_total"), 4 * 65536);
}

TEST(PageTest, AFailedAllocationIsAFailureAndNeitherABlockNorBytes) {
  PageRig rig(Facts());
  EXPECT_EQ(Allocate(rig, 4, 1, PAGE_NO_PFN), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("4", "false")), 1);
  EXPECT_EQ(Total(families, "kmem_page_allocation_failures_total"), 1);
  EXPECT_EQ(Total(families, "kmem_page_allocations_total"), 0);
  EXPECT_EQ(Total(families, "kmem_page_allocated_bytes_total"), 0);
}

TEST(PageTest, PageNumberZeroIsNoFailure) {
  PageRig rig(Facts());
  Allocate(rig, 0, 0, 0);
  EXPECT_EQ(Total(rig.Export(), "kmem_page_allocations_total"), 1);
}

TEST(PageTest, AFailureTellsWhetherItWasToldNotToWarn) {
  PageRig rig(Facts());
  Allocate(rig, 9, 1, PAGE_NO_PFN, kNowarn);
  Allocate(rig, 9, 1, PAGE_NO_PFN, kNowarn | 0x40000);
  Allocate(rig, 9, 1, PAGE_NO_PFN, ~kNowarn);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("9", "true")), 2);
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("9", "false")), 1);
}

TEST(PageTest, WhereTheBitIsNotKnownItIsUnknownWhichFailuresWarn) {
  KernelFacts facts = Facts();
  facts.gfp_nowarn = 0;
  PageRig rig(facts);
  Allocate(rig, 9, 1, PAGE_NO_PFN, ~UINT64_C(0));
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("9", "unknown")), 1);
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("8", "unknown")), 0);
  for (const char* known : {"true", "false"}) {
    EXPECT_FALSE(HasSeries(families, "kmem_page_allocation_failures_total", Failure("9", known)));
  }
}

TEST(PageTest, FreesCountByOrderAndBytesOverAllOrders) {
  PageRig rig(Facts());
  EXPECT_EQ(Free(rig, 0), KMEM_COUNTED);
  EXPECT_EQ(Free(rig, 0, 1), KMEM_COUNTED);
  EXPECT_EQ(Free(rig, 5), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_frees_total", {{"order", "0"}}), 2);
  EXPECT_EQ(Value(families, "kmem_page_frees_total", {{"order", "5"}}), 1);
  EXPECT_EQ(Value(families, "kmem_page_freed_bytes_total"), (2 + 32) * 4096);
  EXPECT_EQ(Value(families, "kmem_page_batched_frees_total"), 0);
}

TEST(PageTest, ABatchedFreeIsAnExtraCountAndNoFreeByItself) {
  PageRig rig(Facts());
  EXPECT_EQ(page_count_free_batched(rig.On(0), &kContext), KMEM_COUNTED);
  EXPECT_EQ(page_count_free_batched(rig.On(1), &kContext), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_batched_frees_total"), 2);
  EXPECT_EQ(Total(families, "kmem_page_frees_total"), 0);
  EXPECT_EQ(Value(families, "kmem_page_freed_bytes_total"), 0);
}

TEST(PageTest, TheKernelsWordForARefillIsTaken) {
  PageRig rig(Facts());
  EXPECT_EQ(TakeFromZone(rig, 3, 0, 1), KMEM_COUNTED);
  EXPECT_EQ(TakeFromZone(rig, 0, 0, 0), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_zone_locked_allocations_total",
                  ZoneLocked("3", "unmovable", "true")),
            1);
  EXPECT_EQ(Value(families, "kmem_page_zone_locked_allocations_total",
                  ZoneLocked("0", "unmovable", "false")),
            1);
  EXPECT_EQ(Total(families, "kmem_page_zone_locked_allocations_total"), 2);
}

TEST(PageTest, WithoutTheFieldOrderZeroIsARefillAndNothingElseIs) {
  PageRig rig(Facts());
  for (std::uint32_t order = 0; order < 11; ++order) TakeFromZone(rig, order, 1, -1);
  const Families families = rig.Export();
  EXPECT_EQ(Total(families, "kmem_page_zone_locked_allocations_total", {{"percpu_refill", "true"}}),
            1);
  EXPECT_EQ(Value(families, "kmem_page_zone_locked_allocations_total",
                  ZoneLocked("0", "movable", "true")),
            1);
  EXPECT_EQ(
      Total(families, "kmem_page_zone_locked_allocations_total", {{"percpu_refill", "false"}}), 10);
}

TEST(PageTest, ATypeThatIsNotKnownFromTheStartGetsItsSeriesWhenSeen) {
  PageRig rig(Facts());
  const Families before = rig.Export();
  EXPECT_FALSE(HasSeries(before, "kmem_page_allocations_total", OrderAndType("2", "highatomic")));
  Allocate(rig, 2, 3);
  TakeFromZone(rig, 1, 5, 0);
  const Families after = rig.Export();
  EXPECT_EQ(Value(after, "kmem_page_allocations_total", OrderAndType("2", "highatomic")), 1);
  EXPECT_EQ(SeriesIn(after, "kmem_page_allocations_total"), 11U * 4 + 1);
  EXPECT_EQ(Value(after, "kmem_page_allocated_bytes_total", {{"migratetype", "highatomic"}}),
            4 * 4096);
  EXPECT_EQ(
      Value(after, "kmem_page_zone_locked_allocations_total", ZoneLocked("1", "isolate", "false")),
      1);
  EXPECT_EQ(SeriesIn(after, "kmem_page_zone_locked_allocations_total"), 11U * 4 * 2 + 1);
}

TEST(PageTest, ATypeWithoutANameIsShownByItsNumber) {
  PageRig rig(Facts({"unmovable", "movable", "reclaimable", "highatomic"}));
  Allocate(rig, 0, 4);
  Allocate(rig, 0, 7);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("0", "4")), 1);
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("0", "7")), 1);
}

TEST(PageTest, AnOrderAboveTheKernelsGetsItsSeriesWhenSeen) {
  PageRig rig(Facts());
  Allocate(rig, 12, 0);
  Allocate(rig, 13, 0, PAGE_NO_PFN);
  Free(rig, 15);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("12", "unmovable")), 1);
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("13", "false")), 1);
  EXPECT_EQ(Value(families, "kmem_page_frees_total", {{"order", "15"}}), 1);
  EXPECT_EQ(SeriesIn(families, "kmem_page_frees_total"), 12U);
}

TEST(PageTest, ImplausibleOrdersAndTypesCountNothing) {
  PageRig rig(Facts());
  for (const std::uint32_t order : {16U, 0x80000000U, UINT32_MAX}) {
    EXPECT_EQ(Allocate(rig, order, 0), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Allocate(rig, order, 0, PAGE_NO_PFN), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(TakeFromZone(rig, order, 0, 1), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(Free(rig, order), KMEM_IMPLAUSIBLE);
  }
  for (const std::int32_t type : {-1, 8, INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(Allocate(rig, 0, type), KMEM_IMPLAUSIBLE);
    EXPECT_EQ(TakeFromZone(rig, 0, type, 1), KMEM_IMPLAUSIBLE);
  }
  const Families families = rig.Export();
  for (const char* name : {"kmem_page_allocations_total", "kmem_page_allocation_failures_total",
                           "kmem_page_zone_locked_allocations_total", "kmem_page_frees_total"}) {
    EXPECT_EQ(Total(families, name), 0) << name;
  }
}

TEST(PageTest, CpusAreAddedUpAndTheConstantIsNot) {
  PageRig rig(Facts(), 3);
  for (std::uint32_t cpu = 0; cpu < 3; ++cpu) {
    Allocate(rig, 1, 1, 1, 0, cpu);
    Allocate(rig, 9, 1, PAGE_NO_PFN, kNowarn, cpu);
    Allocate(rig, 9, 1, PAGE_NO_PFN, kNowarn << 1, cpu);
  }
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_page_allocations_total", OrderAndType("1", "movable")), 3);
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("9", "true")), 3);
  EXPECT_EQ(Value(families, "kmem_page_allocation_failures_total", Failure("9", "false")), 3);
}

TEST(PageTest, ItAsksForTheFourPageTracepoints) {
  std::vector<std::string_view> names;
  const PageCollector collector;
  for (const EventSpec& event : collector.events()) names.push_back(event.name);
  EXPECT_THAT(names, ElementsAre("mm_page_alloc", "mm_page_alloc_zone_locked", "mm_page_free",
                                 "mm_page_free_batched"));
}

}  // namespace
}  // namespace kmem
