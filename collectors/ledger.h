// Which names of many get a series of their own. Names are call sites or caches, of which a kernel
// has thousands and a Prometheus wants few; the ledger turns the counts of a table by key
// (table_tally.h) into counters by name, at most so many, that never fall.
//
// - While places are free, a name gets one as soon as it matters: a thousandth of the weight
//   (bytes, say) of one window. What matters less would only fill the list.
// - When none is free, a newcomer must have had a share of 1 / (2 * max_series) of the weight in
//   every window of five minutes: half of what an even split would give it, held long enough that
//   neither a burst nor the start of a program evicts anything. A window counts as a minute at
//   most: when in a longer one it had its share, nobody knows. It takes the place of the one that
//   was lightest over the last hour, if it has itself been heavier by a quarter: two names of about
//   the same weight do not take turns.
// - A name that gave way keeps its value, and goes on from it should it return. So no counter of a
//   name falls. What is counted of a name while it has no place is nobody's: the caller's `other`.
//
// Windows are the times between two looks that are at least ten seconds apart: the scrapes. One
// thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "collectors/table_tally.h"

namespace kmem {

// One slot of a table, as it was when it was read.
struct TableEntry {
  std::uint32_t place;  // among all places of all the tables that belong together
  kmem_slot slot;
};

class Ledger {
 public:
  using Name = std::pair<std::string, std::string>;  // the values of the two labels, or one
  using Values = std::array<std::uint64_t, KMEM_SLOT_VALUES>;
  struct Options {
    std::size_t max_series = 50;
    // How heavy it is to have counted so much.
    std::uint64_t (*weight)(const Values& counted) = nullptr;
    // How the last value of two slots becomes one, if it is no count. 0 is its empty value.
    std::uint64_t (*merge_last)(std::uint64_t a, std::uint64_t b) = nullptr;
  };
  struct Row {
    Name name;
    Values values;
  };

  explicit Ledger(Options options) : options_(options) {}

  // Takes in what the tables held at `now_ns`; does nothing if it has seen a later state. `name_of`
  // gives the name of an entry's key, or nothing: its counts stay nobody's.
  void Absorb(std::uint64_t now_ns, std::span<const TableEntry> entries,
              const std::function<std::optional<Name>(const TableEntry&)>& name_of);

  // The names that have a series now.
  [[nodiscard]] std::vector<Row> Rows() const;
  // The sum of the counts of all names that have or had a series.
  [[nodiscard]] const Values& credited() const { return credited_; }
  // Names seen in the last hour that have no series.
  [[nodiscard]] std::size_t folded() const;
  // Forgets which key has which name.
  void ForgetKeys() { account_of_key_.clear(); }

  // Names that are remembered at most: all functions of a kernel that allocate are fewer. Beyond
  // it the lighter ones that never had a series are forgotten; once half of them have had one, no
  // further name gets one.
  static constexpr std::size_t kMaxAccounts = 16384;

 private:
  // The hour in parts, so that its oldest part can be forgotten.
  static constexpr std::size_t kHourParts = 12;
  static constexpr std::uint64_t kPartNs = UINT64_C(300'000'000'000);
  static constexpr std::uint64_t kWindowNs = UINT64_C(10'000'000'000);
  static constexpr std::uint64_t kHoldNs = UINT64_C(300'000'000'000);
  static constexpr std::uint64_t kWindowCountsNs = UINT64_C(60'000'000'000);

  struct Account {
    Name name;
    Values values{};  // counted while it had a series
    bool shown = false;
    bool shown_once = false;
    std::uint64_t window_weight = 0;
    std::array<std::uint64_t, kHourParts> hour{};
    std::uint64_t held_ns = 0;  // for so long it has had its share in each window
    [[nodiscard]] std::uint64_t HourWeight() const;
  };
  struct Seen {
    std::uint64_t key;
    std::uint32_t generation;
    Values values;
  };
  struct NameHash {
    std::size_t operator()(const Name& name) const {
      return std::hash<std::string>()(name.first) * 31 + std::hash<std::string>()(name.second);
    }
  };

  static constexpr std::uint32_t kNobody = UINT32_MAX;
  std::uint32_t AccountOf(const TableEntry& entry,
                          const std::function<std::optional<Name>(const TableEntry&)>& name_of);
  std::uint32_t AddAccount(Name name);
  Values NewlyCounted(const TableEntry& entry);
  void AddTo(Values& to, const Values& counted) const;
  void TurnHour(std::uint64_t now_ns);
  void CloseWindow(std::uint64_t now_ns);
  void AdmitToFreePlaces(std::uint64_t window_weight);
  void ReplaceTheLightest(std::uint64_t window_ns, std::uint64_t window_weight);
  void Show(Account& account);
  void MakeRoom();

  Options options_;
  std::vector<Account> accounts_;
  std::unordered_map<Name, std::uint32_t, NameHash> account_of_name_;
  std::unordered_map<std::uint64_t, std::uint32_t> account_of_key_;
  std::unordered_map<std::uint32_t, Seen> seen_;  // by place
  Values credited_{};
  std::size_t shown_ = 0;
  std::size_t accounts_shown_once_ = 0;
  std::uint64_t last_ns_ = 0;
  std::uint64_t window_from_ns_ = 0;
  std::uint64_t part_from_ns_ = 0;
  std::size_t part_ = 0;
  bool first_ = true;
};

}  // namespace kmem
