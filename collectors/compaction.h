// How often allocations had to wait for compaction or reclaim, from /proc/vmstat.
#pragma once

#include <string_view>

#include "collectors/collector.h"

namespace kmem {

// kmem_compaction_stalls_total, kmem_compaction_successes_total, kmem_compaction_failures_total and
// kmem_allocation_stalls_total{mem_zone}. A family that the kernel has no number for is absent: the
// first three need CONFIG_COMPACTION, all four CONFIG_VM_EVENT_COUNTERS (vmstat_text[],
// mm/vmstat.c, 5.10 to 6.18).
//
// An allocation counts one compact_stall when direct compaction really ran, in
// __alloc_pages_direct_compact() (mm/page_alloc.c, 5.10 to 6.18), and then one compact_success or
// one compact_fail.
class CompactionCollector : public ProcCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "compaction"; }
  void Collect(const ProcReader& proc, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
