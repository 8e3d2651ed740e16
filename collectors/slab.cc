#include "collectors/slab.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "collectors/merge.h"
#include "collectors/slab_live_queue.h"
#include "collectors/slab_tables.h"

namespace kmem {
namespace {

template <FixedString kName, auto kCount, class... More>
constexpr EventSpec kAlloc =
    Tracepoint<kName, kCount, Required<"ptr", &slab_alloc_event::ptr>,
               Required<"bytes_req", &slab_alloc_event::bytes_req>,
               Required<"bytes_alloc", &slab_alloc_event::bytes_alloc>,
               Required<"call_site", &slab_alloc_event::call_site>, More...>::kSpec;

template <FixedString kName, auto kCount, class... More>
constexpr EventSpec kFree =
    Tracepoint<kName, kCount, Required<"ptr", &slab_free_event::ptr>, More...>::kSpec;

// 6.18 says the cache's name of an allocation, 6.1 that of a free.
using AllocCache = OptionalText<"name", &slab_alloc_event::cache>;
using FreeCache = OptionalText<"name", &slab_free_event::cache>;

constexpr std::array kEvents{
    // Frees first, as they are enabled: no allocation is seen whose free is not.
    kFree<"kfree", slab_count_kfree>,
    kFree<"kmem_cache_free", slab_count_kmem_cache_free, FreeCache>,
    kAlloc<"kmalloc", slab_count_kmalloc>,
    kAlloc<"kmalloc_node", slab_count_kmalloc_node>,
    kAlloc<"kmem_cache_alloc", slab_count_kmem_cache_alloc, AllocCache>,
    kAlloc<"kmem_cache_alloc_node", slab_count_kmem_cache_alloc_node, AllocCache>,
};

constexpr std::array<double, SLAB_SIZE_BUCKETS - 1> kSizeBounds{
    8,    16,   32,    64,    96,    128,    192,    256,    512,     1024,    2048,
    4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304};
constexpr std::array<double, SLAB_WASTE_BUCKETS - 1> kWasteBounds{
    0,    4,    8,    16,    32,    64,    128,    256,    512,    1024,
    2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576};

constexpr std::string_view kOther = "other";

struct AllocatorCounts {
  std::string_view allocator;
  slab_alloc_counts alloc;
  std::uint64_t frees;
};

std::uint64_t SiteWeight(const Ledger::Values& counted) {
  return counted[SLAB_SITE_REQUESTED] + counted[SLAB_SITE_UNREQUESTED];
}

// Where only frees have names, they are what there is to weigh.
std::uint64_t CacheWeight(const Ledger::Values& counted) {
  return std::max(counted[SLAB_CACHE_ALLOCATED_BYTES], counted[SLAB_CACHE_FREES]);
}

// The first size of one of them, the classes of both.
std::uint64_t MergeSizes(std::uint64_t a, std::uint64_t b) {
  if (a == 0 || b == 0) return a | b;
  const std::uint64_t varies = static_cast<std::uint32_t>(a) != static_cast<std::uint32_t>(b);
  return a | (b >> SLAB_SIZES_CLASSES_SHIFT << SLAB_SIZES_CLASSES_SHIFT) |
         varies << SLAB_SIZES_VARY_SHIFT;
}

double SizeClasses(std::uint64_t sizes) {
  return std::popcount((sizes & ~(UINT64_C(1) << SLAB_SIZES_VARY_SHIFT)) >>
                       SLAB_SIZES_CLASSES_SHIFT);
}

double FixedSize(std::uint64_t sizes) {
  return sizes >> SLAB_SIZES_VARY_SHIFT != 0 ? 0 : static_cast<std::uint32_t>(sizes);
}

double Rounded(std::uint64_t value) { return static_cast<double>(value); }

}  // namespace

SlabCollector::SlabCollector(const SlabOptions& options)
    : options_(options),
      sites_({.max_series = options.callsites.max_series,
              .weight = &SiteWeight,
              .merge_last = &MergeSizes}),
      caches_({.max_series = options.caches.max_series, .weight = &CacheWeight}),
      live_(options.live, options.callsites.max_series) {}

std::span<const EventSpec> SlabCollector::events() const { return kEvents; }

std::vector<WordRange> SlabCollector::counters() const {
  return {{offsetof(slab_tally, counts) / sizeof(std::uint64_t),
           sizeof(slab_counts) / sizeof(std::uint64_t)}};
}

void SlabCollector::Init(std::byte* tally, const KernelFacts& facts, std::uint32_t cpu) const {
  reinterpret_cast<slab_tally*>(tally)->node = facts.NodeOf(cpu);
}

std::size_t SlabCollector::common_bytes() const {
  const bool wanted = options_.callsites.enabled || options_.caches.enabled || live_.enabled();
  return wanted ? sizeof(slab_common) + live_.table_bytes() : 0;
}

void SlabCollector::InitCommon(std::byte* common) const {
  static_assert(sizeof(slab_common) % alignof(slab_live) == 0);
  auto& slab = *reinterpret_cast<slab_common*>(common);
  slab.sites_wanted = options_.callsites.enabled ? 1 : 0;
  slab.caches_wanted = options_.caches.enabled ? 1 : 0;
  if (live_.enabled()) slab.live = live_.InitTable(common + sizeof slab);
}

void SlabCollector::SettleCommon(std::byte* common, Tallies& tallies, std::uint64_t settled_ns,
                                 std::uint64_t now_ns) const {
  slab_live* const live = reinterpret_cast<slab_common*>(common)->live;
  if (live != nullptr) live_.Settle(*live, tallies, settled_ns, now_ns);
}

void SlabCollector::Forget(std::byte* common) const {
  slab_live* const live = reinterpret_cast<slab_common*>(common)->live;
  if (live != nullptr) ForgetSlabLive(*live);
}

std::size_t SlabCollector::read_bytes() const {
  return SitesBytes(SLAB_SITE_SLOTS) + CachesBytes(SLAB_CACHE_SLOTS) +
         (live_.enabled() ? LiveBytes(SLAB_LIVE_SITES + 1) : 0);
}

void SlabCollector::ReadCommon(const std::byte* common, std::vector<std::byte>& out) const {
  const auto& slab = *reinterpret_cast<const slab_common*>(common);
  AppendSites(slab.sites, 0, out);
  AppendCaches(slab.caches, slab.cache_names, 0, out);
  if (slab.live != nullptr) live_.Read(*slab.live, out);
}

void SlabCollector::VisitCounters(std::span<std::byte> common,
                                  const std::function<void(const CommonCounters&)>& visit) const {
  VisitSlabCounters(common, visit);
}

std::vector<std::uint64_t> SlabCollector::Addresses(std::span<const std::byte> common) const {
  std::vector<std::uint64_t> addresses;
  const SlabTables tables = ParseSlabTables(common);
  for (const TableEntry& site : tables.sites) addresses.push_back(site.slot.key);
  for (const SlabLiveSite& site : tables.live_sites) addresses.push_back(site.call_site);
  return addresses;
}

void SlabCollector::Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const {
  Snapshot snapshot{.sum = MergeCpus(tallies, &slab_tally::counts),
                    .tables = ParseSlabTables(tallies.common),
                    .taken_at_ns = tallies.taken_at_ns};
  slab_counts& sum = snapshot.sum;
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

  AddWords(sum.kmalloc_classes, sum.kmalloc_node_classes);
  const std::scoped_lock lock(mutex_);
  if (wants_symbols() && facts.symbols != nullptr) RefreshNames(*facts.symbols);
  const bool available = facts.symbols != nullptr && facts.symbols->available();
  if (options_.callsites.enabled) ExportSites(snapshot, facts, out);
  if (options_.caches.enabled) {
    ExportCaches(snapshot, facts, out);
    ExportClasses(sum, out);
  }
  if (common_bytes() == 0) return;
  if (live_.enabled()) {
    live_.Export(snapshot.tables, {snapshot.taken_at_ns, tallies.whole}, facts, out);
    AddWords(sum.kfree_of_live, sum.kmem_cache_free_of_live);
    live_.ExportFrees(sum.kfree_of_live, facts, out);
  }
  if (wants_symbols()) {
    FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_exporter_symbols_available",
                  "Whether the names of the kernel's functions can be read. 0: the call sites' "
                  "families show only \"other\".")
        .Add({}, available ? 1 : 0);
  }
  FamilyBuilder folded(out, FamilyBuilder::Type::Gauge, "kmem_exporter_series_folded",
                       "Names seen in the last hour that have no series of their own and are in "
                       "\"other\".");
  if (options_.callsites.enabled) {
    folded.Add({{"family", "kmem_slab_callsite"}}, static_cast<double>(sites_.ledger.folded()));
  }
  if (options_.caches.enabled) {
    folded.Add({{"family", "kmem_slab_cache"}}, static_cast<double>(caches_.ledger.folded()));
  }
  if (live_.enabled()) {
    folded.Add({{"family", "kmem_slab_callsite_live"}}, static_cast<double>(live_.folded()));
  }
}

