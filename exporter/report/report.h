// What the kernel's memory allocators did in an interval, as the answers that
// Documentation/trace/events-kmem.rst looks for, in its order. Made from the metric families of two
// scrapes alone, so it holds whatever engine counted. Plain values; pure functions; any thread.
//
// What is not there was not counted: its collector is off, or this kernel lacks it. It is never 0.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "exporter/report/interval.h"

namespace kmem {

// What a report is made of.
struct Observation {
  std::string trace_file;  // empty: the live kernel
  Families start;          // empty for a trace: it begins at 0
  Families end;
  double start_seconds = 0;  // when they were scraped, by one clock
  double end_seconds = 0;
  std::vector<std::string> wanted_tracepoints;
  std::optional<double> memory_bytes;  // of the machine
  std::uint32_t live_one_in = 1;       // objects of which one was followed
};

// Whether the numbers can be believed. Only what is not 0 or whole is in the maps.
struct Trust {
  double events_read = 0;
  Counts lost;           // by reason: these are missing in all other numbers
  Counts record_errors;  // by cause
  Counts interference;   // by kind: somebody else changed our tracing
  Counts traced_share;   // by collector, of the time: its numbers are scaled up by the rest
  std::vector<std::string> missing_tracepoints;  // this kernel has none of the name
  std::vector<std::string> failed_tracepoints;   // it has, and they could not be used
};

struct SlabTraffic {
  double allocations = 0;
  double failures = 0;
  double frees = 0;
  double requested_bytes = 0;
  double allocated_bytes = 0;
};

// A function that allocates, and the module that it is of.
struct Site {
  std::string call_site;
  std::string module;
  bool operator==(const Site&) const = default;
  bool operator<(const Site& that) const {
    return std::tie(call_site, module) < std::tie(that.call_site, that.module);
  }

  // Whether it stands for all those that have no series of their own.
  [[nodiscard]] bool is_other() const { return call_site == "other" && module.empty(); }
};

struct CallSite {
  Site site;
  double allocations = 0;
  double requested_bytes = 0;
  double allocated_bytes = 0;
  std::optional<double> size_classes;      // distinct ones that it asked for
  std::optional<double> fixed_size_bytes;  // the one size that it always asked for, or 0

  [[nodiscard]] double waste_bytes() const { return allocated_bytes - requested_bytes; }
  // Whether a cache of its own might pay: it always asks for one size, or one class of sizes where
  // that is all that is known, and wastes more than such a cache would. That leaves up to a 16th of
  // a slab unused where it can (calculate_order(), mm/slub.c, 5.10 to 6.18).
  [[nodiscard]] bool wants_cache() const {
    const bool one_size = fixed_size_bytes ? *fixed_size_bytes > 0 : size_classes == 1;
    return one_size && waste_bytes() > allocated_bytes / 16;
  }
};

struct SizeClass {
  std::string size_class;  // bytes, or a word for those that have no class
  double allocations = 0;
  double requested_bytes = 0;
  std::optional<double> waste_bytes;
};

// A kernel may name the cache in the one event and not in the other.
struct Cache {
  std::string cache;
  std::optional<double> allocations;
  std::optional<double> allocated_bytes;
  std::optional<double> frees;

  // As Site's.
  [[nodiscard]] bool is_other() const { return cache == "other"; }
};

// What a function allocated and nobody has freed.
struct LiveSite {
  Site site;
  double bytes = 0;
  double objects = 0;
  double grown_bytes = 0;               // since the start; negative: it shrank
  std::map<double, double> aged_bytes;  // by seconds: bytes that are at least so old
  // Allocated in the first half of the time that was watched: suspected to be a leak.
  double lasting_objects = 0;
  double lasting_bytes = 0;
};

struct Live {
  std::vector<LiveSite> sites;  // by lasting bytes, then by the age of all; `other` last
  bool complete = true;         // no allocation or free was lost
  Counts dropped;               // by reason
  double one_in = 1;            // objects of which one was followed: the numbers are estimates
};

struct Slab {
  std::map<std::string, SlabTraffic> allocators;
  std::optional<std::vector<CallSite>> call_sites;     // by waste, the largest first; `other` last
  bool symbols_hidden = false;                         // so only `other` is there
  std::optional<std::vector<SizeClass>> size_classes;  // ascending
  std::optional<std::vector<Cache>> caches;            // by bytes, the largest first; `other` last
  std::optional<Live> live;
};

struct PageOrder {
  Counts allocations;  // by migratetype
  double frees = 0;
  Counts failures;  // by nowarn: "false" are those that dmesg shows
};

struct Pages {
  std::map<int, PageOrder> orders;
  Counts allocated_bytes;  // by migratetype
  double freed_bytes = 0;
};

// What took zone->lock.
struct ZoneLock {
  double refill_blocks = 0;             // for per-CPU lists, many under one hold
  std::map<int, double> direct_blocks;  // straight to the caller, one per hold; by order
  std::optional<double> refills;        // holds; absent where the pcp collector is off
  std::optional<double> drains;
  double frees = 0;
  double batched_frees = 0;

