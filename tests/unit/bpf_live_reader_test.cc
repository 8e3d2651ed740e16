// What is read of the in-kernel programs' map of live objects: by call site and age, and which
// call sites are left out.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "collectors/slab_live.h"
#include "exporter/bpf/live_reader.h"
#include "exporter/clocks.h"
#include "exporter/symbols.h"
#include "exporter/unique_fd.h"

namespace kmem {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kPointer = 0xffff888000001000;
constexpr std::uint64_t kSite = 0xffffffff81000010;
constexpr std::uint64_t kOther = 0xffffffff81000110;

// Maps as the programs have them, filled by hand; no program runs.
class BpfLiveReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    live_ = UniqueFd(bpf_map_create(BPF_MAP_TYPE_HASH, "kmem_live", sizeof(std::uint64_t),
                                    sizeof(kmem_bpf_live), 16384, nullptr));
    if (!live_.valid() && errno == EPERM) GTEST_SKIP() << "no permission to make BPF maps";
    if (!live_.valid() && errno == ENOSYS) GTEST_SKIP() << "no bpf(2)";
    ASSERT_TRUE(live_.valid()) << std::strerror(errno);
    left_out_ = UniqueFd(bpf_map_create(BPF_MAP_TYPE_HASH, "kmem_left_out", sizeof(std::uint64_t),
                                        sizeof(std::uint64_t), KMEM_BPF_LEFT_OUT_SITES, nullptr));
    ASSERT_TRUE(left_out_.valid()) << std::strerror(errno);
    started_ns_ = MonotonicNs();
    // Hours from now, so that each reading is due and what is old was allocated since the start.
    now_ns_ = started_ns_ + 10'000 * kSecond;
  }
  LiveReader& Reader() {
    if (!reader_) reader_.emplace(live_.get(), left_out_.get(), options_, &symbols_);
    return *reader_;
  }
  void Allocate(std::uint64_t ptr, std::uint64_t call_site, std::uint32_t bytes,
                std::uint64_t time_ns) {
    const kmem_bpf_live object{call_site, time_ns, bytes, 0};
    ASSERT_EQ(bpf_map_update_elem(live_.get(), &ptr, &object, BPF_ANY), 0);
  }
  // Of one of the programs' tables: what it followed of the call site.
  void Followed(std::uint64_t call_site, std::uint64_t allocated, std::uint64_t reused) {
    kmem_slot slot{};
    slot.key = call_site;
    slot.values[KMEM_BPF_LIVE_ALLOCATED] = allocated;
    slot.values[KMEM_BPF_LIVE_REUSED] = reused;
    table_.push_back(slot);
  }
  SlabTables Shown() {
    std::vector<std::byte> bytes;
    Reader().Append(bytes);
    return ParseSlabTables(bytes);
  }
  SlabTables Read(const SlabLiveTotals& dropped = {}) {
    // Two halves, as two programs' tables.
    const std::span<const kmem_slot> all(table_);
    const std::size_t half = all.size() / 2;
    Reader().Read(now_ns_, dropped, {all.first(half), all.subspan(half)});
    return Shown();
  }
  static SlabLiveSite Of(std::uint64_t call_site, const SlabTables& tables) {
    const auto at = std::ranges::find(tables.live_sites, call_site, &SlabLiveSite::call_site);
    return at == tables.live_sites.end() ? SlabLiveSite{} : *at;
  }
  // Of the programs' map; nothing: they follow the call site.
  std::optional<std::uint64_t> LeftOutInTheKernel(std::uint64_t call_site) {
    std::uint64_t reason = 0;
    if (bpf_map_lookup_elem(left_out_.get(), &call_site, &reason) != 0) return std::nullopt;
    return reason;
  }

  UniqueFd live_;
  UniqueFd left_out_;
  SlabLiveOptions options_;
  SymbolList symbols_{{{kSite, {"alloc_pipe", "kernel"}}, {kOther, {"alloc_file", "kernel"}}}};
  std::vector<kmem_slot> table_;
  std::optional<LiveReader> reader_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t now_ns_ = 0;
};

