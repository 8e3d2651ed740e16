// What one traced event costs the CPU on which it happens: measured at the start, on this machine,
// by a loop of system calls whose slab events are traced in one half of the runs only.
#pragma once

#include <cstddef>
#include <string>

#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/live_source.h"

namespace kmem {

struct EventCost {
  double seconds = 0;
  std::string how;  // for the log: "measured", "configured", or why it is assumed
};

// CPU time of the loop, a few milliseconds on one CPU each time.
class EventCostMeter {
 public:
  // While nothing of ours is traced yet. Does nothing if the configuration gives the cost.
  explicit EventCostMeter(const OverheadConfig& config);
  // Once everything is. Where they may be sampled, it leaves the slab tracepoints out for some
  // moments: a machine's speed changes, so traced and untraced loops take turns.
  [[nodiscard]] EventCost Measure(LiveSource& source, const TraceCollectors& collectors) const;

 private:
  std::uint32_t configured_ns_;
  bool may_sample_;      // there is a budget
  std::size_t cpu_;      // on which all loops run
  double untraced_ = 0;  // seconds of one turn of the loop
};

}  // namespace kmem
