// What must hold whatever the order in which pages are read and CPUs are merged, over the pages of
// real kernels.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "dispatch_rig.h"
#include "exporter/exposition.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

// What is off by default too.
CollectorsConfig Everything() {
  CollectorsConfig config;
  config.slab_options.live.enabled = true;
  config.slab_options.live.max_objects = 32768;
  return config;
}

// All collectors, and a name for every call site.
class NamingRig : public DispatchRig {
 public:
  explicit NamingRig(const std::string& kernel, std::uint32_t cpus = 2,
                     const CollectorsConfig& config = Everything())
      : DispatchRig(kernel, cpus, {}, config) {
    NameEverything();
  }
  // What a scrape shows, `seconds` after the one before.
  [[nodiscard]] Families Scrape(std::uint64_t seconds) {
    ReadCommon(now_ns_ += seconds * 1'000'000'000);
    return Export();
  }

 private:
  std::uint64_t now_ns_ = 0;
};

// Read from which CPU's buffer, and its how manieth page.
struct Turn {
  std::uint32_t cpu;
  std::size_t page;
};

class PropertiesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    pages_.push_back(ReadPages(GetParam(), "cpu0.raw"));
    pages_.push_back(ReadPages(GetParam(), "cpu1.raw"));
  }

  // An order in which a drain could read the pages: each CPU's in the order they were written.
  [[nodiscard]] std::vector<Turn> RandomTurns(std::mt19937& random) const {
    std::vector<std::uint32_t> cpus;
    for (std::uint32_t cpu = 0; cpu < 2; ++cpu) cpus.insert(cpus.end(), pages_[cpu].size(), cpu);
    std::ranges::shuffle(cpus, random);
    std::vector<std::size_t> next(2);
    std::vector<Turn> turns;
    for (const std::uint32_t cpu : cpus) turns.push_back({cpu, next[cpu]++});
    return turns;
  }
  [[nodiscard]] std::vector<Turn> InOrder(const std::vector<std::uint32_t>& cpus) const {
    std::vector<Turn> turns;
    for (const std::uint32_t cpu : cpus) {
      for (std::size_t page = 0; page < pages_[cpu].size(); ++page) turns.push_back({cpu, page});
    }
    return turns;
  }

  // Hands a page to the rig, as if it were CPU `as`'s.
  std::uint32_t Read(DispatchRig& rig, Turn turn, std::uint32_t as) const {
    const PageResult result = rig.OnPage(as, pages_[turn.cpu][turn.page]);
    EXPECT_EQ(result.error, PageError::kNone);
    return result.records;
  }
  std::uint32_t Read(DispatchRig& rig, Turn turn) const { return Read(rig, turn, turn.cpu); }

  // Every event before this time has been handled once the page has been.
  [[nodiscard]] std::uint64_t TimeBehind(Turn turn) const {
    if (turn.page + 1 == pages_[turn.cpu].size()) return UINT64_MAX;
    std::uint64_t first = UINT64_MAX;
    WalkPage(pages_[turn.cpu][turn.page + 1].bytes(), {},
             [&](std::uint64_t time, const std::byte* /*record*/, std::uint32_t /*length*/) {
               first = std::min(first, time);
             });
    return first;
  }

  static void SettleAll(DispatchRig& rig) {
    for (std::uint32_t cpu = 0; cpu < rig.state().cpus.size(); ++cpu) rig.Settle(cpu, UINT64_MAX);
    rig.SettleCommon(UINT64_MAX);
  }
  // Everything that is exported once all has been read and settled.
  [[nodiscard]] static std::string Exposition(NamingRig& rig) {
    SettleAll(rig);
    const Families families = rig.Scrape(15);
    // What is by name is in it, of all kernels.
    EXPECT_GT(SeriesIn(families, "kmem_slab_callsite_allocations_total"), 10U);
    EXPECT_GT(Total(families, "kmem_slab_callsite_live_objects"), 0);
    return Serialize(families, TextFormat::kPrometheus);
  }
  [[nodiscard]] std::string Reference() const {
    NamingRig rig(GetParam());
    for (const Turn turn : InOrder({0, 1})) Read(rig, turn);
    return Exposition(rig);
  }

  std::vector<std::vector<HeapPage>> pages_;  // by CPU
};
INSTANTIATE_TEST_SUITE_P(Kernels, PropertiesTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(PropertiesTest, TheOrderInWhichCpusAreReadDoesNotMatter) {
  const std::string reference = Reference();
  NamingRig other_first(GetParam());
  for (const Turn turn : InOrder({1, 0})) Read(other_first, turn);
  EXPECT_EQ(Exposition(other_first), reference);
  std::mt19937 random(11);  // NOLINT(*-msc51-cpp): the same orders in each run
  for (int round = 0; round < 10; ++round) {
    NamingRig rig(GetParam());
    for (const Turn turn : RandomTurns(random)) Read(rig, turn);
    EXPECT_EQ(Exposition(rig), reference);
  }
}

TEST_P(PropertiesTest, ScrapesInBetweenDoNotChangeWhatIsCounted) {
  const std::string reference = Reference();
  std::mt19937 random(12);  // NOLINT(*-msc51-cpp): the same orders in each run
  for (int round = 0; round < 10; ++round) {
    NamingRig rig(GetParam());
    std::array<std::uint64_t, 2> read_up_to{};
    for (const Turn turn : RandomTurns(random)) {
      Read(rig, turn);
      if (random() % 2 == 0) rig.Settle(turn.cpu, TimeBehind(turn));
      read_up_to.at(turn.cpu) = TimeBehind(turn);
      if (random() % 2 == 0) rig.SettleCommon(std::ranges::min(read_up_to));
    }
    EXPECT_EQ(Exposition(rig), reference);
  }
}

// A line without its `cpu` label's value.
std::string SwapCpus(std::string text) {
  for (std::size_t at = 0; (at = text.find("{cpu=\"", at)) != std::string::npos;) {
    at += 6;
    text[at] = text[at] == '0' ? '1' : '0';
  }
  return text;
}
std::vector<std::string> SortedLines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::ranges::sort(lines);
  return lines;
}

