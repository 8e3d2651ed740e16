// Slab objects allocated on one CPU and freed on another, where one thread reads the CPUs' events
// one after another.
#include "collectors/slab_live_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "collectors/slab.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

constexpr std::uint32_t kCpus = 4;
constexpr std::uint64_t kEnd = UINT64_MAX;
constexpr std::uint64_t kPointer = 0xffff888000001000;

struct Event {
  std::uint64_t time_ns;
  std::uint64_t ptr;
  std::uint64_t site;  // 0: a free
};
using History = std::array<std::vector<Event>, kCpus>;  // by CPU

// The collector with what a source of events has for it.
class LiveRig {
 public:
  explicit LiveRig(std::uint32_t max_objects = 65536, std::uint32_t sample_one_in = 1,
                   KernelFacts facts = {})
      : collector_(Options(max_objects, sample_one_in)),
        facts_(std::move(facts)),
        tallies_(collector_.tally_bytes(), kCpus),
        common_(collector_.common_bytes() / sizeof(Line) + 1) {
    for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) collector_.Init(tallies_.At(cpu), facts_, cpu);
    collector_.InitCommon(common());
  }

  void On(std::uint32_t cpu, const Event& event) {
    const kmem_context context{
        .time_ns = event.time_ns, .cpu = cpu, .bytes = 0, .common = common()};
    auto* tally = reinterpret_cast<slab_tally*>(tallies_.At(cpu));
    // Either function may free what either has allocated.
    const bool kmalloc = (event.ptr >> 6) % 2 == 0;
    if (event.site != 0) {
      const slab_alloc_event alloc{.ptr = event.ptr,
                                   .bytes_req = 64,
                                   .bytes_alloc = 64,
                                   .call_site = event.site,
                                   .cache = {}};
      (kmalloc ? slab_count_kmalloc : slab_count_kmem_cache_alloc)(tally, &alloc, &context);
    } else {
      const slab_free_event free{.ptr = event.ptr, .cache = {}};
      ((event.ptr >> 7) % 2 == 0 ? slab_count_kfree : slab_count_kmem_cache_free)(tally, &free,
                                                                                  &context);
    }
  }
  void Allocate(std::uint32_t cpu, std::uint64_t ptr) { On(cpu, {++now_, ptr, 1}); }
  void Free(std::uint32_t cpu, std::uint64_t ptr) { On(cpu, {++now_, ptr, 0}); }
  void Settle(std::uint64_t settled_ns = kEnd) {
    collector_.SettleCommon(common(), tallies_, settled_ns, std::min(settled_ns, now_ + 1));
  }
  void Forget() { collector_.Forget(common()); }

  [[nodiscard]] Families Export() {
    tallies_.common.clear();
    collector_.ReadCommon(common(), tallies_.common);
    Families out;
    collector_.Export(tallies_, facts_, out);
    return out;
  }
  [[nodiscard]] double Same() { return Value(Export(), "kmem_slab_same_cpu_frees_total"); }
  [[nodiscard]] double Cross() { return Value(Export(), "kmem_slab_cross_cpu_frees_total"); }
  [[nodiscard]] double Live() { return Total(Export(), "kmem_slab_callsite_live_objects"); }
  slab_live& live() { return *reinterpret_cast<slab_common*>(common())->live; }

 private:
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  static SlabOptions Options(std::uint32_t max_objects, std::uint32_t sample_one_in) {
    SlabOptions options;
    options.callsites.enabled = options.caches.enabled = false;
    options.live = {.enabled = true,
                    .sample_one_in = sample_one_in,
                    .max_objects = max_objects,
                    .exclude_call_sites = {}};
    return options;
  }
  std::byte* common() { return reinterpret_cast<std::byte*>(common_.data()); }

  SlabCollector collector_;
  KernelFacts facts_;
  Tallies tallies_;
  std::vector<Line> common_;
  std::uint64_t now_ = 0;
};

