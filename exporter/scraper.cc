#include "exporter/scraper.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

#include "exporter/build_info.h"
#include "exporter/kernel_facts.h"
#include "exporter/process_metrics.h"

namespace kmem {
namespace {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC, as EventState's times

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Whether every tracepoint that the collector wants and this kernel has is in use.
bool AllEnabled(const TraceCollector& collector, const EventState& state) {
  return std::ranges::all_of(state.tracepoints, [&](const TracepointState& tracepoint) {
    const bool wanted = std::ranges::any_of(
        collector.events(), [&](const EventSpec& spec) { return spec.name == tracepoint.name; });
    return !wanted || tracepoint.enabled;
  });
}

// Whether no event of the collector's tracepoints can have been lost.
bool IsWhole(const TraceCollector& collector, const EventState& state) {
  const auto any = [](const auto& counts) {
    return std::ranges::any_of(counts, [](std::uint64_t count) { return count != 0; });
  };
  if (any(state.record_errors) || any(state.interference) || !AllEnabled(collector, state)) {
    return false;
  }
  if (std::ranges::any_of(state.cpus, any, &CpuCounts::lost)) return false;
  return std::ranges::none_of(state.tracepoints, [&](const TracepointState& tracepoint) {
    return tracepoint.skipped != 0 &&
           std::ranges::count(collector.events(), tracepoint.name, &EventSpec::name) != 0;
  });
}

// The tables of one scrape, each read once: several collectors look into /proc/zoneinfo, which is
// long where there are many CPUs, and are to see the same.
class ReadOnce : public ProcReader {
 public:
  explicit ReadOnce(const ProcReader& proc) : proc_(proc) {}

  [[nodiscard]] std::string Read(std::string_view path) const override {
    const auto known = texts_.find(path);
    if (known != texts_.end()) return known->second;
    return texts_.emplace(path, proc_.Read(path)).first->second;
  }

 private:
  const ProcReader& proc_;
  mutable std::map<std::string, std::string, std::less<>> texts_;
};

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string TracepointList(const EventState& state, const std::vector<std::string>& missing) {
  std::string list = "<h2>Tracepoints</h2>\n<ul>\n";
  for (const TracepointState& tracepoint : state.tracepoints) {
    list += fmt::format("<li>{}: {}</li>\n", tracepoint.name,
                        tracepoint.enabled ? "in use" : "failed, see the log");
  }
  for (const std::string& name : missing) {
    list += fmt::format("<li>{}: the kernel lacks it</li>\n", EscapeHtml(name));
  }
  return list + "</ul>\n";
}

}  // namespace

Scraper::Scraper(const Config& config, const TraceCollectors& trace_collectors,
                 const ProcCollectors& proc_collectors, const ProcReader& proc,
                 const Tracing& tracing)
    : config_(config),
      trace_collectors_(trace_collectors),
      proc_collectors_(proc_collectors),
      proc_(proc),
      tracing_(tracing),
      proc_facts_(ReadKernelFacts(proc)) {}

Families Scraper::Scrape(const std::map<int, std::uint64_t>& http_requests) const {
  Families out;
  Results results;
  const Tracing::Status status = tracing_.status();
  ScrapeTraced(status, results, out);
  ScrapeProc(status.source == nullptr ? proc_facts_ : status.source->facts(), results, out);
  AppendEngineMetrics(status, out);
  AppendCollectorResults(results, out);
  AppendHttpMetrics(http_requests, out);
  if (!config_.web.disable_exporter_metrics) AppendProcessMetrics(out);
  return out;
}

void Scraper::ScrapeTraced(const Tracing::Status& status, Results& results, Families& out) const {
  if (status.source == nullptr) {
    for (const auto& collector : trace_collectors_) {
      results[std::string(collector->name())].success = false;
    }
    return;
  }
  const KernelFacts& facts = status.source->facts();
  EventState state = status.source->Snapshot();
  AppendTracepointMetrics(state, out);
  for (std::size_t i = 0; i < trace_collectors_.size(); ++i) {
    state.tallies[i].whole = IsWhole(*trace_collectors_[i], state);
    const auto begin = Clock::now();
    trace_collectors_[i]->Export(state.tallies[i], facts, out);
    CollectorResult& result = results[std::string(trace_collectors_[i]->name())];
    result.seconds += SecondsSince(begin);
    result.success = AllEnabled(*trace_collectors_[i], state);
  }
  AppendReaderMetrics(state, facts, config_.web.per_cpu_detail, out);
  AppendOverheadMetrics(state, trace_collectors_, status.source->engine(), out);
  const auto now_ns =
      static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now().time_since_epoch()).count());
  FamilyBuilder(out, FamilyBuilder::Type::Gauge, "kmem_exporter_snapshot_age_seconds",
                "Age of the traced values of this scrape.")
      .Add({}, status.source->engine() == "replay"
                   ? 0
                   : static_cast<double>(now_ns - std::min(now_ns, state.taken_at_ns)) * 1e-9);
}

void Scraper::ScrapeProc(const KernelFacts& facts, Results& results, Families& out) const {
  const ReadOnce proc(proc_);
  for (const auto& collector : proc_collectors_) {
    const auto begin = Clock::now();
    CollectorResult& result = results[std::string(collector->name())];
    Families families;
    try {
      collector->Collect(proc, facts, families);
      std::ranges::move(families, std::back_inserter(out));
    } catch (const ProcError& error) {
      result.success = false;
      spdlog::debug("collector {}: {}", collector->name(), error.what());
    }
    result.seconds += SecondsSince(begin);
  }
}

std::string Scraper::LandingPage() const {
  const Tracing::Status status = tracing_.status();
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<title>kmem_exporter</title></head><body>\n"
      "<h1>kmem_exporter</h1>\n<p>The kernel's kmem tracepoints as Prometheus metrics. "
      "Version {} ({}).</p>\n"
      "<p><a href=\"{}\">Metrics</a> · <a href=\"/-/healthy\">Healthy</a> · "
      "<a href=\"/-/ready\">Ready</a></p>\n",
      kVersion, kRevision, config_.web.telemetry_path);
  EventState state;
  if (status.source == nullptr) {
    page += fmt::format("<p><strong>Not tracing:</strong> {}</p>\n", EscapeHtml(status.message));
  } else {
    page += fmt::format("<p>Engine: {} ({}).</p>\n", status.source->engine(),
                        EscapeHtml(status.source->reason()));
    state = status.source->Snapshot();
  }
  page += "<h2>Collectors</h2>\n<ul>\n";
  for (const auto& collector : trace_collectors_) {
    const std::string_view how = status.source == nullptr        ? "not tracing"
                                 : AllEnabled(*collector, state) ? "tracing"
                                                                 : "some tracepoints failed";
    page += fmt::format("<li>{}: {}</li>\n", collector->name(), how);
  }
  for (const auto& collector : proc_collectors_) {
    page += fmt::format("<li>{}: from /proc</li>\n", collector->name());
  }
  page += "</ul>\n";
  if (status.source != nullptr) page += TracepointList(state, status.source->missing_events());
  return page + "</body></html>\n";
}

}  // namespace kmem