TEST_P(PropertiesTest, WhichCpuIsWhichMattersOnlyForTheirOwnSeries) {
  NamingRig swapped(GetParam());
  for (const Turn turn : InOrder({0, 1})) Read(swapped, turn, 1 - turn.cpu);
  EXPECT_EQ(SortedLines(SwapCpus(Exposition(swapped))), SortedLines(Reference()));
}

TEST_P(PropertiesTest, CpusWithoutEventsChangeNothing) {
  NamingRig rig(GetParam(), 64);
  for (const Turn turn : InOrder({0, 1})) Read(rig, turn);
  EXPECT_EQ(Exposition(rig), Reference());
}

// Every number that may never fall, by the name and labels of its sample.
std::map<std::string, double> Counters(const Families& families) {
  std::map<std::string, double> counters;
  for (const auto& family : families) {
    for (const auto& metric : family.metric) {
      std::string key = family.name;
      for (const auto& [name, value] : LabelsOf(metric)) key += "," + name + "=" + value;
      if (family.type == prometheus::MetricType::Counter) {
        counters[key] = metric.counter.value;
      } else if (family.type == prometheus::MetricType::Histogram) {
        counters[key + " sum"] = metric.histogram.sample_sum;
        counters[key + " count"] = static_cast<double>(metric.histogram.sample_count);
        for (const auto& bucket : metric.histogram.bucket) {
          counters[key + " le " + std::to_string(bucket.upper_bound)] =
              static_cast<double>(bucket.cumulative_count);
        }
      }
    }
  }
  return counters;
}

