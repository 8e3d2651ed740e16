// Where tallied events come from: the live kernel's ring buffer or a recorded trace.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"
#include "exporter/event_state.h"

namespace kmem {

class EventSource {
 public:
  EventSource() = default;
  EventSource(const EventSource&) = delete;
  EventSource& operator=(const EventSource&) = delete;
  virtual ~EventSource() = default;

  // For kmem_exporter_engine_info and the log.
  [[nodiscard]] virtual std::string_view engine() const = 0;
  [[nodiscard]] virtual std::string_view reason() const = 0;

  // Constant once the source is made.
  [[nodiscard]] virtual const KernelFacts& facts() const = 0;
  // Tracepoints that were asked for and that this kernel lacks.
  [[nodiscard]] virtual const std::vector<std::string>& missing_events() const = 0;

  // Everything seen up to now, or, where that can't be had within 5 ms, up to
  // EventState::taken_at_ns. Any thread.
  [[nodiscard]] virtual EventState Snapshot() = 0;
};

}  // namespace kmem
