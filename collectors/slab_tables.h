// The slab collector's tables by call site and by cache (slab_tally.h), on their way from whoever
// fills them to a scrape: plain bytes. Reading a table is safe while its one writer writes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "collectors/collector.h"
#include "collectors/ledger.h"
#include "collectors/slab_tally.h"

namespace kmem {

struct SlabCacheEntry {
  TableEntry entry;
  std::array<char, SLAB_CACHE_NAME_BYTES> name;  // ends with a NUL
};

// Append the slots that are taken. `first_place` is the number of the table's first slot among
// those of all tables of its kind; it must be the same at every reading. A slot whose owner is just
// being changed is left out.
void AppendSites(std::span<const kmem_slot> slots, std::uint32_t first_place,
                 std::vector<std::byte>& out);
using SlabCacheNames = std::span<const char[SLAB_CACHE_NAME_BYTES]>;  // NOLINT: C's layout
void AppendCaches(std::span<const kmem_slot> slots, SlabCacheNames names, std::uint32_t first_place,
                  std::vector<std::byte>& out);

// What the objects that are alive say of one call site.
struct SlabLiveSite {
  std::uint32_t place;       // among all sites of the table
  std::uint32_t generation;  // another one: the place has another owner
  std::uint64_t call_site;
  std::uint64_t objects;
  std::array<std::uint64_t, SLAB_LIVE_AGES> bytes;  // by age
  std::uint64_t left_out;                           // SLAB_LIVE_SHOWN, or why not
  // Allocated in the first half of the time since the start, where that is asked for.
  std::uint64_t lasting_objects = 0;
  std::uint64_t lasting_bytes = 0;
};
struct SlabLiveTotals {
  std::array<std::uint64_t, SLAB_LIVE_REASONS> dropped;
  std::uint64_t stale = 0;  // 1: the sites are those of an earlier reading, the last one failed
};
// Append them. For the thread that owns `live`; with `lasting` it looks through the whole table.
void AppendLive(const slab_live& live, bool lasting, std::vector<std::byte>& out);
void AppendLive(const SlabLiveTotals& totals, std::span<const SlabLiveSite> sites,
                std::vector<std::byte>& out);
// The most that one of them appends for so many sites, in bytes; and the other two.
std::size_t LiveBytes(std::size_t sites);
std::size_t SitesBytes(std::size_t slots);
std::size_t CachesBytes(std::size_t slots);

// What was appended.
struct SlabTables {
  std::vector<TableEntry> sites;
  std::vector<SlabCacheEntry> caches;
  std::optional<SlabLiveTotals> live;
  std::vector<SlabLiveSite> live_sites;
};
SlabTables ParseSlabTables(std::span<const std::byte> bytes);

// Visits the counters of each slot in them (the value behind these, by site the sizes, is none).
void VisitSlabCounters(std::span<std::byte> bytes,
                       const std::function<void(const CommonCounters&)>& visit);

}  // namespace kmem
