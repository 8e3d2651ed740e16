// The extfrag collector: allocations that fell back to another migratetype's pages, which is how
// memory fragments. The arithmetic is in extfrag_tally.h.
#pragma once

#include "collectors/collector.h"

namespace kmem {

class ExtfragCollector : public TraceCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "extfrag"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override;
  [[nodiscard]] Sampling sampling() const override { return Sampling::kNever; }
  void Init(std::byte* tally, const KernelFacts& facts, std::uint32_t cpu) const override;
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
