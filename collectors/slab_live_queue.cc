#include "collectors/slab_live_queue.h"

#include <algorithm>
#include <span>
#include <tuple>
#include <utility>

#include "collectors/slab_tally.h"

namespace kmem {
namespace {

using Event = slab_live_event;
using Run = slab_live_run;

bool IsBefore(const Event& a, const Event& b) {
  return std::tuple(a.time_ns, a.cpu) < std::tuple(b.time_ns, b.cpu);
}

void ReadFirst(const slab_live& live, Run& run) {
  run.time_ns = live.queue[run.begin].time_ns;
  run.cpu = live.queue[run.begin].cpu;
}

// The queue in parts whose times ascend: what was left, and what each CPU added. None if it has too
// many of them.
std::span<Run> FindRuns(slab_live& live) {
  std::size_t count = 0;
  std::uint32_t begin = 0;
  for (std::uint32_t i = 1; i <= live.queued; ++i) {
    if (i < live.queued && !IsBefore(live.queue[i], live.queue[i - 1])) continue;
    if (count == SLAB_LIVE_RUNS) return {};
    live.runs[count] = {.time_ns = 0, .begin = begin, .end = i, .cpu = 0, .unused = 0};
    ReadFirst(live, live.runs[count++]);
    begin = i;
  }
  return std::span(live.runs).first(live.queued == 0 ? 0 : count);
}

// Of two runs that begin with the same instant and CPU the one that was noted first.
bool GoesOnBefore(const Run& a, const Run& b) {
  if (a.time_ns != b.time_ns) return a.time_ns < b.time_ns;
  return std::tuple(a.cpu, a.begin) < std::tuple(b.cpu, b.begin);
}

// The first run of the heap has gone on, or is another: moves it to where it belongs.
void SinkFirst(std::span<Run> heap) {
  std::size_t at = 0;
  for (std::size_t child = 1; child < heap.size(); child = 2 * at + 1) {
    if (child + 1 < heap.size() && GoesOnBefore(heap[child + 1], heap[child])) ++child;
    if (!GoesOnBefore(heap[child], heap[at])) return;
    std::swap(heap[child], heap[at]);
    at = child;
  }
}

slab_tally& TallyOf(Tallies& tallies, std::uint32_t cpu) {
  return *reinterpret_cast<slab_tally*>(tallies.At(cpu));
}

// Every event before it has been applied.
void Apply(slab_live& live, Tallies& tallies, const Event& event) {
  live.settled_ns = std::max(live.settled_ns, event.time_ns);
  if (event.kind == SLAB_LIVE_ALLOC) return slab_live_alloc(&live, &event);
  const std::uint32_t from = slab_live_free_in_order(&live, &event);
  if (from == 0) return;
  slab_tally& tally = TallyOf(tallies, event.cpu);
  slab_live_frees& frees = event.kind == SLAB_LIVE_KFREE ? tally.counts.kfree_of_live
                                                         : tally.counts.kmem_cache_free_of_live;
  slab_live_count_free(&frees, from - 1, event.cpu, TallyOf(tallies, from - 1).node, tally.node);
}

// What waits, in any order.
void ApplyAll(slab_live& live) {
  for (const Event& event : std::span(live.queue, live.queued)) {
    if (event.kind == SLAB_LIVE_ALLOC) {
      slab_live_alloc(&live, &event);
    } else {
      slab_live_free(&live, &event);
    }
  }
  live.queued = 0;
}

// Brings the place of an event that comes soon into the cache.
void Prefetch(const slab_live& live, std::uint64_t at) {
  if (at >= live.queued) return;
  __builtin_prefetch(&live.objects[kmem_hash(live.queue[at].ptr) & (live.places - 1)], 1);
}

}  // namespace

void SettleSlabLive(slab_live& live, Tallies& tallies, std::uint64_t settled_ns) {
  constexpr std::uint32_t kAhead = 16;
  // A heap: the first run is the one that goes on with the earliest event.
  std::span<Run> runs = FindRuns(live);
  if (runs.empty()) return ApplyAll(live);
  std::ranges::sort(runs, GoesOnBefore);
  if (live.started_ns == 0) live.started_ns = runs.front().time_ns;
  while (!runs.empty() && runs.front().time_ns < settled_ns) {
    Run& run = runs.front();
    Prefetch(live, run.begin + kAhead);
    Apply(live, tallies, live.queue[run.begin]);
    if (++run.begin == run.end) {
      run = runs.back();
      runs = runs.first(runs.size() - 1);
    } else {
      ReadFirst(live, run);
    }
    SinkFirst(runs);
  }
  std::ranges::sort(runs, {}, &Run::begin);
  live.queued = 0;
  for (const Run& run : runs) {
    std::copy(live.queue + run.begin, live.queue + run.end, live.queue + live.queued);
    live.queued += run.end - run.begin;
  }
}

void ForgetSlabLive(slab_live& live) {
  ApplyAll(live);
  live.era++;
}

}  // namespace kmem
