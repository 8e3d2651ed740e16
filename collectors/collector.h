// What the two kinds of collectors are: those that tally tracepoints and those that read tables
// below /proc at scrape time. A collector knows events and metrics; nothing of files, threads or
// HTTP. Collectors are immutable once made, so any thread may call them; the state of a tracing
// collector lies in Tallies, owned by the source of events.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/event.h"
#include "collectors/families.h"

namespace kmem {

// A function of the kernel, as labels show it.
struct Symbol {
  std::string function;
  std::string module;  // "kernel" for built-in code
};

// No function has more bytes; what is farther from the beginning of one has no name.
inline constexpr std::uint64_t kLongestFunction = 1 << 20;

// The names of the kernel's functions. Any thread.
class Symbols {
 public:
  Symbols() = default;
  Symbols(const Symbols&) = delete;
  Symbols& operator=(const Symbols&) = delete;
  virtual ~Symbols() = default;

  // False: addresses are hidden from us.
  [[nodiscard]] virtual bool available() const = 0;
  // Looks whether the kernel's modules have changed. The number changes when names that were found
  // before may be wrong now.
  virtual std::uint64_t Refresh() = 0;
  // The function that a call returns to at that address.
  [[nodiscard]] virtual std::optional<Symbol> Find(std::uint64_t return_address) const = 0;
};

// What must be known of the kernel that wrote the events, beside their format.
struct KernelFacts {
  static constexpr std::uint32_t kNoNode = UINT32_MAX;

  std::uint64_t page_size = 4096;  // bytes
  int order_count = 11;            // as many as /proc/buddyinfo has columns
  int pageblock_order = 9;
  std::uint64_t gfp_nowarn = 0;            // the bit of __GFP_NOWARN in gfp_flags; 0: not known
  bool change_ownership_told = true;       // whether extfrag events say it
  std::vector<std::string> migratetypes;   // names by number, lower case
  std::vector<std::uint32_t> online_cpus;  // those whose series exist from the start
  bool cache_allocs_named = false;         // whether allocations from a cache say its name
  bool cache_frees_named = false;          // whether frees do
  std::vector<std::uint32_t> cpu_nodes;    // by CPU number, kNoNode where it is not known
  std::shared_ptr<Symbols> symbols;        // NULL: addresses have no names here

  // The NUMA node of a CPU, and whether CPUs belong to several.
  [[nodiscard]] std::uint32_t NodeOf(std::uint32_t cpu) const;
  [[nodiscard]] bool HasSeveralNodes() const;

  // The name of a migratetype, or its number where the name is not known.
  [[nodiscard]] std::string MigratetypeName(std::size_t number) const;
};

// The states of one collector, one per possible CPU, in one block of memory. Copying copies them
// all; assignment between two of the same shape allocates nothing.
class Tallies {
 public:
  Tallies() = default;
  Tallies(std::size_t bytes, std::uint32_t cpus);

  // What the collector read of its common state (TraceCollector::ReadCommon), and when by
  // CLOCK_MONOTONIC; both empty for a collector that has none.
  std::vector<std::byte> common;
  std::uint64_t taken_at_ns = 0;
  // Whether every event of the collector's tracepoints is in the tallies, as far as is known.
  bool whole = true;

  [[nodiscard]] std::uint32_t cpus() const { return cpus_; }
  [[nodiscard]] std::size_t stride() const { return stride_; }
  [[nodiscard]] std::byte* At(std::uint32_t cpu) {
    return reinterpret_cast<std::byte*>(lines_.data()) + cpu * stride_;
  }
  template <class Tally>
  [[nodiscard]] const Tally& At(std::uint32_t cpu) const {
    static_assert(std::is_trivially_copyable_v<Tally> && alignof(Tally) <= alignof(Line));
    return *reinterpret_cast<const Tally*>(reinterpret_cast<const std::byte*>(lines_.data()) +
                                           cpu * stride_);
  }

