#include "collectors/pcp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectors/pcp_tally.h"
#include "metric_lookup.h"
#include "tally_rig.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;

constexpr std::uint64_t kGapNs = 20'000;
constexpr std::uint64_t kLongAfter = 1'000'000'000'000;

// A PcpCollector, its events one microsecond apart unless told otherwise.
class PcpTest : public ::testing::Test {
 protected:
  void Refill(std::uint32_t order = 0, std::uint32_t cpu = 0) { TakeFromZone(order, 1, cpu); }
  void AllocateDirectly(std::uint32_t order = 0, std::uint32_t cpu = 0) {
    TakeFromZone(order, 0, cpu);
  }
  void TakeFromZone(std::uint32_t order, std::int32_t refill, std::uint32_t cpu = 0) {
    const page_zone_locked_event event{.order = order, .migratetype = 0, .percpu_refill = refill};
    const kmem_context context = Next(cpu);
    EXPECT_EQ(pcp_count_zone_locked(rig_.On(cpu), &event, &context), KMEM_COUNTED);
  }
  void Drain(std::uint32_t order = 0, std::uint32_t cpu = 0) {
    const pcp_drain_event event{.order = order};
    const kmem_context context = Next(cpu);
    EXPECT_EQ(pcp_count_drain(rig_.On(cpu), &event, &context), KMEM_COUNTED);
  }
  void AllocatePage(std::uint32_t cpu = 0) {
    const kmem_context context = Next(cpu);
    EXPECT_EQ(pcp_count_page_alloc(rig_.On(cpu), &context), KMEM_COUNTED);
  }
  void FreePage(std::uint32_t cpu = 0) {
    const kmem_context context = Next(cpu);
    EXPECT_EQ(pcp_count_page_free(rig_.On(cpu), &context), KMEM_COUNTED);
  }
  // The next event comes as much later than the last one.
  void After(std::uint64_t ns) { now_ns_ += ns - kStepNs; }

  [[nodiscard]] Families Settled() {
    rig_.Settle(kLongAfter);
    return rig_.Export();
  }
  [[nodiscard]] double Refills() const { return Total(rig_.Export(), "kmem_pcp_refills_total"); }
  [[nodiscard]] double Drains() const { return Total(rig_.Export(), "kmem_pcp_drains_total"); }

  static constexpr std::uint64_t kStepNs = 1000;

  // How many batches of each size there were, after all have been closed.
  using Sizes = std::vector<std::uint64_t>;
  [[nodiscard]] Sizes RefillSizes() { return SizesIn("kmem_pcp_refill_batch_pages"); }
  [[nodiscard]] Sizes DrainSizes() { return SizesIn("kmem_pcp_drain_batch_pages"); }

  static KernelFacts Facts() {
    KernelFacts facts;
    facts.online_cpus = {0, 2};
    return facts;
  }

  TallyRig<PcpCollector, pcp_tally> rig_{Facts(), 4};
  std::uint64_t now_ns_ = 5'000'000;

 private:
  kmem_context Next(std::uint32_t cpu) {
    now_ns_ += kStepNs;
    return {.time_ns = now_ns_, .cpu = cpu, .bytes = 0, .common = nullptr};
  }
  // Upper bounds of the filled buckets, one for each batch.
  Sizes SizesIn(const char* name) {
    Sizes sizes;
    const Buckets buckets = Histogram(Settled(), name);
    for (std::size_t i = 0; i + 1 < buckets.bounds.size(); ++i) {
      sizes.insert(sizes.end(), buckets.counts[i], static_cast<std::uint64_t>(buckets.bounds[i]));
    }
    return sizes;
  }
};

