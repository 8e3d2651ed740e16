// Parsers of the kernel's memory tables below /proc: from text to plain structs, no files. The text
// is not trusted: whatever it holds, a parser returns or throws ProcError ("TABLE: line N: why"),
// in time and memory linear in the text's length. Pure functions; any thread may call them.
//
// The layouts are those of mm/vmstat.c, 5.10 to 6.18. Every line of these tables ends in a newline,
// so a text that doesn't was cut off, and is refused rather than half believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"

namespace kmem {

// A longer text is refused. /proc/zoneinfo, the longest, has some 230 bytes per CPU and zone: this
// is room for 2000 CPUs and 70 zones.
inline constexpr std::size_t kMaxTableBytes = std::size_t{32} << 20;

// No order reaches this: a block of 2^63 pages would not fit any address.
inline constexpr int kMaxOrders = 64;

// One line of /proc/buddyinfo (frag_show_print(), mm/vmstat.c): a zone that has pages.
struct BuddyRow {
  int node = 0;
  std::string zone;                        // lower case
  std::vector<std::uint64_t> free_blocks;  // by order
};

// All rows have equally many orders, at least one; no zone of a node comes twice.
[[nodiscard]] std::vector<BuddyRow> ParseBuddyinfo(std::string_view text);

using VmstatCounters = std::map<std::string, std::uint64_t, std::less<>>;

// The lines of /proc/vmstat (vmstat_show(), mm/vmstat.c) whose name starts with one of `prefixes`.
// None may be there: which names there are depends on the kernel's version and configuration.
[[nodiscard]] VmstatCounters ParseVmstat(std::string_view text,
                                         std::span<const std::string_view> prefixes);

// The limits of the per-CPU page lists of one zone.
struct ZonePagesets {
  int node = 0;
  std::string zone;         // lower case
  std::uint32_t high = 0;   // pages; the largest of the CPUs
  std::uint32_t batch = 0;  // pages; the largest of the CPUs
};

// /proc/zoneinfo (zoneinfo_show_print(), mm/vmstat.c). It names every zone of every online node,
// even those without pages, but gives `pagesets` only for zones with pages.
struct Zoneinfo {
  std::set<int> nodes;  // the online ones
  // Of all zones. A floating-point number, because those of a hostile table could overflow a whole
  // one; none where no zone tells.
  std::optional<double> managed_pages;
  std::vector<ZonePagesets> pagesets;
};

// Fields that are not wanted, such as those that newer kernels add, are passed over.
[[nodiscard]] Zoneinfo ParseZoneinfo(std::string_view text);

// What /proc/pagetypeinfo (pagetypeinfo_show(), mm/vmstat.c) says of the whole machine.
struct Pagetypeinfo {
  int pageblock_order = 0;
  // By number (enum migratetype, include/linux/mmzone.h), lower case: unmovable, movable,
  // reclaimable, highatomic, then cma and isolate if the kernel was built with them.
  std::vector<std::string> migratetypes;
};

[[nodiscard]] Pagetypeinfo ParsePagetypeinfo(std::string_view text);

// A file below /proc/sys that holds one number; `name` is for the error.
[[nodiscard]] std::uint64_t ParseSysctlNumber(std::string_view text, std::string_view name);

}  // namespace kmem
