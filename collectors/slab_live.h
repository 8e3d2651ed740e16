// Live slab memory by call site: what was allocated since the start and has not been freed. Which
// objects are alive is found out where the events are (slab_live_tally.h, or the in-kernel
// programs); this turns it into gauges by function, and says which call sites are not followed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "collectors/collector.h"
#include "collectors/ledger.h"
#include "collectors/slab_tables.h"

namespace kmem {

struct SlabLiveOptions {
  bool enabled = false;
  std::uint32_t sample_one_in = 1;              // at most 1024
  std::uint32_t max_objects = 262144;           // places of the table, rounded up to a power of two
  std::vector<std::string> exclude_call_sites;  // functions
  // For a report, and not to be configured: tells also which objects were allocated in the first
  // half of the time since the start. Looks through the whole table at each reading.
  bool tell_lasting = false;
  bool operator==(const SlabLiveOptions&) const = default;
};

class SlabLiveBook {
 public:
  SlabLiveBook(SlabLiveOptions options, std::size_t max_series);

  [[nodiscard]] bool enabled() const { return options_.enabled; }
  // The memory of a table, 0 if there is none; it is made in zeros.
  [[nodiscard]] std::size_t table_bytes() const;
  [[nodiscard]] slab_live* InitTable(std::byte* memory) const;
  // Appends what Export() needs of it, as SlabTables has it.
  void Read(const slab_live& live, std::vector<std::byte>& out) const;
  // For the thread that owns the table: what is due (TraceCollector::SettleCommon).
  void Settle(slab_live& live, Tallies& tallies, std::uint64_t settled_ns, std::uint64_t now_ns);

  struct State {
    std::uint64_t taken_at_ns;
    bool whole;  // no event was lost
  };
  // Appends the families. Scrapes take turns.
  void Export(const SlabTables& tables, const State& state, const KernelFacts& facts,
              Families& out);
  // Appends those of frees by where the object was allocated.
  void ExportFrees(const slab_live_frees& sum, const KernelFacts& facts, Families& out) const;
  [[nodiscard]] std::size_t folded() const { return ledger_.folded(); }
  // Forgets which call site is in which function.
  void ForgetNames();

 private:
  struct Sum {
    std::uint64_t objects = 0;
    std::array<std::uint64_t, SLAB_LIVE_AGES> bytes{};  // at least this old
    std::uint64_t lasting_objects = 0;
    std::uint64_t lasting_bytes = 0;
    void Add(const SlabLiveSite& site);
    void Add(const Sum& sum);
  };
  // Names, and how many call sites of each are left out for which reason.
  using LeftOut = std::map<std::pair<Ledger::Name, std::uint64_t>, std::uint64_t>;
  struct Account {
    std::uint64_t key;
    std::uint32_t generation;
    std::uint64_t weight;
  };

  [[nodiscard]] const std::optional<Ledger::Name>& NameOf(std::uint64_t call_site,
                                                          const KernelFacts& facts);
  TableEntry Weigh(const SlabLiveSite& site, std::uint64_t elapsed_ms);
  void Exclude(std::uint64_t call_site);
  void ExportGauges(const std::map<Ledger::Name, Sum>& shown, const Sum& other,
                    Families& out) const;
  void ExportLeftOut(const LeftOut& left_out, Families& out) const;

  SlabLiveOptions options_;
  std::size_t max_series_;
  Ledger ledger_;
  std::unordered_map<std::uint64_t, std::optional<Ledger::Name>> names_;
  std::unordered_map<std::uint32_t, Account> accounts_;  // by the site's place
  std::uint64_t last_ns_ = 0;

  // From those who know names to the thread that knows addresses.
  std::mutex mutex_;
  std::vector<std::uint64_t> to_exclude_;
  std::atomic<bool> any_to_exclude_{false};
};

}  // namespace kmem
