#include "collectors/slab.h"

#include <array>

#include "collectors/merge.h"
#include "collectors/slab_tally.h"

namespace kmem {
namespace {

template <FixedString kName, auto kCount>
constexpr EventSpec kAlloc =
    Tracepoint<kName, kCount, Required<"ptr", &slab_alloc_event::ptr>,
               Required<"bytes_req", &slab_alloc_event::bytes_req>,
               Required<"bytes_alloc", &slab_alloc_event::bytes_alloc>>::kSpec;

template <FixedString kName, auto kCount>
constexpr EventSpec kFree =
    Tracepoint<kName, kCount, Required<"ptr", &slab_free_event::ptr>>::kSpec;

constexpr std::array kEvents{
    kAlloc<"kmalloc", slab_count_kmalloc>,
    kAlloc<"kmalloc_node", slab_count_kmalloc_node>,
    kFree<"kfree", slab_count_kfree>,
    kAlloc<"kmem_cache_alloc", slab_count_kmem_cache_alloc>,
    kAlloc<"kmem_cache_alloc_node", slab_count_kmem_cache_alloc_node>,
    kFree<"kmem_cache_free", slab_count_kmem_cache_free>,
};

constexpr std::array<double, SLAB_SIZE_BUCKETS - 1> kSizeBounds{
    8,    16,   32,    64,    96,    128,    192,    256,    512,     1024,    2048,
    4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304};
constexpr std::array<double, SLAB_WASTE_BUCKETS - 1> kWasteBounds{
    0,    4,    8,    16,    32,    64,    128,    256,    512,    1024,
    2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576};

struct AllocatorCounts {
  std::string_view allocator;
  slab_alloc_counts alloc;
  std::uint64_t frees;
};

}  // namespace

std::span<const EventSpec> SlabCollector::events() const { return kEvents; }

std::size_t SlabCollector::tally_bytes() const { return sizeof(slab_tally); }

void SlabCollector::Export(const Tallies& tallies, const KernelFacts& /*facts*/,
                           Families& out) const {
  auto sum = MergeCpus<slab_tally>(tallies);
  AddWords(sum.kmalloc, sum.kmalloc_node);
  AddWords(sum.kmem_cache_alloc, sum.kmem_cache_alloc_node);
  const std::array<AllocatorCounts, 2> allocators{{
      {"kmalloc", sum.kmalloc.alloc, sum.kfree},
      {"kmem_cache", sum.kmem_cache_alloc, sum.kmem_cache_free},
  }};

  const auto counter = [&](std::string_view name, std::string_view help, auto value) {
    FamilyBuilder family(out, FamilyBuilder::Type::Counter, name, help);
    for (const AllocatorCounts& a : allocators) {
      family.Add({{"allocator", a.allocator}}, static_cast<double>(value(a)));
    }
  };
  counter("kmem_slab_allocations_total",
          "Slab objects allocated (kmalloc and kmem_cache_alloc with their _node forms). "
          "Bulk allocations do not fire these tracepoints.",
          [](const AllocatorCounts& a) { return a.alloc.allocations; });
  counter("kmem_slab_allocation_failures_total",
          "Slab allocations that failed: the tracepoint fired with a NULL pointer.",
          [](const AllocatorCounts& a) { return a.alloc.failures; });
  counter(
      "kmem_slab_frees_total",
      "Slab objects freed, by the function that freed them: kfree (allocator kmalloc) or "
      "kmem_cache_free. Frees of NULL and of the zero-size pointer are left out; bulk frees and "
      "most of kfree_rcu do not fire these tracepoints.",
      [](const AllocatorCounts& a) { return a.frees; });
  counter("kmem_slab_requested_bytes_total",
          "Bytes that the callers of slab allocations asked for.",
          [](const AllocatorCounts& a) { return a.alloc.requested_bytes; });
  counter(
      "kmem_slab_allocated_bytes_total",
      "Bytes that slab allocations took. Less the requested bytes this is what the callers never "
      "asked for.",
      [](const AllocatorCounts& a) { return a.alloc.requested_bytes + a.alloc.unrequested_bytes; });

  FamilyBuilder sizes(out, FamilyBuilder::Type::Histogram, "kmem_slab_request_size_bytes",
                      "Sizes that slab allocations asked for. Bounds are kmalloc's size classes.");
  for (const AllocatorCounts& a : allocators) {
    sizes.AddHistogram({{"allocator", a.allocator}}, kSizeBounds, a.alloc.request_size,
                       static_cast<double>(a.alloc.requested_bytes));
  }
  FamilyBuilder waste(out, FamilyBuilder::Type::Histogram, "kmem_slab_waste_bytes",
                      "Bytes that each kmalloc got beyond those it asked for.");
  waste.AddHistogram({}, kWasteBounds, sum.kmalloc.waste,
                     static_cast<double>(sum.kmalloc.alloc.unrequested_bytes));
}

}  // namespace kmem
