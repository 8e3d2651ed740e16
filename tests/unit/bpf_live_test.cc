// Which slab objects are alive by the in-kernel programs, run on events of a known history, on
// which CPU they are freed; and pages.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "bpf_programs.h"
#include "exporter/clocks.h"

namespace kmem {
namespace {

constexpr std::uint64_t kPointer = 0xffff888000001000;
constexpr std::uint64_t kSite = 0xffffffff81000010;

// What the map says of an object, but for its time.
using Object = std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>;  // site, bytes, CPU
using Objects = std::map<std::uint64_t, Object>;

class BpfLiveTest : public ::testing::Test {
 protected:
  void SetUp() override { libbpf_set_print(nullptr); }

  // False: the test is over, as no programs can be loaded here.
  [[nodiscard]] bool Load(std::uint32_t max_objects, std::uint32_t sample_one_in = 1,
                          std::vector<std::uint32_t> cpu_nodes = {}) {
    LoadPrograms(max_objects, sample_one_in, std::move(cpu_nodes));
    return !IsSkipped() && !HasFatalFailure();
  }
  void LoadPrograms(std::uint32_t max_objects, std::uint32_t sample_one_in,
                    std::vector<std::uint32_t> cpu_nodes) {
    KernelFacts facts;
    facts.cpu_nodes = std::move(cpu_nodes);
    BpfPrograms::Options options;
    options.live = {.enabled = true,
                    .sample_one_in = sample_one_in,
                    .max_objects = max_objects,
                    .exclude_call_sites = {}};
    options.cross_cpu.sample_one_in = 1;
    programs_ = std::make_unique<BpfPrograms>(collectors_, facts, options);
    if (const char* why = programs_->WhyNotHere()) GTEST_SKIP() << why;
    ASSERT_EQ(programs_->error(), 0) << std::strerror(-programs_->error());
  }

  void Alloc(std::uint64_t ptr, std::uint64_t site, std::uint32_t bytes, std::uint32_t cpu = 0,
             bool of_cache = false) {
    programs_->Run(of_cache ? "kmem_cache_alloc_bytes" : "kmalloc", {site, ptr, bytes, bytes}, cpu);
  }
  void Free(std::uint64_t ptr, std::uint32_t cpu = 0, bool of_cache = false) {
    programs_->Run(of_cache ? "kmem_cache_free_nameless" : "kfree", {0, ptr}, cpu);
  }

  [[nodiscard]] int LiveMap() { return bpf_map__fd(programs_->skeleton().maps.kmem_live); }
  template <class Do>
  void ForEachAlive(Do look) {
    std::uint64_t ptr = 0;
    kmem_bpf_live object{};
    for (const void* last = nullptr; bpf_map_get_next_key(LiveMap(), last, &ptr) == 0;) {
      ASSERT_EQ(bpf_map_lookup_elem(LiveMap(), &ptr, &object), 0);
      look(ptr, object);
      last = &ptr;
    }
  }
  [[nodiscard]] Objects Alive() {
    Objects objects;
    ForEachAlive([&](std::uint64_t ptr, const kmem_bpf_live& object) {
      objects[ptr] = {object.call_site, object.bytes, object.cpu};
    });
    return objects;
  }
  [[nodiscard]] std::uint64_t Dropped(std::size_t reason) {
    std::uint64_t sum = 0;
    for (const kmem_bpf_cpu& cpu : programs_->cpus()) {
      for (const kmem_bpf_mark& mark : cpu.marks) sum += mark.live_dropped[reason];
    }
    return sum;
  }
  void ExpectNothingDropped() {
    for (std::size_t reason = 0; reason < SLAB_LIVE_REASONS; ++reason) {
      EXPECT_EQ(Dropped(reason), 0U) << "reason " << reason;
    }
  }
  // By call site: objects that were allocated, and those whose pointer was allocated anew.
  using Followed = std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>>;
  [[nodiscard]] Followed FollowedBySite() {
    Followed followed;
    const auto add = [&](std::span<const kmem_slot> slots) {
      for (const kmem_slot& slot : slots) {
        if (slot.key == 0) continue;
        followed[slot.key].first += slot.values[KMEM_BPF_LIVE_ALLOCATED];
        followed[slot.key].second += slot.values[KMEM_BPF_LIVE_REUSED];
      }
    };
    for (const kmem_bpf_cpu& cpu : programs_->cpus()) {
#define ADD(name) add(cpu.name##_live);
      KMEM_BPF_SITE_TABLES(ADD)
#undef ADD
    }
    return followed;
  }
  [[nodiscard]] slab_live_frees FreesOfLive() {
    slab_live_frees sum{};
    for (const kmem_bpf_cpu& cpu : programs_->cpus()) {
      for (const slab_live_frees& frees :
           {cpu.slab.counts.kfree_of_live, cpu.slab.counts.kmem_cache_free_of_live}) {
        sum.same_cpu += frees.same_cpu;
        sum.cross_cpu += frees.cross_cpu;
        sum.cross_node += frees.cross_node;
      }
    }
    return sum;
  }
  // As many as the history may use.
  [[nodiscard]] static std::uint32_t OnlineCpus() {
    return static_cast<std::uint32_t>(sysconf(_SC_NPROCESSORS_ONLN));
  }