// Pointers that CPUs hand to one another, many times between two readings of a CPU; with
// allocations and frees that no event tells of.
struct Odds {
  bool unseen = false;       // some events
  bool simultaneous = true;  // events of one instant
};
History RandomHistory(std::mt19937& random, std::uint64_t pointers, std::uint64_t events,
                      Odds odds) {
  History history;
  std::map<std::uint64_t, bool> alive;
  std::uint64_t time = 1000;
  for (std::uint64_t i = 0; i < events; ++i) {
    time += random() % 3 + (odds.simultaneous ? 0 : 1);
    const std::uint64_t ptr = kPointer + 64 * (random() % pointers);
    const bool frees = alive[ptr];
    alive[ptr] = !frees;
    if (odds.unseen && random() % 8 == 0) continue;
    // So many call sites that none is taken for one that frees without an event.
    const std::uint64_t site = frees ? 0 : 1 + random() % 2000;
    history.at(random() % kCpus).push_back({time, ptr, site});
  }
  return history;
}

struct Pairs {
  double same = 0;
  double cross = 0;
  double alive = 0;
};

// By all events in the order of their times, those of one instant by CPU.
Pairs PairsOf(const History& history) {
  std::vector<std::pair<Event, std::uint32_t>> events;
  for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) {
    for (const Event& event : history.at(cpu)) events.emplace_back(event, cpu);
  }
  std::ranges::stable_sort(events, {}, [](const auto& each) { return each.first.time_ns; });
  Pairs pairs;
  std::map<std::uint64_t, std::uint32_t> allocated_on;
  for (const auto& [event, cpu] : events) {
    const auto at = allocated_on.find(event.ptr);
    if (event.site != 0) {
      allocated_on[event.ptr] = cpu;
    } else if (at != allocated_on.end()) {
      (at->second == cpu ? pairs.same : pairs.cross)++;
      allocated_on.erase(at);
    }
  }
  pairs.alive = static_cast<double>(allocated_on.size());
  return pairs;
}

// As a drain thread reads it: CPU after CPU, each to somewhere behind the time at which it began.
void Drain(const History& history, std::mt19937& random, LiveRig& rig, std::uint64_t interval) {
  std::array<std::size_t, kCpus> next{};
  std::uint64_t end = 0;
  for (const auto& events : history) {
    if (!events.empty()) end = std::max(end, events.back().time_ns);
  }
  for (std::uint64_t now = 1000; now <= end + interval; now += interval) {
    for (std::uint32_t cpu = 0; cpu < kCpus; ++cpu) {
      const std::uint64_t until = now + random() % interval;
      const std::vector<Event>& events = history.at(cpu);
      for (std::size_t& at = next.at(cpu); at < events.size() && events[at].time_ns <= until;) {
        rig.On(cpu, events[at++]);
      }
    }
    rig.Settle(now);
  }
  rig.Settle();
}

