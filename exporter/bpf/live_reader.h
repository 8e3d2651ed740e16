// Reads the programs' map of live slab objects: what each call site holds, by age. One thread at a
// time, the one that reads the programs' state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "collectors/collector.h"
#include "collectors/slab_live.h"
#include "exporter/bpf/cpu_tally.h"

namespace kmem {

class LiveReader {
 public:
  // The maps kmem_live and kmem_left_out; both outlive this. `symbols`: what functions are called.
  LiveReader(int live_map, int left_out_map, SlabLiveOptions options, const Symbols* symbols);

  // Reads the map if that is due: reading it is to take one part in twenty of the time at most,
  // since it holds up a scrape, and the programs a little. `dropped` is by now; `tables` are the
  // programs' tables of what they follow by call site. If it can't be read, what was read last
  // stands, and is said to be stale.
  void Read(std::uint64_t now_ns, const SlabLiveTotals& dropped,
            const std::vector<std::span<const kmem_slot>>& tables);

  // What was read last, as SlabTables has it.
  void Append(std::vector<std::byte>& out) const { AppendLive(totals_, sites_, out); }
  // How many call sites the programs need not follow.
  [[nodiscard]] std::uint64_t left_out() const { return left_out_; }

 private:
  int ReadMap(std::uint64_t now_ns);  // 0 or an errno
  void NoteError(int error);
  void Count(std::uint64_t call_site, const kmem_bpf_live& object, std::uint64_t now_ns);
  SlabLiveSite& SiteOf(std::uint64_t call_site);
  void Judge(const std::vector<std::span<const kmem_slot>>& tables);
  void LeaveOut(SlabLiveSite& site, std::uint64_t reason);

  int live_map_;
  int left_out_map_;
  SlabLiveOptions options_;
  const Symbols* symbols_;
  std::uint64_t started_ns_;  // nothing was followed before
  SlabLiveTotals totals_{};
  std::vector<SlabLiveSite> sites_;                         // those seen ever
  std::unordered_map<std::uint64_t, std::size_t> by_site_;  // their indices
  std::uint64_t left_out_ = 0;
  std::uint64_t next_ns_ = 0;
  std::vector<std::uint64_t> keys_;
  std::vector<kmem_bpf_live> objects_;
};

}  // namespace kmem
