// Which slab objects are alive, by the plain C functions: whatever the order in which events are
// applied.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "collectors/slab_live.h"

namespace kmem {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kPointer = 0xffff888000001000;

class LiveTable {
 public:
  explicit LiveTable(std::uint32_t max_objects = 1024, std::uint32_t sample_one_in = 1)
      : book_({.enabled = true,
               .sample_one_in = sample_one_in,
               .max_objects = max_objects,
               .exclude_call_sites = {}},
              50),
        memory_(book_.table_bytes() / sizeof(std::uint64_t)) {
    live_ = book_.InitTable(reinterpret_cast<std::byte*>(memory_.data()));
  }
  slab_live* operator->() { return live_; }
  slab_live* get() { return live_; }
  void Alloc(std::uint64_t ptr, std::uint64_t site, std::uint64_t bytes, std::uint64_t time) {
    Apply({time, ptr, site, static_cast<std::uint32_t>(bytes), 0, SLAB_LIVE_ALLOC});
  }
  void Free(std::uint64_t ptr, std::uint64_t time) { Apply({time, ptr, 0, 0, 0, SLAB_LIVE_KFREE}); }
  // At once, as what finds no room in the queue.
  void Apply(const slab_live_event& event) {
    live_->room = 0;
    slab_live_note(live_, &event);
  }
  // Every event before `settled` has been handled; now it is `now`, and much later than before.
  void Lap(std::uint64_t settled, std::uint64_t now) {
    live_->hand_ns = now;
    live_->hand_left_ns = SLAB_LIVE_LAP_NS;
    slab_live_tend(live_, settled, now);
  }
  [[nodiscard]] slab_live_site Site(std::uint64_t call_site) const {
    const auto* at = std::ranges::find(live_->sites, call_site, &slab_live_site::call_site);
    return at == std::end(live_->sites) ? slab_live_site{} : *at;
  }
  [[nodiscard]] std::uint64_t Bytes(std::uint64_t call_site) const {
    const slab_live_site site = Site(call_site);
    return site.bytes[0] + site.bytes[1] + site.bytes[2] + site.bytes[3];
  }

 private:
  SlabLiveBook book_;
  std::vector<std::uint64_t> memory_;
  slab_live* live_;
};

TEST(SlabLiveTallyTest, AnObjectIsAliveFromItsAllocationToItsFree) {
  LiveTable table;
  table.Alloc(kPointer, 1, 128, 10);
  table.Alloc(kPointer + 128, 1, 64, 11);
  table.Alloc(kPointer + 256, 2, 32, 12);
  EXPECT_EQ(table.Site(1).objects, 2U);
  EXPECT_EQ(table.Bytes(1), 192U);
  table.Free(kPointer, 20);
  EXPECT_EQ(table.Site(1).objects, 1U);
  EXPECT_EQ(table.Bytes(1), 64U);
  EXPECT_EQ(table.Bytes(2), 32U);
  EXPECT_THAT(table->dropped, ::testing::Each(0));
}

TEST(SlabLiveTallyTest, AFreeThatIsReadBeforeItsAllocationEndsIt) {
  LiveTable table;
  table.Free(kPointer, 20);
  table.Alloc(kPointer, 1, 128, 10);
  EXPECT_EQ(table.Site(1).objects, 0U);
  table.Alloc(kPointer, 2, 64, 30);
  EXPECT_EQ(table.Bytes(2), 64U);
  table.Lap(100, 100);
  EXPECT_THAT(table->dropped, ::testing::Each(0));
}

TEST(SlabLiveTallyTest, AnObjectThatLivedBetweenTwoCpusReadingsLeavesTheLaterOneAlone) {
  LiveTable table;
  // Of CPU 1: the first object's allocation, the second's free. Of CPU 0: the rest.
  table.Alloc(kPointer, 1, 128, 10);
  table.Free(kPointer, 40);
  table.Free(kPointer, 20);
  table.Alloc(kPointer, 2, 64, 30);
  table.Lap(100, 100);
  EXPECT_EQ(table.Site(1).objects, 0U);
  EXPECT_EQ(table.Site(2).objects, 0U);
  EXPECT_THAT(table->dropped, ::testing::Each(0));
}

TEST(SlabLiveTallyTest, APointerAllocatedAnewEndsTheObjectThatHadItAndIsCounted) {
  LiveTable table;
  table.Alloc(kPointer, 1, 128, 10);
  table.Alloc(kPointer, 2, 64, 20);
  EXPECT_EQ(table.Site(1).objects, 0U);
  EXPECT_EQ(table.Bytes(2), 64U);
  EXPECT_EQ(table->dropped[SLAB_LIVE_POINTER_REUSED], 0U) << "the free may be yet to come";
  table.Lap(100, 100);
  EXPECT_EQ(table->dropped[SLAB_LIVE_POINTER_REUSED], 1U);
  EXPECT_EQ(table.Site(1).reused, 1U);
}

TEST(SlabLiveTallyTest, AFreeOfWhatWasAllocatedBeforeTheStartCountsAsNothing) {
  LiveTable table;
  table.Free(kPointer, 10);
  table.Lap(100, 100);
  EXPECT_THAT(table->dropped, ::testing::Each(0));
  EXPECT_EQ(table->used, 0U) << "its place is free again";
}

TEST(SlabLiveTallyTest, BytesGrowOldAndAreYoungAgainWhenFreed) {
  LiveTable table;
  const std::uint64_t born = 5 * kSecond;
  table.Alloc(kPointer, 1, 128, born);
  const auto ages = [&](std::uint64_t seconds) {
    table.Lap(born + seconds * kSecond, born + seconds * kSecond);
    const slab_live_site site = table.Site(1);
    return std::vector(std::begin(site.bytes), std::end(site.bytes));
  };
  EXPECT_THAT(ages(59), ::testing::ElementsAre(128, 0, 0, 0));
  EXPECT_THAT(ages(60), ::testing::ElementsAre(0, 128, 0, 0));
  EXPECT_THAT(ages(600), ::testing::ElementsAre(0, 0, 128, 0));
  EXPECT_THAT(ages(3600), ::testing::ElementsAre(0, 0, 0, 128));
  table.Free(kPointer, born + 4000 * kSecond);
  EXPECT_THAT(ages(4001), ::testing::ElementsAre(0, 0, 0, 0));
}

TEST(SlabLiveTallyTest, WhatFindsNoPlaceIsCountedAndTheRestIsRight) {
  LiveTable table;
  for (std::uint64_t i = 0; i < 2000; ++i) table.Alloc(kPointer + i * 64, 1, 64, 10 + i);
  const std::uint64_t held = table.Site(1).objects;
  EXPECT_LE(held, 1024U);
  EXPECT_GE(held, 850U);
  EXPECT_EQ(table->dropped[SLAB_LIVE_TABLE_FULL], 2000 - held);
  for (std::uint64_t i = 0; i < 2000; ++i) table.Free(kPointer + i * 64, 5000 + i);
  EXPECT_EQ(table.Site(1).objects, 0U);
  EXPECT_EQ(table.Bytes(1), 0U);
  table.Lap(10000, 10000);
  EXPECT_EQ(table->used, 0U);
}

TEST(SlabLiveTallyTest, ThePlacesOfFreedObjectsAreTakenAgainWithoutWaitingForTheHand) {
  LiveTable table;
  std::uint64_t time = 10;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    table.Alloc(kPointer + i * 64, 1, 64, ++time);
    table.Free(kPointer + i * 64, ++time);
    table->settled_ns = time;
  }
  EXPECT_THAT(table->dropped, ::testing::Each(0));
}

