#include "exporter/bpf/companion.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace kmem {
namespace {

constexpr std::uint32_t kBufferKb = 64;  // per CPU: about a thousand events
constexpr std::uint32_t kSleepMs = 1000;

Config Small(const Config& config) {
  Config small = config;
  small.extra_events.clear();
  small.tracefs.buffer_size_kb = kBufferKb;
  small.tracefs.drain_interval_ms = std::max(small.tracefs.drain_interval_ms, kSleepMs);
  return small;
}

TraceCollectors OnlyThisOne() {
  TraceCollectors collectors = MakeTraceCollectors({});
  std::erase_if(collectors,
                [](const auto& collector) { return collector->name() != Companion::kCollector; });
  return collectors;
}

}  // namespace

Companion::Companion(const Config& config, const ProcReader& proc, const std::string& reason)
    : collectors_(OnlyThisOne()), engine_(Small(config), collectors_, proc, reason) {}

bool Companion::Counts(std::string_view tracepoint) const {
  return std::ranges::count(collectors_.front()->events(), tracepoint, &EventSpec::name) != 0;
}

void Companion::AddTo(EventState& state, std::size_t collector) {
  EventState mine = engine_.Snapshot();
  state.tallies[collector] = std::move(mine.tallies.front());
  const CpuCounts none{.events = std::vector<std::uint64_t>(state.tracepoints.size()), .lost = {}};
  state.cpus.resize(std::max(state.cpus.size(), mine.cpus.size()), none);
  for (std::size_t i = 0; i < mine.tracepoints.size(); ++i) {
    const auto at =
        std::ranges::find(state.tracepoints, mine.tracepoints[i].name, &TracepointState::name);
    if (at == state.tracepoints.end()) continue;
    at->enabled = mine.tracepoints[i].enabled;
    const auto tracepoint = static_cast<std::size_t>(at - state.tracepoints.begin());
    for (std::size_t cpu = 0; cpu < mine.cpus.size(); ++cpu) {
      state.cpus[cpu].events[tracepoint] = mine.cpus[cpu].events[i];
    }
  }
  for (std::size_t cpu = 0; cpu < mine.cpus.size(); ++cpu) {
    state.cpus[cpu].lost = mine.cpus[cpu].lost;
  }
  for (std::size_t i = 0; i < mine.record_errors.size(); ++i) {
    state.record_errors[i] += mine.record_errors[i];
  }
  state.interference = mine.interference;
  state.buffer_bytes += mine.buffer_bytes;
}

}  // namespace kmem