void SlabCollector::RefreshNames(Symbols& symbols) const {
  const std::uint64_t version = symbols.Refresh();
  if (version == std::exchange(symbols_version_, version)) return;
  sites_.ledger.ForgetKeys();
  live_.ForgetNames();
}

std::uint64_t SlabCollector::Book::Other(std::size_t value, std::uint64_t total) {
  const std::uint64_t credited = ledger.credited().at(value);
  other.at(value) = std::max(other.at(value), total - std::min(total, credited));
  return other.at(value);
}

void SlabCollector::ExportSites(const Snapshot& snapshot, const KernelFacts& facts,
                                Families& out) const {
  const bool available = facts.symbols != nullptr && facts.symbols->available();
  sites_.ledger.Absorb(
      snapshot.taken_at_ns, snapshot.tables.sites,
      [&](const TableEntry& entry) -> std::optional<Ledger::Name> {
        if (!available) return std::nullopt;
        auto symbol = facts.symbols->Find(entry.slot.key);
        if (!symbol) return std::nullopt;
        return Ledger::Name{std::move(symbol->function), std::move(symbol->module)};
      });
  const std::vector<Ledger::Row> rows = sites_.ledger.Rows();
  const auto counter = [&](std::string_view name, std::string_view help, std::uint64_t other,
                           auto value) {
    FamilyBuilder family(out, FamilyBuilder::Type::Counter, name, help);
    family.Reserve(rows.size() + 1);
    for (const Ledger::Row& row : rows) {
      family.Add({{"call_site", row.name.first}, {"module", row.name.second}},
                 Rounded(value(row.values)));
    }
    family.Add({{"call_site", kOther}, {"module", ""}}, Rounded(other));
  };
  const slab_alloc_counts& kmalloc = snapshot.sum.kmalloc.alloc;
  const slab_alloc_counts& cache = snapshot.sum.kmem_cache_alloc;
  const std::uint64_t other_requested =
      sites_.Other(SLAB_SITE_REQUESTED, kmalloc.requested_bytes + cache.requested_bytes);
  const std::uint64_t other_unrequested =
      sites_.Other(SLAB_SITE_UNREQUESTED, kmalloc.unrequested_bytes + cache.unrequested_bytes);
  counter("kmem_slab_callsite_allocations_total",
          "Slab objects allocated by the function that asked for them. \"other\": all functions "
          "that have no series of their own.",
          sites_.Other(SLAB_SITE_ALLOCATIONS, kmalloc.allocations + cache.allocations),
          [](const Ledger::Values& values) { return values[SLAB_SITE_ALLOCATIONS]; });
  counter("kmem_slab_callsite_requested_bytes_total",
          "Bytes that the function asked for in slab allocations.", other_requested,
          [](const Ledger::Values& values) { return values[SLAB_SITE_REQUESTED]; });
  counter("kmem_slab_callsite_allocated_bytes_total",
          "Bytes that the function's slab allocations took. Less the requested bytes this is its "
          "waste, which a cache of its own would save if it always asks for one size.",
          other_requested + other_unrequested, [](const Ledger::Values& values) {
            return values[SLAB_SITE_REQUESTED] + values[SLAB_SITE_UNREQUESTED];
          });
  const auto gauge = [&](std::string_view name, std::string_view help, auto value) {
    FamilyBuilder family(out, FamilyBuilder::Type::Gauge, name, help);
    family.Reserve(rows.size() + 1);
    for (const Ledger::Row& row : rows) {
      family.Add({{"call_site", row.name.first}, {"module", row.name.second}},
                 value(row.values[SLAB_SITE_SIZES]));
    }
  };
  gauge("kmem_slab_callsite_size_classes",
        "Distinct size classes, as the buckets of kmem_slab_request_size_bytes, that the function "
        "has asked for.",
        &SizeClasses);
  gauge("kmem_slab_callsite_fixed_size_bytes",
        "The one size that the function has always asked for; 0 if it has asked for several.",
        &FixedSize);
}

