#include "collectors/slab_tables.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>

namespace kmem {
namespace {

enum class Kind : std::uint32_t { kSite = 1, kCache = 2 };

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

SlabTables ParseSlabTables(std::span<const std::byte> bytes) {
  SlabTables tables;
  while (!bytes.empty()) {
    if (Take<Kind>(bytes) == Kind::kSite) {
      tables.sites.push_back(Take<TableEntry>(bytes));
    } else {
      tables.caches.push_back(Take<SlabCacheEntry>(bytes));
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
    const auto entry = Take<TableEntry>(rest);
    const std::size_t size = kind == Kind::kSite ? sizeof(TableEntry) : sizeof(SlabCacheEntry);
    // A place's next owner has another generation, whatever its key.
    const std::uint64_t owner = entry.slot.key ^ std::uint64_t{entry.slot.generation} << 32;
    visit({.place = std::uint64_t{static_cast<std::uint32_t>(kind)} << 32 | entry.place,
           .owner = owner,
           .values = bytes.subspan(sizeof kind + kValues, kCounters * sizeof(std::uint64_t))});
    bytes = bytes.subspan(sizeof kind + size);
  }
}

}  // namespace kmem