TEST(SlabLiveQueueTest, WhateverTheOrderOfReadingEachPairIsCountedAndEachOnce) {
  std::mt19937 random(31);  // NOLINT(*-msc51-cpp): the same histories in each run
  for (const bool unseen : {false, true}) {
    for (const std::uint64_t interval : {20U, 300U, 5000U, 50'000U}) {
      for (const std::uint64_t pointers : {1U, 20U, 500U}) {
        const History history = RandomHistory(random, pointers, 10'000, {.unseen = unseen});
        const Pairs pairs = PairsOf(history);
        LiveRig rig;
        Drain(history, random, rig, interval);
        EXPECT_EQ(rig.Same(), pairs.same);
        EXPECT_EQ(rig.Cross(), pairs.cross);
        EXPECT_EQ(rig.Live(), pairs.alive);
        EXPECT_GT(pairs.same, 100);
      }
    }
  }
}

TEST(SlabLiveQueueTest, WhatFindsNoRoomToWaitIsInNeitherAndTheGaugesAreRight) {
  std::mt19937 random(32);  // NOLINT(*-msc51-cpp): the same histories in each run
  for (const std::uint64_t interval : {300U, 2000U}) {
    const History history = RandomHistory(random, 200, 20'000, {.simultaneous = false});
    const Pairs pairs = PairsOf(history);
    LiveRig rig(1024);
    Drain(history, random, rig, interval);
    EXPECT_EQ(rig.live().dropped[SLAB_LIVE_TABLE_FULL], 0U);
    EXPECT_EQ(rig.live().dropped[SLAB_LIVE_POINTER_REUSED], 0U);
    EXPECT_EQ(rig.Live(), pairs.alive);
    EXPECT_LT(rig.Same() + rig.Cross(), pairs.same + pairs.cross);
    EXPECT_LE(rig.Same(), pairs.same);
    EXPECT_LE(rig.Cross(), pairs.cross);
    EXPECT_GT(rig.Cross(), 0);
  }
}

// With one pointer it can be said of each pair that is counted whether it is one.
TEST(SlabLiveQueueTest, APairIsCountedOnlyIfNothingComesBetweenWhateverFindsNoRoom) {
  for (std::uint32_t room = 0; room <= 6; ++room) {
    LiveRig rig;
    rig.live().room = room;
    // CPU 0 seems to free what it allocated; CPU 1 has freed that and allocated it anew.
    rig.On(0, {10, kPointer, 1});
    rig.On(0, {40, kPointer, 0});
    rig.On(1, {20, kPointer, 0});
    rig.On(1, {30, kPointer, 1});
    rig.Settle(100);
    EXPECT_EQ(rig.Same(), 0) << room;
    EXPECT_EQ(rig.Cross(), std::min(room / 2, 2U)) << room;
    EXPECT_EQ(rig.Live(), 0) << room;
    rig.Settle();
    EXPECT_EQ(rig.live().dropped[SLAB_LIVE_POINTER_REUSED], 0U) << room;
  }
}

TEST(SlabLiveQueueTest, AFreeThatIsReadBeforeItsAllocationBelongsToIt) {
  LiveRig rig;
  rig.On(0, {20, kPointer, 0});
  rig.Settle(15);
  EXPECT_EQ(rig.Cross(), 0);
  rig.On(1, {10, kPointer, 1});
  rig.Settle(21);
  EXPECT_EQ(rig.Cross(), 1);
  EXPECT_EQ(rig.Same(), 0);
}

TEST(SlabLiveQueueTest, WhatHappenedAfterTheOtherCpusWereReadWaits) {
  LiveRig rig;
  rig.On(0, {10, kPointer, 1});
  rig.On(0, {30, kPointer, 0});
  rig.On(0, {50, kPointer + 64, 1});
  rig.Settle(20);
  EXPECT_EQ(rig.Live(), 1);
  EXPECT_EQ(rig.Same(), 0);
  rig.Settle(31);
  EXPECT_EQ(rig.Live(), 0);
  EXPECT_EQ(rig.Same(), 1);
  rig.Settle();
  EXPECT_EQ(rig.Live(), 1);
}

TEST(SlabLiveQueueTest, EventsOfOneCpuAndInstantKeepTheirOrder) {
  LiveRig rig;
  for (int i = 0; i < 100; ++i) {
    rig.On(1, {5, kPointer, 1});
    rig.On(1, {5, kPointer, 0});
  }
  rig.Settle();
  EXPECT_EQ(rig.Same(), 100);
}

TEST(SlabLiveQueueTest, AFreeOfWhatIsNotFollowedIsInNeither) {
  LiveRig rig;
  rig.Free(0, kPointer);
  rig.Allocate(1, kPointer);
  rig.Free(1, kPointer);
  rig.Free(1, kPointer);
  rig.On(0, {100, 16, 0});
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
  EXPECT_EQ(rig.Cross(), 0);

  // Nor of a call site that is left out.
  slab_live_exclude(&rig.live(), 1);
  rig.Allocate(0, kPointer);
  rig.Free(0, kPointer);
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
}

TEST(SlabLiveQueueTest, AnAllocationWhoseFreeWasNotSeenGivesWayToTheNext) {
  LiveRig rig;
  rig.Allocate(0, kPointer);
  rig.Allocate(1, kPointer);
  rig.Free(1, kPointer);
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
  EXPECT_EQ(rig.Cross(), 0);
}

TEST(SlabLiveQueueTest, ForgettingEndsTheWaitForFreesAndLeavesTheGauges) {
  LiveRig rig;
  rig.Allocate(0, kPointer);
  rig.Settle();
  rig.Allocate(0, kPointer + 64);  // waits
  rig.Forget();
  EXPECT_EQ(rig.Live(), 2);
  rig.Free(1, kPointer);
  rig.Free(1, kPointer + 64);
  rig.Settle();
  EXPECT_EQ(rig.Live(), 0);
  EXPECT_EQ(rig.Same() + rig.Cross(), 0);
  rig.Allocate(0, kPointer);
  rig.Free(1, kPointer);
  rig.Settle();
  EXPECT_EQ(rig.Cross(), 1);
}

TEST(SlabLiveQueueTest, MorePartsThanAnyMachineHasCpusAreAppliedAndNotPaired) {
  LiveRig rig(1 << 20);
  constexpr std::uint64_t kObjects = SLAB_LIVE_RUNS + 10;
  for (std::uint64_t i = 0; i < kObjects; ++i) {
    rig.On(0, {2 * (kObjects - i), kPointer + 64 * i, 1});
    rig.On(0, {2 * (kObjects - i) + 1, kPointer + 64 * i, 0});
  }
  rig.Settle();
  EXPECT_EQ(rig.Live(), 0);
  EXPECT_EQ(rig.Same() + rig.Cross(), 0);
  rig.On(0, {10 * kObjects, kPointer, 1});
  rig.On(0, {10 * kObjects + 1, kPointer, 0});
  rig.Settle();
  EXPECT_EQ(rig.Same(), 1);
}

TEST(SlabLiveQueueTest, CountersOnlyGrowWhateverHappens) {
  std::mt19937 random(33);  // NOLINT(*-msc51-cpp): the same events in each run
  LiveRig rig(1024, 2);
  std::pair<double, double> before;
  for (int round = 0; round < 100; ++round) {
    for (int i = 0; i < 500; ++i) {
      rig.On(random() % kCpus, {random(), kPointer + 64 * (random() % 5000), random() % 2});
    }
    rig.Settle(random());
    if (random() % 20 == 0) rig.Forget();
    const std::pair now(rig.Same(), rig.Cross());
    ASSERT_GE(now.first, before.first);
    ASSERT_GE(now.second, before.second);
    ASSERT_LE(rig.live().queued, rig.live().room);
    before = now;
  }
}

TEST(SlabLiveQueueTest, OfASampleTheFreesAreScaledUp) {
  LiveRig rig(1 << 20, 16);
  for (std::uint64_t i = 0; i < 32'000; ++i) {
    rig.Allocate(0, kPointer + i * 192);
    rig.Free(i % 4 == 0 ? 0 : 1, kPointer + i * 192);
  }
  rig.Settle();
  EXPECT_NEAR(rig.Same(), 8000, 1000);
  EXPECT_NEAR(rig.Cross(), 24'000, 2000);
  EXPECT_EQ(static_cast<std::uint64_t>(rig.Cross()) % 16, 0U);
}

TEST(SlabLiveQueueTest, BetweenNodesItCountsByTheCpusThatAllocateAndFree) {
  KernelFacts facts;
  facts.cpu_nodes = {0, 0, 1, KernelFacts::kNoNode};
  LiveRig rig(1024, 1, facts);
  std::uint64_t ptr = kPointer;
  for (std::uint32_t from = 0; from < kCpus; ++from) {
    for (std::uint32_t to = 0; to < kCpus; ++to) {
      rig.Allocate(from, ptr += 64);
      rig.Free(to, ptr);
    }
  }
  rig.Settle();
  EXPECT_EQ(rig.Same(), 4);
  EXPECT_EQ(rig.Cross(), 12);
  // 0 and 2, 1 and 2, both ways; the last CPU's node is not known.
  EXPECT_EQ(Value(rig.Export(), "kmem_slab_cross_node_frees_total"), 4);
  EXPECT_EQ(SeriesIn(LiveRig().Export(), "kmem_slab_cross_node_frees_total"), 0U);
}

TEST(SlabLiveQueueTest, OffThereAreNoSeries) {
  Families families;
  SlabCollector().Export(Tallies(sizeof(slab_tally), 1), {}, families);
  EXPECT_EQ(SeriesIn(families, "kmem_slab_same_cpu_frees_total"), 0U);
  EXPECT_EQ(SeriesIn(families, "kmem_slab_cross_cpu_frees_total"), 0U);
}

TEST(SlabLiveQueueTest, ItsMemoryIs40BytesForEachObjectThatFindsAPlace) {
  SlabOptions off;
  SlabOptions on;
  on.live.enabled = true;
  on.live.max_objects = 1 << 18;
  const std::size_t without = SlabCollector(off).common_bytes();
  const std::size_t with = SlabCollector(on).common_bytes();
  EXPECT_EQ((with - without - sizeof(slab_live)) >> 18, 40U);
  EXPECT_LE(sizeof(slab_live), 400U << 10);
}

}  // namespace
}  // namespace kmem
