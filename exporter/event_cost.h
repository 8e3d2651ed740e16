// What one traced event costs the CPU on which it happens: measured at the start, on this machine,
// by a loop of system calls whose slab events are traced in one half of the runs only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "exporter/clocks.h"
#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/live_source.h"

namespace kmem {

struct EventCost {
  double seconds = 0;
  std::string how;  // for the log: "measured", "configured", or why it is assumed
};

// Makes a pipe and closes both its ends; false where it can't.
bool TurnPipe();

// What is run in a loop, and what it is measured by.
struct CostLoop {
  std::function<bool()> turn = &TurnPipe;
  std::function<double()> cpu_seconds = &ThreadSeconds;  // of the calling thread
  std::function<std::uint64_t()> now_ns = &MonotonicNs;
};

// All of it takes about a tenth of a second on one CPU, however busy that is.
class EventCostMeter {
 public:
  // While nothing of ours is traced yet. Does nothing if the configuration gives the cost.
  explicit EventCostMeter(const OverheadConfig& config, CostLoop loop = {});
  // Once everything is. Where they may be sampled, it leaves the slab tracepoints out for some
  // moments: a machine's speed changes, so traced and untraced loops take turns.
  [[nodiscard]] EventCost Measure(LiveSource& source, const TraceCollectors& collectors) const;

 private:
  // The least of some runs: others only make a run slower, and their events come on top.
  struct Least {
    double seconds = 0;  // of a turn; 0 where it can't be made
    double events = -1;  // of a turn, of a source's; -1 where they are not known
  };
  [[nodiscard]] Least RunLoop(LiveSource* counted = nullptr) const;
  [[nodiscard]] double EventsUpToNow(LiveSource& source, std::uint64_t deadline_ns) const;

  CostLoop loop_;
  std::uint32_t configured_ns_;
  bool may_sample_;      // there is a budget
  std::size_t cpu_;      // on which all loops run
  double untraced_ = 0;  // seconds of one turn of the loop
};

}  // namespace kmem
