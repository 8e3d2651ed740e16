#include "collectors/fragmentation.h"

#include <cmath>
#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "collectors/proc_tables.h"

namespace kmem {
namespace {

using Gauge = double (*)(std::span<const std::uint64_t> free_blocks, int order);

// Floating point, because a hostile table could make whole numbers overflow; it is exact up to 2^53
// pages, more than any machine has.
double Pages(std::uint64_t blocks, int order) {
  return std::ldexp(static_cast<double>(blocks), order);
}

// Pages in free blocks of at least `order`.
double PagesFrom(std::span<const std::uint64_t> free_blocks, int order) {
  double pages = 0;
  for (auto i = static_cast<std::size_t>(order); i < free_blocks.size(); ++i) {
    pages += Pages(free_blocks[i], static_cast<int>(i));
  }
  return pages;
}

// The orders that the indices are given for, ascending: those of common allocations (a large
// kmalloc, a kernel stack, a jumbo frame) and that of a huge page.
std::set<int> IndexOrders(int pageblock_order, std::size_t order_count) {
  std::set<int> orders{1, 2, 3, 4, pageblock_order};
  orders.erase(orders.lower_bound(static_cast<int>(order_count)), orders.end());
  return orders;
}

void AppendFreeBlocks(const std::vector<BuddyRow>& rows, Families& out) {
  FamilyBuilder family(out, FamilyBuilder::Type::Gauge, "kmem_free_blocks",
                       "Free blocks of 2^order pages in the zone's buddy lists; pages on per-CPU "
                       "lists are not among them. From /proc/buddyinfo, all kernels.");
  for (const BuddyRow& row : rows) {
    for (std::size_t order = 0; order < row.free_blocks.size(); ++order) {
      family.Add({{"numa_node", std::to_string(row.node)},
                  {"mem_zone", row.zone},
                  {"order", std::to_string(order)}},
                 static_cast<double>(row.free_blocks[order]));
    }
  }
}

void AppendIndex(const std::vector<BuddyRow>& rows, const std::set<int>& orders, Gauge index,
                 FamilyBuilder family) {
  for (const BuddyRow& row : rows) {
    for (const int order : orders) {
      family.Add({{"numa_node", std::to_string(row.node)},
                  {"mem_zone", row.zone},
                  {"order", std::to_string(order)}},
                 index(row.free_blocks, order));
    }
  }
}

void AppendIndices(const std::vector<BuddyRow>& rows, int pageblock_order, Families& out) {
  const std::set<int> orders = IndexOrders(pageblock_order, rows.front().free_blocks.size());
  AppendIndex(rows, orders, UnusableFreeIndex,
              {out, FamilyBuilder::Type::Gauge, "kmem_unusable_free_index",
               "Share of the zone's free memory that lies in blocks too small for an allocation of "
               "this order: 0 none of it, 1 all of it, also when nothing is free. Computed from "
               "/proc/buddyinfo, all kernels."});
  AppendIndex(rows, orders, FragmentationIndex,
              {out, FamilyBuilder::Type::Gauge, "kmem_fragmentation_index",
               "Why an allocation of this order would fail in the zone: toward 0 for lack of "
               "memory, toward 1 because free memory is fragmented; -1 where it need not fail. "
               "Computed from /proc/buddyinfo, all kernels."});
}

void AppendMinFree(const ProcReader& proc, Families& out) {
  constexpr std::string_view kPath = "sys/vm/min_free_kbytes";
  double bytes = 0;
  try {
    bytes = static_cast<double>(ParseSysctlNumber(proc.Read(kPath), kPath)) * 1024;
  } catch (const ProcError&) {
    return;
  }
  FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_min_free_bytes",
                "Memory that the kernel keeps free, vm.min_free_kbytes in bytes. From "
                "/proc/sys/vm/min_free_kbytes, all kernels.")
      .Add({}, bytes);
}

// With what buddyinfo tells of the nodes where zoneinfo can't be had.
Zoneinfo ReadZoneinfo(const ProcReader& proc, const std::vector<BuddyRow>& rows) {
  try {
    return ParseZoneinfo(proc.Read("zoneinfo"));
  } catch (const ProcError&) {
    Zoneinfo zoneinfo;
    for (const BuddyRow& row : rows) zoneinfo.nodes.insert(row.node);
    return zoneinfo;
  }
}

void AppendManaged(const Zoneinfo& zoneinfo, std::uint64_t page_size, Families& out) {
  if (!zoneinfo.managed_pages) return;
  FamilyBuilder(
      out, FamilyBuilder::Type::Gauge, "kmem_managed_bytes",
      "Memory that the page allocator manages, free or in use: the machine's without what "
      "was reserved at boot. Sum of managed in /proc/zoneinfo, all kernels.")
      .Add({}, *zoneinfo.managed_pages * static_cast<double>(page_size));
}

}  // namespace

double UnusableFreeIndex(std::span<const std::uint64_t> free_blocks, int order) {
  const double free_pages = PagesFrom(free_blocks, 0);
  if (free_pages == 0) return 1;
  return (free_pages - PagesFrom(free_blocks, order)) / free_pages;
}

double FragmentationIndex(std::span<const std::uint64_t> free_blocks, int order) {
  double all_blocks = 0;
  for (const std::uint64_t blocks : free_blocks) all_blocks += static_cast<double>(blocks);
  if (all_blocks == 0) return 0;
  if (PagesFrom(free_blocks, order) > 0) return -1;
  return 1 - (1 + PagesFrom(free_blocks, 0) / std::ldexp(1.0, order)) / all_blocks;
}

void FragmentationCollector::Collect(const ProcReader& proc, const KernelFacts& facts,
                                     Families& out) const {
  const std::vector<BuddyRow> rows = ParseBuddyinfo(proc.Read("buddyinfo"));
  const int pageblock_order = facts.pageblock_order;
  AppendFreeBlocks(rows, out);
  AppendIndices(rows, pageblock_order, out);
  FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_pageblock_order",
                "Order of a pageblock, the unit in which the kernel groups pages by migratetype. "
                "From the format of mm_page_alloc_extfrag or /proc/pagetypeinfo, all kernels.")
      .Add({}, pageblock_order);
  AppendMinFree(proc, out);
  const Zoneinfo zoneinfo = ReadZoneinfo(proc, rows);
  const double pageblock_bytes = std::ldexp(static_cast<double>(facts.page_size), pageblock_order);
  FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_min_free_step_bytes",
                "Step by which to raise vm.min_free_kbytes against fragmentation, as the kernel's "
                "Documentation/trace/events-kmem.rst has it: 3 pageblocks per online node. "
                "Computed from /proc/zoneinfo, all kernels.")
      .Add({}, 3 * pageblock_bytes * static_cast<double>(zoneinfo.nodes.size()));
  AppendManaged(zoneinfo, facts.page_size, out);
}

}  // namespace kmem
