// Pages allocated on one CPU and freed on another, where one thread reads the CPUs' events one
// after another.
#include "collectors/page_cross.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "collectors/page.h"
#include "collectors/page_tally.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

constexpr std::uint32_t kCpus = 4;
constexpr std::uint64_t kEnd = UINT64_MAX;

PageOptions Options(std::uint32_t sample_one_in, std::uint32_t max_pages = 65536) {
  return {.cross_cpu = {.enabled = true, .sample_one_in = sample_one_in, .max_pages = max_pages}};
}

struct Event {
  std::uint64_t time_ns;
  std::uint64_t pfn;
  bool freed;
};
using History = std::array<std::vector<Event>, kCpus>;  // by CPU

// The collector with what a source of events has for it.
class CrossRig {
 public:
  explicit CrossRig(const PageOptions& options, KernelFacts facts = {})
      : collector_(options),
        facts_(std::move(facts)),
        tallies_(collector_.tally_bytes(), kCpus),
        common_(collector_.common_bytes() / sizeof(Line) + 1) {
    for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) collector_.Init(tallies_.At(cpu), facts_, cpu);
    collector_.InitCommon(common());
  }

  void On(std::uint32_t cpu, const Event& event) {
    const kmem_context context{
        .time_ns = event.time_ns, .cpu = cpu, .bytes = 0, .common = common()};
    auto* tally = reinterpret_cast<page_tally*>(tallies_.At(cpu));
    if (event.freed) {
      const page_free_event free{.pfn = event.pfn, .order = 0};
      page_count_free(tally, &free, &context);
    } else {
      const page_alloc_event alloc{.pfn = event.pfn, .gfp_flags = 0, .order = 0, .migratetype = 0};
      page_count_alloc(tally, &alloc, &context);
    }
  }
  void Allocate(std::uint32_t cpu, std::uint64_t pfn) { On(cpu, {++now_, pfn, false}); }
  void Free(std::uint32_t cpu, std::uint64_t pfn) { On(cpu, {++now_, pfn, true}); }
  void Settle(std::uint64_t now_ns = kEnd) {
    collector_.SettleCommon(common(), tallies_, now_ns, now_ns);
  }
  void Forget() { collector_.Forget(common()); }

  [[nodiscard]] Families Export() const {
    Families out;
    collector_.Export(tallies_, facts_, out);
    return out;
  }
  [[nodiscard]] double Same() const { return Value(Export(), "kmem_page_same_cpu_frees_total"); }
  [[nodiscard]] double Cross() const { return Value(Export(), "kmem_page_cross_cpu_frees_total"); }
  [[nodiscard]] double Evicted() const {
    return Value(Export(), "kmem_exporter_cross_cpu_evicted_total");
  }

 private:
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  std::byte* common() { return reinterpret_cast<std::byte*>(common_.data()); }

  PageCollector collector_;
  KernelFacts facts_;
  Tallies tallies_;
  std::vector<Line> common_;
  std::uint64_t now_ = 0;
};

// Pages that CPUs hand to one another, with allocations and frees that no event tells of.
History RandomHistory(std::mt19937& random, std::uint64_t pages, std::uint64_t events) {
  History history;
  std::set<std::uint64_t> live;
  for (std::uint64_t time = 1000; time < 1000 + events; ++time) {
    const std::uint64_t pfn = random() % pages;
    const bool freed = live.contains(pfn);
    if (freed) {
      live.erase(pfn);
    } else {
      live.insert(pfn);
    }
    if (random() % 20 != 0) history.at(random() % kCpus).push_back({time, pfn, freed});
  }
  return history;
}

struct Counts {
  double same = 0;
  double cross = 0;
  bool operator==(const Counts&) const = default;
};

// With all events in the order of their times, and a table without bounds.
Counts Reference(const History& history) {
  std::vector<std::pair<std::uint32_t, Event>> events;
  for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    for (const Event& event : history.at(cpu)) events.emplace_back(cpu, event);
  }
  std::ranges::sort(events, {}, [](const auto& event) { return event.second.time_ns; });
  Counts counts;
  std::map<std::uint64_t, std::uint32_t> allocated_on;
  for (const auto& [cpu, event] : events) {
    if (!event.freed) {
      allocated_on[event.pfn] = cpu;
    } else if (const auto at = allocated_on.find(event.pfn); at != allocated_on.end()) {
      (at->second == cpu ? counts.same : counts.cross)++;
      allocated_on.erase(at);
    }
  }
  return counts;
}

