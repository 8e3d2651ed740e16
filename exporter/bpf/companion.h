// Beside the BPF programs: a small tracefs instance for the events that their arguments do not tell
// whole. These are rare, so reading their records costs next to nothing.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/event_source.h"
#include "exporter/tracefs/engine.h"

namespace kmem {

class Companion {
 public:
  // The collector whose events it counts: change_ownership of mm_page_alloc_extfrag is computed
  // when the record is written (include/trace/events/kmem.h, 5.10 to 6.18), and no argument.
  static constexpr std::string_view kCollector = "extfrag";

  // Starts tracing. Throws TracingError where tracefs can't be used.
  Companion(const Config& config, const ProcReader& proc, const std::string& reason);

  // Whether it counts this tracepoint.
  [[nodiscard]] bool Counts(std::string_view tracepoint) const;

  // What it costs. Any thread.
  [[nodiscard]] TraceLoad ReadLoad() { return engine_.ReadLoad(); }

  // Completes the state of all collectors by what it has counted; kCollector is the one at this
  // index. Any thread.
  void AddTo(EventState& state, std::size_t collector);

 private:
  TraceCollectors collectors_;
  TracefsEngine engine_;
};

}  // namespace kmem
