#include "exporter/event_cost.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <numeric>

namespace kmem {
namespace {

constexpr int kRuns = 40;  // of half a millisecond each, before and after the start
constexpr int kTurns = 100;
constexpr double kNs = 1e-9;
// What is taken where the measurement fails, and how far from it a result is believed.
constexpr double kBpfNs = 40;
constexpr double kTracefsNs = 120;
constexpr double kFarthest = 10;
constexpr double kFewestEventsPerTurn = 4;

double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * kNs;
}

// The fastest of some runs, by CPU time: others only make a run slower. Seconds per turn; 0 where
// no pipe can be made.
double SecondsPerTurn() {
  double fastest = 0;
  for (int run = 0; run < kRuns; ++run) {
    const double begin = ThreadSeconds();
    for (int turn = 0; turn < kTurns; ++turn) {
      std::array<int, 2> ends{};
      if (pipe2(ends.data(), O_CLOEXEC) != 0) return 0;
      close(ends[0]);
      close(ends[1]);
    }
    const double taken = (ThreadSeconds() - begin) / kTurns;
    fastest = run == 0 ? taken : std::min(fastest, taken);
  }
  return fastest;
}

double EventsOf(LiveSource& source) {
  const EventState state = source.Snapshot();
  std::uint64_t sum = 0;
  for (const CpuCounts& cpu : state.cpus) sum += std::reduce(cpu.events.begin(), cpu.events.end());
  for (const TracepointState& tracepoint : state.tracepoints) sum += tracepoint.skipped;
  return static_cast<double>(sum);
}

}  // namespace

EventCostMeter::EventCostMeter(const OverheadConfig& config)
    : configured_ns_(config.event_cost_ns),
      untraced_(config.event_cost_ns == 0 ? SecondsPerTurn() : 0) {}

EventCost EventCostMeter::Measure(LiveSource& source) const {
  if (configured_ns_ != 0) return {.seconds = configured_ns_ * kNs, .how = "configured"};
  const double assumed = (source.engine() == "bpf" ? kBpfNs : kTracefsNs) * kNs;
  const double before = EventsOf(source);
  const double traced = SecondsPerTurn();
  const double events = (EventsOf(source) - before) / (kRuns * kTurns);
  if (untraced_ == 0 || traced == 0)
    return {.seconds = assumed, .how = "assumed, no pipe to be had"};
  if (events < kFewestEventsPerTurn) {
    return {.seconds = assumed, .how = "assumed, slab events are not traced"};
  }
  const double cost = (traced - untraced_) / events;
  if (cost < assumed / kFarthest || cost > assumed * kFarthest) {
    return {.seconds = assumed, .how = "assumed, the machine is too busy to measure it"};
  }
  return {.seconds = cost, .how = "measured"};
}

}  // namespace kmem
