#include "exporter/live_engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <string>

#include "exporter/event_cost.h"
#include "exporter/governed_source.h"
#include "exporter/tracefs/engine.h"
#ifdef KMEM_BPF
#include "exporter/bpf/engine.h"
#endif

namespace kmem {
namespace {

#ifdef KMEM_BPF
constexpr bool kHasBpf = true;

std::unique_ptr<LiveSource> StartBpf(const Config& config, const TraceCollectors& collectors,
                                     const ProcReader& proc, std::string reason) {
  return std::make_unique<BpfEngine>(config, collectors, proc, std::move(reason));
}
#else
constexpr bool kHasBpf = false;

std::unique_ptr<LiveSource> StartBpf(const Config& /*config*/,
                                     const TraceCollectors& /*collectors*/,
                                     const ProcReader& /*proc*/, const std::string& /*reason*/) {
  throw ConfigError(
      "engine: \"bpf\" was not built into this kmem_exporter (KMEM_BPF=OFF), allowed is auto or "
      "tracefs");
}
#endif

std::unique_ptr<LiveSource> StartTracefs(const Config& config, const TraceCollectors& collectors,
                                         const ProcReader& proc, std::string reason) {
  return std::make_unique<TracefsEngine>(config, collectors, proc, std::move(reason));
}

std::unique_ptr<LiveSource> StartEngine(const Config& config, const TraceCollectors& collectors,
                                        const ProcReader& proc) {
  constexpr const char* kConfigured = "configured";
  if (config.engine == EngineChoice::kBpf) return StartBpf(config, collectors, proc, kConfigured);
  if (config.engine == EngineChoice::kTracefs) {
    return StartTracefs(config, collectors, proc, kConfigured);
  }
  if (!kHasBpf) return StartTracefs(config, collectors, proc, "auto, bpf not built in");
  try {
    return StartBpf(config, collectors, proc, "auto");
  } catch (const TracingError& bpf) {
    spdlog::info("engine bpf can't be used, tracefs is tried: {}", bpf.what());
    try {
      return StartTracefs(config, collectors, proc, fmt::format("auto, bpf {}", bpf.reason()));
    } catch (const TracingError& tracefs) {
      throw TracingError(tracefs.problem(), fmt::format("{} (and {})", tracefs.what(), bpf.what()));
    }
  }
}

}  // namespace

std::unique_ptr<EventSource> StartLiveEngine(const Config& config,
                                             const TraceCollectors& collectors,
                                             const ProcReader& proc) {
  const EventCostMeter meter(config.overhead);
  auto source = StartEngine(config, collectors, proc);
  const EventCost cost = meter.Measure(*source, collectors);
  return std::make_unique<GovernedSource>(std::move(source), collectors, proc, config.overhead,
                                          cost);
}

}  // namespace kmem