void SlabCollector::ExportCaches(const Snapshot& snapshot, const KernelFacts& facts,
                                 Families& out) const {
  const SlabTables& tables = snapshot.tables;
  std::vector<TableEntry> entries;
  entries.reserve(tables.caches.size());
  for (const SlabCacheEntry& cache : tables.caches) entries.push_back(cache.entry);
  caches_.ledger.ForgetKeys();  // a key may be an address, which another cache may have by now
  caches_.ledger.Absorb(snapshot.taken_at_ns, entries, [&](const TableEntry& entry) {
    const auto at =
        std::ranges::lower_bound(tables.caches, entry.place, {},
                                 [](const SlabCacheEntry& cache) { return cache.entry.place; });
    const std::string_view name(at->name.data());
    if (name.empty() || name == kOther) return std::optional<Ledger::Name>();
    return std::optional(Ledger::Name{name, ""});
  });
  const std::vector<Ledger::Row> rows = caches_.ledger.Rows();
  const auto counter = [&](std::string_view name, std::string_view help, std::size_t value,
                           std::uint64_t total) {
    FamilyBuilder family(out, FamilyBuilder::Type::Counter, name, help);
    family.Reserve(rows.size() + 1);
    for (const Ledger::Row& row : rows) {
      family.Add({{"cache", row.name.first}}, Rounded(row.values.at(value)));
    }
    family.Add({{"cache", kOther}}, Rounded(caches_.Other(value, total)));
  };
  const slab_alloc_counts& alloc = snapshot.sum.kmem_cache_alloc;
  if (facts.cache_allocs_named) {
    counter("kmem_slab_cache_allocations_total",
            "Objects allocated from the cache by kmem_cache_alloc. \"other\": all caches that have "
            "no series of their own. Absent where the kernel does not say which cache it was.",
            SLAB_CACHE_ALLOCATIONS, alloc.allocations);
    counter("kmem_slab_cache_allocated_bytes_total",
            "Bytes that the objects allocated from the cache took.", SLAB_CACHE_ALLOCATED_BYTES,
            alloc.requested_bytes + alloc.unrequested_bytes);
  }
  if (facts.cache_frees_named) {
    counter("kmem_slab_cache_frees_total",
            "Objects freed to the cache by kmem_cache_free. Those freed by kfree are not in it. "
            "Absent where the kernel does not say which cache it was.",
            SLAB_CACHE_FREES, snapshot.sum.kmem_cache_free);
  }
}

void SlabCollector::ExportClasses(const slab_counts& sum, Families& out) const {
  const auto counter = [&](std::string_view name, std::string_view help, const auto& counts) {
    FamilyBuilder family(out, FamilyBuilder::Type::Counter, name, help);
    for (std::size_t i = 0; i < SLAB_SIZE_BUCKETS; ++i) {
      const std::string size_class =
          i < kSizeBounds.size() ? std::to_string(static_cast<std::uint64_t>(kSizeBounds.at(i)))
                                 : "+Inf";
      family.Add({{"size_class", size_class}}, Rounded(counts[i]));
    }
  };
  counter(
      "kmem_slab_kmalloc_allocations_total",
      "kmalloc allocations by the bytes that they took: up to size_class, and more than the one "
      "before.",
      sum.kmalloc_classes.allocations);
  counter("kmem_slab_kmalloc_requested_bytes_total",
          "Bytes that kmalloc was asked for, by the bytes that the allocations took.",
          sum.kmalloc_classes.requested_bytes);
}

}  // namespace kmem