TEST_F(PcpTest, ARunOfOneKindIsOneBatch) {
  for (int i = 0; i < 8; ++i) Refill();
  EXPECT_EQ(Refills(), 0) << "a batch that has not ended is not counted";
  const Families families = Settled();
  EXPECT_EQ(Value(families, "kmem_pcp_refills_total", {{"cpu", "0"}}), 1);
  EXPECT_EQ(Value(families, "kmem_pcp_refill_pages_total", {{"cpu", "0"}}), 8);
  const Buckets sizes = Histogram(families, "kmem_pcp_refill_batch_pages");
  EXPECT_EQ(sizes.OnlyBound(), 8);
  EXPECT_EQ(sizes.sum, 8);
  EXPECT_EQ(Total(families, "kmem_pcp_drains_total"), 0);
}

TEST_F(PcpTest, ARunOfDrainsIsOneBatchToo) {
  for (int i = 0; i < 4; ++i) Drain();
  const Families families = Settled();
  EXPECT_EQ(Value(families, "kmem_pcp_drains_total", {{"cpu", "0"}}), 1);
  EXPECT_EQ(Value(families, "kmem_pcp_drain_pages_total", {{"cpu", "0"}}), 4);
  EXPECT_EQ(Histogram(families, "kmem_pcp_drain_batch_pages").OnlyBound(), 4);
  EXPECT_EQ(Total(families, "kmem_pcp_refills_total"), 0);
}

TEST_F(PcpTest, TheOtherKindEndsABatch) {
  Refill();
  Refill();
  Drain();
  Refill();
  Drain();
  Drain();
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 2));
  EXPECT_THAT(DrainSizes(), ElementsAre(1, 2));
}

TEST_F(PcpTest, APageAllocationEndsABatch) {
  Refill();
  Refill();
  AllocatePage();
  Refill();
  EXPECT_EQ(Refills(), 1);
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 2));
  Drain();
  AllocatePage();
  Drain();
  EXPECT_THAT(DrainSizes(), ElementsAre(1, 1));
}

TEST_F(PcpTest, APageFreeEndsABatch) {
  Drain();
  Drain();
  FreePage();
  Drain();
  EXPECT_EQ(Drains(), 1);
  EXPECT_THAT(DrainSizes(), ElementsAre(1, 2));
  Refill();
  FreePage();
  Refill();
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 1));
}

TEST_F(PcpTest, ADirectAllocationEndsABatchAndIsNone) {
  Refill();
  AllocateDirectly(9);
  Refill();
  Drain();
  AllocateDirectly(0);
  Drain();
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 1));
  EXPECT_THAT(DrainSizes(), ElementsAre(1, 1));
  EXPECT_EQ(Total(Settled(), "kmem_pcp_refill_pages_total"), 2);
}

TEST_F(PcpTest, EventsOfOtherCpusEndNothing) {
  Refill(0, 0);
  AllocatePage(1);
  FreePage(1);
  Drain(0, 1);
  AllocateDirectly(3, 1);
  Refill(0, 1);
  Refill(0, 0);
  const Families families = Settled();
  EXPECT_EQ(Value(families, "kmem_pcp_refills_total", {{"cpu", "0"}}), 1);
  EXPECT_EQ(Value(families, "kmem_pcp_refill_pages_total", {{"cpu", "0"}}), 2);
  EXPECT_EQ(Value(families, "kmem_pcp_refills_total", {{"cpu", "1"}}), 1);
}

TEST_F(PcpTest, AGapOfExactly20MicrosecondsContinuesABatch) {
  Refill();
  After(kGapNs);
  Refill();
  Drain();
  After(kGapNs);
  Drain();
  EXPECT_THAT(RefillSizes(), ElementsAre(2));
  EXPECT_THAT(DrainSizes(), ElementsAre(2));
}

TEST_F(PcpTest, OneNanosecondMoreEndsIt) {
  Refill();
  After(kGapNs + 1);
  Refill();
  Drain();
  After(kGapNs + 1);
  Drain();
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 1));
  EXPECT_THAT(DrainSizes(), ElementsAre(1, 1));
}

TEST_F(PcpTest, TheGapIsMeasuredFromTheLastEventNotTheFirst) {
  for (int i = 0; i < 5; ++i) {
    After(kGapNs);
    Refill();
  }
  EXPECT_EQ(Total(Settled(), "kmem_pcp_refills_total"), 1);
}

