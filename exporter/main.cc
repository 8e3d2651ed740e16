// kmem_exporter: the kernel's kmem tracepoints as Prometheus metrics.

#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/spdlog.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <latch>
#include <optional>
#include <string>
#include <vector>

#include "exporter/build_info.h"
#include "exporter/collector_list.h"
#include "exporter/exposition.h"
#include "exporter/flags.h"
#include "exporter/http_server.h"
#include "exporter/live_engine.h"
#include "exporter/log.h"
#include "exporter/proc_files.h"
#include "exporter/replay/replay_source.h"
#include "exporter/report/report_instances.h"
#include "exporter/report/run_report.h"
#include "exporter/scraper.h"
#include "exporter/tracefs/instance.h"
#include "exporter/tracing.h"

namespace kmem {
namespace {

constexpr time_t kRetrySeconds = 60;

std::string VersionText() {
  return fmt::format("kmem_exporter, version {} (branch: {}, revision: {})\n  compiler: {}\n",
                     kVersion, kBranch, kRevision, kCompiler);
}

// The signals that end the program. Blocked in every thread: the main one waits for them. SIGHUP is
// not among them where it is ignored, as nohup has it.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
    sigaddset(&signals, SIGHUP);
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

std::string_view NameOfStopSignal(int signal) {
  if (signal == SIGHUP) return "SIGHUP";
  return signal == SIGINT ? "SIGINT" : "SIGTERM";
}

void LogStart() {
  utsname kernel{};
  uname(&kernel);
  spdlog::info("kmem_exporter {} (branch {}, revision {}, {})", kVersion, kBranch, kRevision,
               kCompiler);
  spdlog::info("kernel {} {} {}", kernel.sysname, kernel.release, kernel.machine);
}

void LogSource(EventSource& source) {
  const EventState state = source.Snapshot();
  std::string enabled;
  for (const TracepointState& tracepoint : state.tracepoints) {
    if (tracepoint.enabled) enabled += " " + tracepoint.name;
  }
  std::string missing;
  for (const std::string& name : source.missing_events()) missing += " " + name;
  spdlog::info("engine {} ({}), {} KiB of buffers and maps", source.engine(), source.reason(),
               state.buffer_bytes / 1024);
  spdlog::info("tracepoints in use:{}", enabled.empty() ? " none" : enabled);
  if (!missing.empty()) spdlog::info("tracepoints that the kernel lacks:{}", missing);
}

class Program {
 public:
  explicit Program(const CommandLine& command_line)
      : replay_file_(command_line.replay_file),
        config_(command_line.config),
        trace_collectors_(MakeTraceCollectors(config_.collectors)),
        proc_(config_.paths.procfs),
        tracing_([this] { return StartSource(); }) {
    // A recorded trace is of another machine, or of another time.
    if (replay_file_.empty() || config_.paths.procfs_given) {
      proc_collectors_ = MakeProcCollectors(config_.collectors);
    }
    scraper_.emplace(config_, trace_collectors_, proc_collectors_, proc_, tracing_);
  }

  // Reads the trace to its end and prints what it gives.
  void PrintReplay() {
    tracing_.Start();
    const std::string text = Serialize(scraper_->Scrape({}), TextFormat::kPrometheus);
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (std::fflush(stdout) != 0) throw std::runtime_error("standard output: write failed");
  }

  void Serve() {
    LogStart();
    // A file is read before there are threads (it forks) and touches nothing, so that a signal may
    // end that at once. The live kernel's turn comes after listening, so that a port in use does
    // not cost it a start of the tracing.
    bool tracing = !replay_file_.empty() && TryToTrace();
    const sigset_t stop_signals = BlockStopSignals();
    HttpServer server(config_.web, {
                                       .scrape = [this] { return Scrape(); },
                                       .landing_page = [this] { return scraper_->LandingPage(); },
                                       .ready = [this] { return ready_.load(); },
                                   });
    server_ = &server;
    for (const std::string& address : server.addresses()) {
      spdlog::info("listening on http://{}{}", address, config_.web.telemetry_path);
    }
    {
      const CountDownAtExit started(started_);
      if (!tracing) tracing = TryToTrace();
    }
    ready_ = true;
    for (;;) {
      const timespec retry{.tv_sec = kRetrySeconds, .tv_nsec = 0};
      const int signal = tracing ? sigwaitinfo(&stop_signals, nullptr)
                                 : sigtimedwait(&stop_signals, nullptr, &retry);
      if (signal > 0) {
        spdlog::info("{}: stopping", NameOfStopSignal(signal));
        break;
      }
      if (!tracing) tracing = TryToTrace();
    }
    ready_ = false;
    tracing_.Stop();
    server_ = nullptr;
  }

