// The page collector: page allocations, their failures, those made under zone->lock, and frees.
// The arithmetic is in page_tally.h.
#pragma once

#include "collectors/collector.h"

namespace kmem {

class PageCollector : public TraceCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "page"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override;
  [[nodiscard]] Sampling sampling() const override { return Sampling::kLast; }
  [[nodiscard]] std::vector<WordRange> counters() const override;
  void Init(std::byte* tally, const KernelFacts& facts) const override;
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
