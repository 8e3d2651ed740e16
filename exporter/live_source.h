// A live kernel's events, whose tracepoints can be left out for a while. Open() and Close() are for
// one thread at a time, all else for any.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "exporter/clocks.h"
#include "exporter/event_source.h"

namespace kmem {

// What tracing has done up to now; all of it only grows.
struct TraceLoad {
  std::vector<std::uint64_t> events;  // by tracepoint, in the order of EventState::tracepoints
  std::uint64_t outside = 0;          // of all tracepoints, that came too early or late to count
  std::uint64_t lost = 0;
  double reader_seconds = 0;  // CPU time of reading, beside that of the caller
};

class LiveSource : public EventSource {
 public:
  // Cheap: at most some 50 ms old, and neither waits nor reads tables.
  [[nodiscard]] virtual TraceLoad ReadLoad() = 0;

  // Of what tracing some tracepoints costs, one of them that is traced by itself costs its part of
  // the events to this power: more than that part, as what tracing needs of the kernel is out of
  // the CPU's caches each time.
  [[nodiscard]] virtual double lone_cost_power() const = 0;

  // Traces these tracepoints (indices into EventState::tracepoints) again. Returns the state at
  // EventState::taken_at_ns, from which time on their events are counted: once loads have caught up
  // with what enabling held up. What can't be traced is logged and is no longer `enabled`.
  virtual EventState Open(std::span<const std::size_t> tracepoints) = 0;

  // Leaves them out: the kernel's text is as if nobody traced them. Returns the state at
  // EventState::taken_at_ns, up to which their events are counted.
  virtual EventState Close(std::span<const std::size_t> tracepoints) = 0;

 protected:
  // Enabling interrupts every CPU over and over and takes some of the time of one. A load with time
  // to spare then does for a while what it could not do meanwhile, which is not its pace: one that
  // is busy for up to two thirds of the time has done it in twice as long. What comes until then
  // costs, and is not counted.
  static void AwaitCatchUp(std::uint64_t enabling_since_ns) {
    constexpr std::chrono::nanoseconds kLongest = std::chrono::milliseconds(20);
    const std::chrono::nanoseconds took(MonotonicNs() - enabling_since_ns);
    std::this_thread::sleep_for(std::min(2 * took, kLongest));
  }
};

}  // namespace kmem
