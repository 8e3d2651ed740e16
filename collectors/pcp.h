// The pcp collector: how the per-CPU page lists are refilled and drained, CPU by CPU, and in what
// batches. The arithmetic, and what a batch is, are in pcp_tally.h; the lists' sizes from
// /proc/zoneinfo are in pcp_lists.h.
#pragma once

#include "collectors/collector.h"

namespace kmem {

class PcpCollector : public TraceCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "pcp"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override;
  [[nodiscard]] Sampling sampling() const override { return Sampling::kLast; }
  [[nodiscard]] std::vector<WordRange> counters() const override;
  // A batch's end moves it from one word to others.
  [[nodiscard]] bool independent_words() const override { return false; }
  void Settle(std::byte* tally, std::uint64_t now_ns) const override;
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;
};

}  // namespace kmem
