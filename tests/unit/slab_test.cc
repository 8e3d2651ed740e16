#include "collectors/slab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "collectors/slab_tally.h"
#include "metric_lookup.h"
#include "tally_rig.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;

using SlabRig = TallyRig<SlabCollector, slab_tally>;
using CountAlloc = kmem_verdict (*)(slab_tally*, const slab_alloc_event*, const kmem_context*);

constexpr std::uint64_t kSomePointer = 0xffff888000001000;
constexpr kmem_context kContext{.time_ns = 1000, .cpu = 0, .bytes = 0, .common = nullptr};
const LabelMap kKmalloc{{"allocator", "kmalloc"}};
const LabelMap kKmemCache{{"allocator", "kmem_cache"}};

void Allocate(SlabRig& rig, CountAlloc count, std::uint64_t req, std::uint64_t alloc,
              std::uint32_t cpu = 0, std::uint64_t ptr = kSomePointer) {
  const slab_alloc_event event{
      .ptr = ptr, .bytes_req = req, .bytes_alloc = alloc, .call_site = 0, .cache = {}};
  EXPECT_EQ(count(rig.On(cpu), &event, &kContext), KMEM_COUNTED);
}

// Both allocators, with the functions of their two tracepoints.
struct Allocator {
  LabelMap labels;
  CountAlloc count;
  CountAlloc count_node;
};
const std::vector<Allocator> kAllocators{
    {kKmalloc, &slab_count_kmalloc, &slab_count_kmalloc_node},
    {kKmemCache, &slab_count_kmem_cache_alloc, &slab_count_kmem_cache_alloc_node}};

TEST(SlabTest, EveryFamilyIsThereForBothAllocatorsBeforeAnyEvent) {
  const Families families = SlabRig().Export();
  for (const char* name : {"kmem_slab_allocations_total", "kmem_slab_allocation_failures_total",
                           "kmem_slab_frees_total", "kmem_slab_requested_bytes_total",
                           "kmem_slab_allocated_bytes_total"}) {
    EXPECT_EQ(SeriesIn(families, name), 2U) << name;
    EXPECT_EQ(Value(families, name, kKmalloc), 0) << name;
    EXPECT_EQ(Value(families, name, kKmemCache), 0) << name;
  }
  EXPECT_EQ(Histogram(families, "kmem_slab_request_size_bytes", kKmalloc).count, 0U);
  EXPECT_EQ(Histogram(families, "kmem_slab_request_size_bytes", kKmemCache).count, 0U);
  EXPECT_EQ(Histogram(families, "kmem_slab_waste_bytes").count, 0U);
}

TEST(SlabTest, AnAllocationCountsItsBytesAndItsSizeForItsAllocatorOnly) {
  for (const Allocator& allocator : kAllocators) {
    SlabRig rig;
    Allocate(rig, allocator.count, 100, 128);
    const Families families = rig.Export();
    EXPECT_EQ(Value(families, "kmem_slab_allocations_total", allocator.labels), 1);
    EXPECT_EQ(Value(families, "kmem_slab_requested_bytes_total", allocator.labels), 100);
    EXPECT_EQ(Value(families, "kmem_slab_allocated_bytes_total", allocator.labels), 128);
    const Buckets sizes = Histogram(families, "kmem_slab_request_size_bytes", allocator.labels);
    EXPECT_EQ(sizes.OnlyBound(), 128);
    EXPECT_EQ(sizes.sum, 100);
    EXPECT_EQ(Total(families, "kmem_slab_allocations_total"), 1);
    EXPECT_EQ(Total(families, "kmem_slab_requested_bytes_total"), 100);
    EXPECT_EQ(Total(families, "kmem_slab_allocation_failures_total"), 0);
    EXPECT_EQ(Total(families, "kmem_slab_frees_total"), 0);
  }
}

TEST(SlabTest, NodeTracepointsAreAddedToTheirAllocator) {
  for (const Allocator& allocator : kAllocators) {
    SlabRig rig;
    Allocate(rig, allocator.count, 100, 128);
    Allocate(rig, allocator.count_node, 200, 256);
    Allocate(rig, allocator.count_node, 8, 8, 0, 0);
    const Families families = rig.Export();
    EXPECT_EQ(Value(families, "kmem_slab_allocations_total", allocator.labels), 2);
    EXPECT_EQ(Value(families, "kmem_slab_allocation_failures_total", allocator.labels), 1);
    EXPECT_EQ(Value(families, "kmem_slab_requested_bytes_total", allocator.labels), 300);
    EXPECT_EQ(Value(families, "kmem_slab_allocated_bytes_total", allocator.labels), 384);
    const Buckets sizes = Histogram(families, "kmem_slab_request_size_bytes", allocator.labels);
    EXPECT_EQ(sizes.In(128), 1U);
    EXPECT_EQ(sizes.In(256), 1U);
    EXPECT_EQ(sizes.count, 2U);
    EXPECT_EQ(sizes.sum, 300);
  }
}

