// The slab collector by call site, by cache and by size class, on records of real kernels' formats.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <array>
#include <bit>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>

#include "collectors/slab.h"
#include "dispatch_rig.h"
#include "exporter/exposition.h"
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
    rig_.OnRecord(
        rig_.MakeNamedRecord(event, {{"bytes_req", 100}, {"bytes_alloc", 128}}, name, shift));
  }
  Families Scrape(std::uint64_t seconds_later = 10) {
    rig_.ReadCommon(now_ns_ += seconds_later * 1'000'000'000);
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

// The samples of an exposition, by their name with the labels.
std::map<std::string, std::uint64_t> Samples(const std::string& text) {
  std::map<std::string, std::uint64_t> samples;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const std::size_t value = line.rfind(' ') + 1;
    if (line.starts_with("kmem_slab_") && line.find("_total") != std::string::npos) {
      samples[line.substr(0, value - 1)] = std::stoull(line.substr(value));
    }
  }
  return samples;
}

// Bytes that malloc has given out.
std::size_t InUse() {
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// A hundred thousand call sites, each of which comes now and then, beside favourites that change:
// from records to what a scrape sends.
class ManySitesTest : public SlabNamesTest {
 protected:
  static constexpr std::uint64_t kSites = 100'000;
  static constexpr std::uint64_t kFavourites = 30;
  static constexpr std::uint64_t kScrapes = 400;

  ManySitesTest() {
    rig_.NameEverything();
    facts_ = rig_.facts();
  }
  void Kmalloc(std::uint64_t site, std::uint64_t bytes) {
    rig_.Set(record_, "kmalloc", "call_site", 0xffffffff81000000 + 16 * site);
    rig_.Set(record_, "kmalloc", "bytes_req", bytes);
    rig_.Set(record_, "kmalloc", "bytes_alloc", std::bit_ceil(bytes));
    rig_.OnRecord(record_, static_cast<std::uint32_t>(random_() % 2));
    sum_["allocations"] += 1;
    sum_["requested_bytes"] += bytes;
    sum_["allocated_bytes"] += std::bit_ceil(bytes);
  }
  // What happens before one of the scrapes: every site once in all, and the favourites of the time.
  void Load(std::uint64_t scrape) {
    for (std::uint64_t i = 0; i < kSites / kScrapes; ++i) {
      Kmalloc(scrape * (kSites / kScrapes) + i, 1 + random_() % 4096);
    }
    const std::uint64_t first = scrape / 100 * 10'000;
    for (int i = 0; i < 500; ++i) Kmalloc(first + random_() % kFavourites, 1 + random_() % 4096);
  }
  void Check(const std::map<std::string, std::uint64_t>& samples) {
    std::map<std::string, std::uint64_t> series;
    for (const auto& [sample, value] : samples) {
      std::uint64_t& last = shown_last_[sample];
      ASSERT_GE(value, last) << sample;
      last = value;
      ++series[sample.substr(0, sample.find('{'))];
    }
    // Those that gave way keep their values, and what they do meanwhile is in `other`.
    std::map<std::string, std::uint64_t> sum;
    for (const auto& [sample, value] : shown_last_)
      sum[sample.substr(0, sample.find('{'))] += value;
    for (const auto& [what, counted] : sum_) {
      ASSERT_EQ(sum["kmem_slab_callsite_" + what + "_total"], counted) << what;
      ASSERT_EQ(sum["kmem_slab_" + what + "_total"], counted) << what;
      ASSERT_LE(series["kmem_slab_callsite_" + what + "_total"], 51U);
    }
  }

  HeapPage record_ = rig_.MakeRecord("kmalloc");
  std::mt19937_64 random_{31};  // NOLINT: the same history each time
  std::map<std::string, std::uint64_t> sum_;
  std::map<std::string, std::uint64_t> shown_last_;
};

TEST_F(ManySitesTest, AHundredThousandSitesKeepTheCapAndTheSumsInBoundedMemory) {
  Scrape();
  std::array<std::size_t, 3> in_use{InUse()};  // at the start, half way, at the end
  for (std::uint64_t scrape = 0; scrape < kScrapes; ++scrape) {
    if (scrape == kScrapes / 2) in_use[1] = InUse();
    Load(scrape);
    ASSERT_NO_FATAL_FAILURE(Check(Samples(Serialize(Scrape(60), TextFormat::kPrometheus))));
  }
  in_use[2] = InUse();
  RecordProperty("grown_by_bytes", std::to_string(in_use[2] - in_use[0]));
  EXPECT_LT(in_use[2], in_use[0] + (8 << 20));
  EXPECT_LT(in_use[2], in_use[1] + (1 << 20));  // as many names again are no more memory
  // Each time's favourites were seen, though the list was full of those before them.
  for (std::uint64_t time = 0; time < 4; ++time) {
    std::size_t shown = 0;
    for (std::uint64_t i = 0; i < kFavourites; ++i) {
      shown += shown_last_.contains("kmem_slab_callsite_allocations_total{call_site=\"f" +
                                    std::to_string(0xffffffff81000000 + 16 * (time * 10'000 + i)) +
                                    "\",module=\"kernel\"}");
    }
    EXPECT_EQ(shown, kFavourites) << time;
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
