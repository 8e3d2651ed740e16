// The table and the queue of page_cross_tally.h, where one thread tallies for all CPUs. Used by
// that thread; nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "collectors/collector.h"
#include "collectors/page_cross_tally.h"

namespace kmem {

struct PageCrossOptions {
  bool enabled = true;
  std::uint32_t sample_one_in = 16;  // pages
  std::uint32_t max_pages = 65536;   // that are followed, and events that wait for other CPUs'
  bool operator==(const PageCrossOptions&) const = default;

  [[nodiscard]] std::uint32_t sets() const { return max_pages / PAGE_CROSS_WAYS; }
};

// Of a page_cross_common with all that follows it.
std::size_t PageCrossBytes(const PageCrossOptions& options);

// `common` is zeros.
void InitPageCross(const PageCrossOptions& options, page_cross_common& common);

// Counts the queue's events before `now_ns` into the tallies (page_tally) of their CPUs. Those of
// one instant in the order of their CPUs.
void SettlePageCross(page_cross_common& common, Tallies& tallies, std::uint64_t now_ns);

}  // namespace kmem