TEST_F(BpfLiveReaderTest, ObjectsHaveTheirAgeByTheTimeOfTheReading) {
  std::uint64_t ptr = kPointer;
  std::uint32_t bytes = 1;
  for (const std::uint64_t seconds : {0U, 59U, 60U, 599U, 600U, 3599U, 3600U, 9000U}) {
    Allocate(ptr += 64, kSite, bytes, now_ns_ - seconds * kSecond);
    bytes *= 2;
  }
  Allocate(ptr += 64, kSite, 1000, now_ns_ + kSecond);  // since the reading began
  const SlabLiveSite site = Of(kSite, Read());
  EXPECT_EQ(site.objects, 9U);
  EXPECT_THAT(site.bytes, ::testing::ElementsAre(1 + 2 + 1000, 4 + 8, 16 + 32, 64 + 128));
  // And when it is read again they are older.
  now_ns_ += kSecond;
  EXPECT_THAT(Of(kSite, Read()).bytes,
              ::testing::ElementsAre(1 + 1000, 2 + 4, 8 + 16, 32 + 64 + 128));
}

TEST_F(BpfLiveReaderTest, WhatWasAllocatedInTheFirstHalfOfTheTimeLasts) {
  Reader();  // the time begins
  const std::uint64_t half_ns = (now_ns_ - started_ns_) / 2;
  Allocate(kPointer, kSite, 1, started_ns_ + kSecond);
  Allocate(kPointer + 64, kSite, 2, started_ns_ + half_ns - kSecond);
  Allocate(kPointer + 128, kSite, 4, started_ns_ + half_ns + kSecond);
  const SlabLiveSite site = Of(kSite, Read());
  EXPECT_EQ(site.lasting_objects, 2U);
  EXPECT_EQ(site.lasting_bytes, 3U);
}

TEST_F(BpfLiveReaderTest, EveryObjectOfALargeMapIsMetOnce) {
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    Allocate(kPointer + 64 * i, i % 4 == 0 ? kOther : kSite, 8, now_ns_);
    ASSERT_FALSE(HasFatalFailure());
  }
  for (int reading = 0; reading < 2; ++reading) {
    const SlabTables tables = Read();
    EXPECT_EQ(tables.live_sites.size(), 2U);
    EXPECT_EQ(Of(kSite, tables).objects, 7500U);
    EXPECT_EQ(Of(kSite, tables).bytes[0], 60'000U);
    EXPECT_EQ(Of(kOther, tables).objects, 2500U);
    now_ns_ += kSecond;
  }
}

