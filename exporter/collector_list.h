// Which collectors there are: the one place that names them all.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectors/collector.h"
#include "exporter/config.h"

namespace kmem {

using TraceCollectors = std::vector<std::unique_ptr<TraceCollector>>;
using ProcCollectors = std::vector<std::unique_ptr<ProcCollector>>;

// Those that the configuration enables, in the metric contract's order.
TraceCollectors MakeTraceCollectors(const CollectorsConfig& config);
ProcCollectors MakeProcCollectors(const CollectorsConfig& config);

// The tracepoints that the collectors ask for and the extra ones, each once, in that order.
std::vector<std::string> WantedEvents(const TraceCollectors& collectors,
                                      std::span<const std::string> extra_events);

}  // namespace kmem
