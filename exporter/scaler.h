// Scales counters up by what was not traced. A window stands for the time since the last one ended:
// its counts, times a factor, are what is known of that time in its end. It is shown bit by bit
// over the longest time that windows may lie apart: so a steady load's counters grow steadily, and
// lag behind by that time, which is the same whatever is planned: were it to change, what is shown
// would catch up or fall back, and rates with it. What is counted between windows, while
// tracepoints are being enabled and disabled or one is probed, is not used and not shown. Beyond
// what was counted within windows nothing is known, so gauges and other words of the tallies stay
// as they are.
//
// Integers, with a remainder of 2^-32 carried for each counter: nothing is lost by rounding, and as
// all that is exported is made of the same words, a histogram's count is its buckets' sum, and
// "other" is the total less what is shown. A counter never falls.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "exporter/sample_groups.h"

namespace kmem {

// How much of what was known at a time is to be shown at a later one.
struct Spread {
  static constexpr int kBits = 32;  // of fraction

  // In 2^-kBits.
  [[nodiscard]] std::uint64_t PartAt(std::uint64_t now_ns) const;

  std::uint64_t begin_ns = 0;
  std::uint64_t length_ns = 0;  // 0: all at once
};

// One counter of a sampled collector.
struct ScaledCounter {
  // `part` of what is known is shown by now; all that was counted since `begin` is from here on.
  void Start(std::uint64_t count, std::uint64_t part);
  // Likewise; what was counted since `begin`, times `factor`, which has 32 bits of fraction,
  // becomes known.
  void EndWindow(std::uint64_t count, std::uint64_t factor, std::uint64_t part);
  // What a scrape shows: `count` is of now, or of a moment ago. Remembers it.
  std::uint64_t Show(std::uint64_t count, bool exact, std::uint64_t part);

  std::uint64_t known = 0;     // by the last window's end
  std::uint64_t from = 0;      // what of it was shown then
  std::uint64_t begin = 0;     // the count since which it adds to that
  std::uint32_t fraction = 0;  // of known, in 2^-32
  std::uint64_t most = 0;      // that a scrape has shown

 private:
  [[nodiscard]] std::uint64_t Shown(std::uint64_t part) const;
};

class Scaler {
 public:
  // All must outlive this. At most one window of a group is open at a time.
  Scaler(const TraceCollectors& collectors, const std::vector<SampleGroup>& groups);

  // One thread calls these, with the state at that time: sampling is about to start, so that what
  // is shown from here on does not fall; it starts, the group being exact up to now; a window
  // begins; it ends, and the group may be exact from then on. `factor` is at least 1;
  // `spread_seconds` is the longest time up to any next window's end.
  void Expect(std::size_t group);
  void Start(std::size_t group, EventState& state);
  void BeginWindow(std::size_t group, EventState& state);
  void EndWindow(std::size_t group, EventState& state, double factor, bool exact,
                 double spread_seconds);

  // Any thread. Makes what a state counted what is to be shown.
  void Apply(EventState& state);

 private:
  static constexpr std::size_t kCommonValues = 3;
  struct CommonCounter {
    std::uint64_t owner = 0;
    std::array<ScaledCounter, kCommonValues> counters;
  };
  struct Group {
    bool expected = false;  // it has been sampled, or is about to be
    bool exact = true;
    Spread spread;
    std::vector<ScaledCounter> counters;
    std::vector<ScaledCounter> fired;  // by tracepoint of the group
    // By collector of the group, by place.
    std::vector<std::unordered_map<std::uint64_t, CommonCounter>> common;
  };
  // Calls visit(counter, count) for each counter in the state.
  template <class Visit>
  void Record(std::size_t group, EventState& state, Visit visit);
  // Calls visit(word, counter) for each word of the group's tallies that is one.
  template <class Visit>
  void ForEachWord(std::size_t group, EventState& state, Visit visit);
  [[nodiscard]] std::size_t CountersOf(std::size_t group, const EventState& state) const;

  const TraceCollectors& collectors_;
  const std::vector<SampleGroup>& groups_;
  std::mutex mutex_;
  std::vector<Group> state_;  // by group
};

}  // namespace kmem