 private:
  std::unique_ptr<EventSource> StartSource() {
    if (!replay_file_.empty()) {
      return std::make_unique<ReplaySource>(replay_file_, config_, trace_collectors_);
    }
    return StartLiveEngine(config_, trace_collectors_, proc_);
  }

  // Whether it traces now. Throws what ends the start.
  bool TryToTrace() {
    try {
      tracing_.Start();
    } catch (const TracingError& error) {
      if (config_.on_tracing_failure == OnTracingFailure::kExit) throw;
      spdlog::error("not tracing, next attempt in {} s: {}", kRetrySeconds, error.what());
      return false;
    }
    LogSource(*tracing_.status().source);
    return true;
  }

  Families Scrape() const {
    started_.wait();  // the first scrape is to have all series
    const HttpServer* server = server_;
    return scraper_->Scrape(server == nullptr ? std::map<int, std::uint64_t>{}
                                              : server->requests());
  }

  // Lets the waiting scrapes go on, also where the start fails.
  class CountDownAtExit {
   public:
    explicit CountDownAtExit(std::latch& latch) : latch_(latch) {}
    CountDownAtExit(const CountDownAtExit&) = delete;
    CountDownAtExit& operator=(const CountDownAtExit&) = delete;
    ~CountDownAtExit() { latch_.count_down(); }

   private:
    std::latch& latch_;
  };

  std::string replay_file_;
  Config config_;
  TraceCollectors trace_collectors_;
  ProcCollectors proc_collectors_;
  ProcFiles proc_;
  Tracing tracing_;
  std::optional<Scraper> scraper_;
  std::atomic<const HttpServer*> server_{nullptr};
  std::latch started_{1};
  std::atomic<bool> ready_{false};
};

// The reports' first: the exporter's own may be in use, which is refused.
void CleanUp(const Config& config) {
  for (const std::string& name :
       RemoveStaleReportInstances(config.paths.tracefs, config.tracefs.instance)) {
    fmt::print("{}/instances/{}: removed\n", config.paths.tracefs, name);
  }
  const bool removed = Instance::RemoveStale(config.paths.tracefs, config.tracefs.instance);
  fmt::print("{}/instances/{}: {}\n", config.paths.tracefs, config.tracefs.instance,
             removed ? "removed" : "nothing to clean up");
}

void Run(const std::vector<std::string>& arguments) {
  const auto parsed = ParseCommandLine(arguments, VersionText());
  if (const auto* print = std::get_if<PrintAndExit>(&parsed)) {
    fmt::print("{}", print->text);
    return;
  }
  const auto& command_line = std::get<CommandLine>(parsed);
  InitLog(command_line.config.log);
  switch (command_line.action) {
    case CommandLine::Action::kCheckConfig:
      fmt::print("{}: OK\n",
                 command_line.config_file.empty() ? "configuration" : command_line.config_file);
      return;
    case CommandLine::Action::kCleanup:
      return CleanUp(command_line.config);
    case CommandLine::Action::kReport:
      return RunReport({.replay_file = command_line.replay_file,
                        .seconds = command_line.report_seconds,
                        .json = command_line.report_json},
                       command_line.config, BlockStopSignals());
    case CommandLine::Action::kServe:
      break;
  }
  Program program(command_line);
  if (command_line.replay_exit) {
    program.PrintReplay();
  } else {
    // What scrapes take of the heap stays there for the next one, as far as it is not unusually
    // much: it costs more to get it from the kernel page by page than to fill it.
    mallopt(M_MMAP_THRESHOLD, 2 << 20);
    mallopt(M_TRIM_THRESHOLD, 3 << 20);
    program.Serve();
  }
}

}  // namespace
}  // namespace kmem

int main(int argc, char** argv) {
  // Each arena keeps what its largest scrape took, and only one thread allocates much at a time.
  mallopt(M_ARENA_MAX, 1);
  // Else the large blocks of the start (the kernel's types and names) would stay with the heap.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  try {
    kmem::Run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "kmem_exporter: {}\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
