// A live kernel's events, whose tracepoints can be left out for a while. Open() and Close() are for
// one thread at a time, all else for any.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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

  // Traces these tracepoints (indices into EventState::tracepoints) again. Returns the state at
  // EventState::taken_at_ns, from which time on their events are counted. What can't be traced is
  // logged and is no longer `enabled`.
  virtual EventState Open(std::span<const std::size_t> tracepoints) = 0;

  // Leaves them out: the kernel's text is as if nobody traced them. Returns the state at
  // EventState::taken_at_ns, up to which their events are counted.
  virtual EventState Close(std::span<const std::size_t> tracepoints) = 0;
};

}  // namespace kmem