TEST_P(PropertiesTest, CountersNeverFallAndSeriesNeverVanish) {
  std::mt19937 random(13);  // NOLINT(*-msc51-cpp): the same orders in each run
  for (int round = 0; round < 3; ++round) {
    NamingRig rig(GetParam());
    std::map<std::string, double> before = Counters(rig.Export());
    EXPECT_GT(before.size(), 200U);
    const std::size_t without_names = before.size();
    std::array<std::uint64_t, 2> read_up_to{};
    for (const Turn turn : RandomTurns(random)) {
      Read(rig, turn);
      rig.Settle(turn.cpu, TimeBehind(turn));
      read_up_to.at(turn.cpu) = TimeBehind(turn);
      rig.SettleCommon(std::ranges::min(read_up_to));
      const std::map<std::string, double> now = Counters(rig.Scrape(15));
      for (const auto& [key, value] : before) {
        const auto at = now.find(key);
        ASSERT_NE(at, now.end()) << key;
        ASSERT_GE(at->second, value) << key;
      }
      before = now;
    }
    EXPECT_GT(before.size(), without_names + 30);  // three series for each call site
  }
}

// With so few places, and so often the same events, that names have to give way.
TEST_P(PropertiesTest, NamesComeAndGoButNoCounterFallsAndNothingIsMissing) {
  CollectorsConfig config = Everything();
  config.slab_options.callsites.max_series = 8;
  config.slab_options.caches.max_series = 3;
  NamingRig rig(GetParam(), 2, config);
  std::map<std::string, double> shown_last;
  const std::string sites = "kmem_slab_callsite_";
  for (int round = 0; round < 40; ++round) {
    // The CPUs were at work on different things.
    for (const Turn turn : InOrder({round / 10 % 2 == 0 ? 0U : 1U})) Read(rig, turn);
    const Families families = rig.Scrape(60);
    for (const auto& [key, value] : Counters(families)) {
      double& last = shown_last[key];
      ASSERT_GE(value, last) << key;
      last = value;
    }
    for (const std::string what : {"allocations", "requested_bytes", "allocated_bytes"}) {
      double kept = 0;
      for (const auto& [key, value] : shown_last) {
        if (key.starts_with(sites + what + "_total,")) kept += value;
      }
      ASSERT_EQ(kept, Total(families, "kmem_slab_" + what + "_total")) << what;
      ASSERT_LE(SeriesIn(families, sites + what + "_total"), 9U);
    }
    ASSERT_LE(SeriesIn(families, "kmem_slab_cache_frees_total"), 4U);
  }
  const auto named = [&](const auto& shown) {
    return shown.first.starts_with(sites + "allocations_total,");
  };
  EXPECT_GT(std::ranges::count_if(shown_last, named), 9) << "none gave way";
}

TEST_P(PropertiesTest, EveryRecordIsAnEventReadOrAnError) {
  NamingRig rig(GetParam());
  std::uint64_t records = 0;
  for (const Turn turn : InOrder({0, 1})) records += Read(rig, turn);
  EXPECT_EQ(rig.AllEventsRead(), records);
  EXPECT_EQ(rig.AllErrors(), 0U) << "a real kernel's records have none";
}

TEST_P(PropertiesTest, EveryRecordOfACorruptPageIsAnEventReadOrAnErrorToo) {
  std::mt19937 random(14);  // NOLINT(*-msc51-cpp): the same bytes in each run
  NamingRig rig(GetParam());
  std::uint64_t records = 0;
  std::uint64_t corrupt_pages = 0;
  for (std::uint32_t round = 0; round < 200; ++round) {
    HeapPage page(pages_[0][random() % pages_[0].size()].bytes());
    for (int i = 0; i < 8; ++i) {
      // Behind the time stamp, which is good for any value.
      page.data()[8 + random() % (page.size() - 8)] = static_cast<std::byte>(random());
    }
    const PageResult result = rig.OnPage(round % 2, page);
    records += result.records;
    corrupt_pages += result.error == PageError::kNone ? 0 : 1;
  }
  EXPECT_EQ(rig.AllEventsRead() + rig.Errors(RecordError::kUnknownEventId) +
                rig.Errors(RecordError::kShortPayload),
            records);
  EXPECT_EQ(rig.AllErrors(), corrupt_pages + rig.Errors(RecordError::kUnknownEventId) +
                                 rig.Errors(RecordError::kShortPayload) +
                                 rig.Errors(RecordError::kImplausibleValue));
  EXPECT_GT(corrupt_pages, 0U);
}

