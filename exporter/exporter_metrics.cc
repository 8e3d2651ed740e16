#include "exporter/exporter_metrics.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "exporter/build_info.h"

namespace kmem {
namespace {

using Type = FamilyBuilder::Type;

std::uint64_t EventsOf(const EventState& state, std::size_t tracepoint) {
  return std::accumulate(
      state.cpus.begin(), state.cpus.end(), std::uint64_t{0},
      [&](std::uint64_t sum, const CpuCounts& cpu) { return sum + cpu.events[tracepoint]; });
}

// One sample per name, from an array of counters in the names' order.
template <std::size_t kSize>
void AppendByName(Families& out, std::string_view family_name, std::string_view help,
                  std::string_view label, const std::array<std::string_view, kSize>& names,
                  const std::array<std::uint64_t, kSize>& values) {
  FamilyBuilder family(out, Type::Counter, family_name, help);
  for (std::size_t i = 0; i < kSize; ++i) {
    family.Add({{label, names[i]}}, static_cast<double>(values[i]));
  }
}

void AppendPerCpu(const EventState& state, const KernelFacts& facts, Families& out) {
  std::vector<std::uint32_t> shown;
  for (std::uint32_t cpu = 0; cpu < state.cpus.size(); ++cpu) {
    const CpuCounts& counts = state.cpus[cpu];
    const bool used = std::ranges::any_of(counts.events, [](auto n) { return n != 0; }) ||
                      std::ranges::any_of(counts.lost, [](auto n) { return n != 0; });
    if (used || std::ranges::count(facts.online_cpus, cpu) != 0) shown.push_back(cpu);
  }
  {
    FamilyBuilder read(out, Type::Counter, "kmem_exporter_cpu_events_read_total",
                       "Events read from the buffer of each CPU.");
    for (const std::uint32_t cpu : shown) {
      const auto& events = state.cpus[cpu].events;
      read.Add({{"cpu", std::to_string(cpu)}},
               static_cast<double>(std::reduce(events.begin(), events.end())));
    }
  }
  FamilyBuilder lost(out, Type::Counter, "kmem_exporter_cpu_events_lost_total",
                     "Events lost on each CPU, by reason; recursion is not counted by CPU.");
  for (const std::uint32_t cpu : shown) {
    for (std::size_t i = 0; i < kLossReasons.size(); ++i) {
      lost.Add({{"cpu", std::to_string(cpu)}, {"reason", kLossReasons[i]}},
               static_cast<double>(state.cpus[cpu].lost[i]));
    }
  }
}

}  // namespace

void AppendTracepointMetrics(const EventState& state, Families& out) {
  const auto counter = [&](std::string_view name, std::string_view help, bool all) {
    FamilyBuilder family(out, Type::Counter, name, help);
    for (std::size_t i = 0; i < state.tracepoints.size(); ++i) {
      const TracepointState& tracepoint = state.tracepoints[i];
      family.Add({{"tracepoint", tracepoint.name}},
                 static_cast<double>(EventsOf(state, i) +
                                     (all ? tracepoint.skipped + tracepoint.untraced : 0)));
    }
  };
  counter(
      "kmem_tracepoint_events_total",
      "Times that each kmem tracepoint of this kernel fired, as far as the exporter knows: read "
      "or lost by recursion, scaled up while collectors are sampled. What else it missed is in "
      "kmem_exporter_events_lost_total.",
      true);
  counter("kmem_exporter_events_read_total",
          "Events that the exporter read, by tracepoint: those that all other metrics are made of.",
          false);
  FamilyBuilder enabled(
      out, Type::Gauge, "kmem_exporter_tracepoint_enabled",
      "Whether a tracepoint that this kernel has is in use: 1, or 0 where enabling "
      "it or understanding its format failed.");
  for (const TracepointState& tracepoint : state.tracepoints) {
    enabled.Add({{"tracepoint", tracepoint.name}}, tracepoint.enabled ? 1 : 0);
  }
}

void AppendReaderMetrics(const EventState& state, const KernelFacts& facts, bool per_cpu_detail,
                         Families& out) {
  {
    FamilyBuilder lost(out, Type::Counter, "kmem_exporter_events_lost_total",
                       "Events that were never read. dropped: the buffer was full; overrun: "
                       "overwritten before they were read; commit_overrun: nested too deeply; "
                       "taken: somebody else read them out of the exporter's tracefs instance; "
                       "recursion: they interrupted the BPF program of their own tracepoint.");
    for (std::size_t i = 0; i < kLossReasons.size(); ++i) {
      std::uint64_t sum = 0;
      for (const CpuCounts& cpu : state.cpus) sum += cpu.lost[i];
      lost.Add({{"reason", kLossReasons[i]}}, static_cast<double>(sum));
    }
    std::uint64_t skipped = 0;
    for (const TracepointState& tracepoint : state.tracepoints) skipped += tracepoint.skipped;
    lost.Add({{"reason", "recursion"}}, static_cast<double>(skipped));
  }
  AppendByName(out, "kmem_exporter_record_errors_total",
               "Records and pages of the ring buffer that could not be used, by cause.", "cause",
               kRecordErrors, state.record_errors);
  AppendByName(
      out, "kmem_exporter_interference_total",
      "Times that somebody else was found to have changed the exporter's tracefs instance, "
      "by what they did. It is restored where it can be.",
      "kind", kInterferences, state.interference);
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_buffer_bytes",
                "Kernel memory of the exporter's ring buffers and BPF maps, all CPUs together.")
      .Add({}, static_cast<double>(state.buffer_bytes));
  FamilyBuilder(out, Type::Histogram, "kmem_exporter_drain_duration_seconds",
                "Time that reading all CPUs' buffers, or their state in BPF maps, once took.")
      .AddHistogram({}, kDrainBounds, state.drains, state.drain_seconds);
  if (per_cpu_detail) AppendPerCpu(state, facts, out);
}

