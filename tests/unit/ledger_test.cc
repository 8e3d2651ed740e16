#include "collectors/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "collectors/table_tally.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kSecond = 1'000'000'000;

// A table and a ledger that reads it; names are the keys in digits, and the first value is a
// weight.
class Books {
 public:
  explicit Books(std::size_t max_series, std::size_t slots = 64)
      : slots_(slots), ledger_({.max_series = max_series, .weight = &Weight}) {}

  void Count(std::uint64_t key, std::uint64_t weight) {
    total_ += weight;
    kmem_place place{};
    kmem_find_place(slots_.data(), static_cast<std::uint32_t>(slots_.size()), key, &place);
    if (place.slot == nullptr) return;
    if (place.taken != 0) kmem_slot_open(place.slot);
    place.slot->values[0] += weight;
  }
  void Look(std::uint64_t seconds_later = 10) {
    now_ns_ += seconds_later * kSecond;
    std::vector<TableEntry> entries;
    for (std::uint32_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].key != 0) entries.push_back({i, slots_[i]});
    }
    ledger_.Absorb(now_ns_, entries, [](const TableEntry& entry) {
      return std::optional(Ledger::Name{std::to_string(entry.slot.key), "kernel"});
    });
  }
  // So many windows of ten seconds, each with these counts.
  void Windows(int count, const std::map<std::uint64_t, std::uint64_t>& weights) {
    for (int i = 0; i < count; ++i) {
      for (const auto& [key, weight] : weights) Count(key, weight);
      Look();
    }
  }
  [[nodiscard]] std::map<std::string, std::uint64_t> Shown() const {
    std::map<std::string, std::uint64_t> shown;
    for (const Ledger::Row& row : ledger_.Rows()) shown[row.name.first] = row.values[0];
    return shown;
  }
  [[nodiscard]] std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& [name, value] : Shown()) names.push_back(name);
    return names;
  }
  [[nodiscard]] std::uint64_t Other() const { return total_ - ledger_.credited()[0]; }
  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] const Ledger& ledger() const { return ledger_; }
  [[nodiscard]] std::size_t slots() const { return slots_.size(); }

 private:
  static std::uint64_t Weight(const Ledger::Values& counted) { return counted[0]; }

  std::vector<kmem_slot> slots_;
  Ledger ledger_;
  std::uint64_t now_ns_ = kSecond;
  std::uint64_t total_ = 0;
};

// As with a table for each of very many CPUs: many more entries than names are remembered.
TEST(LedgerTest, HowManyEntriesOneNameHasDoesNotMatter) {
  constexpr std::uint32_t kTables = 100;
  constexpr std::uint64_t kNames = 300;
  static_assert(kTables * kNames > Ledger::kMaxAccounts);
  Ledger ledger(
      {.max_series = 2, .weight = [](const Ledger::Values& values) { return values[0]; }});
  std::vector<TableEntry> entries(kTables * kNames);
  int names = 0;
  for (std::uint64_t window = 1; window <= 100; ++window) {
    for (std::uint32_t i = 0; i < entries.size(); ++i) {
      entries[i].place = i;
      const std::uint64_t key = entries[i].slot.key = 1 + i % kNames;
      // The first two at first; then the third is heavier than either.
      entries[i].slot.values[0] += key <= 2 ? 1000 : key == 3 && window > 10 ? 3000 : 1;
    }
    ledger.Absorb(window * 10 * kSecond, entries, [&](const TableEntry& entry) {
      ++names;
      return std::optional(Ledger::Name{std::to_string(entry.slot.key), "kernel"});
    });
  }
  EXPECT_EQ(names, kNames);
  EXPECT_EQ(ledger.folded(), kNames - 2);
  std::vector<std::string> shown;
  for (const Ledger::Row& row : ledger.Rows()) shown.push_back(row.name.first);
  EXPECT_THAT(shown, testing::Contains("3"));
}

TEST(LedgerTest, WhileThereIsRoomANameHasItsSeriesFromItsFirstCountOn) {
  Books books(3);
  books.Count(1, 100);
  books.Look();
  EXPECT_EQ(books.Shown(), (std::map<std::string, std::uint64_t>{{"1", 100}}));
  books.Count(2, 40);
  books.Count(1, 1);
  books.Look();
  EXPECT_EQ(books.Shown(), (std::map<std::string, std::uint64_t>{{"1", 101}, {"2", 40}}));
  EXPECT_EQ(books.Other(), 0U);
}