TEST(SlabTest, AFailedAllocationCountsAsAFailureAndNoBytes) {
  for (const Allocator& allocator : kAllocators) {
    for (const CountAlloc count : {allocator.count, allocator.count_node}) {
      SlabRig rig;
      Allocate(rig, count, 100, 128, 0, 0);
      const Families families = rig.Export();
      EXPECT_EQ(Value(families, "kmem_slab_allocation_failures_total", allocator.labels), 1);
      EXPECT_EQ(Total(families, "kmem_slab_allocation_failures_total"), 1);
      EXPECT_EQ(Total(families, "kmem_slab_allocations_total"), 0);
      EXPECT_EQ(Total(families, "kmem_slab_requested_bytes_total"), 0);
      EXPECT_EQ(Total(families, "kmem_slab_allocated_bytes_total"), 0);
      EXPECT_EQ(Histogram(families, "kmem_slab_request_size_bytes", allocator.labels).count, 0U);
      EXPECT_EQ(Histogram(families, "kmem_slab_waste_bytes").count, 0U);
    }
  }
}

TEST(SlabTest, OnlyKmallocsWasteIsInTheHistogramOfWaste) {
  SlabRig rig;
  Allocate(rig, &slab_count_kmem_cache_alloc, 100, 128);
  Allocate(rig, &slab_count_kmem_cache_alloc_node, 100, 128);
  EXPECT_EQ(Histogram(rig.Export(), "kmem_slab_waste_bytes").count, 0U);
  Allocate(rig, &slab_count_kmalloc, 100, 128);
  Allocate(rig, &slab_count_kmalloc_node, 1000, 1024);
  Allocate(rig, &slab_count_kmalloc, 64, 64);
  const Buckets waste = Histogram(rig.Export(), "kmem_slab_waste_bytes");
  EXPECT_EQ(waste.In(32), 2U);  // 28 and 24
  EXPECT_EQ(waste.In(0), 1U);
  EXPECT_EQ(waste.count, 3U);
  EXPECT_EQ(waste.sum, 28 + 24);
}

TEST(SlabTest, MoreBytesAskedForThanGivenAreImplausibleAndCountNothing) {
  for (const Allocator& allocator : kAllocators) {
    for (const CountAlloc count : {allocator.count, allocator.count_node}) {
      SlabRig rig;
      const slab_alloc_event event{
          .ptr = kSomePointer, .bytes_req = 129, .bytes_alloc = 128, .call_site = 0, .cache = {}};
      EXPECT_EQ(count(rig.On(0), &event, &kContext), KMEM_IMPLAUSIBLE);
      const Families families = rig.Export();
      EXPECT_EQ(Total(families, "kmem_slab_allocations_total"), 0);
      EXPECT_EQ(Total(families, "kmem_slab_allocated_bytes_total"), 0);
      EXPECT_EQ(Histogram(families, "kmem_slab_waste_bytes").count, 0U);
    }
  }
}

TEST(SlabTest, FreesAreCountedByTheFunctionThatFreed) {
  SlabRig rig;
  const slab_free_event event{.ptr = kSomePointer, .cache = {}};
  EXPECT_EQ(slab_count_kfree(rig.On(0), &event, &kContext), KMEM_COUNTED);
  EXPECT_EQ(slab_count_kfree(rig.On(1), &event, &kContext), KMEM_COUNTED);
  EXPECT_EQ(slab_count_kmem_cache_free(rig.On(0), &event, &kContext), KMEM_COUNTED);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_slab_frees_total", kKmalloc), 2);
  EXPECT_EQ(Value(families, "kmem_slab_frees_total", kKmemCache), 1);
}

TEST(SlabTest, FreesOfNullAndOfTheZeroSizePointerAreNoFrees) {
  SlabRig rig;
  for (const std::uint64_t ptr : {0UL, 16UL}) {
    const slab_free_event event{.ptr = ptr, .cache = {}};
    EXPECT_EQ(slab_count_kfree(rig.On(0), &event, &kContext), KMEM_COUNTED);
    EXPECT_EQ(slab_count_kmem_cache_free(rig.On(0), &event, &kContext), KMEM_COUNTED);
  }
  EXPECT_EQ(Total(rig.Export(), "kmem_slab_frees_total"), 0);
  const slab_free_event first_real{.ptr = 17, .cache = {}};
  slab_count_kfree(rig.On(0), &first_real, &kContext);
  EXPECT_EQ(Value(rig.Export(), "kmem_slab_frees_total", kKmalloc), 1);
}