// As drains read it: each begins at some time, at most so long after the one before, and reads one
// CPU after another, each up to some time behind that.
void Drain(const History& history, std::mt19937& random, CrossRig& rig,
           std::uint64_t longest_ns = 3000) {
  std::array<std::size_t, kCpus> at{};
  const auto some_is_left = [&] {
    for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      if (at.at(cpu) < history.at(cpu).size()) return true;
    }
    return false;
  };
  for (std::uint64_t begin = 1000; some_is_left(); begin += random() % longest_ns) {
    std::array<std::uint32_t, kCpus> order{0, 1, 2, 3};
    std::ranges::shuffle(order, random);
    for (const std::uint32_t cpu : order) {
      const std::uint64_t up_to = begin + random() % longest_ns;
      const std::vector<Event>& events = history.at(cpu);
      while (at.at(cpu) < events.size() && events[at.at(cpu)].time_ns < up_to) {
        rig.On(cpu, events[at.at(cpu)++]);
      }
    }
    rig.Settle(begin);
  }
  rig.Settle();
}

TEST(PageCrossTest, WhateverTheOrderOfDrainsItCountsAsWithAllEventsInOrder) {
  std::mt19937 random(21);  // NOLINT(*-msc51-cpp): the same histories in each run
  for (const std::uint64_t pages : {3U, 100U, 2000U}) {
    for (int round = 0; round < 5; ++round) {
      const History history = RandomHistory(random, pages, 20'000);
      CrossRig rig(Options(1));
      Drain(history, random, rig);
      EXPECT_EQ((Counts{rig.Same(), rig.Cross()}), Reference(history)) << pages << " pages";
      EXPECT_GT(rig.Cross(), rig.Same());
      EXPECT_EQ(rig.Evicted(), 0);
    }
  }
}

TEST(PageCrossTest, WhatASmallTableMissesIsCountedAsEvicted) {
  std::mt19937 random(22);  // NOLINT(*-msc51-cpp): the same histories in each run
  const History history = RandomHistory(random, 4000, 60'000);
  const Counts all = Reference(history);
  CrossRig rig(Options(1, 1024));
  Drain(history, random, rig, 300);
  EXPECT_GT(rig.Evicted(), 0);
  EXPECT_LT(rig.Same() + rig.Cross(), all.same + all.cross);
  EXPECT_GE(rig.Same() + rig.Cross() + rig.Evicted(), all.same + all.cross);
  // Which of them are missed does not depend on where they were freed.
  EXPECT_NEAR(rig.Cross() / (rig.Same() + rig.Cross()), all.cross / (all.same + all.cross), 0.02);
}

TEST(PageCrossTest, PagesThatStayLeaveRoomForThoseThatAreFreedSoon) {
  CrossRig rig(Options(1, 1024));
  for (std::uint64_t pfn = 0; pfn < 100'000; ++pfn) {
    rig.Allocate(0, pfn);
    rig.Settle();
  }
  const double before = rig.Evicted();
  for (std::uint64_t pfn = 200'000; pfn < 201'000; ++pfn) {
    rig.Allocate(0, pfn);
    rig.Free(1, pfn);
    rig.Settle();
  }
  EXPECT_EQ(rig.Cross(), 1000);
  EXPECT_LE(rig.Evicted() - before, 128) << "at most one for each set";
}

TEST(PageCrossTest, ASampleSaysOfAllPagesWhatOneInSoManySay) {
  for (const std::uint32_t one_in : {1U, 2U, 3U, 16U, 100U, 1000U}) {
    CrossRig rig(Options(one_in));
    constexpr std::uint64_t kPages = 60'000;
    for (std::uint64_t pfn = 0; pfn < kPages; ++pfn) {
      rig.Allocate(0, 0x100000 + pfn);
      rig.Free(pfn % 4 == 0 ? 0 : 1, 0x100000 + pfn);
      rig.Settle();
    }
    rig.Settle();
    EXPECT_NEAR(rig.Cross(), kPages * 3 / 4, 2 * one_in + kPages / 100.) << one_in;
    EXPECT_NEAR(rig.Same(), kPages / 4, 2 * one_in + kPages / 100.) << one_in;
    EXPECT_EQ(rig.Evicted(), 0);
  }
}

// Blocks of an order begin at multiples of its size.
TEST(PageCrossTest, ASampleIsFairToBlocksOfEachOrder) {
  for (int order = 0; order <= 10; ++order) {
    CrossRig rig(Options(16));
    for (std::uint64_t block = 0; block < 20'000; ++block) {
      rig.Allocate(0, block << order);
      rig.Free(1, block << order);
    }
    rig.Settle();
    EXPECT_NEAR(rig.Cross(), 20'000, 400) << order;
  }
}

TEST(PageCrossTest, TheTableHoldsAsManyPagesInARowAsItHasPlacesSaveAFew) {
  CrossRig rig(Options(1, 4096));
  for (std::uint64_t pfn = 0; pfn < 4000; ++pfn) rig.Allocate(0, 0x40000 + pfn);
  rig.Settle();
  EXPECT_LE(rig.Evicted(), 100);
}

TEST(PageCrossTest, AFreeWhoseAllocationWasNotSeenIsInNeither) {
  CrossRig rig(Options(1));
  rig.Free(0, 7);
  rig.Allocate(1, 7);
  rig.Free(1, 7);
  rig.Free(1, 7);
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
  EXPECT_EQ(rig.Cross(), 0);
}

TEST(PageCrossTest, AnAllocationOfAPageWhoseFreeWasNotSeenIsTheOneThatCounts) {
  CrossRig rig(Options(1));
  rig.Allocate(0, 7);
  rig.Allocate(1, 7);
  rig.Free(1, 7);
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
  EXPECT_EQ(rig.Cross(), 0);
  EXPECT_EQ(rig.Evicted(), 0);
}

TEST(PageCrossTest, AllocationsThatFailedAndImplausibleEventsAreLeftOut) {
  CrossRig rig(Options(1));
  rig.Allocate(0, PAGE_NO_PFN);
  rig.Free(1, PAGE_NO_PFN);
  rig.Settle();
  EXPECT_EQ(rig.Same() + rig.Cross(), 0);
}

TEST(PageCrossTest, EventsOfOneCpuAndInstantKeepTheirOrder) {
  CrossRig rig(Options(1));
  for (int i = 0; i < 100; ++i) {
    rig.On(1, {5, 7, false});
    rig.On(1, {5, 7, true});
  }
  rig.Settle();
  EXPECT_EQ(rig.Same(), 100);
}

TEST(PageCrossTest, ForgettingEndsTheWaitForFreesAndTakesAnotherSample) {
  CrossRig rig(Options(1));
  for (std::uint64_t pfn = 0; pfn < 60'000; ++pfn) rig.Allocate(0, pfn);
  rig.Settle();
  const double evicted = rig.Evicted();
  rig.Forget();
  for (std::uint64_t pfn = 0; pfn < 60'000; ++pfn) rig.Free(1, pfn);
  rig.Settle();
  EXPECT_EQ(rig.Same() + rig.Cross(), 0);
  // What was forgotten is in nobody's way.
  for (std::uint64_t pfn = 0; pfn < 1000; ++pfn) rig.Allocate(0, pfn);
  for (std::uint64_t pfn = 0; pfn < 1000; ++pfn) rig.Free(1, pfn);
  rig.Settle();
  EXPECT_EQ(rig.Cross(), 1000);
  EXPECT_EQ(rig.Evicted(), evicted);

  // What waits to be settled goes too.
  rig.Allocate(0, 70'000);
  rig.Forget();
  rig.Free(1, 70'000);
  rig.Settle();
  EXPECT_EQ(rig.Cross(), 1000);

  // A page is in the sample now and then, so that windows together see all pages.
  CrossRig sampled(Options(16));
  for (int era = 0; era < 1600; ++era) {
    sampled.Allocate(0, 12345);
    sampled.Free(1, 12345);
    sampled.Settle();
    sampled.Forget();
  }
  EXPECT_NEAR(sampled.Cross(), 1600, 5 * 16);
}

TEST(PageCrossTest, EventsThatFindNoRoomToWaitAreCountedAsEvicted) {
  CrossRig rig(Options(1, 1024));
  for (std::uint64_t pfn = 0; pfn < 600; ++pfn) rig.Allocate(0, pfn);
  for (std::uint64_t pfn = 0; pfn < 600; ++pfn) rig.Free(1, pfn);
  rig.Settle();
  EXPECT_EQ(rig.Cross(), 1024 - 600);
  EXPECT_EQ(rig.Evicted(), 2 * 600 - 1024);
}

TEST(PageCrossTest, CountersOnlyGrowWhateverHappens) {
  std::mt19937 random(23);  // NOLINT(*-msc51-cpp): the same events in each run
  CrossRig rig(Options(2, 1024));
  std::array<double, 3> before{};
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 500; ++i) {
      rig.On(random() % kCpus, {random(), random() % 5000, random() % 2 == 0});
    }
    rig.Settle(random());
    if (random() % 50 == 0) rig.Forget();
    const std::array<double, 3> now{rig.Same(), rig.Cross(), rig.Evicted()};
    for (std::size_t i = 0; i < now.size(); ++i) ASSERT_GE(now.at(i), before.at(i));
    before = now;
  }
}

KernelFacts Nodes(std::vector<std::uint32_t> cpu_nodes) {
  KernelFacts facts;
  facts.cpu_nodes = std::move(cpu_nodes);
  return facts;
}

TEST(PageCrossTest, BetweenNodesItCountsByTheCpusThatAllocateAndFree) {
  CrossRig rig(Options(1), Nodes({0, 0, 1, KernelFacts::kNoNode}));
  std::uint64_t pfn = 0;
  for (std::uint32_t from = 0; from < kCpus; ++from) {
    for (std::uint32_t to = 0; to < kCpus; ++to) {
      rig.Allocate(from, ++pfn);
      rig.Free(to, pfn);
    }
  }
  rig.Settle();
  EXPECT_EQ(rig.Same(), 4);
  EXPECT_EQ(rig.Cross(), 12);
  // 0 and 2, 1 and 2, both ways; the last CPU's node is not known.
  EXPECT_EQ(Value(rig.Export(), "kmem_page_cross_node_frees_total"), 4);
}

TEST(PageCrossTest, WithoutSeveralNodesNoSeriesSpeaksOfThem) {
  for (const auto& nodes : std::vector<std::vector<std::uint32_t>>{
           {}, {0, 0, 0, 0}, {1, KernelFacts::kNoNode}, {KernelFacts::kNoNode}}) {
    const Families families = CrossRig(Options(1), Nodes(nodes)).Export();
    EXPECT_EQ(SeriesIn(families, "kmem_page_cross_node_frees_total"), 0U);
    EXPECT_EQ(SeriesIn(families, "kmem_page_cross_cpu_frees_total"), 1U);
  }
}

TEST(PageCrossTest, OffItTakesNoMemoryAndHasNoSeries) {
  const PageOptions off{.cross_cpu = {.enabled = false}};
  EXPECT_EQ(PageCollector(off).common_bytes(), 0U);
  Families families;
  PageCollector(off).Export(Tallies(sizeof(page_tally), 1), {}, families);
  for (const char* name : {"kmem_page_same_cpu_frees_total", "kmem_page_cross_cpu_frees_total",
                           "kmem_exporter_cross_cpu_evicted_total"}) {
    EXPECT_EQ(SeriesIn(families, name), 0U) << name;
  }
}

TEST(PageCrossTest, ItsMemoryIs32BytesAPage) {
  EXPECT_LE(PageCollector(Options(16, 65536)).common_bytes(), 65536 * 32 + 64U);
  EXPECT_LE(PageCollector(Options(1, 4194304)).common_bytes(), 4194304 * 32UL + 64);
  EXPECT_EQ(PageCollector(Options(16)).read_bytes(), 0U);
}

}  // namespace
}  // namespace kmem