TEST_F(PcpTest, AScrapeClosesABatchOlderThanTheGap) {
  Refill();
  Drain(0, 1);
  rig_.Settle(now_ns_ + kGapNs);
  EXPECT_EQ(Drains(), 0);
  rig_.Settle(now_ns_ + kGapNs + 1);
  EXPECT_EQ(Drains(), 1);
  EXPECT_EQ(Refills(), 1);
}

TEST_F(PcpTest, AScrapeLeavesAYoungBatchOpenAndItGoesOn) {
  Refill();
  rig_.Settle(now_ns_ + kGapNs);
  Refill();
  EXPECT_THAT(RefillSizes(), ElementsAre(2));
}

TEST_F(PcpTest, AScrapeClosesAtOnceWhatAnotherEventHasEnded) {
  Refill();
  AllocatePage();
  Drain(0, 1);
  Refill(0, 1);
  rig_.Settle(now_ns_);
  EXPECT_EQ(Refills(), 1);
  EXPECT_EQ(Drains(), 1);
}

TEST_F(PcpTest, AScrapeOfTheTimeBeforeTheLastEventClosesNothing) {
  Refill();
  rig_.Settle(now_ns_ - 4'000'000);
  EXPECT_EQ(Refills(), 0);
  rig_.Settle(0);
  EXPECT_EQ(Refills(), 0);
}

TEST_F(PcpTest, ScrapesWithoutEventsCountNothing) {
  rig_.Settle(kLongAfter);
  rig_.Settle(UINT64_MAX);
  EXPECT_EQ(Refills(), 0);
  EXPECT_EQ(Drains(), 0);
  EXPECT_EQ(Histogram(rig_.Export(), "kmem_pcp_refill_batch_pages").count, 0U);
}

TEST_F(PcpTest, TheEndOfABatchCountsOnce) {
  Refill();
  rig_.Settle(kLongAfter);
  rig_.Settle(kLongAfter + 1);
  rig_.Settle(UINT64_MAX);
  EXPECT_EQ(Refills(), 1);
}

TEST_F(PcpTest, BlocksOfAHigherOrderCountTheirPages) {
  Refill(3);
  Refill(0);
  Drain(2);
  Drain(2);
  const Families families = Settled();
  EXPECT_EQ(Value(families, "kmem_pcp_refill_pages_total", {{"cpu", "0"}}), 9);
  EXPECT_EQ(Histogram(families, "kmem_pcp_refill_batch_pages").OnlyBound(), 16);
  EXPECT_EQ(Value(families, "kmem_pcp_drain_pages_total", {{"cpu", "0"}}), 8);
  EXPECT_EQ(Histogram(families, "kmem_pcp_drain_batch_pages").OnlyBound(), 8);
}

TEST_F(PcpTest, WithoutTheFieldOrderZeroIsARefillAndNothingElseIs) {
  TakeFromZone(0, -1);
  TakeFromZone(0, -1);
  TakeFromZone(3, -1);
  TakeFromZone(0, -1);
  EXPECT_THAT(RefillSizes(), ElementsAre(1, 2));
}

TEST_F(PcpTest, ImplausibleOrdersCountNothingAndEndNothing) {
  Refill();
  const kmem_context context{.time_ns = now_ns_, .cpu = 0, .bytes = 0, .common = nullptr};
  for (const std::uint32_t order : {16U, 64U, UINT32_MAX}) {
    for (const std::int32_t refill : {-1, 0, 1}) {
      const page_zone_locked_event taken{.order = order, .migratetype = 0, .percpu_refill = refill};
      EXPECT_EQ(pcp_count_zone_locked(rig_.On(0), &taken, &context), KMEM_IMPLAUSIBLE);
    }
    const pcp_drain_event drained{.order = order};
    EXPECT_EQ(pcp_count_drain(rig_.On(0), &drained, &context), KMEM_IMPLAUSIBLE);
  }
  Refill();
  EXPECT_THAT(RefillSizes(), ElementsAre(2));
  EXPECT_EQ(Total(Settled(), "kmem_pcp_drains_total"), 0);
}

