// Counters scaled up by what was not traced, through to what a scrape shows.
#include "exporter/scaler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "collectors/slab_tables.h"
#include "dispatch_rig.h"
#include "exporter/sample_groups.h"

namespace kmem {
namespace {

constexpr std::uint64_t kOne = UINT64_C(1) << 32;

TEST(ScaledCounterTest, ShowsBitByBitWhatTheWindowStandsForAndNotWhatCameBeforeIt) {
  ScaledCounter counter{.known = 100, .from = 100, .begin = 110};
  EXPECT_EQ(counter.Show(130, false, kOne), 100U);  // the window goes on
  counter.EndWindow(150, 20 * kOne, kOne);          // 40 in the window, for 800
  EXPECT_EQ(counter.Show(155, false, 0), 100U);
  EXPECT_EQ(counter.Show(155, false, kOne / 2), 500U);
  EXPECT_EQ(counter.Show(155, false, kOne), 900U);
}

TEST(ScaledCounterTest, LosesNothingByRounding) {
  ScaledCounter counter;
  for (std::uint64_t count = 1; count <= 3'000'000; ++count)
    counter.EndWindow(count, kOne + kOne / 3, kOne);
  EXPECT_NEAR(static_cast<double>(counter.known), 4e6, 1);
}

TEST(ScaledCounterTest, StaysAsItIsWhereEverythingWasTraced) {
  ScaledCounter counter;
  for (std::uint64_t count = 0; count < 100; ++count) {
    counter.EndWindow(count, kOne, kOne);
    EXPECT_EQ(counter.Show(count, true, kOne), count);
  }
}

TEST(ScaledCounterTest, NeverFallsWhereAScrapeSawMoreThanCounts) {
  ScaledCounter counter;
  EXPECT_EQ(counter.Show(13, true, kOne), 13U);
  counter.Start(10, kOne);  // three of them after it
  EXPECT_EQ(counter.Show(13, false, kOne), 13U);
  counter.begin = 20;
  counter.EndWindow(30, 2 * kOne, kOne);
  EXPECT_EQ(counter.Show(30, false, 0), 13U);
  EXPECT_EQ(counter.Show(30, false, kOne), 30U);
}

// Windows of a steady load, which end at random: what is shown lags behind by always the same.
TEST(ScaledCounterTest, GrowsSteadilyHoweverFarApartTheWindowsAre) {
  constexpr std::uint64_t kMs = 1'000'000;
  std::mt19937_64 random(2);
  ScaledCounter counter;
  Spread spread;
  std::uint64_t now_ns = 0;
  for (int window = 0; window < 50; ++window) {
    const std::uint64_t period_ns = (400 + random() % 400) * 10 * kMs;
    for (const std::uint64_t at : {period_ns / 3, period_ns}) {
      const std::uint64_t shown = counter.Show(0, false, spread.PartAt(now_ns + at));
      const auto lag = static_cast<double>((now_ns + at) / kMs - shown);
      EXPECT_NEAR(lag, 8000, window < 10 ? 8000 : 3) << window;
    }
    now_ns += period_ns;
    // An event each millisecond, of which one in ten is counted.
    counter.begin = 0;
    counter.EndWindow(period_ns / kMs / 10, 10 * kOne, spread.PartAt(now_ns));
    spread = {.begin_ns = now_ns, .length_ns = 8000 * kMs};
  }
}

class ScalerTest : public testing::Test {
 protected:
  ScalerTest() {
    // What the events add is arithmetic of the collectors; here only their words matter.
    groups_ = MakeSampleGroups(rig_.collectors(), rig_.state().tracepoints);
    scaler_.emplace(rig_.collectors(), groups_);
  }

  [[nodiscard]] std::size_t GroupOf(std::string_view collector) const {
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      for (const std::size_t each : groups_[i].collectors) {
        if (rig_.collectors()[each]->name() == collector) return i;
      }
    }
    return groups_.size();
  }

  void Kmalloc(std::uint32_t cpu, std::uint64_t bytes, std::uint64_t site) {
    slab_alloc_event event{};
    event.call_site = site;
    event.ptr = 0xFFFF888000000000;
    event.bytes_req = bytes;
    event.bytes_alloc = bytes + 8;
    slab_count_kmalloc(reinterpret_cast<slab_tally*>(rig_.state().tallies[0].At(cpu)), &event,
                       nullptr);
    slab_count_site(sites_.data(), kSites, &event);
    rig_.state().cpus[cpu].events[0]++;
  }

  EventState State() {
    EventState state = rig_.state();
    state.tallies[0].common.clear();
    AppendSites(sites_, 0, state.tallies[0].common);
    return state;
  }
  EventState Scaled() {
    EventState state = State();
    scaler_->Apply(state);
    return state;
  }

