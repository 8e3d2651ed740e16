// kmem_tracepoint_* and kmem_exporter_*: what the exporter saw, missed and cost, made from a
// snapshot. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "exporter/collector_list.h"
#include "exporter/event_source.h"
#include "exporter/tracing.h"

namespace kmem {

// What the tracepoints counted: one series per tracepoint of this kernel that is wanted.
void AppendTracepointMetrics(const EventState& state, Families& out);

// Losses, errors, interference, buffers and drains. With `per_cpu_detail` also by CPU.
void AppendReaderMetrics(const EventState& state, const KernelFacts& facts, bool per_cpu_detail,
                         Families& out);

// What tracing costs and may cost, where a live kernel is traced.
void AppendOverheadMetrics(const EventState& state, const TraceCollectors& collectors,
                           std::string_view engine, Families& out);

// The engine, whether it traces and if not why, and this build.
void AppendEngineMetrics(const Tracing::Status& tracing, Families& out);

// How a collector did in this scrape.
struct CollectorResult {
  double seconds = 0;
  bool success = true;
};
void AppendCollectorResults(const std::map<std::string, CollectorResult, std::less<>>& results,
                            Families& out);

void AppendHttpMetrics(const std::map<int, std::uint64_t>& requests, Families& out);

}  // namespace kmem
