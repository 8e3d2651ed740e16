// The slab collector: kmalloc, kmem_cache_alloc and their frees become counts, bytes asked for and
// bytes given, and histograms of both. The arithmetic is in slab_tally.h.
#pragma once

#include "collectors/collector.h"

namespace kmem {

class SlabCollector : public TraceCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "slab"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override;
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