TEST(LedgerTest, WhatDoesNotMatterAtAllGetsNoSeriesThoughThereIsRoom) {
  Books books(3);
  books.Windows(5, {{1, 100'000}, {2, 100}});
  EXPECT_THAT(books.Names(), ElementsAre("1"));
  EXPECT_EQ(books.Other(), 500U);
  EXPECT_EQ(books.ledger().folded(), 1U);
}

TEST(LedgerTest, TheHeaviestGetThePlaces) {
  Books books(2);
  books.Windows(1, {{1, 10}, {2, 30}, {3, 20}});
  EXPECT_THAT(books.Names(), ElementsAre("2", "3"));
  EXPECT_EQ(books.Other(), 10U);
}

TEST(LedgerTest, ANewcomerWaitsFiveMinutesAndThenTheLightestGivesWay) {
  Books books(2);
  books.Windows(1, {{1, 10}, {2, 1000}});
  books.Windows(29, {{2, 1000}, {3, 2000}});
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
  books.Windows(2, {{2, 1000}, {3, 2000}});
  EXPECT_THAT(books.Names(), ElementsAre("2", "3"));
  // From its place on: what came before stays where it was shown.
  EXPECT_LT(books.Shown().at("3"), 4001U);
  EXPECT_EQ(books.Shown().at("2"), 32'000U);
}

TEST(LedgerTest, ABurstEvictsNobody) {
  Books books(2);
  books.Windows(1, {{1, 10}, {2, 1000}});
  for (int burst = 0; burst < 10; ++burst) {
    books.Windows(20, {{2, 1000}, {3, 100'000}});
    books.Windows(1, {{2, 1000}});
  }
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
}

// Of a burst in a time without scrapes nobody knows how long it took.
TEST(LedgerTest, ALongWindowIsNotFiveMinutesOfHoldingAShare) {
  Books books(2);
  books.Windows(1, {{1, 10}, {2, 1000}});
  books.Count(3, 1'000'000);
  books.Look(3600);
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
  // It goes on for a while after the scrapes have begun again.
  books.Windows(23, {{2, 1000}, {3, 2000}});
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
  books.Windows(1, {{2, 1000}, {3, 2000}});
  EXPECT_THAT(books.Names(), ElementsAre("2", "3"));
}

TEST(LedgerTest, WhoScrapesEveryTenMinutesSeesANewcomerInTheFifthOfThem) {
  Books books(2);
  books.Windows(1, {{1, 10}, {2, 1000}});
  for (int window = 1; window <= 5; ++window) {
    EXPECT_THAT(books.Names(), ElementsAre("1", "2")) << window;
    books.Count(2, 1000);
    books.Count(3, 2000);
    books.Look(600);
  }
  EXPECT_THAT(books.Names(), ElementsAre("2", "3"));
}

// The lightest of the last hour gives way: 1, which was by far the heaviest before it.
TEST(LedgerTest, WhatWasHeavyMoreThanAnHourAgoGivesWayAndWhatWasWithinItDoesNot) {
  Books books(2);
  books.Windows(1, {{1, 1'000'000}, {2, 20}});
  books.Windows(180, {{2, 20}});
  books.Windows(31, {{2, 20}, {3, 60}});  // half an hour later 3 outweighs nobody's hour
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
  books.Windows(400, {{2, 20}});
  books.Windows(31, {{2, 20}, {3, 60}});  // and now it does, though nobody's sum since the start
  EXPECT_THAT(books.Names(), ElementsAre("2", "3"));
}

TEST(LedgerTest, NamesOfAboutTheSameWeightDoNotTakeTurns) {
  Books books(2);
  books.Windows(1, {{1, 1000}, {2, 1000}, {3, 900}});
  books.Windows(500, {{1, 1000}, {2, 1000}, {3, 1200}});
  EXPECT_THAT(books.Names(), ElementsAre("1", "2"));
}

TEST(LedgerTest, WhoReturnsGoesOnFromItsValue) {
  Books books(1);
  books.Windows(1, {{1, 500}});
  books.Windows(40, {{2, 5000}});
  ASSERT_THAT(books.Names(), ElementsAre("2"));
  books.Count(1, 7);  // while it has no series: nobody's for ever
  books.Look();
  books.Windows(800, {{1, 50'000}});
  ASSERT_THAT(books.Names(), ElementsAre("1"));
  const std::uint64_t after_return = books.Shown().at("1");
  EXPECT_GE(after_return, 500U);
  books.Windows(1, {{1, 50'000}});
  EXPECT_EQ(books.Shown().at("1"), after_return + 50'000);
}

TEST(LedgerTest, AnOlderStateThanTheLastIsNotTakenIn) {
  Books books(2);
  books.Windows(1, {{1, 5}});
  Ledger ledger({.max_series = 1, .weight = [](const Ledger::Values& v) { return v[0]; }});
  const auto name = [](const TableEntry&) { return std::optional(Ledger::Name{"a", "kernel"}); };
  const TableEntry newer{0, {.key = 1, .generation = 2, .score = 1, .values = {9, 0, 0, 0}}};
  const TableEntry older{0, {.key = 1, .generation = 2, .score = 1, .values = {4, 0, 0, 0}}};
  ledger.Absorb(200, std::span(&newer, 1), name);
  ledger.Absorb(100, std::span(&older, 1), name);
  ledger.Absorb(200, std::span(&newer, 1), name);
  EXPECT_EQ(ledger.Rows().at(0).values[0], 9U);
}

TEST(LedgerTest, ASlotThatChangedItsOwnerBeginsAnewAndOneThatWasNotReadDoesNot) {
  Ledger ledger({.max_series = 4, .weight = [](const Ledger::Values& v) { return v[0]; }});
  const auto name = [](const TableEntry& entry) {
    return std::optional(Ledger::Name{std::to_string(entry.slot.key), ""});
  };
  const auto absorb = [&](std::uint64_t now, std::vector<TableEntry> entries) {
    ledger.Absorb(now * kSecond, entries, name);
  };
  absorb(10, {{0, {.key = 1, .generation = 2, .score = 1, .values = {9, 0, 0, 0}}}});
  absorb(20, {});
  absorb(30, {{0, {.key = 1, .generation = 2, .score = 1, .values = {10, 0, 0, 0}}}});
  absorb(40, {{0, {.key = 2, .generation = 4, .score = 1, .values = {3, 0, 0, 0}}}});
  absorb(50, {{0, {.key = 1, .generation = 6, .score = 1, .values = {5, 0, 0, 0}}}});
  EXPECT_EQ(ledger.credited()[0], 10U + 3 + 5);
}

TEST(LedgerTest, KeysWithoutANameAreNobodys) {
  Ledger ledger({.max_series = 4, .weight = [](const Ledger::Values& v) { return v[0]; }});
  const TableEntry entry{0, {.key = 1, .generation = 2, .score = 1, .values = {9, 0, 0, 0}}};
  ledger.Absorb(kSecond, std::span(&entry, 1), [](const TableEntry&) { return std::nullopt; });
  EXPECT_THAT(ledger.Rows(), IsEmpty());
  EXPECT_EQ(ledger.credited()[0], 0U);
}

// A hundred thousand names in a table of a few thousand places, with favourites that change.
TEST(LedgerTest, OverARandomHistoryNothingFallsTheSumIsExactAndTheCapHolds) {
  constexpr std::size_t kMaxSeries = 20;
  Books books(kMaxSeries, 4096);
  std::mt19937_64 random(20);  // NOLINT: the same history each time
  std::map<std::string, std::uint64_t> last;
  std::uint64_t last_other = 0;
  std::size_t replaced = 0;
  std::vector<std::string> names;
  for (int window = 0; window < 2000; ++window) {
    const std::uint64_t favourite = 1 + static_cast<std::uint64_t>(window / 400) * 100;
    for (int i = 0; i < 1000; ++i) {
      const bool often = random() % 4 != 0;
      const std::uint64_t key = often ? favourite + random() % 12 : 1000 + random() % 100'000;
      books.Count(key, 1 + random() % 64);
    }
    books.Look(random() % 20);
    const auto shown = books.Shown();
    ASSERT_LE(shown.size(), kMaxSeries);
    for (const auto& [name, value] : shown) {
      ASSERT_GE(value, last[name]) << name;
      last[name] = value;
    }
    ASSERT_GE(books.Other(), last_other);
    last_other = books.Other();
    std::uint64_t kept = 0;
    for (const auto& [name, value] : last) kept += value;
    ASSERT_EQ(kept + books.Other(), books.total());
    if (books.Names() != names) ++replaced;
    names = books.Names();
  }
  EXPECT_GE(replaced, 10U);  // the list did follow its favourites
}

TEST(KeyedTableTest, WhatComesOftenStaysWhateverPassesBy) {
  std::vector<kmem_slot> slots(16);
  kmem_place place{};
  for (std::uint64_t i = 1; i < 100'000; ++i) {
    for (const std::uint64_t key : {UINT64_C(7), 1000 + i}) {
      kmem_find_place(slots.data(), 16, key, &place);
      if (place.slot == nullptr) continue;
      if (place.taken != 0) kmem_slot_open(place.slot);
      place.slot->values[0]++;
    }
  }
  kmem_find_place(slots.data(), 16, 7, &place);
  ASSERT_NE(place.slot, nullptr);
  EXPECT_EQ(place.slot->values[0], 99'999U);
}

TEST(KeyedTableTest, WhatBecomesFrequentFindsAPlaceInAFullTable) {
  std::vector<kmem_slot> slots(8);
  kmem_place place{};
  for (std::uint64_t round = 0; round < 1000; ++round) {
    for (std::uint64_t key = 1; key <= 8; ++key) {
      kmem_find_place(slots.data(), 8, key, &place);
      if (place.taken != 0) kmem_slot_open(place.slot);
    }
  }
  std::uint64_t counted = 0;
  for (int i = 0; i < 1000; ++i) {
    kmem_find_place(slots.data(), 8, 99, &place);
    if (place.slot == nullptr) continue;
    if (place.taken != 0) kmem_slot_open(place.slot);
    ++counted;
  }
  EXPECT_GE(counted, 1000U - KMEM_SCORE_MAX - 1);
}

TEST(KeyedTableTest, NoKeyIsNoPlace) {
  std::vector<kmem_slot> slots(8);
  kmem_place place{};
  kmem_find_place(slots.data(), 8, 0, &place);
  EXPECT_EQ(place.slot, nullptr);
}

}  // namespace
}  // namespace kmem
