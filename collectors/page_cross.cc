#include "collectors/page_cross.h"

#include <algorithm>
#include <span>
#include <tuple>

#include "collectors/page_tally.h"

namespace kmem {
namespace {

page_tally& TallyOf(Tallies& tallies, std::uint32_t cpu) {
  return *reinterpret_cast<page_tally*>(tallies.At(cpu));
}

void Count(page_cross_common& common, Tallies& tallies, const page_cross_event& event) {
  page_cross_set& set =
      page_cross_sets(&common)[page_cross_set_of(event.hash, common.one_in, common.sets)];
  page_tally& tally = TallyOf(tallies, event.cpu);
  page_cross_counts& counts = tally.counts.cross;
  if (event.freed == 0) {
    counts.evicted += page_cross_put(&set, event.hash, common.era, event.cpu);
    return;
  }
  const std::uint32_t from = page_cross_take(&set, event.hash, common.era);
  if (from == event.cpu + 1U) {
    counts.same_cpu++;
  } else if (from != 0) {
    page_cross_count(&counts, TallyOf(tallies, from - 1).node, tally.node);
  }
}

}  // namespace

std::size_t PageCrossBytes(const PageCrossOptions& options) {
  return sizeof(page_cross_common) + options.sets() * sizeof(page_cross_set) +
         options.max_pages * sizeof(page_cross_event);
}

void InitPageCross(const PageCrossOptions& options, page_cross_common& common) {
  common.threshold = page_cross_threshold(options.sample_one_in);
  common.one_in = options.sample_one_in;
  common.sets = options.sets();
  common.room = options.max_pages;
}

void SettlePageCross(page_cross_common& common, Tallies& tallies, std::uint64_t now_ns) {
  const std::span queue(page_cross_queue(&common), common.queued);
  const auto waiting =
      std::partition(queue.begin(), queue.end(),
                     [&](const page_cross_event& event) { return event.time_ns < now_ns; });
  const std::span settled(queue.begin(), waiting);
  std::ranges::sort(settled, {}, [](const page_cross_event& event) {
    return std::tuple(event.time_ns, event.cpu, event.number);
  });
  for (const page_cross_event& event : settled) Count(common, tallies, event);
  common.queued = static_cast<std::uint32_t>(queue.end() - waiting);
  std::copy(waiting, queue.end(), queue.begin());
}

}  // namespace kmem
