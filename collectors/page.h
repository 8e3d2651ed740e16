// The page collector: page allocations, their failures, those made under zone->lock, and frees;
// and, of a sample, whether pages are freed on the CPU that allocated them. The arithmetic is in
// page_tally.h and page_cross_tally.h.
#pragma once

#include "collectors/collector.h"
#include "collectors/page_cross.h"

namespace kmem {

struct PageOptions {
  PageCrossOptions cross_cpu;
  bool operator==(const PageOptions&) const = default;
};

class PageCollector : public TraceCollector {
 public:
  explicit PageCollector(const PageOptions& options = {}) : options_(options) {}

  [[nodiscard]] std::string_view name() const override { return "page"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override;
  [[nodiscard]] Sampling sampling() const override { return Sampling::kLast; }
  [[nodiscard]] std::vector<WordRange> counters() const override;
  void Init(std::byte* tally, const KernelFacts& facts, std::uint32_t cpu) const override;
  [[nodiscard]] std::size_t common_bytes() const override;
  void InitCommon(std::byte* common) const override;
  void SettleCommon(std::byte* common, Tallies& tallies, std::uint64_t settled_ns,
                    std::uint64_t now_ns) const override;
  void Forget(std::byte* common) const override;
  [[nodiscard]] std::size_t read_bytes() const override { return 0; }  // all is in the tallies
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;

 private:
  void ExportCrossCpu(const page_cross_counts& sum, const KernelFacts& facts, Families& out) const;

  PageOptions options_;
};

}  // namespace kmem
