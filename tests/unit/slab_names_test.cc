// The slab collector by call site, by cache and by size class, on records of real kernels' formats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "collectors/slab.h"
#include "dispatch_rig.h"
#include "exporter/symbols.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

constexpr std::uint64_t kPipe = 0xffffffff81000010;
constexpr std::uint64_t kPipeAgain = 0xffffffff81000020;  // another call in the same function
constexpr std::uint64_t kFile = 0xffffffff81000110;
constexpr std::uint64_t kModule = 0xffffffffc0000010;
constexpr std::uint64_t kNowhere = 0xffffffffd0000000;

const LabelMap kPipeLabels{{"call_site", "alloc_pipe"}, {"module", "kernel"}};
const LabelMap kOtherSite{{"call_site", "other"}, {"module", ""}};

std::shared_ptr<Symbols> SomeSymbols() {
  return std::make_shared<SymbolList>(
      std::map<std::uint64_t, Symbol>{{kPipe, {"alloc_pipe", "kernel"}},
                                      {kPipeAgain, {"alloc_pipe", "kernel"}},
                                      {kFile, {"alloc_file", "kernel"}},
                                      {kModule, {"ext4_alloc", "ext4"}}});
}

class SlabNamesTest : public ::testing::Test {
 protected:
  explicit SlabNamesTest(const std::string& kernel = "6.18") : rig_(kernel) {
    facts_ = rig_.facts();
    rig_.formats().CompleteFacts(facts_);
    facts_.symbols = SomeSymbols();
  }
  void Allocate(const char* event, std::uint64_t site, std::uint64_t req, std::uint64_t alloc,
                std::uint32_t cpu = 0, std::uint64_t ptr = 0xffff888000001000) {
    rig_.OnRecord(
        rig_.MakeRecord(
            event, {{"call_site", site}, {"ptr", ptr}, {"bytes_req", req}, {"bytes_alloc", alloc}}),
        cpu);
  }
  // An event of a cache with that name behind its fields; `shift` puts the name elsewhere.
  void OfCache(const char* event, const std::string& name, std::uint32_t shift = 0) {
    const HeapPage plain = rig_.MakeRecord(event);
    std::vector<std::byte> bytes(plain.data(), plain.data() + plain.size());
    const std::uint64_t where = (bytes.size() + shift) | static_cast<std::uint64_t>(name.size() + 1)
                                                             << 16;
    const HeapPage with_where =
        rig_.MakeRecord(event, {{"name", where}, {"bytes_req", 100}, {"bytes_alloc", 128}});
    bytes.assign(with_where.data(), with_where.data() + with_where.size());
    for (const char c : name) bytes.push_back(static_cast<std::byte>(c));
    bytes.push_back(std::byte{0});
    rig_.OnRecord(HeapPage(bytes));
  }
  Families Scrape() {
    rig_.dispatcher().ReadCommon(now_ns_ += 10'000'000'000);
    Families out;
    rig_.collectors().at(0)->Export(rig_.state().tallies.at(0), facts_, out);
    return out;
  }

  DispatchRig rig_;
  KernelFacts facts_;
  std::uint64_t now_ns_ = 1;
};

TEST_F(SlabNamesTest, ASiteIsItsFunctionOnAllCpusAndForBothAllocators) {
  Allocate("kmalloc", kPipe, 100, 128);
  Allocate("kmalloc", kPipeAgain, 100, 128, 1);
  Allocate("kmem_cache_alloc", kPipe, 100, 104);
  Allocate("kmalloc", kModule, 1000, 1024);
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_callsite_allocations_total", kPipeLabels), 3);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_requested_bytes_total", kPipeLabels), 300);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_allocated_bytes_total", kPipeLabels), 360);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_allocated_bytes_total",
                  {{"call_site", "ext4_alloc"}, {"module", "ext4"}}),
            1024);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_allocations_total", kOtherSite), 0);
  EXPECT_EQ(Value(families, "kmem_exporter_symbols_available"), 1);
}

