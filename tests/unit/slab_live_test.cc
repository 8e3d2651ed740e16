// Live slab memory by call site, as it is exported.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "collectors/slab.h"
#include "exporter/symbols.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

constexpr std::uint64_t kPipe = 0xffffffff81000010;
constexpr std::uint64_t kPipeAgain = 0xffffffff81000020;  // another call in the same function
constexpr std::uint64_t kFile = 0xffffffff81000110;
constexpr std::uint64_t kNowhere = 0xffffffffd0000000;
constexpr std::uint64_t kScrape = 15'000'000'000;

const LabelMap kPipeLabels{{"call_site", "alloc_pipe"}, {"module", "kernel"}};
const LabelMap kOtherSite{{"call_site", "other"}, {"module", ""}};

SlabLiveSite Site(std::uint32_t place, std::uint64_t call_site, std::uint64_t objects,
                  std::array<std::uint64_t, SLAB_LIVE_AGES> bytes,
                  std::uint64_t left_out = SLAB_LIVE_SHOWN) {
  return {place, 1, call_site, objects, bytes, left_out};
}

class SlabLiveTest : public ::testing::Test {
 protected:
  SlabLiveTest() {
    facts_.symbols = std::make_shared<SymbolList>(
        std::map<std::uint64_t, Symbol>{{kPipe, {"alloc_pipe", "kernel"}},
                                        {kPipeAgain, {"alloc_pipe", "kernel"}},
                                        {kFile, {"alloc_file", "kernel"}}});
    options_.enabled = true;
    tables_.live = SlabLiveTotals{};
  }
  Families Scrape() {
    if (book_ == nullptr) book_ = std::make_unique<SlabLiveBook>(options_, max_series_);
    Families out;
    book_->Export(tables_, {now_ns_ += kScrape, whole_}, facts_, out);
    return out;
  }
  static LabelMap Aged(LabelMap labels, const std::string& seconds) {
    labels["min_age_seconds"] = seconds;
    return labels;
  }

  SlabLiveOptions options_;
  std::size_t max_series_ = 50;
  SlabTables tables_;
  bool whole_ = true;
  KernelFacts facts_;
  std::unique_ptr<SlabLiveBook> book_;
  std::uint64_t now_ns_ = 0;
};

TEST_F(SlabLiveTest, AFunctionHoldsWhatAllItsCallsHold) {
  tables_.live_sites = {Site(0, kPipe, 3, {100, 20, 3, 1}), Site(7, kPipeAgain, 1, {0, 0, 0, 64}),
                        Site(9, kNowhere, 5, {50, 0, 0, 0})};
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_objects", kPipeLabels), 4);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_bytes", kPipeLabels), 188);
  const char* aged = "kmem_slab_callsite_live_aged_bytes";
  EXPECT_EQ(Value(families, aged, Aged(kPipeLabels, "60")), 88);
  EXPECT_EQ(Value(families, aged, Aged(kPipeLabels, "600")), 68);
  EXPECT_EQ(Value(families, aged, Aged(kPipeLabels, "3600")), 65);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_bytes", kOtherSite), 50);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_objects", kOtherSite), 5);
  EXPECT_EQ(Value(families, "kmem_exporter_live_complete"), 1);
}

TEST_F(SlabLiveTest, WhatIsSampledIsScaledUpAndLossesAreNot) {
  options_.sample_one_in = 16;
  tables_.live_sites = {Site(0, kPipe, 3, {100, 0, 0, 0})};
  tables_.live->dropped[SLAB_LIVE_POINTER_REUSED] = 5;
  const Families families = Scrape();
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_objects", kPipeLabels), 48);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_bytes", kPipeLabels), 1600);
  EXPECT_EQ(Value(families, "kmem_exporter_live_dropped_total", {{"reason", "pointer_reused"}}), 5);
  EXPECT_EQ(Value(families, "kmem_exporter_live_complete"), 1) << "a silent free is no loss";
}

TEST_F(SlabLiveTest, AfterALossTheDoubtIsVisible) {
  whole_ = false;
  EXPECT_EQ(Value(Scrape(), "kmem_exporter_live_complete"), 0);
  whole_ = true;
  for (const auto reason : {SLAB_LIVE_TABLE_FULL, SLAB_LIVE_BUSY}) {
    tables_.live = SlabLiveTotals{};
    tables_.live->dropped.at(reason) = 1;
    EXPECT_EQ(Value(Scrape(), "kmem_exporter_live_complete"), 0);
  }
  tables_.live = SlabLiveTotals{};
  tables_.live->stale = 1;
  EXPECT_EQ(Value(Scrape(), "kmem_exporter_live_complete"), 0);
  tables_.live->stale = 0;
  EXPECT_EQ(Value(Scrape(), "kmem_exporter_live_complete"), 1) << "it could be read again";
}