  TraceCollectors collectors_ = MakeTraceCollectors({});
  std::unique_ptr<BpfPrograms> programs_;
};

TEST_F(BpfLiveTest, WhateverHappensTheMapHoldsWhatIsAlive) {
  if (!Load(1024)) return;
  const std::uint32_t cpus = OnlineCpus() > 1 ? 2 : 1;
  std::mt19937 random(21);  // NOLINT(*-msc51-cpp): the same history in each run
  Objects alive;
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> born;  // between which times
  Followed followed;
  std::uint64_t reused = 0;
  slab_live_frees frees{};
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t ptr = kPointer + 64 * (random() % 200);
    const auto cpu = static_cast<std::uint32_t>(random() % cpus);
    const bool of_cache = random() % 2 != 0;
    const auto at = alive.find(ptr);
    if (at != alive.end() && random() % 8 != 0) {
      Free(ptr, cpu, of_cache);
      ++(std::get<2>(at->second) == cpu ? frees.same_cpu : frees.cross_cpu);
      alive.erase(at);
    } else if (at == alive.end() && random() % 8 == 0) {
      Free(ptr, cpu, of_cache);  // of what was allocated before the start
    } else {
      if (at != alive.end()) {  // it was freed without an event
        ++reused;
        ++followed[std::get<0>(at->second)].second;
      }
      const auto bytes = static_cast<std::uint32_t>(64 + random() % 3);
      const Object object{kSite + random() % 5 * 16, bytes, cpu};
      born[ptr].first = MonotonicNs();
      Alloc(ptr, std::get<0>(object), std::get<1>(object), cpu, of_cache);
      born[ptr].second = MonotonicNs();
      ++followed[std::get<0>(object)].first;
      alive[ptr] = object;
    }
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_EQ(Alive(), alive);
  EXPECT_EQ(FollowedBySite(), followed);
  EXPECT_GE(reused, 500U);
  EXPECT_EQ(Dropped(SLAB_LIVE_POINTER_REUSED), reused);
  for (const auto reason : {SLAB_LIVE_TABLE_FULL, SLAB_LIVE_FREE_UNSEEN, SLAB_LIVE_BUSY}) {
    EXPECT_EQ(Dropped(reason), 0U) << reason;
  }
  EXPECT_EQ(FreesOfLive().same_cpu, frees.same_cpu);
  EXPECT_EQ(FreesOfLive().cross_cpu, frees.cross_cpu);
  EXPECT_EQ(FreesOfLive().cross_node, 0U);
  ForEachAlive([&](std::uint64_t ptr, const kmem_bpf_live& object) {
    EXPECT_GE(object.time_ns, born[ptr].first);
    EXPECT_LE(object.time_ns, born[ptr].second);
  });
}

TEST_F(BpfLiveTest, WhatAllocatesOrFreesNothingIsNotFollowed) {
  if (!Load(16)) return;
  Alloc(0, kSite, 64);                                   // it failed
  programs_->Run("kmalloc", {kSite, kPointer, 64, 32});  // no kernel gives less than was asked for
  for (const std::uint64_t ptr : {std::uint64_t{0}, std::uint64_t{SLAB_ZERO_SIZE_PTR}}) Free(ptr);
  EXPECT_EQ(Alive(), Objects());
  EXPECT_EQ(FollowedBySite(), Followed());
  ExpectNothingDropped();
}

TEST_F(BpfLiveTest, BytesThatNoWordHoldsAreTheMost) {
  if (!Load(16)) return;
  programs_->Run("kmalloc", {kSite, kPointer, 1, UINT64_C(1) << 33});
  EXPECT_EQ(Alive(), (Objects{{kPointer, {kSite, UINT32_MAX, 0}}}));
}

TEST_F(BpfLiveTest, WhatFindsNoPlaceIsCountedAndTheRestIsRight) {
  if (!Load(4)) return;
  Objects alive;
  for (std::uint64_t i = 0; i < 7; ++i) {
    Alloc(kPointer + 64 * i, kSite, 64);
    if (i < 4) alive[kPointer + 64 * i] = {kSite, 64, 0};
  }
  EXPECT_EQ(Alive(), alive);
  EXPECT_EQ(Dropped(SLAB_LIVE_TABLE_FULL), 3U);
  EXPECT_EQ(FollowedBySite(), (Followed{{kSite, {4, 0}}}));
  // A known pointer needs no other place, and a free makes room.
  Alloc(kPointer, kSite + 16, 32);
  alive[kPointer] = {kSite + 16, 32, 0};
  EXPECT_EQ(Dropped(SLAB_LIVE_POINTER_REUSED), 1U);
  Free(kPointer + 64);
  alive.erase(kPointer + 64);
  Alloc(kPointer + 4096, kSite, 96);
  alive[kPointer + 4096] = {kSite, 96, 0};
  EXPECT_EQ(Alive(), alive);
  EXPECT_EQ(Dropped(SLAB_LIVE_TABLE_FULL), 3U);
}

TEST_F(BpfLiveTest, TheObjectsOfACallSiteThatIsLeftOutAreNotFollowed) {
  if (!Load(16)) return;
  const std::uint64_t silent = kSite + 16;
  Alloc(kPointer, kSite, 64);
  Alloc(kPointer + 64, silent, 64);
  const std::uint64_t reason = SLAB_LIVE_SILENT;
  ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(programs_->skeleton().maps.kmem_left_out), &silent,
                                &reason, BPF_ANY),
            0);
  programs_->skeleton().bss->kmem_left_out_sites = 1;
  Alloc(kPointer + 128, silent, 64);
  EXPECT_EQ(Dropped(SLAB_LIVE_FREE_UNSEEN), 1U);
  Alloc(kPointer + 192, kSite, 64);
  EXPECT_EQ(Dropped(SLAB_LIVE_FREE_UNSEEN), 1U) << "others are followed as before";
  const Objects alive{{kPointer, {kSite, 64, 0}},
                      {kPointer + 64, {silent, 64, 0}},
                      {kPointer + 192, {kSite, 64, 0}}};
  EXPECT_EQ(Alive(), alive);
  // What had the pointer has ended all the same, whoever's it was.
  Alloc(kPointer, silent, 64);
  Alloc(kPointer + 64, silent, 64);
  EXPECT_EQ(Alive(), (Objects{{kPointer + 192, {kSite, 64, 0}}}));
  EXPECT_EQ(Dropped(SLAB_LIVE_POINTER_REUSED), 2U);
  EXPECT_EQ(Dropped(SLAB_LIVE_FREE_UNSEEN), 3U);
  EXPECT_EQ(FollowedBySite(), (Followed{{kSite, {2, 1}}, {silent, {1, 1}}}));
}

