#include "exporter/bpf/live_reader.h"

#include <bpf/bpf.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "exporter/clocks.h"

namespace kmem {
namespace {

constexpr std::uint32_t kBatch = 4096;
constexpr std::uint64_t kRest = 20;  // times as long as it took

void Clear(SlabLiveSite& site) {
  site.objects = site.lasting_objects = site.lasting_bytes = 0;
  site.bytes = {};
}

}  // namespace

LiveReader::LiveReader(int live_map, int left_out_map, SlabLiveOptions options,
                       const Symbols* symbols)
    : live_map_(live_map),
      left_out_map_(left_out_map),
      options_(std::move(options)),
      symbols_(symbols),
      started_ns_(MonotonicNs()),
      keys_(kBatch),
      objects_(kBatch) {}

void LiveReader::Read(std::uint64_t now_ns, const SlabLiveTotals& dropped,
                      const std::vector<std::span<const kmem_slot>>& tables) {
  totals_.dropped = dropped.dropped;
  if (now_ns < next_ns_) return;
  const std::vector<SlabLiveSite> last = sites_;
  for (SlabLiveSite& site : sites_) Clear(site);
  const int error = ReadMap(now_ns);
  NoteError(error);
  if (error == 0) {
    Judge(tables);
  } else {  // a part of the map is not to pass for all of it
    for (SlabLiveSite& site : sites_) Clear(site);
    std::ranges::copy(last, sites_.begin());
  }
  const std::uint64_t end = MonotonicNs();
  next_ns_ = end + kRest * (end - std::min(now_ns, end));
}

// The kernel goes from bucket to bucket (__htab_map_lookup_and_delete_batch in
// kernel/bpf/hashtab.c): an object that is there all the while is met once.
int LiveReader::ReadMap(std::uint64_t now_ns) {
  std::uint32_t bucket = 0;
  bool first = true;
  for (;;) {
    auto count = static_cast<std::uint32_t>(keys_.size());
    const int error = bpf_map_lookup_batch(live_map_, first ? nullptr : &bucket, &bucket,
                                           keys_.data(), objects_.data(), &count, nullptr);
    if (error == -ENOSPC) {  // a bucket with more than that
      keys_.resize(2 * keys_.size());
      objects_.resize(keys_.size());
      continue;
    }
    if (error != 0 && error != -ENOENT) return -error;
    for (std::uint32_t i = 0; i < count; ++i) Count(objects_[i].call_site, objects_[i], now_ns);
    if (error == -ENOENT) return 0;  // that was all
    first = false;
  }
}

void LiveReader::NoteError(int error) {
  if (error != 0 && totals_.stale == 0) {
    spdlog::warn("bpf: live objects can't be read, what is shown is older: {}",
                 std::strerror(error));
  }
  totals_.stale = error == 0 ? 0 : 1;
}

void LiveReader::Count(std::uint64_t call_site, const kmem_bpf_live& object, std::uint64_t now_ns) {
  SlabLiveSite& site = SiteOf(call_site);
  if (site.left_out != SLAB_LIVE_SHOWN) return;
  site.objects++;
  site.bytes.at(slab_live_age(now_ns - std::min(now_ns, object.time_ns))) += object.bytes;
  if (object.time_ns > started_ns_ + (now_ns - std::min(now_ns, started_ns_)) / 2) return;
  site.lasting_objects++;
  site.lasting_bytes += object.bytes;
}

SlabLiveSite& LiveReader::SiteOf(std::uint64_t call_site) {
  const auto [at, is_new] = by_site_.try_emplace(call_site, sites_.size());
  if (!is_new) return sites_[at->second];
  SlabLiveSite& site = sites_.emplace_back();
  site.place = static_cast<std::uint32_t>(at->second);
  site.call_site = call_site;
  if (symbols_ == nullptr || options_.exclude_call_sites.empty()) return site;
  const auto symbol = symbols_->Find(call_site);
  if (symbol && std::ranges::count(options_.exclude_call_sites, symbol->function) != 0) {
    LeaveOut(site, SLAB_LIVE_EXCLUDED);
  }
  return site;
}

// As slab_live_judge_sites(): what was allocated and is neither alive nor was allocated anew has
// been freed.
void LiveReader::Judge(const std::vector<std::span<const kmem_slot>>& tables) {
  struct Counts {
    std::uint64_t allocated = 0;
    std::uint64_t reused = 0;
  };
  std::unordered_map<std::uint64_t, Counts> by_site;
  for (const std::span<const kmem_slot> slots : tables) {
    for (const kmem_slot& slot : slots) {
      const std::uint64_t key = __atomic_load_n(&slot.key, __ATOMIC_ACQUIRE);
      if (key == 0) continue;
      Counts& counts = by_site[key];
      counts.allocated += __atomic_load_n(&slot.values[KMEM_BPF_LIVE_ALLOCATED], __ATOMIC_RELAXED);
      counts.reused += __atomic_load_n(&slot.values[KMEM_BPF_LIVE_REUSED], __ATOMIC_RELAXED);
    }
  }
  for (const auto& [call_site, counts] : by_site) {
    if (counts.reused < SLAB_LIVE_SILENT_REUSES) continue;
    SlabLiveSite& site = SiteOf(call_site);
    const std::uint64_t ended = counts.allocated - std::min(counts.allocated, site.objects);
    if (site.left_out == SLAB_LIVE_SHOWN && counts.reused * SLAB_LIVE_SILENT_ONE_IN >= ended) {
      LeaveOut(site, SLAB_LIVE_SILENT);
    }
  }
}

void LiveReader::LeaveOut(SlabLiveSite& site, std::uint64_t reason) {
  site.left_out = reason;
  Clear(site);
  // What the programs follow in vain, if there is no place, is not shown all the same.
  const int error = bpf_map_update_elem(left_out_map_, &site.call_site, &reason, BPF_ANY);
  if (error == 0) ++left_out_;
}

}  // namespace kmem
