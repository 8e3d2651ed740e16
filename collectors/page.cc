#include "collectors/page.h"

#include <array>
#include <cstddef>
#include <string>

#include "collectors/merge.h"
#include "collectors/page_tally.h"

namespace kmem {
namespace {

static_assert(KernelFacts::kNoNode == KMEM_NO_NODE);

constexpr std::array kEvents{
    Tracepoint<"mm_page_alloc", page_count_alloc, Required<"pfn", &page_alloc_event::pfn>,
               Required<"order", &page_alloc_event::order>,
               Required<"migratetype", &page_alloc_event::migratetype>,
               Optional<"gfp_flags", &page_alloc_event::gfp_flags, 0>>::kSpec,
    Tracepoint<"mm_page_alloc_zone_locked", page_count_zone_locked,
               Required<"order", &page_zone_locked_event::order>,
               Required<"migratetype", &page_zone_locked_event::migratetype>,
               Optional<"percpu_refill", &page_zone_locked_event::percpu_refill, -1>>::kSpec,
    Tracepoint<"mm_page_free", page_count_free, Required<"pfn", &page_free_event::pfn>,
               Required<"order", &page_free_event::order>>::kSpec,
    Tracepoint<"mm_page_free_batched", page_count_free_batched>::kSpec,
};

using Type = FamilyBuilder::Type;
constexpr std::array<std::string_view, 2> kFalseTrue{"false", "true"};

// The types that an allocation can ask for: unmovable, movable and reclaimable
// (gfp_migratetype() in include/linux/gfp.h), and cma where the kernel has it. Others get a series
// once they have been seen.
bool TypeIsKnown(const KernelFacts& facts, std::size_t migratetype) {
  return migratetype < 3 || facts.MigratetypeName(migratetype) == "cma";
}

bool OrderIsKnown(const KernelFacts& facts, std::size_t order) {
  return order < static_cast<std::size_t>(facts.order_count);
}

double Bytes(std::uint64_t blocks, std::size_t order, const KernelFacts& facts) {
  return static_cast<double>((blocks * facts.page_size) << order);
}

// Calls `add(order, migratetype, "order", "name")` for each pair that is known or that `count` says
// was seen.
template <class Seen, class Add>
void ForEachOrderAndType(const KernelFacts& facts, Seen seen, Add add) {
  for (std::size_t order = 0; order < KMEM_ORDERS; ++order) {
    for (std::size_t type = 0; type < KMEM_MIGRATETYPES; ++type) {
      const bool known = OrderIsKnown(facts, order) && TypeIsKnown(facts, type);
      if (known || seen(order, type)) {
        add(order, type, std::to_string(order), facts.MigratetypeName(type));
      }
    }
  }
}

void ExportAllocations(const page_counts& sum, const KernelFacts& facts, Families& out) {
  {
    FamilyBuilder family(out, Type::Counter, "kmem_page_allocations_total",
                         "Blocks of 2^order pages allocated (mm_page_alloc), by the migratetype "
                         "asked for. Bulk and CMA allocations do not fire this tracepoint.");
    ForEachOrderAndType(
        facts, [&](auto order, auto type) { return sum.allocations[order][type] != 0; },
        [&](auto order, auto type, const std::string& order_label, const std::string& name) {
          family.Add({{"order", order_label}, {"migratetype", name}},
                     static_cast<double>(sum.allocations[order][type]));
        });
  }
  {
    FamilyBuilder family(out, Type::Counter, "kmem_page_allocated_bytes_total",
                         "Bytes of the pages allocated (mm_page_alloc).");
    for (std::size_t type = 0; type < KMEM_MIGRATETYPES; ++type) {
      double bytes = 0;
      for (std::size_t order = 0; order < KMEM_ORDERS; ++order) {
        bytes += Bytes(sum.allocations[order][type], order, facts);
      }
      if (TypeIsKnown(facts, type) || bytes > 0) {
        family.Add({{"migratetype", facts.MigratetypeName(type)}}, bytes);
      }
    }
  }
  FamilyBuilder family(
      out, Type::Counter, "kmem_page_allocation_failures_total",
      "Page allocations that failed (mm_page_alloc without a page). nowarn=\"true\": "
      "attempts with __GFP_NOWARN, such as a huge page's, that may fail routinely; unknown where "
      "the kernel does not tell that flag's bit.");
  const auto nowarn_label = [&](std::size_t nowarn) {
    return facts.gfp_nowarn == 0 ? std::string_view("unknown") : kFalseTrue[nowarn];
  };
  for (std::size_t order = 0; order < KMEM_ORDERS; ++order) {
    for (std::size_t nowarn = 0; nowarn < (facts.gfp_nowarn == 0 ? 1U : 2U); ++nowarn) {
      const std::uint64_t failures = sum.failures[order][nowarn];
      if (!OrderIsKnown(facts, order) && failures == 0) continue;
      family.Add({{"order", std::to_string(order)}, {"nowarn", nowarn_label(nowarn)}},
                 static_cast<double>(failures));
    }
  }
}

void ExportFrees(const page_counts& sum, const KernelFacts& facts, Families& out) {
  double bytes = 0;
  {
    FamilyBuilder family(out, Type::Counter, "kmem_page_frees_total",
                         "Blocks of 2^order pages freed, singly or in batches (mm_page_free).");
    for (std::size_t order = 0; order < KMEM_ORDERS; ++order) {
      bytes += Bytes(sum.frees[order], order, facts);
      if (!OrderIsKnown(facts, order) && sum.frees[order] == 0) continue;
      family.Add({{"order", std::to_string(order)}}, static_cast<double>(sum.frees[order]));
    }
  }
  FamilyBuilder(out, Type::Counter, "kmem_page_freed_bytes_total",
                "Bytes of the pages freed, singly or in batches (mm_page_free).")
      .Add({}, bytes);
  FamilyBuilder(out, Type::Counter, "kmem_page_batched_frees_total",
                "Pages (from 6.9 folios) freed in batches (mm_page_free_batched). They are also in "
                "kmem_page_frees_total: the difference is freed one by one.")
      .Add({}, static_cast<double>(sum.batched_frees));
}

void ExportZoneLocked(const page_counts& sum, const KernelFacts& facts, Families& out) {
  FamilyBuilder family(out, Type::Counter, "kmem_page_zone_locked_allocations_total",
                       "Blocks taken from the buddy allocator under zone->lock "
                       "(mm_page_alloc_zone_locked). percpu_refill: whether to refill a per-CPU "
                       "list, as the kernel tells it; before 6.1 that is order 0.");
  for (std::size_t refill = 0; refill < 2; ++refill) {
    ForEachOrderAndType(
        facts, [&](auto order, auto type) { return sum.zone_locked[order][type][refill] != 0; },
        [&](auto order, auto type, const std::string& order_label, const std::string& name) {
          family.Add({{"order", order_label},
                      {"migratetype", name},
                      {"percpu_refill", kFalseTrue[refill]}},
                     static_cast<double>(sum.zone_locked[order][type][refill]));
        });
  }
}

}  // namespace

std::span<const EventSpec> PageCollector::events() const { return kEvents; }

std::size_t PageCollector::tally_bytes() const { return sizeof(page_tally); }

// All but those evicted, which the exporter itself lost sight of.
std::vector<WordRange> PageCollector::counters() const {
  static_assert(offsetof(page_counts, cross) + sizeof(page_cross_counts) == sizeof(page_counts));
  static_assert(offsetof(page_cross_counts, evicted) + sizeof(std::uint64_t) ==
                sizeof(page_cross_counts));
  return {{offsetof(page_tally, counts) / sizeof(std::uint64_t),
           sizeof(page_counts) / sizeof(std::uint64_t) - 1}};
}

void PageCollector::Init(std::byte* tally, const KernelFacts& facts, std::uint32_t cpu) const {
  auto& page = *reinterpret_cast<page_tally*>(tally);
  page.gfp_nowarn = facts.gfp_nowarn;
  page.node = facts.NodeOf(cpu);
}

std::size_t PageCollector::common_bytes() const {
  return options_.cross_cpu.enabled ? PageCrossBytes(options_.cross_cpu) : 0;
}

void PageCollector::InitCommon(std::byte* common) const {
  InitPageCross(options_.cross_cpu, *reinterpret_cast<page_cross_common*>(common));
}

void PageCollector::SettleCommon(std::byte* common, Tallies& tallies, std::uint64_t settled_ns,
                                 std::uint64_t /*now_ns*/) const {
  SettlePageCross(*reinterpret_cast<page_cross_common*>(common), tallies, settled_ns);
}

void PageCollector::Forget(std::byte* common) const {
  auto& pages = *reinterpret_cast<page_cross_common*>(common);
  pages.queued = 0;
  pages.era++;
}

void PageCollector::Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const {
  const page_counts sum = MergeCpus(tallies, &page_tally::counts);
  ExportAllocations(sum, facts, out);
  ExportFrees(sum, facts, out);
  ExportZoneLocked(sum, facts, out);
  if (options_.cross_cpu.enabled) ExportCrossCpu(sum.cross, facts, out);
}

void PageCollector::ExportCrossCpu(const page_cross_counts& sum, const KernelFacts& facts,
                                   Families& out) const {
  const auto counter = [&](std::string_view name, std::string_view help, std::uint64_t sampled) {
    FamilyBuilder(out, Type::Counter, name, help)
        .Add({}, static_cast<double>(sampled * options_.cross_cpu.sample_one_in));
  };
  counter("kmem_page_same_cpu_frees_total",
          "Blocks of pages freed on the CPU that allocated them. Estimated: of one page in "
          "collectors.page.cross_cpu.sample_one_in, times that.",
          sum.same_cpu);
  counter("kmem_page_cross_cpu_frees_total",
          "Blocks of pages freed on another CPU than allocated them. Estimated in the same way. "
          "Blocks whose allocation was not seen, or too long ago, are in neither.",
          sum.cross_cpu);
  if (facts.HasSeveralNodes()) {
    counter("kmem_page_cross_node_frees_total",
            "Those freed by a CPU of another NUMA node than that of the CPU that allocated them. "
            "Only where CPUs belong to several nodes.",
            sum.cross_node);
  }
  FamilyBuilder(out, Type::Counter, "kmem_exporter_cross_cpu_evicted_total",
                "Sampled pages that were lost sight of before they were freed, because more than "
                "collectors.page.cross_cpu.max_pages had to be followed. Not scaled.")
      .Add({}, static_cast<double>(sum.evicted));
}

}  // namespace kmem