  static constexpr std::uint32_t kSites = 64;
  std::vector<kmem_slot> sites_ = std::vector<kmem_slot>(kSites);
  DispatchRig rig_{"6.1"};
  std::vector<SampleGroup> groups_;
  std::optional<Scaler> scaler_;
};

// The edge is that of a reading; events go on being counted until the programs are detached.
TEST_F(ScalerTest, NothingFallsWhereAScrapeCameAfterTheEdgeAndBeforeTheStart) {
  Kmalloc(0, 100, 0x1000);
  scaler_->Expect(GroupOf("slab"));
  EventState edge = State();
  Kmalloc(0, 100, 0x1000);
  Kmalloc(1, 50, 0x2000);
  const EventState seen = Scaled();
  scaler_->Start(GroupOf("slab"), edge);
  const EventState after = Scaled();
  const auto requested = [](const EventState& state, std::uint32_t cpu) {
    return state.tallies[0].At<slab_tally>(cpu).counts.kmalloc.alloc.requested_bytes;
  };
  EXPECT_EQ(requested(seen, 0), 200U);
  EXPECT_EQ(requested(after, 0), 200U);
  EXPECT_EQ(requested(after, 1), 50U);
  EXPECT_EQ(after.tallies[0].common, seen.tallies[0].common);
  EXPECT_EQ(after.tracepoints[0].untraced, seen.tracepoints[0].untraced);
}

TEST_F(ScalerTest, GroupsWhatSharesATracepointAndSparesFragmentation) {
  EXPECT_NE(GroupOf("slab"), GroupOf("page"));
  EXPECT_EQ(GroupOf("page"), GroupOf("pcp"));
  EXPECT_EQ(groups_[GroupOf("slab")].sampling, Sampling::kFirst);
  EXPECT_EQ(groups_[GroupOf("page")].sampling, Sampling::kLast);
  EXPECT_EQ(groups_[GroupOf("extfrag")].sampling, Sampling::kNever);
  std::size_t tracepoints = 0;
  for (const SampleGroup& group : groups_) tracepoints += group.tracepoints.size();
  EXPECT_EQ(tracepoints, rig_.state().tracepoints.size());
}

// A pair of events may lie any time apart.
TEST(SampleGroupsTest, SlabIsNeverSampledWhileLiveMemoryIsOn) {
  CollectorsConfig config;
  config.slab_options.live.enabled = true;
  DispatchRig rig("6.1", 2, {}, config);
  const auto groups = MakeSampleGroups(rig.collectors(), rig.state().tracepoints);
  const auto slab = std::ranges::find_if(groups, [&](const SampleGroup& group) {
    return std::ranges::any_of(
        group.collectors, [&](std::size_t i) { return rig.collectors()[i]->name() == "slab"; });
  });
  ASSERT_NE(slab, groups.end());
  EXPECT_EQ(slab->sampling, Sampling::kNever);
  std::vector<std::string> tracepoints;
  for (const std::size_t i : slab->tracepoints) {
    tracepoints.push_back(rig.state().tracepoints[i].name);
  }
  EXPECT_THAT(tracepoints, testing::UnorderedElementsAre("kmalloc", "kmem_cache_alloc", "kfree",
                                                         "kmem_cache_free"));
  for (const SampleGroup& group : groups) {
    const bool is_pages = group.sampling == Sampling::kLast;
    EXPECT_EQ(is_pages, std::ranges::any_of(group.collectors, [&](std::size_t i) {
                return rig.collectors()[i]->name() == "page";
              }));
  }
}

TEST_F(ScalerTest, LeavesWhatWasNeverSampledAsItIs) {
  Kmalloc(0, 100, 0x1000);
  EXPECT_EQ(Scaled().tallies[0].common, State().tallies[0].common);
  EXPECT_EQ(Scaled().tracepoints[0].untraced, 0U);
}

TEST_F(ScalerTest, ScalesCountersAndNothingElse) {
  const std::size_t slab = GroupOf("slab");
  Kmalloc(0, 100, 0x1000);
  EventState state = State();
  scaler_->Start(slab, state);
  scaler_->BeginWindow(slab, state);
  Kmalloc(1, 100, 0x1000);
  Kmalloc(1, 200, 0x2000);
  state = State();
  scaler_->EndWindow(slab, state, 10, false, 0);
  const EventState scaled = Scaled();
  const auto& cpu1 = scaled.tallies[0].At<slab_tally>(1);
  EXPECT_EQ(cpu1.counts.kmalloc.alloc.allocations, 20U);
  EXPECT_EQ(cpu1.counts.kmalloc.alloc.requested_bytes, 3000U);
  EXPECT_EQ(scaled.tallies[0].At<slab_tally>(0).counts.kmalloc.alloc.allocations, 1U);
  EXPECT_EQ(scaled.tracepoints[0].untraced, 18U);
  for (const TableEntry& site : ParseSlabTables(scaled.tallies[0].common).sites) {
    EXPECT_EQ(site.slot.values[SLAB_SITE_ALLOCATIONS], site.slot.key == 0x1000 ? 11U : 10U);
    EXPECT_EQ(static_cast<std::uint32_t>(site.slot.values[SLAB_SITE_SIZES]),
              site.slot.key == 0x1000 ? 100U : 200U);
  }
}

TEST_F(ScalerTest, ShowsNoNonsenseOfAWindowWithoutLength) {
  const std::size_t slab = GroupOf("slab");
  EventState state = State();
  scaler_->Start(slab, state);
  scaler_->BeginWindow(slab, state);
  Kmalloc(1, 100, 0x1000);
  state = State();
  scaler_->EndWindow(slab, state, 1e12, false, 0);
  EXPECT_EQ(Scaled().tallies[0].At<slab_tally>(1).counts.kmalloc.alloc.allocations, 1'000'000U);
}

// All samples of counters and of histograms' buckets, sums and counts, by name and labels.
std::map<std::string, double> Counters(const Families& families) {
  std::map<std::string, double> values;
  for (const auto& family : families) {
    for (const auto& metric : family.metric) {
      std::string key = family.name;
      for (const auto& label : metric.label) key += "," + label.name + "=" + label.value;
      if (family.type == prometheus::MetricType::Counter) values[key] = metric.counter.value;
      if (family.type != prometheus::MetricType::Histogram) continue;
      values[key + " count"] = static_cast<double>(metric.histogram.sample_count);
      values[key + " sum"] = metric.histogram.sample_sum;
      for (const auto& bucket : metric.histogram.bucket) {
        values[key + " " + std::to_string(bucket.upper_bound)] =
            static_cast<double>(bucket.cumulative_count);
      }
    }
  }
  return values;
}

TEST_F(ScalerTest, NothingFallsAndSumsHoldWhateverHappens) {
  const std::size_t slab = GroupOf("slab");
  std::mt19937_64 random(11);
  KernelFacts facts = rig_.facts();
  facts.symbols = std::make_shared<NamedByAddress>();
  std::map<std::string, double> shown_last;
  bool sampled = false;
  bool open = true;
  std::uint64_t now_ns = 1;
  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t events = random() % 50;
    // Between windows a few are counted too: what is enabled or disabled already.
    for (std::uint64_t i = 0; i < (open ? events : events % 3); ++i) {
      Kmalloc(static_cast<std::uint32_t>(random() % 2), random() % 9000, random() % 90 + 1);
    }
    now_ns += 11'000'000'000;
    EventState state = State();
    state.taken_at_ns = now_ns;
    if (!sampled && random() % 20 == 0) {
      scaler_->Start(slab, state);
      sampled = true;
      open = false;
    } else if (sampled && !open) {
      scaler_->BeginWindow(slab, state);
      open = true;
    } else if (sampled && random() % 2 == 0) {
      sampled = random() % 10 != 0;
      open = !sampled;
      scaler_->EndWindow(slab, state, 1 + static_cast<double>(random() % 5000) / 100, open,
                         static_cast<double>(random() % 60));
    }
    EventState scaled = State();
    scaled.taken_at_ns = now_ns;
    scaler_->Apply(scaled);
    scaled.tallies[0].taken_at_ns = now_ns;
    Families out;
    AppendTracepointMetrics(scaled, out);
    rig_.collectors()[0]->Export(scaled.tallies[0], facts, out);
    const auto values = Counters(out);
    // A name that gave way and returns goes on from its value.
    for (const auto& [name, value] : values) {
      double& last = shown_last[name];
      ASSERT_GE(value, last) << name << " in step " << step;
      last = value;
    }
    const std::string sizes = "kmem_slab_request_size_bytes,allocator=kmalloc ";
    EXPECT_EQ(values.at(sizes + "count"), values.at(sizes + "inf"));
    EXPECT_EQ(values.at(sizes + "sum"),
              values.at("kmem_slab_requested_bytes_total,allocator=kmalloc"));
    // Each of the buckets' words carries remainders of its own.
    EXPECT_NEAR(values.at(sizes + "count"),
                values.at("kmem_slab_allocations_total,allocator=kmalloc"), 4 * SLAB_SIZE_BUCKETS);
  }
}

}  // namespace
}  // namespace kmem
