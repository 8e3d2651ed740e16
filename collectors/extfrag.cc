#include "collectors/extfrag.h"

#include <array>
#include <string>
#include <vector>

#include "collectors/extfrag_tally.h"
#include "collectors/merge.h"

namespace kmem {
namespace {

constexpr std::array kEvents{
    Tracepoint<"mm_page_alloc_extfrag", extfrag_count,
               Required<"alloc_order", &extfrag_event::alloc_order>,
               Required<"fallback_order", &extfrag_event::fallback_order>,
               Required<"alloc_migratetype", &extfrag_event::alloc_migratetype>,
               Required<"fallback_migratetype", &extfrag_event::fallback_migratetype>,
               Optional<"change_ownership", &extfrag_event::change_ownership,
                        EXTFRAG_OWNERSHIP_UNKNOWN>>::kSpec,
};

using Type = FamilyBuilder::Type;
constexpr std::array<std::string_view, 2> kFalseTrue{"false", "true"};
constexpr std::array<std::string_view, EXTFRAG_OWNERSHIPS> kOwnerships{"false", "true", "unknown"};

// fallbacks[] in mm/page_alloc.c (5.10 to 6.18): unmovable, movable and reclaimable fall back on
// each other and on nothing else. Whatever else is seen gets a series then.
bool FallbackIsKnown(const KernelFacts& facts, std::size_t alloc, std::size_t fallback,
                     std::size_t ownership) {
  const bool told = ownership != EXTFRAG_OWNERSHIP_UNKNOWN;
  return alloc < 3 && fallback < 3 && alloc != fallback && told == facts.change_ownership_told;
}

void ExportEvents(const extfrag_counts& sum, const KernelFacts& facts, Families& out) {
  FamilyBuilder family(out, Type::Counter, "kmem_extfrag_events_total",
                       "Allocations that fell back to another migratetype's pages "
                       "(mm_page_alloc_extfrag). fragmenting: the block taken was smaller than a "
                       "pageblock. change_ownership: the pageblock became one of the allocation's "
                       "own migratetype; unknown where the engine can't tell.");
  for (std::size_t alloc = 0; alloc < KMEM_MIGRATETYPES; ++alloc) {
    for (std::size_t fallback = 0; fallback < KMEM_MIGRATETYPES; ++fallback) {
      for (std::size_t fragmenting = 0; fragmenting < 2; ++fragmenting) {
        for (std::size_t ownership = 0; ownership < EXTFRAG_OWNERSHIPS; ++ownership) {
          const std::uint64_t count = sum.events[alloc][fallback][fragmenting][ownership];
          if (count == 0 && !FallbackIsKnown(facts, alloc, fallback, ownership)) continue;
          family.Add({{"alloc_migratetype", facts.MigratetypeName(alloc)},
                      {"fallback_migratetype", facts.MigratetypeName(fallback)},
                      {"fragmenting", kFalseTrue[fragmenting]},
                      {"change_ownership", kOwnerships[ownership]}},
                     static_cast<double>(count));
        }
      }
    }
  }
}

// One bucket per order that the kernel has; an order beyond them is in +Inf.
void ExportOrders(std::span<const std::uint64_t, KMEM_ORDERS> counts, const KernelFacts& facts,
                  std::string_view name, std::string_view help, Families& out) {
  std::vector<double> bounds;
  std::vector<std::uint64_t> buckets;
  double sum = 0;
  for (std::size_t order = 0; order < counts.size(); ++order) {
    sum += static_cast<double>(order * counts[order]);
    if (order < static_cast<std::size_t>(facts.order_count)) {
      bounds.push_back(static_cast<double>(order));
      buckets.push_back(counts[order]);
      continue;
    }
    if (buckets.size() == bounds.size()) buckets.push_back(0);
    buckets.back() += counts[order];
  }
  if (buckets.size() == bounds.size()) buckets.push_back(0);
  FamilyBuilder(out, Type::Histogram, name, help).AddHistogram({}, bounds, buckets, sum);
}

}  // namespace

std::span<const EventSpec> ExtfragCollector::events() const { return kEvents; }

std::size_t ExtfragCollector::tally_bytes() const { return sizeof(extfrag_tally); }

void ExtfragCollector::Init(std::byte* tally, const KernelFacts& facts,
                            std::uint32_t /*cpu*/) const {
  reinterpret_cast<extfrag_tally*>(tally)->pageblock_order =
      static_cast<std::uint64_t>(facts.pageblock_order);
}

void ExtfragCollector::Export(const Tallies& tallies, const KernelFacts& facts,
                              Families& out) const {
  const extfrag_counts sum = MergeCpus(tallies, &extfrag_tally::counts);
  ExportEvents(sum, facts, out);
  ExportOrders(sum.alloc_order, facts, "kmem_extfrag_alloc_order",
               "Order that the allocation which fell back asked for.", out);
  ExportOrders(sum.fallback_order, facts, "kmem_extfrag_fallback_order",
               "Order of the block of another migratetype that was taken.", out);
}

}  // namespace kmem
