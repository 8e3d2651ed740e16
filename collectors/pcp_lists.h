// How large the per-CPU page lists may grow and in what batches they trade with the buddy lists,
// from /proc/zoneinfo.
#pragma once

#include <string_view>

#include "collectors/collector.h"

namespace kmem {

// kmem_pcp_high_pages and kmem_pcp_batch_pages, for the zones that have pages.
//
// The CPUs' values differ where the kernel tunes `high` to the load, between high_min and high_max
// (mm/page_alloc.c, 6.7 to 6.18; the table shows the latter two in 6.18, not yet in 6.12): the
// largest is given. `high` may then be 0 on a list that was never filled.
class PcpListsCollector : public ProcCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "pcp"; }
  void Collect(const ProcReader& proc, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
