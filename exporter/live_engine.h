// Which engine counts the live kernel's events.
#pragma once

#include <memory>

#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/event_source.h"

namespace kmem {

// Starts the engine that the configuration names; where that is auto, the in-kernel one, or where
// it can't be had, tracefs, with a log line that says why. Main thread. Throws TracingError, and
// ConfigError for an engine that was not built in.
std::unique_ptr<EventSource> StartLiveEngine(const Config& config,
                                             const TraceCollectors& collectors,
                                             const ProcReader& proc);

}  // namespace kmem