  [[nodiscard]] double direct() const;
  [[nodiscard]] double single_frees() const;
};

struct CpuLists {
  double refills = 0;
  double refill_pages = 0;
  double drains = 0;
  double drain_pages = 0;

  [[nodiscard]] double moved_pages() const { return refill_pages + drain_pages; }
};

struct ListLimits {
  std::string numa_node;
  std::string mem_zone;
  double high_pages = 0;
  double batch_pages = 0;
};

struct PerCpuLists {
  std::map<int, CpuLists> cpus;
  std::vector<ListLimits> limits;

  [[nodiscard]] CpuLists total() const;
  // The share of drained pages that other CPUs drained than refilled: half the sum of the
  // differences between each CPU's share of the drains and of the refills. 0: every CPU drains as
  // it refills; 1: some only refill, others only drain. Nothing where there is not both.
  [[nodiscard]] std::optional<double> displaced_share() const;
};

// Pages by where they were freed.
struct CrossCpu {
  double same_cpu = 0;
  double cross_cpu = 0;
  std::optional<double> cross_node;
};

// Allocations of one migratetype that took pages of another's pageblocks.
struct Fallback {
  std::string alloc_migratetype;
  std::string fallback_migratetype;
  double events = 0;
  double fragmenting = 0;   // the block was smaller than a pageblock, so two types share it now
  Counts change_ownership;  // true: the pageblock became one of the allocation's type

  // Movable pages can be moved out of the way later, others stay where they are.
  [[nodiscard]] bool lasting() const;
};

struct FreeMemory {
  std::string numa_node;
  std::string mem_zone;
  std::map<int, double> unusable_index;  // by order: the share that is of no use to it
};

// vm.min_free_kbytes in bytes, and what to set it to where memory fragments.
struct MinFree {
  // Of all memory. The kernel's own advice stops here, and kept free it serves nobody:
  // set_recommended_min_free_kbytes(), mm/khugepaged.c, 2.6.38 to 6.18.
  static constexpr double kMostOfMemory = 0.05;

  double bytes = 0;
  double step_bytes = 0;
  std::optional<double> memory_bytes;

  // One step more, where that is known to be no more than kMostOfMemory.
  [[nodiscard]] std::optional<double> next_bytes() const;
};

struct Compaction {
  double stalls = 0;
  double successes = 0;
  double failures = 0;
};

struct Fragmentation {
  std::optional<std::vector<Fallback>> fallbacks;  // those that happened, the most frequent first
  std::optional<std::vector<FreeMemory>> free_memory;
  std::optional<int> pageblock_order;
  std::optional<MinFree> min_free;
  std::optional<Compaction> compaction;     // none for a trace, like what follows
  std::optional<Counts> allocation_stalls;  // by mem_zone, those that happened

  [[nodiscard]] double lasting_events() const;
};

struct Report {
  std::string trace_file;         // empty: the live kernel
  std::optional<double> seconds;  // none for a trace
  std::string engine;
  std::string reason;
  Trust trust;
  std::optional<Slab> slab;
  std::optional<Pages> pages;
  std::optional<ZoneLock> zone_lock;
  std::optional<PerCpuLists> per_cpu_lists;
  std::optional<CrossCpu> cross_cpu;
  Fragmentation fragmentation;
};

Report MakeReport(const Observation& observation);

}  // namespace kmem