TEST(SlabLiveTallyTest, OneObjectInSoManyIsFollowedFromItsAllocationToItsFree) {
  LiveTable table(65536, 16);
  for (std::uint64_t i = 0; i < 16'000; ++i) table.Alloc(kPointer + i * 192, 1, 192, 10);
  EXPECT_NEAR(static_cast<double>(table.Site(1).objects), 1000, 100);
  for (std::uint64_t i = 0; i < 16'000; ++i) table.Free(kPointer + i * 192, 20);
  EXPECT_EQ(table.Site(1).objects, 0U);
  table.Lap(100, 100);
  EXPECT_THAT(table->dropped, ::testing::Each(0));
}

TEST(SlabLiveTallyTest, ACallSiteThatFreesWithoutAnEventIsLeftOut) {
  LiveTable table;
  std::uint64_t time = 10;
  for (int i = 0; i < 200; ++i) {
    table.Alloc(kPointer, 1, 64, ++time);  // never freed
    table->settled_ns = time;
    table.Alloc(kPointer + 64, 2, 64, ++time);
    table.Free(kPointer + 64, ++time);
    table->settled_ns = time;
  }
  table.Lap(time + 1, time + 1);
  EXPECT_EQ(table.Site(1).left_out, SLAB_LIVE_SILENT);
  EXPECT_EQ(table.Site(2).left_out, SLAB_LIVE_SHOWN);
  table.Lap(time + 2, time + 2);
  EXPECT_EQ(table.Site(1).objects, 0U) << "what it had is given up";
  EXPECT_EQ(table->dropped[SLAB_LIVE_FREE_UNSEEN], 1U);
  table.Alloc(kPointer, 1, 64, time + 3);
  EXPECT_EQ(table.Site(1).objects, 0U);
  EXPECT_EQ(table->dropped[SLAB_LIVE_FREE_UNSEEN], 2U);
}

TEST(SlabLiveTallyTest, ALeakIsNotTakenForThatThoughSomeOfItsFreesAreLost) {
  LiveTable table(65536);
  std::uint64_t time = 10;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const std::uint64_t ptr = kPointer + 64 * (i % 4 == 0 ? 100 + i : i % 50);
    table.Alloc(ptr, 1, 64, ++time);
    if (i % 4 != 0 && i % 10 != 1) table.Free(ptr, ++time);  // a quarter leaks, a tenth is lost
    table->settled_ns = time;
  }
  table.Lap(time + 1, time + 1);
  EXPECT_EQ(table.Site(1).left_out, SLAB_LIVE_SHOWN);
  EXPECT_GE(table.Site(1).objects, 5000U);
}

TEST(SlabLiveTallyTest, MoreCallSitesThanPlacesAreCountedTogether) {
  LiveTable table(16384);
  for (std::uint64_t i = 0; i < 10'000; ++i) table.Alloc(kPointer + i * 64, 1 + i * 16, 64, 10);
  std::uint64_t objects = 0;
  for (const slab_live_site& site : table->sites) objects += site.objects;
  EXPECT_EQ(objects, 10'000U);
  EXPECT_GT(table->sites[SLAB_LIVE_SITES].objects, 0U);
  for (std::uint64_t i = 0; i < 10'000; ++i) table.Free(kPointer + i * 64, 20);
  for (const slab_live_site& site : table->sites) EXPECT_EQ(site.objects, 0U);
}

// A random history of few pointers on some CPUs, and what it must come to.
struct Event {
  std::uint64_t time;
  std::uint64_t ptr;
  std::uint64_t site;  // 0: a free
  std::uint64_t bytes;
};
struct History {
  std::vector<std::vector<Event>> cpus;
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> live;  // by site
  std::uint64_t reused = 0;
  std::uint64_t end = 0;
};

History MakeHistory(std::mt19937& random, bool silent_frees, bool unseen_allocations) {
  History history;
  history.cpus.resize(3);
  std::map<std::uint64_t, Event> alive;
  std::uint64_t time = 1000;
  for (int i = 0; i < 20'000; ++i) {
    time += 1 + random() % 100;
    const std::uint64_t ptr = kPointer + 64 * (random() % 200);
    std::vector<Event>& cpu = history.cpus[random() % 3];
    const auto at = alive.find(ptr);
    if (at != alive.end() && (!silent_frees || random() % 8 != 0)) {
      cpu.push_back({time, ptr, 0, 0});
      alive.erase(at);
    } else if (at == alive.end() && unseen_allocations && random() % 8 == 0) {
      cpu.push_back({time, ptr, 0, 0});
    } else {
      if (at != alive.end()) history.reused++;
      const Event event{time, ptr, 1 + random() % 5, 64 + random() % 3};
      cpu.push_back(event);
      alive[ptr] = event;
    }
  }
  for (const auto& [ptr, event] : alive) {
    history.live[event.site].first++;
    history.live[event.site].second += event.bytes;
  }
  history.end = time + 1;
  return history;
}

// As a drain thread reads it: CPU after CPU, each a little farther than the time it began.
void Read(const History& history, std::mt19937& random, LiveTable& table) {
  std::vector<std::size_t> next(history.cpus.size());
  for (std::uint64_t now = 1000; now < history.end + 20'000; now += 5000) {
    for (std::size_t i = 0; i < next.size(); ++i) {
      const std::size_t cpu = (i + random() % 2) % next.size();
      const std::uint64_t until = now + random() % 4000;
      for (const std::size_t each : {cpu, i}) {
        for (; next[each] < history.cpus[each].size(); ++next[each]) {
          const Event& event = history.cpus[each][next[each]];
          if (event.time >= until) break;
          if (event.site != 0) {
            table.Alloc(event.ptr, event.site, event.bytes, event.time);
          } else {
            table.Free(event.ptr, event.time);
          }
        }
      }
    }
    slab_live_tend(table.get(), now, now);
    for (const slab_live_site& site : table->sites) ASSERT_LE(site.objects, 200U);
  }
  table.Lap(UINT64_MAX, history.end);
}

class SlabLivePropertyTest : public ::testing::TestWithParam<std::pair<bool, bool>> {};
INSTANTIATE_TEST_SUITE_P(Histories, SlabLivePropertyTest,
                         ::testing::Values(std::pair(false, false), std::pair(true, false),
                                           std::pair(false, true), std::pair(true, true)));

TEST_P(SlabLivePropertyTest, WhateverTheOrderTheSumsAreThoseOfTheHistory) {
  const auto [silent_frees, unseen_allocations] = GetParam();
  std::mt19937 random(21);  // NOLINT(*-msc51-cpp): the same histories in each run
  for (int round = 0; round < 10; ++round) {
    const History history = MakeHistory(random, silent_frees, unseen_allocations);
    LiveTable table;
    Read(history, random, table);
    for (std::uint64_t site = 1; site <= 5; ++site) {
      const auto at = history.live.find(site);
      const auto [objects, bytes] =
          at == history.live.end() ? std::pair<std::uint64_t, std::uint64_t>() : at->second;
      if (silent_frees && table.Site(site).left_out != SLAB_LIVE_SHOWN) continue;
      EXPECT_EQ(table.Site(site).objects, objects);
      EXPECT_EQ(table.Bytes(site), bytes);
    }
    EXPECT_EQ(table->dropped[SLAB_LIVE_TABLE_FULL], 0U);
    if (!unseen_allocations) {
      EXPECT_EQ(table->dropped[SLAB_LIVE_POINTER_REUSED], history.reused);
    }
    EXPECT_LE(table->dropped[SLAB_LIVE_POINTER_REUSED], history.reused);
  }
}

}  // namespace
}  // namespace kmem