TEST_F(SlabLiveTest, WithoutSymbolsAllIsInOther) {
  facts_.symbols = nullptr;
  tables_.live_sites = {Site(0, kPipe, 3, {100, 0, 0, 0}), Site(1, kFile, 1, {7, 0, 0, 0})};
  const Families families = Scrape();
  EXPECT_EQ(SeriesIn(families, "kmem_slab_callsite_live_bytes"), 1U);
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_bytes", kOtherSite), 107);
}

TEST_F(SlabLiveTest, WhatIsGoneKeepsItsSeriesAtZero) {
  tables_.live_sites = {Site(0, kPipe, 3, {100, 0, 0, 0})};
  Scrape();
  tables_.live_sites.clear();
  EXPECT_EQ(Value(Scrape(), "kmem_slab_callsite_live_bytes", kPipeLabels), 0);
}

TEST_F(SlabLiveTest, ASlowLeakTakesThePlaceOfWhatHoldsLittle) {
  max_series_ = 1;
  tables_.live_sites = {Site(0, kPipe, 1, {1000, 0, 0, 0})};
  Scrape();
  std::uint64_t leaked = 0;
  Families families;
  for (int i = 0; i < 400; ++i) {
    leaked += 10;
    tables_.live_sites = {Site(0, kPipe, 1, {1000, 0, 0, 0}),
                          Site(1, kFile, leaked, {leaked, 0, 0, 0})};
    families = Scrape();
    EXPECT_EQ(Total(families, "kmem_slab_callsite_live_bytes"), 1000 + static_cast<double>(leaked));
    EXPECT_EQ(SeriesIn(families, "kmem_slab_callsite_live_bytes"), 2U);
  }
  EXPECT_EQ(Value(families, "kmem_slab_callsite_live_bytes",
                  {{"call_site", "alloc_file"}, {"module", "kernel"}}),
            4000);
}

TEST_F(SlabLiveTest, WhatIsLeftOutIsInNoGaugeAndNamed) {
  options_.exclude_call_sites = {"alloc_file"};
  tables_.live_sites = {Site(0, kPipe, 3, {100, 0, 0, 0}, SLAB_LIVE_SILENT),
                        Site(1, kPipeAgain, 3, {100, 0, 0, 0}, SLAB_LIVE_SILENT),
                        Site(2, kFile, 1, {7, 0, 0, 0}),
                        Site(3, kNowhere, 1, {7, 0, 0, 0}, SLAB_LIVE_SILENT)};
  const Families families = Scrape();
  EXPECT_EQ(Total(families, "kmem_slab_callsite_live_bytes"), 0);
  const char* left_out = "kmem_exporter_live_left_out_call_sites";
  const auto with = [](LabelMap labels, const char* reason) {
    labels["reason"] = reason;
    return labels;
  };
  EXPECT_EQ(Value(families, left_out, with(kPipeLabels, "freed_silently")), 2);
  EXPECT_EQ(Value(families, left_out,
                  {{"call_site", "alloc_file"}, {"module", "kernel"}, {"reason", "excluded"}}),
            1);
  EXPECT_EQ(Value(families, left_out, with(kOtherSite, "freed_silently")), 1);
}

// By the collector as an engine uses it: an excluded function's objects need no places.
TEST_F(SlabLiveTest, TheTableLearnsWhatIsExcludedFromThoseWhoKnowNames) {
  SlabOptions options;
  options.live = options_;
  options.live.enabled = true;
  options.live.max_objects = 1024;
  options.live.exclude_call_sites = {"alloc_file"};
  const SlabCollector collector(options);
  std::vector<std::uint64_t> memory(collector.common_bytes() / sizeof(std::uint64_t));
  auto* const common = reinterpret_cast<std::byte*>(memory.data());
  collector.InitCommon(common);
  slab_live* const live = reinterpret_cast<slab_common*>(common)->live;
  ASSERT_NE(live, nullptr);
  Tallies tallies(collector.tally_bytes(), 1);
  const auto allocate = [&](std::uint64_t ptr, std::uint64_t time_ns) {
    const slab_live_event event{time_ns, ptr, kFile, 64, 0, SLAB_LIVE_ALLOC};
    slab_live_note(live, &event);
    collector.SettleCommon(common, tallies, time_ns + 1, time_ns + 1);
  };
  allocate(0xffff888000001000, 10);
  const auto scrape = [&] {
    tallies.common.clear();
    tallies.taken_at_ns += kScrape;
    collector.ReadCommon(common, tallies.common);
    EXPECT_LE(tallies.common.size(), collector.read_bytes());
    Families out;
    collector.Export(tallies, facts_, out);
    return out;
  };
  EXPECT_EQ(Total(scrape(), "kmem_slab_callsite_live_bytes"), 0);
  collector.SettleCommon(common, tallies, UINT64_MAX, 100);
  const Families families = scrape();
  EXPECT_EQ(Value(families, "kmem_exporter_live_left_out_call_sites",
                  {{"call_site", "alloc_file"}, {"module", "kernel"}, {"reason", "excluded"}}),
            1);
  allocate(0xffff888000001040, 200);
  for (const slab_live_site& site : live->sites) EXPECT_EQ(site.objects, 0U);
}

}  // namespace
}  // namespace kmem