// The families against the number of their tracepoints' events.
TEST_P(PropertiesTest, EveryEventIsInTheFamiliesOfItsTopic) {
  NamingRig rig(GetParam());
  for (const Turn turn : InOrder({0, 1})) Read(rig, turn);
  SettleAll(rig);
  const Families families = rig.Export();
  const auto events = [&](const std::string& name) {
    return static_cast<double>(rig.EventsRead(name));
  };
  const LabelMap kmalloc{{"allocator", "kmalloc"}};
  const LabelMap kmem_cache{{"allocator", "kmem_cache"}};
  EXPECT_EQ(Value(families, "kmem_slab_allocations_total", kmalloc) +
                Value(families, "kmem_slab_allocation_failures_total", kmalloc),
            events("kmalloc") + events("kmalloc_node"));
  EXPECT_EQ(Value(families, "kmem_slab_allocations_total", kmem_cache) +
                Value(families, "kmem_slab_allocation_failures_total", kmem_cache),
            events("kmem_cache_alloc") + events("kmem_cache_alloc_node"));
  EXPECT_LE(Value(families, "kmem_slab_frees_total", kmalloc), events("kfree"));
  EXPECT_EQ(Value(families, "kmem_slab_frees_total", kmem_cache), events("kmem_cache_free"));
  EXPECT_EQ(Total(families, "kmem_page_allocations_total") +
                Total(families, "kmem_page_allocation_failures_total"),
            events("mm_page_alloc"));
  EXPECT_EQ(Total(families, "kmem_page_frees_total"), events("mm_page_free"));
  EXPECT_EQ(Value(families, "kmem_page_batched_frees_total"), events("mm_page_free_batched"));
  EXPECT_EQ(Total(families, "kmem_page_zone_locked_allocations_total"),
            events("mm_page_alloc_zone_locked"));
  EXPECT_EQ(Total(families, "kmem_extfrag_events_total"), events("mm_page_alloc_extfrag"));

  const Buckets sizes = Histogram(families, "kmem_slab_request_size_bytes", kmalloc);
  EXPECT_EQ(static_cast<double>(sizes.count),
            Value(families, "kmem_slab_allocations_total", kmalloc));
  EXPECT_EQ(sizes.sum, Value(families, "kmem_slab_requested_bytes_total", kmalloc));
  const Buckets waste = Histogram(families, "kmem_slab_waste_bytes");
  EXPECT_EQ(waste.count, sizes.count);
  EXPECT_EQ(waste.sum, Value(families, "kmem_slab_allocated_bytes_total", kmalloc) -
                           Value(families, "kmem_slab_requested_bytes_total", kmalloc));

  const Buckets refills = Histogram(families, "kmem_pcp_refill_batch_pages");
  EXPECT_EQ(static_cast<double>(refills.count), Total(families, "kmem_pcp_refills_total"));
  EXPECT_EQ(refills.sum, Total(families, "kmem_pcp_refill_pages_total"));
  double refilled_pages = 0;
  for (int order = 0; order < 16; ++order) {
    refilled_pages += static_cast<double>(1 << order) *
                      Total(families, "kmem_page_zone_locked_allocations_total",
                            {{"percpu_refill", "true"}, {"order", std::to_string(order)}});
  }
  EXPECT_EQ(refills.sum, refilled_pages);
  const Buckets drains = Histogram(families, "kmem_pcp_drain_batch_pages");
  EXPECT_EQ(static_cast<double>(drains.count), Total(families, "kmem_pcp_drains_total"));
  EXPECT_GE(drains.sum, events("mm_page_pcpu_drain"));
  EXPECT_GT(drains.count, 0U);
  EXPECT_LT(drains.count, rig.EventsRead("mm_page_pcpu_drain")) << "batches hold several blocks";
}

}  // namespace
}  // namespace kmem
