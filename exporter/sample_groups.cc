#include "exporter/sample_groups.h"

#include <algorithm>
#include <iterator>

namespace kmem {
namespace {

bool Wants(const TraceCollector& collector, const TracepointState& tracepoint) {
  return std::ranges::count(collector.events(), tracepoint.name, &EventSpec::name) != 0;
}

void Merge(SampleGroup& into, const SampleGroup& from) {
  into.sampling = std::max(into.sampling, from.sampling);
  std::ranges::copy(from.collectors, std::back_inserter(into.collectors));
  std::ranges::copy(from.tracepoints, std::back_inserter(into.tracepoints));
}

}  // namespace

std::vector<SampleGroup> MakeSampleGroups(const TraceCollectors& collectors,
                                          const std::vector<TracepointState>& tracepoints) {
  std::vector<SampleGroup> groups;
  SampleGroup extra;
  std::vector<bool> wanted(tracepoints.size());
  for (std::size_t i = 0; i < collectors.size(); ++i) {
    SampleGroup group{.sampling = collectors[i]->sampling(), .collectors = {i}, .tracepoints = {}};
    for (std::size_t at = 0; at < tracepoints.size(); ++at) {
      if (!tracepoints[at].enabled || !Wants(*collectors[i], tracepoints[at])) continue;
      const bool shared = wanted[at];
      wanted[at] = true;
      if (!shared) {
        group.tracepoints.push_back(at);
        continue;
      }
      const auto other = std::ranges::find_if(groups, [&](const SampleGroup& each) {
        return std::ranges::count(each.tracepoints, at) != 0;
      });
      if (other == groups.end()) continue;  // merged into this one already
      Merge(group, *other);
      groups.erase(other);
    }
    if (!group.tracepoints.empty()) groups.push_back(std::move(group));
  }
  for (std::size_t at = 0; at < tracepoints.size(); ++at) {
    if (tracepoints[at].enabled && !wanted[at]) extra.tracepoints.push_back(at);
  }
  if (!extra.tracepoints.empty()) groups.push_back(std::move(extra));
  return groups;
}

}  // namespace kmem
