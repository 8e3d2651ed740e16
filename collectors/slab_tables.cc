#include "collectors/slab_tables.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>

namespace kmem {
namespace {

enum class Kind : std::uint32_t { kSite = 1, kCache = 2, kLiveTotals = 3, kLiveSite = 4 };

std::size_t BytesOf(Kind kind) {
  switch (kind) {
    case Kind::kSite:
      return sizeof(TableEntry);
    case Kind::kCache:
      return sizeof(SlabCacheEntry);
    case Kind::kLiveTotals:
      return sizeof(SlabLiveTotals);
    case Kind::kLiveSite:
      break;
  }
  return sizeof(SlabLiveSite);
}

template <class Value>
void Append(const Value& value, std::vector<std::byte>& out) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

template <class Value>
Value Take(std::span<const std::byte>& bytes) {
  Value value{};
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes = bytes.subspan(sizeof value);
  return value;
}

template <class Word>
Word Load(const Word& word) {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

// Copies a slot, and by `copy_more` what belongs to it, if its owner stays the same meanwhile.
template <class CopyMore>
std::optional<kmem_slot> ReadSlot(const kmem_slot& from, CopyMore copy_more) {
  constexpr int kAttempts = 4;
  for (int i = 0; i < kAttempts; ++i) {
    kmem_slot slot{};
    slot.generation = Load(from.generation);
    if ((slot.generation & 1) != 0) continue;
    slot.key = Load(from.key);
    for (std::size_t value = 0; value < KMEM_SLOT_VALUES; ++value) {
      slot.values[value] = Load(from.values[value]);
    }
    copy_more();
    if (Load(from.generation) == slot.generation) return slot;
  }
  return std::nullopt;
}

struct LastingOf {
  std::uint64_t objects;
  std::uint64_t bytes;
};

// Those that were allocated in the first half of the time until the table was looked after last.
void FindLasting(const slab_live& live, std::span<LastingOf> of) {
  const std::uint64_t end_ns = std::max(live.hand_ns, live.started_ns);
  const std::uint64_t half_ns = live.started_ns + (end_ns - live.started_ns) / 2;
  for (const slab_live_object& object : std::span(live.objects, live.places)) {
    if (object.site == 0 || object.time_ns > half_ns) continue;
    LastingOf& lasting = of[object.site - 1U];
    lasting.objects++;
    lasting.bytes += object.bytes;
  }
}

}  // namespace

void AppendSites(std::span<const kmem_slot> slots, std::uint32_t first_place,
                 std::vector<std::byte>& out) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (Load(slots[i].key) == 0) continue;
    const auto slot = ReadSlot(slots[i], [] {});
    if (!slot) continue;
    Append(Kind::kSite, out);
    Append(TableEntry{first_place + static_cast<std::uint32_t>(i), *slot}, out);
  }
}

void AppendCaches(std::span<const kmem_slot> slots, SlabCacheNames names, std::uint32_t first_place,
                  std::vector<std::byte>& out) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (Load(slots[i].key) == 0) continue;
    SlabCacheEntry entry{};
    const auto slot = ReadSlot(slots[i], [&] {
      for (std::size_t at = 0; at < entry.name.size(); ++at) entry.name[at] = Load(names[i][at]);
    });
    if (!slot) continue;
    entry.entry = {first_place + static_cast<std::uint32_t>(i), *slot};
    entry.name.back() = '\0';
    Append(Kind::kCache, out);
    Append(entry, out);
  }
}

void AppendLive(const slab_live& live, bool lasting, std::vector<std::byte>& out) {
  std::array<LastingOf, SLAB_LIVE_SITES + 1> lasting_of{};
  if (lasting) FindLasting(live, lasting_of);
  SlabLiveTotals totals{};
  std::ranges::copy(live.dropped, totals.dropped.begin());
  Append(Kind::kLiveTotals, out);
  Append(totals, out);
  for (std::uint32_t place = 0; place < std::size(live.sites); ++place) {
    const slab_live_site& from = live.sites[place];
    if (from.objects == 0 && from.left_out == SLAB_LIVE_SHOWN) continue;
    SlabLiveSite site{.place = place,
                      .generation = from.generation,
                      .call_site = from.call_site,
                      .objects = from.objects,
                      .bytes = {},
                      .left_out = from.left_out,
                      .lasting_objects = lasting_of.at(place).objects,
                      .lasting_bytes = lasting_of.at(place).bytes};
    std::ranges::copy(from.bytes, site.bytes.begin());
    Append(Kind::kLiveSite, out);
    Append(site, out);
  }
}

void AppendLive(const SlabLiveTotals& totals, std::span<const SlabLiveSite> sites,
                std::vector<std::byte>& out) {
  Append(Kind::kLiveTotals, out);
  Append(totals, out);
  for (const SlabLiveSite& site : sites) {
    Append(Kind::kLiveSite, out);
    Append(site, out);
  }
}

std::size_t LiveBytes(std::size_t sites) {
  return sizeof(Kind) + sizeof(SlabLiveTotals) + sites * (sizeof(Kind) + sizeof(SlabLiveSite));
}
std::size_t SitesBytes(std::size_t slots) { return slots * (sizeof(Kind) + sizeof(TableEntry)); }
std::size_t CachesBytes(std::size_t slots) {
  return slots * (sizeof(Kind) + sizeof(SlabCacheEntry));
}

SlabTables ParseSlabTables(std::span<const std::byte> bytes) {
  SlabTables tables;
  while (!bytes.empty()) {
    switch (Take<Kind>(bytes)) {
      case Kind::kSite:
        tables.sites.push_back(Take<TableEntry>(bytes));
        break;
      case Kind::kCache:
        tables.caches.push_back(Take<SlabCacheEntry>(bytes));
        break;
      case Kind::kLiveTotals:
        tables.live = Take<SlabLiveTotals>(bytes);
        break;
      case Kind::kLiveSite:
        tables.live_sites.push_back(Take<SlabLiveSite>(bytes));
        break;
    }
  }
  return tables;
}

void VisitSlabCounters(std::span<std::byte> bytes,
                       const std::function<void(const CommonCounters&)>& visit) {
  constexpr std::size_t kCounters = KMEM_SLOT_VALUES - 1;
  static_assert(SLAB_SITE_SIZES == kCounters && SLAB_CACHE_FREES < kCounters);
  constexpr std::size_t kValues = offsetof(TableEntry, slot) + offsetof(kmem_slot, values);
  while (!bytes.empty()) {
    std::span<const std::byte> rest = bytes;
    const auto kind = Take<Kind>(rest);
    if (kind == Kind::kSite || kind == Kind::kCache) {
      const auto entry = Take<TableEntry>(rest);
      // A place's next owner has another generation, whatever its key.
      const std::uint64_t owner = entry.slot.key ^ std::uint64_t{entry.slot.generation} << 32;
      visit({.place = std::uint64_t{static_cast<std::uint32_t>(kind)} << 32 | entry.place,
             .owner = owner,
             .values = bytes.subspan(sizeof kind + kValues, kCounters * sizeof(std::uint64_t))});
    }
    bytes = bytes.subspan(sizeof kind + BytesOf(kind));
  }
}

}  // namespace kmem