TEST_F(SlabNamesTest, TheSitesAndOtherAddUpToTheAllocatorsTotals) {
  Allocate("kmalloc", kPipe, 100, 128);
  Allocate("kmalloc", kNowhere, 10, 16);
  Allocate("kmem_cache_alloc", kFile, 50, 64);
  Scrape();
  Allocate("kmalloc", kNowhere, 10, 16);
  Allocate("kmem_cache_alloc", kFile, 50, 64);
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_callsite_requested_bytes_total", kOtherSite), 20);
  for (const char* what : {"allocations", "requested_bytes", "allocated_bytes"}) {
    EXPECT_EQ(Total(families, std::string("kmem_slab_callsite_") + what + "_total"),
              Total(families, std::string("kmem_slab_") + what + "_total"))
        << what;
  }
}

TEST_F(SlabNamesTest, AFailedAllocationBelongsToNoSite) {
  Allocate("kmalloc", kPipe, 100, 128, 0, 0);
  EXPECT_EQ(Total(Scrape(), "kmem_slab_callsite_allocations_total"), 0);
}

TEST_F(SlabNamesTest, WithoutSymbolsAllIsInOtherAndNoAddressIsShown) {
  for (const auto& symbols :
       {std::shared_ptr<Symbols>(), std::shared_ptr<Symbols>(std::make_shared<SymbolList>(
                                        std::map<std::uint64_t, Symbol>{}))}) {
    facts_.symbols = symbols;
    Allocate("kmalloc", kPipe, 100, 128);
    const Families families = Scrape();
    EXPECT_EQ(SeriesIn(families, "kmem_slab_callsite_allocations_total"), 1U);
    EXPECT_EQ(Value(families, "kmem_slab_callsite_allocations_total", kOtherSite),
              Total(families, "kmem_slab_allocations_total"));
    EXPECT_EQ(Value(families, "kmem_exporter_symbols_available"), 0);
  }
}

TEST_F(SlabNamesTest, ASiteOfOneSizeIsToldFromOneOfMany) {
  for (int i = 0; i < 3; ++i) Allocate("kmalloc", kPipe, 40, 64);
  Allocate("kmalloc", kFile, 40, 64);
  Allocate("kmalloc", kFile, 41, 64);
  Allocate("kmalloc", kFile, 400, 512);
  const Families families = Scrape();
  const LabelMap file{{"call_site", "alloc_file"}, {"module", "kernel"}};
  EXPECT_EQ(Value(families, "kmem_slab_callsite_size_classes", kPipeLabels), 1);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_fixed_size_bytes", kPipeLabels), 40);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_size_classes", file), 2);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_fixed_size_bytes", file), 0);
}

TEST_F(SlabNamesTest, TwoCallsOfOneFunctionWithASizeEachAreSeveralSizes) {
  Allocate("kmalloc", kPipe, 40, 64);
  Allocate("kmalloc", kPipeAgain, 48, 64);
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_callsite_size_classes", kPipeLabels), 1);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_fixed_size_bytes", kPipeLabels), 0);
}

TEST_F(SlabNamesTest, KmallocsAreCountedByTheBytesThatTheyTook) {
  Allocate("kmalloc", kPipe, 40, 64);
  Allocate("kmalloc", kPipe, 65, 96);
  Allocate("kmem_cache_alloc", kPipe, 60, 64);
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_kmalloc_allocations_total", {{"size_class", "64"}}), 1);
  EXPECT_EQ(Value(families, "kmem_slab_kmalloc_requested_bytes_total", {{"size_class", "96"}}), 65);
  EXPECT_EQ(Total(families, "kmem_slab_kmalloc_allocations_total"), 2);
}

TEST_F(SlabNamesTest, CachesHaveTheirNamesInAllocationsAndFrees) {
  OfCache("kmem_cache_alloc", "filp");
  OfCache("kmem_cache_alloc", "filp");
  OfCache("kmem_cache_free", "filp");
  OfCache("kmem_cache_free", "dentry");
  OfCache("kmem_cache_alloc", std::string(100, 'x'));
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_cache_allocations_total", {{"cache", "filp"}}), 2);
  EXPECT_EQ(Value(families, "kmem_slab_cache_allocated_bytes_total", {{"cache", "filp"}}), 256);
  EXPECT_EQ(Value(families, "kmem_slab_cache_frees_total", {{"cache", "filp"}}), 1);
  EXPECT_EQ(Value(families, "kmem_slab_cache_frees_total", {{"cache", "dentry"}}), 1);
  EXPECT_EQ(Value(families, "kmem_slab_cache_allocations_total", {{"cache", std::string(47, 'x')}}),
            1);
}