TEST_F(PcpTest, CpusThatAreOnlineHaveTheirSeriesFromTheStart) {
  for (const char* name : {"kmem_pcp_refills_total", "kmem_pcp_drains_total",
                           "kmem_pcp_refill_pages_total", "kmem_pcp_drain_pages_total"}) {
    const Families families = rig_.Export();
    EXPECT_EQ(SeriesIn(families, name), 2U) << name;
    EXPECT_EQ(Value(families, name, {{"cpu", "0"}}), 0) << name;
    EXPECT_EQ(Value(families, name, {{"cpu", "2"}}), 0) << name;
  }
}

TEST_F(PcpTest, AnotherCpuHasItsSeriesOnceItHasEvents) {
  Refill(0, 3);
  const Families families = Settled();
  EXPECT_EQ(Value(families, "kmem_pcp_refills_total", {{"cpu", "3"}}), 1);
  EXPECT_EQ(SeriesIn(families, "kmem_pcp_refills_total"), 3U);
  EXPECT_EQ(SeriesIn(families, "kmem_pcp_drains_total"), 2U);
}

TEST_F(PcpTest, TheHistogramsAddUpTheCpus) {
  Refill(0, 0);
  Refill(0, 1);
  Refill(1, 3);
  const Buckets sizes = Histogram(Settled(), "kmem_pcp_refill_batch_pages");
  EXPECT_EQ(sizes.In(1), 2U);
  EXPECT_EQ(sizes.In(2), 1U);
  EXPECT_EQ(sizes.count, 3U);
  EXPECT_EQ(sizes.sum, 4);
}

TEST_F(PcpTest, BoundsArePowersOfTwoUpTo4096Pages) {
  std::vector<double> expected;
  for (double bound = 1; bound <= 4096; bound *= 2) expected.push_back(bound);
  expected.push_back(std::numeric_limits<double>::infinity());
  EXPECT_EQ(Histogram(rig_.Export(), "kmem_pcp_refill_batch_pages").bounds, expected);
  EXPECT_EQ(Histogram(rig_.Export(), "kmem_pcp_drain_batch_pages").bounds, expected);
}

TEST_F(PcpTest, EachBatchIsInTheBucketOfTheFirstBoundThatHoldsIt) {
  const std::vector<double> bounds = Histogram(rig_.Export(), "kmem_pcp_refill_batch_pages").bounds;
  for (std::uint64_t pages = 1; pages <= 4096; pages *= 2) {
    for (const std::uint64_t size : {pages - 1, pages, pages + 1}) {
      if (size == 0) continue;
      TallyRig<PcpCollector, pcp_tally> rig({}, 1);
      for (std::uint32_t order = 0; order < KMEM_ORDERS; ++order) {
        if ((size >> order & 1) == 0) continue;
        const page_zone_locked_event event{.order = order, .migratetype = 0, .percpu_refill = 1};
        const kmem_context context{.time_ns = 1, .cpu = 0, .bytes = 0, .common = nullptr};
        pcp_count_zone_locked(rig.On(0), &event, &context);
      }
      rig.Settle(kLongAfter);
      EXPECT_EQ(Histogram(rig.Export(), "kmem_pcp_refill_batch_pages").OnlyBound(),
                *std::ranges::lower_bound(bounds, static_cast<double>(size)))
          << size;
    }
  }
}

TEST_F(PcpTest, ItAsksForWhatBeginsAndEndsBatches) {
  std::vector<std::string_view> names;
  const PcpCollector collector;
  for (const EventSpec& event : collector.events()) names.push_back(event.name);
  EXPECT_THAT(names, ElementsAre("mm_page_alloc_zone_locked", "mm_page_pcpu_drain", "mm_page_alloc",
                                 "mm_page_free"));
}

}  // namespace
}  // namespace kmem