 private:
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  std::vector<Line> lines_;
  std::size_t stride_ = 0;
  std::uint32_t cpus_ = 0;
};

// When a collector's tracepoints may be left out for a while, so that tracing stays within its
// budget: among the first, only where that was not enough, or never. Those of a collector that
// pairs events over longer times are not to be left out.
enum class Sampling : std::uint8_t { kFirst, kLast, kNever };

// Some words (of 8 bytes) of a tally, numbered from 0.
struct WordRange {
  std::size_t first;
  std::size_t count;
};

// Where a counter in a collector's common state is: its numbers are of one owner while `place` and
// `owner` stay the same.
struct CommonCounters {
  std::uint64_t place;
  std::uint64_t owner;
  std::span<std::byte> values;  // words; their alignment is any
};

// A collector that tallies tracepoints.
class TraceCollector {
 public:
  TraceCollector() = default;
  TraceCollector(const TraceCollector&) = delete;
  TraceCollector& operator=(const TraceCollector&) = delete;
  virtual ~TraceCollector() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::span<const EventSpec> events() const = 0;
  [[nodiscard]] virtual std::size_t tally_bytes() const = 0;

  // Writes the constants of a CPU's tally. Called once per CPU before any event.
  virtual void Init(std::byte* /*tally*/, const KernelFacts& /*facts*/,
                    std::uint32_t /*cpu*/) const {}

  // Whether each word of a tally is a counter of its own: then a copy is good even if it was made
  // while an event was being counted.
  [[nodiscard]] virtual bool independent_words() const { return true; }

  // Called for a tally, or a copy, that is exported next: every event of its CPU before `now_ns`
  // (the trace's clock) has been handled.
  virtual void Settle(std::byte* /*tally*/, std::uint64_t /*now_ns*/) const {}

  // The state that all CPUs have in common where one thread tallies for all of them: 0 bytes if the
  // collector has none. Handlers get it as kmem_context::common. It starts as zeros.
  [[nodiscard]] virtual std::size_t common_bytes() const { return 0; }
  virtual void InitCommon(std::byte* /*common*/) const {}
  // Counts what has waited for the events of other CPUs, and does what is due by `now_ns`: every
  // event before `settled_ns`, of whatever CPU, has been handled (both by the trace's clock).
  // Called by the thread that calls the handlers, each time that it has read all CPUs' events.
  virtual void SettleCommon(std::byte* /*common*/, Tallies& /*tallies*/,
                            std::uint64_t /*settled_ns*/, std::uint64_t /*now_ns*/) const {}
  // Forgets what waits for events that belong to it, or to be settled. Called, by the same thread,
  // when events have passed unseen: what comes next belongs to nothing before.
  virtual void Forget(std::byte* /*common*/) const {}
  // Appends what Export() needs of it, at most `read_bytes()`.
  virtual void ReadCommon(const std::byte* /*common*/, std::vector<std::byte>& /*out*/) const {}
  [[nodiscard]] virtual std::size_t read_bytes() const { return common_bytes(); }

  [[nodiscard]] virtual Sampling sampling() const { return Sampling::kFirst; }

  // The words of a tally that are counters, which are scaled up by what was not traced.
  [[nodiscard]] virtual std::vector<WordRange> counters() const {
    return {{0, tally_bytes() / sizeof(std::uint64_t)}};
  }
  // The same in what ReadCommon() gave: calls `visit` for each group of counters of one owner.
  virtual void VisitCounters(std::span<std::byte> /*common*/,
                             const std::function<void(const CommonCounters&)>& /*visit*/) const {}

  // Whether Export() has a use for KernelFacts::symbols.
  [[nodiscard]] virtual bool wants_symbols() const { return false; }
  // The addresses in what ReadCommon() gave whose names Export() asks for.
  [[nodiscard]] virtual std::vector<std::uint64_t> Addresses(
      std::span<const std::byte> /*common*/) const {
    return {};
  }

  // Merges the CPUs and appends this collector's families.
  virtual void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const = 0;
};

// A table below /proc could not be read or understood; what() says which and why.
class ProcError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Gives collectors the text of tables below /proc, by path relative to it ("buddyinfo",
// "sys/vm/min_free_kbytes"). Throws ProcError.
class ProcReader {
 public:
  ProcReader() = default;
  ProcReader(const ProcReader&) = delete;
  ProcReader& operator=(const ProcReader&) = delete;
  virtual ~ProcReader() = default;
  [[nodiscard]] virtual std::string Read(std::string_view path) const = 0;
};

// A collector that reads tables below /proc at scrape time.
class ProcCollector {
 public:
  ProcCollector() = default;
  ProcCollector(const ProcCollector&) = delete;
  ProcCollector& operator=(const ProcCollector&) = delete;
  virtual ~ProcCollector() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;

  // Appends this collector's families. Throws ProcError; what was appended before is then dropped
  // by the caller.
  virtual void Collect(const ProcReader& proc, const KernelFacts& facts, Families& out) const = 0;
};

}  // namespace kmem
