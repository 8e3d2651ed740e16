// Which tracepoints are left out together where tracing costs too much: those of collectors that
// share one, so that a tracepoint is off only where nobody wants it.
#pragma once

#include <cstddef>
#include <vector>

#include "exporter/collector_list.h"
#include "exporter/event_state.h"

namespace kmem {

struct SampleGroup {
  Sampling sampling = Sampling::kFirst;  // the strictest of its collectors'
  std::vector<std::size_t> collectors;   // indices; none: extra events, which are only counted
  std::vector<std::size_t> tracepoints;  // indices into EventState::tracepoints
};

// All tracepoints in use, each in one group.
std::vector<SampleGroup> MakeSampleGroups(const TraceCollectors& collectors,
                                          const std::vector<TracepointState>& tracepoints);

}  // namespace kmem
