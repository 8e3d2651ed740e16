#include "exporter/event_cost.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "exporter/clocks.h"
#include "exporter/sample_groups.h"

namespace kmem {
namespace {

constexpr int kPairs = 5;  // of a traced and an untraced loop
constexpr int kRuns = 20;  // of a tenth of a millisecond or two each, in a loop
constexpr int kTurns = 100;
constexpr double kNs = 1e-9;
// What is taken where the measurement fails, and how far from it a result is believed.
constexpr double kBpfNs = 40;
constexpr double kTracefsNs = 120;
constexpr double kFarthest = 10;
constexpr double kFewestEventsPerTurn = 4;

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

// What pipes cause and may be left out; empty: nothing.
std::vector<std::size_t> SlabTracepoints(LiveSource& source, const TraceCollectors& collectors) {
  const EventState state = source.Snapshot();
  for (const SampleGroup& group : MakeSampleGroups(collectors, state.tracepoints)) {
    const auto is_slab = [&](std::size_t i) { return state.tracepoints[i].name == "kmalloc"; };
    if (group.sampling != Sampling::kNever && std::ranges::any_of(group.tracepoints, is_slab)) {
      return group.tracepoints;
    }
  }
  return {};
}

// Of one CPU: others may be busy.
double EventsOf(LiveSource& source, std::size_t cpu) {
  const EventState state = source.Snapshot();
  if (cpu >= state.cpus.size()) return 0;
  const std::vector<std::uint64_t>& events = state.cpus[cpu].events;
  return static_cast<double>(std::reduce(events.begin(), events.end()));
}

// Keeps the calling thread on one CPU, if it may run there.
class OnOneCpu {
 public:
  explicit OnOneCpu(std::size_t cpu) {
    known_ = sched_getaffinity(0, sizeof before_, &before_) == 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (known_) sched_setaffinity(0, sizeof one, &one);
  }
  OnOneCpu(const OnOneCpu&) = delete;
  OnOneCpu& operator=(const OnOneCpu&) = delete;
  ~OnOneCpu() {
    if (known_) sched_setaffinity(0, sizeof before_, &before_);
  }

 private:
  cpu_set_t before_{};
  bool known_ = false;
};

}  // namespace

EventCostMeter::EventCostMeter(const OverheadConfig& config)
    : configured_ns_(config.event_cost_ns),
      may_sample_(config.budget_percent > 0),
      cpu_(static_cast<std::size_t>(std::max(0, sched_getcpu()))) {
  if (configured_ns_ != 0) return;
  const OnOneCpu pinned(cpu_);  // the same for both: another one may be slower
  untraced_ = SecondsPerTurn();
}

EventCost EventCostMeter::Measure(LiveSource& source, const TraceCollectors& collectors) const {
  if (configured_ns_ != 0) return {.seconds = configured_ns_ * kNs, .how = "configured"};
  const double assumed = (source.engine() == "bpf" ? kBpfNs : kTracefsNs) * kNs;
  const OnOneCpu pinned(cpu_);
  const double before = EventsOf(source, cpu_);
  double traced = SecondsPerTurn();
  const double events = (EventsOf(source, cpu_) - before) / (kRuns * kTurns);
  if (untraced_ == 0 || traced == 0)
    return {.seconds = assumed, .how = "assumed, no pipe to be had"};
  if (events < kFewestEventsPerTurn) {
    return {.seconds = assumed, .how = "assumed, slab events are not traced"};
  }
  std::vector<double> costs{(traced - untraced_) / events};
  std::vector<std::size_t> tracepoints;
  if (may_sample_) tracepoints = SlabTracepoints(source, collectors);
  while (!tracepoints.empty() && costs.size() < kPairs) {
    source.Close(tracepoints);
    const double untraced = SecondsPerTurn();
    source.Open(tracepoints);
    traced = SecondsPerTurn();
    costs.push_back((traced - untraced) / events);
  }
  std::ranges::nth_element(costs, costs.begin() + static_cast<std::ptrdiff_t>(costs.size() / 2));
  const double cost = costs[costs.size() / 2];
  if (cost < assumed / kFarthest || cost > assumed * kFarthest) {
    return {.seconds = assumed, .how = "assumed, the machine is too busy to measure it"};
  }
  return {.seconds = cost, .how = "measured"};
}

}  // namespace kmem