TEST(SlabTest, CpusAreAddedUp) {
  SlabRig rig({}, 3);
  Allocate(rig, &slab_count_kmalloc, 10, 16, 0);
  Allocate(rig, &slab_count_kmalloc, 20, 32, 1);
  Allocate(rig, &slab_count_kmalloc_node, 30, 32, 2);
  const Families families = rig.Export();
  EXPECT_EQ(Value(families, "kmem_slab_allocations_total", kKmalloc), 3);
  EXPECT_EQ(Value(families, "kmem_slab_requested_bytes_total", kKmalloc), 60);
  EXPECT_EQ(Value(families, "kmem_slab_allocated_bytes_total", kKmalloc), 80);
  EXPECT_EQ(Histogram(families, "kmem_slab_waste_bytes").sum, 20);
}

TEST(SlabTest, BoundsOfSizesAreKmallocsClassesAndThePowersOfTwoAbove) {
  const Buckets sizes = Histogram(SlabRig().Export(), "kmem_slab_request_size_bytes", kKmalloc);
  std::vector<double> expected{8, 16, 32, 64, 96, 128, 192, 256};
  for (double size = 512; size <= 4 << 20; size *= 2) expected.push_back(size);
  expected.push_back(std::numeric_limits<double>::infinity());
  EXPECT_EQ(sizes.bounds, expected);
}

TEST(SlabTest, EachSizeIsInTheBucketOfTheFirstBoundThatHoldsIt) {
  const Buckets empty = Histogram(SlabRig().Export(), "kmem_slab_request_size_bytes", kKmalloc);
  std::vector<std::uint64_t> sizes{0, 1};
  for (const double bound : empty.bounds) {
    if (bound > 1e9) continue;
    sizes.push_back(static_cast<std::uint64_t>(bound) - 1);
    sizes.push_back(static_cast<std::uint64_t>(bound));
    sizes.push_back(static_cast<std::uint64_t>(bound) + 1);
  }
  sizes.push_back(UINT64_C(1) << 40);
  sizes.push_back(UINT64_MAX);
  for (const Allocator& allocator : kAllocators) {
    for (const std::uint64_t size : sizes) {
      SlabRig rig;
      Allocate(rig, allocator.count, size, size);
      const double expected = *std::ranges::lower_bound(empty.bounds, static_cast<double>(size));
      EXPECT_EQ(
          Histogram(rig.Export(), "kmem_slab_request_size_bytes", allocator.labels).OnlyBound(),
          expected)
          << size;
    }
  }
}

TEST(SlabTest, EachWasteIsInTheBucketOfTheFirstBoundThatHoldsIt) {
  const Buckets empty = Histogram(SlabRig().Export(), "kmem_slab_waste_bytes");
  EXPECT_EQ(empty.bounds.front(), 0);
  EXPECT_EQ(empty.bounds[1], 4);
  EXPECT_EQ(empty.bounds[empty.bounds.size() - 2], 1 << 20);
  for (const double bound : empty.bounds) {
    const std::uint64_t waste = bound > 1e9 ? UINT64_C(1) << 40 : static_cast<std::uint64_t>(bound);
    for (const std::uint64_t off : {waste - 1, waste, waste + 1}) {
      if (off == UINT64_MAX) continue;  // below 0
      SlabRig rig;
      Allocate(rig, &slab_count_kmalloc, 1, 1 + off);
      EXPECT_EQ(Histogram(rig.Export(), "kmem_slab_waste_bytes").OnlyBound(),
                *std::ranges::lower_bound(empty.bounds, static_cast<double>(off)))
          << off;
    }
  }
}

TEST(SlabTest, ItAsksForTheSixSlabTracepointsThoseOfFreesFirst) {
  std::vector<std::string_view> names;
  const SlabCollector collector;
  for (const EventSpec& event : collector.events()) names.push_back(event.name);
  EXPECT_THAT(names, ElementsAre("kfree", "kmem_cache_free", "kmalloc", "kmalloc_node",
                                 "kmem_cache_alloc", "kmem_cache_alloc_node"));
}

}  // namespace
}  // namespace kmem