void AppendOverheadMetrics(const EventState& state, const TraceCollectors& collectors,
                           std::string_view engine, Families& out) {
  if (!state.overhead) return;
  const Overhead& overhead = *state.overhead;
  {
    FamilyBuilder traced(out, Type::Counter, "kmem_exporter_traced_seconds_total",
                         "Time that each collector's tracepoints were traced. Its rate is 1 while "
                         "the collector is exact, and less while it is sampled.");
    for (std::size_t i = 0; i < collectors.size(); ++i) {
      if (!overhead.traced_seconds[i]) continue;
      traced.Add({{"collector", collectors[i]->name()}}, *overhead.traced_seconds[i]);
    }
  }
  {
    FamilyBuilder spent(
        out, Type::Counter, "kmem_exporter_overhead_seconds_total",
        "CPU time that tracing took, all CPUs together. trace: the events, where "
        "they happened, at kmem_exporter_event_cost_seconds each, and in windows at "
        "what they have turned out to cost there, if that is more; drain: reading "
        "and tallying them; toggle: enabling and disabling tracepoints.");
    spent.Add({{"part", "trace"}}, overhead.trace_seconds);
    spent.Add({{"part", "drain"}}, overhead.drain_seconds);
    spent.Add({{"part", "toggle"}}, overhead.toggle_seconds);
  }
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_overhead_budget_ratio",
                "Share of the machine's CPU time that tracing may take; 0: no limit.")
      .Add({}, overhead.budget_ratio);
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_event_cost_seconds",
                "CPU time that one traced event costs where it happens: measured at the start, or "
                "configured.")
      .Add({{"engine", engine}}, overhead.event_cost_seconds);
}

void AppendEngineMetrics(const Tracing::Status& tracing, Families& out) {
  const bool up = tracing.source != nullptr;
  if (up) {
    FamilyBuilder(out, Type::Gauge, "kmem_exporter_engine_info",
                  "The engine that tallies the events, and why this one.")
        .Add({{"engine", tracing.source->engine()}, {"reason", tracing.source->reason()}}, 1);
  }
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_tracing_up",
                "1 while events are being counted; 0 and the reason where they can't be.")
      .Add({{"reason", tracing.reason}}, up ? 1 : 0);
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_replay",
                "1 if the metrics come from a recorded trace, not from this machine.")
      .Add({}, up && tracing.source->engine() == "replay" ? 1 : 0);
  FamilyBuilder(out, Type::Gauge, "kmem_exporter_build_info",
                "A constant 1; its labels say what the exporter was built from.")
      .Add({{"version", kVersion},
            {"revision", kRevision},
            {"branch", kBranch},
            {"compiler", kCompiler}},
           1);
}

void AppendCollectorResults(const std::map<std::string, CollectorResult, std::less<>>& results,
                            Families& out) {
  {
    FamilyBuilder family(out, Type::Gauge, "kmem_exporter_scrape_collector_duration_seconds",
                         "Time that each collector took for this scrape.");
    for (const auto& [name, result] : results) family.Add({{"collector", name}}, result.seconds);
  }
  FamilyBuilder family(out, Type::Gauge, "kmem_exporter_scrape_collector_success",
                       "Whether each collector gave all of its metrics in this scrape.");
  for (const auto& [name, result] : results) {
    family.Add({{"collector", name}}, result.success ? 1 : 0);
  }
}

void AppendHttpMetrics(const std::map<int, std::uint64_t>& requests, Families& out) {
  FamilyBuilder family(out, Type::Counter, "kmem_exporter_http_requests_total",
                       "HTTP requests answered, by status code.");
  for (const auto& [code, count] : requests) {
    family.Add({{"code", std::to_string(code)}}, static_cast<double>(count));
  }
}

}  // namespace kmem
