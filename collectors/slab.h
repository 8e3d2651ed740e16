// The slab collector: kmalloc, kmem_cache_alloc and their frees become counts, bytes asked for and
// bytes given, histograms of both; and, by call site and by cache, the same counts of those that
// matter most. The arithmetic is in slab_tally.h; who gets a series is decided by ledger.h.
#pragma once

#include <mutex>

#include "collectors/collector.h"
#include "collectors/ledger.h"
#include "collectors/slab_live.h"
#include "collectors/slab_tables.h"
#include "collectors/slab_tally.h"

namespace kmem {

struct SlabOptions {
  struct Names {
    bool enabled = true;
    std::uint32_t max_series = 50;  // of each family, and one more for `other`
    bool operator==(const Names&) const = default;
  };
  Names callsites;
  Names caches;
  SlabLiveOptions live;
  bool operator==(const SlabOptions&) const = default;
};

class SlabCollector : public TraceCollector {
 public:
  explicit SlabCollector(const SlabOptions& options = {});

  [[nodiscard]] std::string_view name() const override { return "slab"; }
  [[nodiscard]] std::span<const EventSpec> events() const override;
  [[nodiscard]] std::size_t tally_bytes() const override { return sizeof(slab_tally); }
  [[nodiscard]] std::vector<WordRange> counters() const override;
  void Init(std::byte* tally, const KernelFacts& facts, std::uint32_t cpu) const override;
  [[nodiscard]] std::size_t common_bytes() const override;
  void InitCommon(std::byte* common) const override;
  void SettleCommon(std::byte* common, Tallies& tallies, std::uint64_t settled_ns,
                    std::uint64_t now_ns) const override;
  void Forget(std::byte* common) const override;
  [[nodiscard]] std::size_t read_bytes() const override;
  void ReadCommon(const std::byte* common, std::vector<std::byte>& out) const override;
  // What is alive is known by pairs of events that may lie far apart.
  [[nodiscard]] Sampling sampling() const override {
    return options_.live.enabled ? Sampling::kNever : Sampling::kFirst;
  }
  void VisitCounters(std::span<std::byte> common,
                     const std::function<void(const CommonCounters&)>& visit) const override;
  [[nodiscard]] bool wants_symbols() const override {
    return options_.callsites.enabled || options_.live.enabled;
  }
  [[nodiscard]] std::vector<std::uint64_t> Addresses(
      std::span<const std::byte> common) const override;
  void Export(const Tallies& tallies, const KernelFacts& facts, Families& out) const override;

 private:
  // One of the tables by name, across scrapes; scrapes take turns.
  struct Book {
    explicit Book(Ledger::Options options) : ledger(options) {}
    // The rest of a total, which never falls: a total may be older than the table.
    std::uint64_t Other(std::size_t value, std::uint64_t total);

    Ledger ledger;
    Ledger::Values other{};
  };
  void RefreshNames(Symbols& symbols) const;
  struct Snapshot {
    slab_counts sum;  // of all CPUs and, of each allocator, its tracepoints
    SlabTables tables;
    std::uint64_t taken_at_ns;
  };
  void ExportSites(const Snapshot& snapshot, const KernelFacts& facts, Families& out) const;
  void ExportCaches(const Snapshot& snapshot, const KernelFacts& facts, Families& out) const;
  void ExportClasses(const slab_counts& sum, Families& out) const;

  SlabOptions options_;
  mutable std::mutex mutex_;  // of all below
  mutable Book sites_;
  mutable Book caches_;
  mutable SlabLiveBook live_;
  mutable std::uint64_t symbols_version_ = 0;
};

}  // namespace kmem