TEST_F(BpfLiveReaderTest, WhatIsGoneIsGoneAndTheTotalsAreAsGiven) {
  Allocate(kPointer, kSite, 8, now_ns_);
  Read();
  ASSERT_EQ(bpf_map_delete_elem(live_.get(), &kPointer), 0);
  now_ns_ += kSecond;
  SlabLiveTotals dropped{};
  dropped.dropped = {1, 2, 3, 4};
  const SlabTables tables = Read(dropped);
  EXPECT_EQ(Of(kSite, tables).objects, 0U);
  ASSERT_TRUE(tables.live.has_value());
  EXPECT_THAT(tables.live->dropped, ::testing::ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(tables.live->stale, 0U);
}

// Reading takes its time, so that the map is not read again at once.
TEST_F(BpfLiveReaderTest, RightAfterAReadingItsValuesStand) {
  Allocate(kPointer, kSite, 8, MonotonicNs());
  now_ns_ = MonotonicNs();
  EXPECT_EQ(Of(kSite, Read()).objects, 1U);
  Allocate(kPointer + 64, kSite, 8, MonotonicNs());
  EXPECT_EQ(Of(kSite, Read()).objects, 1U) << "by the clock no time has passed";
  now_ns_ += 1000 * kSecond;
  EXPECT_EQ(Of(kSite, Read()).objects, 2U);
}

// 64 reuses, and a quarter of what has ended, in whatever tables.
TEST_F(BpfLiveReaderTest, ACallSiteWhosePointersComeBackWithoutAFreeIsLeftOut) {
  constexpr std::uint64_t kOften = 64;
  static_assert(kOften == SLAB_LIVE_SILENT_REUSES && SLAB_LIVE_SILENT_ONE_IN == 4);
  const std::uint64_t too_few = kSite + 1;
  const std::uint64_t too_rare = kSite + 2;
  const std::uint64_t leak = kSite + 3;
  Allocate(kPointer, kSite, 8, now_ns_);
  Allocate(kPointer + 64, leak, 8, now_ns_);
  Allocate(kPointer + 128, too_rare, 8, now_ns_);
  Followed(kSite, 200, kOften / 2);
  Followed(too_few, kOften - 1, kOften - 1);
  Followed(too_rare, 4 * kOften + 2, kOften);  // one of them is alive
  Followed(leak, 100'000, 10);
  Followed(kSite, 4 * kOften + 1 - 200, kOften / 2);
  const SlabTables tables = Read();
  EXPECT_EQ(Of(kSite, tables).left_out, SLAB_LIVE_SILENT);
  EXPECT_EQ(Of(kSite, tables).objects, 0U);
  EXPECT_THAT(Of(kSite, tables).bytes, ::testing::Each(0));
  EXPECT_EQ(LeftOutInTheKernel(kSite), SLAB_LIVE_SILENT);
  EXPECT_EQ(Reader().left_out(), 1U);
  for (const std::uint64_t shown : {too_few, too_rare, leak}) {
    EXPECT_EQ(Of(shown, tables).left_out, SLAB_LIVE_SHOWN) << shown - kSite;
    EXPECT_EQ(LeftOutInTheKernel(shown), std::nullopt);
  }
  EXPECT_EQ(Of(leak, tables).objects, 1U);
  // What is still in the map comes back no more, and nobody is left out twice.
  now_ns_ += kSecond;
  EXPECT_EQ(Of(kSite, Read()).objects, 0U);
  EXPECT_EQ(Reader().left_out(), 1U);
}

TEST_F(BpfLiveReaderTest, AFunctionThatIsExcludedIsLeftOutAsSoonAsItIsMet) {
  options_.exclude_call_sites = {"alloc_pipe", "alloc_nothing"};
  Allocate(kPointer, kSite, 8, now_ns_);
  Allocate(kPointer + 64, kOther, 8, now_ns_);
  const SlabTables tables = Read();
  EXPECT_EQ(Of(kSite, tables).left_out, SLAB_LIVE_EXCLUDED);
  EXPECT_EQ(Of(kSite, tables).objects, 0U);
  EXPECT_EQ(LeftOutInTheKernel(kSite), SLAB_LIVE_EXCLUDED);
  EXPECT_EQ(Of(kOther, tables).objects, 1U);
  EXPECT_EQ(LeftOutInTheKernel(kOther), std::nullopt);
  EXPECT_EQ(Reader().left_out(), 1U);
}

TEST_F(BpfLiveReaderTest, WhereTheMapCannotBeReadTheReadingBeforeStandsAndIsSaidToBeStale) {
  Allocate(kPointer, kSite, 8, now_ns_);
  EXPECT_EQ(Read().live->stale, 0U);
  // The descriptor is of something else for a while.
  const UniqueFd map(dup(live_.get()));
  const UniqueFd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(map.valid() && other.valid());
  ASSERT_GE(dup2(other.get(), live_.get()), 0);
  now_ns_ += 100 * kSecond;
  Followed(kSite, 1000, 1000);
  SlabLiveTotals dropped{};
  dropped.dropped[SLAB_LIVE_BUSY] = 7;
  const SlabTables tables = Read(dropped);
  EXPECT_EQ(tables.live->stale, 1U);
  EXPECT_EQ(tables.live->dropped[SLAB_LIVE_BUSY], 7U) << "that is by now";
  EXPECT_EQ(Of(kSite, tables).objects, 1U);
  EXPECT_THAT(Of(kSite, tables).bytes, ::testing::ElementsAre(8, 0, 0, 0));
  EXPECT_EQ(LeftOutInTheKernel(kSite), std::nullopt) << "how many are alive is not known";
  // And is itself again.
  ASSERT_GE(dup2(map.get(), live_.get()), 0);
  table_.clear();
  now_ns_ += kSecond;
  const SlabTables again = Read(dropped);
  EXPECT_EQ(again.live->stale, 0U);
  EXPECT_THAT(Of(kSite, again).bytes, ::testing::ElementsAre(0, 8, 0, 0));
}

TEST_F(BpfLiveReaderTest, AFirstReadingThatFailsShowsNothingAndIsStale) {
  Allocate(kPointer, kSite, 8, now_ns_);
  const UniqueFd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(other.valid());
  ASSERT_GE(dup2(other.get(), live_.get()), 0);
  const SlabTables tables = Read();
  EXPECT_EQ(tables.live->stale, 1U);
  EXPECT_EQ(tables.live_sites.size(), 0U);
}

}  // namespace
}  // namespace kmem
