#include "collectors/pcp.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "collectors/merge.h"
#include "collectors/pcp_tally.h"

namespace kmem {
namespace {

constexpr std::array kEvents{
    Tracepoint<"mm_page_alloc_zone_locked", pcp_count_zone_locked,
               Required<"order", &page_zone_locked_event::order>,
               Optional<"percpu_refill", &page_zone_locked_event::percpu_refill, -1>>::kSpec,
    Tracepoint<"mm_page_pcpu_drain", pcp_count_drain,
               Required<"order", &pcp_drain_event::order>>::kSpec,
    Tracepoint<"mm_page_alloc", pcp_count_page_alloc>::kSpec,
    Tracepoint<"mm_page_free", pcp_count_page_free>::kSpec,
};

constexpr std::array<double, PCP_BATCH_BUCKETS - 1> kBatchBounds{1,   2,   4,   8,    16,   32,  64,
                                                                 128, 256, 512, 1024, 2048, 4096};

using Type = FamilyBuilder::Type;
using Kind = pcp_batches pcp_tally::*;

void ExportPerCpu(const Tallies& tallies, const KernelFacts& facts, Kind kind,
                  std::uint64_t pcp_counts::*value, std::string_view name, std::string_view help,
                  Families& out) {
  FamilyBuilder family(out, Type::Counter, name, help);
  for (std::uint32_t cpu = 0; cpu < tallies.cpus(); ++cpu) {
    const std::uint64_t count = (tallies.At<pcp_tally>(cpu).*kind).closed.*value;
    if (count != 0 || std::ranges::count(facts.online_cpus, cpu) != 0) {
      family.Add({{"cpu", std::to_string(cpu)}}, static_cast<double>(count));
    }
  }
}

void ExportSizes(const Tallies& tallies, Kind kind, std::string_view name, std::string_view help,
                 Families& out) {
  const pcp_counts sum = MergeCpus(tallies, kind).closed;
  FamilyBuilder(out, Type::Histogram, name, help)
      .AddHistogram({}, kBatchBounds, sum.sizes, static_cast<double>(sum.pages));
}

}  // namespace

std::span<const EventSpec> PcpCollector::events() const { return kEvents; }

std::size_t PcpCollector::tally_bytes() const { return sizeof(pcp_tally); }

std::vector<WordRange> PcpCollector::counters() const {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  constexpr std::size_t kCount = sizeof(pcp_counts) / kWord;
  return {{(offsetof(pcp_tally, refill) + offsetof(pcp_batches, closed)) / kWord, kCount},
          {(offsetof(pcp_tally, drain) + offsetof(pcp_batches, closed)) / kWord, kCount}};
}

void PcpCollector::Settle(std::byte* tally, std::uint64_t now_ns) const {
  pcp_close_stale(reinterpret_cast<pcp_tally*>(tally), now_ns);
}

void PcpCollector::Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const {
  ExportPerCpu(tallies, facts, &pcp_tally::refill, &pcp_counts::pages,
               "kmem_pcp_refill_pages_total",
               "Pages moved from the buddy allocator to per-CPU lists, by the CPU that did it "
               "(mm_page_alloc_zone_locked with percpu_refill), in batches that have ended.",
               out);
  ExportPerCpu(
      tallies, facts, &pcp_tally::drain, &pcp_counts::pages, "kmem_pcp_drain_pages_total",
      "Pages moved from per-CPU lists back to the buddy allocator, by the CPU that did it, "
      "which from 6.0 need not own the list (mm_page_pcpu_drain), in batches that have "
      "ended.",
      out);
  ExportPerCpu(tallies, facts, &pcp_tally::refill, &pcp_counts::batches, "kmem_pcp_refills_total",
               "Batches in which per-CPU lists were refilled: times that zone->lock was taken for "
               "it.",
               out);
  ExportPerCpu(
      tallies, facts, &pcp_tally::drain, &pcp_counts::batches, "kmem_pcp_drains_total",
      "Batches in which per-CPU lists were drained: times that zone->lock was taken for it.", out);
  ExportSizes(tallies, &pcp_tally::refill, "kmem_pcp_refill_batch_pages",
              "Pages per batch of a refill.", out);
  ExportSizes(tallies, &pcp_tally::drain, "kmem_pcp_drain_batch_pages",
              "Pages per batch of a drain.", out);
}

}  // namespace kmem