TEST_F(BpfLiveTest, OneObjectInSoManyIsFollowedFromItsAllocationToItsFree) {
  if (!Load(1024, 16)) return;
  Objects alive;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    const std::uint64_t ptr = kPointer + 192 * i;
    Alloc(ptr, kSite, 192);
    if (kmem_hash(ptr) <= slab_live_most_hash(16)) alive[ptr] = {kSite, 192, 0};
  }
  EXPECT_NEAR(static_cast<double>(alive.size()), 250, 50);
  EXPECT_EQ(Alive(), alive);
  for (std::uint64_t i = 0; i < 4000; ++i) Free(kPointer + 192 * i);
  EXPECT_EQ(Alive(), Objects());
  EXPECT_EQ(FreesOfLive().same_cpu, alive.size());
  ExpectNothingDropped();
}

class BpfCrossCpuTest : public BpfLiveTest {
 protected:
  // An object of each kind and a page are allocated on CPU 0 and freed on CPU `freeing`.
  void HandOver(std::uint32_t freeing) {
    for (const bool of_cache : {false, true}) {
      Alloc(kPointer, kSite, 64, 0, of_cache);
      Free(kPointer, freeing, of_cache);
    }
    programs_->Run("mm_page_alloc", {kPage, 0, 0, 0}, 0);
    programs_->Run("mm_page_free", {kPage, 0}, freeing);
  }
  [[nodiscard]] page_cross_counts Pages() {
    page_cross_counts sum{};
    for (const kmem_bpf_cpu& cpu : programs_->cpus()) {
      sum.same_cpu += cpu.page.counts.cross.same_cpu;
      sum.cross_cpu += cpu.page.counts.cross.cross_cpu;
      sum.cross_node += cpu.page.counts.cross.cross_node;
    }
    return sum;
  }
  void Expect(std::uint64_t same_cpu, std::uint64_t cross_cpu, std::uint64_t cross_node) {
    const slab_live_frees slab = FreesOfLive();
    EXPECT_EQ(slab.same_cpu, 2 * same_cpu);
    EXPECT_EQ(slab.cross_cpu, 2 * cross_cpu);
    EXPECT_EQ(slab.cross_node, 2 * cross_node);
    const page_cross_counts pages = Pages();
    EXPECT_EQ(pages.same_cpu, same_cpu);
    EXPECT_EQ(pages.cross_cpu, cross_cpu);
    EXPECT_EQ(pages.cross_node, cross_node);
  }
  static constexpr std::uint64_t kPage = 0xffffea0000100000;  // its struct page
};

TEST_F(BpfCrossCpuTest, AFreeIsOnTheSameCpuOnAnotherOrOnOneOfAnotherNode) {
  if (OnlineCpus() < 2) GTEST_SKIP() << "one CPU only";
  if (!Load(16, 1, {0, 1})) return;
  HandOver(0);
  Expect(1, 0, 0);
  HandOver(1);
  Expect(1, 1, 1);
  // Whose allocation was not seen is in neither.
  Free(kPointer);
  programs_->Run("mm_page_free", {kPage, 0}, 1);
  Expect(1, 1, 1);
}

TEST_F(BpfCrossCpuTest, CpusOfOneNodeOrOfNoneThatIsKnownCrossNoNodes) {
  if (OnlineCpus() < 2) GTEST_SKIP() << "one CPU only";
  for (const std::vector<std::uint32_t>& nodes :
       {std::vector<std::uint32_t>{0, 0}, std::vector<std::uint32_t>{1}}) {
    if (!Load(16, 1, nodes)) return;
    HandOver(1);
    Expect(0, 1, 0);
  }
}

}  // namespace
}  // namespace kmem
