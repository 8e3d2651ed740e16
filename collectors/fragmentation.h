// How fragmented free memory is, from /proc alone: no tracing is needed.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "collectors/collector.h"

namespace kmem {

// Both indices take the free blocks of a zone by order, as in /proc/buddyinfo, and the order of the
// allocation in question. They are those of debugfs's extfrag/ directory (mm/vmstat.c, 5.10
// to 6.18, with CONFIG_COMPACTION) but as ratios where the kernel has whole thousandths.

// The share of free memory in blocks too small for `order` (unusable_free_index(), mm/vmstat.c):
// 0 = all of it can be used, 1 = none, also when nothing is free.
[[nodiscard]] double UnusableFreeIndex(std::span<const std::uint64_t> free_blocks, int order);

// Why an allocation of `order` would fail (__fragmentation_index(), mm/vmstat.c): -1 = it need not
// fail, toward 0 = too little is free, toward 1 = what is free is fragmented. 0 when nothing is
// free. A single free block that is too small gives a value between -1 and 0.
[[nodiscard]] double FragmentationIndex(std::span<const std::uint64_t> free_blocks, int order);

// kmem_free_blocks, kmem_unusable_free_index, kmem_fragmentation_index, kmem_pageblock_order,
// kmem_min_free_bytes, kmem_min_free_step_bytes and kmem_managed_bytes.
//
// Throws only for buddyinfo. Of the other tables, each may be out of reach by itself, and what they
// give is left out or replaced: without sys/vm/min_free_kbytes there is no kmem_min_free_bytes;
// without zoneinfo there is no kmem_managed_bytes, and the online nodes are those in buddyinfo,
// which has only nodes with memory. The pageblock order is that of the KernelFacts: pagetypeinfo is
// too dear to read at a scrape, because the kernel makes it by walking the free lists under
// zone->lock with interrupts off (pagetypeinfo_showfree_print(), mm/vmstat.c, 5.10 to 6.18).
class FragmentationCollector : public ProcCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "fragmentation"; }
  void Collect(const ProcReader& proc, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