TEST_F(SlabNamesTest, ACacheWhoseNameIsOddOrCannotBeReadIsStillCounted) {
  OfCache("kmem_cache_alloc", "odd \"\\\n\xff");
  OfCache("kmem_cache_alloc", "other");
  OfCache("kmem_cache_alloc", "");
  OfCache("kmem_cache_alloc", "beyond", 1);
  OfCache("kmem_cache_alloc", "far beyond", 60000);
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_cache_allocations_total", {{"cache", "odd \"\\\n\xff"}}), 1);
  EXPECT_EQ(Value(families, "kmem_slab_cache_allocations_total", {{"cache", "other"}}), 4);
  EXPECT_EQ(SeriesIn(families, "kmem_slab_cache_allocations_total"), 2U);
  EXPECT_EQ(Total(families, "kmem_slab_allocations_total"), 5);
}

TEST_F(SlabNamesTest, FourThousandCachesHaveFiftySeriesAndTheRestAddsUp) {
  constexpr int kCaches = 4000;
  constexpr int kHeavy = 20;
  Scrape();
  for (int round = 0; round < 3; ++round) {
    for (int cache = 0; cache < kCaches; ++cache) {
      OfCache("kmem_cache_alloc", "cache-" + std::to_string(cache));
      OfCache("kmem_cache_alloc", "heavy-" + std::to_string(cache % kHeavy));
    }
    Scrape();
  }
  const Families families = Scrape();
  EXPECT_LE(SeriesIn(families, "kmem_slab_cache_allocations_total"), 51U);
  EXPECT_EQ(Total(families, "kmem_slab_cache_allocations_total"), 3 * 2 * kCaches);
  EXPECT_EQ(Total(families, "kmem_slab_cache_allocated_bytes_total"), 3 * 2 * kCaches * 128);
  for (int cache = 0; cache < kHeavy; ++cache) {
    const std::string name = "heavy-" + std::to_string(cache);
    EXPECT_EQ(Value(families, "kmem_slab_cache_allocations_total", {{"cache", name}}),
              3 * kCaches / kHeavy)
        << name;
  }
}

class SlabNamesOf61Test : public SlabNamesTest {
 protected:
  SlabNamesOf61Test() : SlabNamesTest("6.1") {}
};
TEST_F(SlabNamesOf61Test, OnlyFreesNameTheirCache) {
  OfCache("kmem_cache_free", "filp");
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_cache_frees_total", {{"cache", "filp"}}), 1);
  EXPECT_EQ(SeriesIn(families, "kmem_slab_cache_allocations_total"), 0U);
}

class SlabNamesOf510Test : public SlabNamesTest {
 protected:
  SlabNamesOf510Test() : SlabNamesTest("5.10") {}
};
TEST_F(SlabNamesOf510Test, NothingNamesACacheAndNodeEventsHaveCallSites) {
  Allocate("kmalloc_node", kPipe, 40, 64);
  Allocate("kmem_cache_alloc_node", kPipe, 40, 64);
  const Families families = Scrape();
  EXPECT_EQ(SeriesIn(families, "kmem_slab_cache_frees_total"), 0U);
  EXPECT_EQ(SeriesIn(families, "kmem_slab_cache_allocations_total"), 0U);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_allocations_total", kPipeLabels), 2);
  EXPECT_EQ(Value(families, "kmem_slab_kmalloc_allocations_total", {{"size_class", "64"}}), 1);
}

TEST(SlabOptionsTest, WhatIsOffHasNoFamiliesAndNoTables) {
  const SlabCollector collector({.callsites = {.enabled = false, .max_series = 50},
                                 .caches = {.enabled = false, .max_series = 50},
                                 .live = {}});
  EXPECT_EQ(collector.common_bytes(), 0U);
  Families families;
  collector.Export(Tallies(collector.tally_bytes(), 1), {}, families);
  EXPECT_EQ(families.size(), 7U);
}

}  // namespace
}  // namespace kmem
