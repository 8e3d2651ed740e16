// Merging of the CPUs' tallies. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "collectors/collector.h"

namespace kmem {

// Adds one state to another, word by word. `Counts` holds nothing but uint64_t counters.
template <class Counts>
void AddWords(Counts& to, const Counts& from) {
  static_assert(std::is_trivially_copyable_v<Counts> &&
                sizeof(Counts) % sizeof(std::uint64_t) == 0);
  using Words = std::array<std::uint64_t, sizeof(Counts) / sizeof(std::uint64_t)>;
  Words sum;
  Words more;
  std::memcpy(&sum, &to, sizeof to);
  std::memcpy(&more, &from, sizeof from);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
  std::memcpy(&to, &sum, sizeof to);
}

// The sum over all CPUs of the part of the tally that `part` picks:
//   MergeCpus<page_tally>(tallies, &page_tally::counts)
template <class Tally, class Counts>
Counts MergeCpus(const Tallies& tallies, Counts Tally::*part) {
  Counts sum{};
  for (std::uint32_t cpu = 0; cpu < tallies.cpus(); ++cpu) {
    AddWords(sum, tallies.At<Tally>(cpu).*part);
  }
  return sum;
}

}  // namespace kmem
