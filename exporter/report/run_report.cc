#include "exporter/report/run_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "exporter/live_engine.h"
#include "exporter/proc_files.h"
#include "exporter/replay/replay_source.h"
#include "exporter/report/report.h"
#include "exporter/report/report_instances.h"
#include "exporter/report/report_json.h"
#include "exporter/report/report_text.h"
#include "exporter/scraper.h"

namespace kmem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMostSampled = 1024;  // objects of which one may be followed

double NowSeconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// MemTotal of /proc/meminfo (meminfo_proc_show(), fs/proc/meminfo.c), in bytes.
std::optional<double> MemoryBytes(const ProcReader& proc) {
  try {
    const std::string text = proc.Read("meminfo");
    constexpr std::string_view kName = "MemTotal:";
    std::size_t at = text.find(kName);
    if (at == std::string::npos) return std::nullopt;
    at = text.find_first_not_of(' ', at + kName.size());
    if (at == std::string::npos) return std::nullopt;
    std::uint64_t kib = 0;
    const auto end = text.data() + text.size();
    if (std::from_chars(text.data() + at, end, kib).ec != std::errc{}) return std::nullopt;
    return static_cast<double>(kib) * 1024;
  } catch (const ProcError&) {
    return std::nullopt;
  }
}

// The line that counts down, where somebody can see it; gone at the end.
class Progress {
 public:
  Progress() : shown_(isatty(STDERR_FILENO) == 1) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { Write("\r\033[K"); }

  void Show(std::chrono::seconds left) {
    Write(fmt::format("\r\033[Kkmem_exporter: watching for {} s more; Ctrl-C ends it now",
                      left.count()));
  }

 private:
  void Write(std::string_view text) const {
    if (!shown_) return;
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  }

  bool shown_;
};

// Returns when the time is over or one of the signals has come.
void Wait(std::chrono::seconds duration, const sigset_t& stop_signals) {
  const auto end = Clock::now() + duration;
  Progress progress;
  for (auto now = Clock::now(); now < end; now = Clock::now()) {
    const auto left = std::chrono::ceil<std::chrono::seconds>(end - now);
    progress.Show(left);
    // Until the number of whole seconds that are left is another.
    const auto pause = std::chrono::nanoseconds(end - now - (left - std::chrono::seconds(1)));
    const timespec timeout{.tv_sec = static_cast<time_t>(pause.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(pause.count() % 1'000'000'000)};
    if (sigtimedwait(&stop_signals, nullptr, &timeout) > 0) return;
  }
}

// From now on the signals end the program at once, also where the output is not taken. Those that
// came by now have been obeyed.
void RestoreSignals(const sigset_t& stop_signals) {
  const timespec now{};
  while (sigtimedwait(&stop_signals, nullptr, &now) > 0) {
  }
  pthread_sigmask(SIG_UNBLOCK, &stop_signals, nullptr);
}

// A person waits for some seconds, and wants exact numbers: no budget, and none of the allocations
// by which the cost of an event is measured.
Config Exact(Config config) {
  config.overhead = {.budget_percent = 0, .event_cost_ns = 1};
  return config;
}

Observation WatchKernel(const Config& as_given, std::chrono::seconds duration,
                        const sigset_t& stop_signals) {
  const Config config = Exact(as_given);
  const ProcFiles proc(config.paths.procfs);
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  const ProcCollectors proc_collectors = MakeProcCollectors(config.collectors);
  Tracing tracing([&] { return StartLiveEngine(config, trace_collectors, proc); });
  tracing.Start();
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  Observation observation;
  observation.wanted_tracepoints = WantedEvents(trace_collectors, config.extra_events);
  observation.memory_bytes = MemoryBytes(proc);
  observation.start_seconds = NowSeconds();
  // Of /proc alone: what is traced began at 0 with the tracing, and by a first scrape with nothing
  // in it the collectors would choose whose names to show.
  const Tracing nothing(nullptr);
  observation.start = Scraper(config, trace_collectors, proc_collectors, proc, nothing).Scrape({});
  Wait(duration, stop_signals);
  observation.end_seconds = NowSeconds();
  observation.end = scraper.Scrape({});
  return observation;
}

Observation ReadTrace(const std::string& path, const Config& config) {
  const ProcFiles proc(config.paths.procfs);
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  ProcCollectors proc_collectors;
  Observation observation;
  // A recorded trace is of another machine, or of another time.
  if (config.paths.procfs_given) {
    proc_collectors = MakeProcCollectors(config.collectors);
    observation.memory_bytes = MemoryBytes(proc);
  }
  Tracing tracing([&] { return std::make_unique<ReplaySource>(path, config, trace_collectors); });
  tracing.Start();
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  observation.trace_file = path;
  observation.wanted_tracepoints = WantedEvents(trace_collectors, config.extra_events);
  observation.end = scraper.Scrape({});
  return observation;
}

void Print(const std::string& text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return;
  }
  if (errno == EPIPE) return;  // it has seen enough
  throw std::runtime_error(fmt::format("standard output: {}", std::strerror(errno)));
}

}  // namespace

CollectorsConfig CollectorsOfReport(CollectorsConfig collectors, std::uint32_t cpus) {
  constexpr std::uint32_t kMostSeries = 10'000;
  constexpr std::uint32_t kCpusFollowedWhole = 8;
  SlabOptions& slab = collectors.slab_options;
  slab.callsites.max_series = kMostSeries;
  slab.caches.max_series = kMostSeries;
  slab.live.enabled = true;
  slab.live.tell_lasting = true;
  const std::uint32_t one_in = std::bit_ceil(std::max(cpus, 1U)) / kCpusFollowedWhole;
  slab.live.sample_one_in = std::clamp(one_in, slab.live.sample_one_in, kMostSampled);
  return collectors;
}

void RunReport(const ReportOptions& options, Config config, const sigset_t& stop_signals) {
  Observation observation;
  const bool is_live = options.replay_file.empty();
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  config.collectors = CollectorsOfReport(
      config.collectors, is_live ? static_cast<std::uint32_t>(std::max(online, 1L)) : 1);
  if (is_live) {
    RemoveStaleReportInstances(config.paths.tracefs, config.tracefs.instance);
    config.tracefs.instance = ReportInstanceName(config.tracefs.instance);
    observation = WatchKernel(config, std::chrono::seconds(options.seconds), stop_signals);
    RestoreSignals(stop_signals);
  } else {
    RestoreSignals(stop_signals);
    observation = ReadTrace(options.replay_file, config);
  }
  observation.live_one_in = config.collectors.slab_options.live.sample_one_in;
  const Report report = MakeReport(observation);
  Print(options.json ? ReportJson(report) : ReportText(report));
}

}  // namespace kmem
