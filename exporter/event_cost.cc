#include "exporter/event_cost.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "exporter/sample_groups.h"

namespace kmem {
namespace {

constexpr int kPairs = 4;  // of a traced and an untraced loop
constexpr int kRuns = 12;  // of half a millisecond or so each, in a loop
constexpr int kTurns = 100;
constexpr std::uint64_t kLoopNs = 8'000'000;    // after which a loop begins no further run
constexpr std::uint64_t kCountNs = 24'000'000;  // the same of one whose events are counted
constexpr std::uint64_t kWholeNs = 90'000'000;  // by which no further pair ends, beside one loop
constexpr double kNs = 1e-9;
// What is taken where the measurement fails, and how far from it a result is believed.
constexpr double kBpfNs = 40;
constexpr double kTracefsNs = 120;
constexpr double kFarthest = 10;
constexpr double kFewestEventsPerTurn = 4;

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

// Keeps the calling thread on one CPU, if that is permitted.
class OnOneCpu {
 public:
  explicit OnOneCpu(std::size_t cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    stays_ = sched_getaffinity(0, sizeof before_, &before_) == 0 &&
             sched_setaffinity(0, sizeof one, &one) == 0;
  }
  OnOneCpu(const OnOneCpu&) = delete;
  OnOneCpu& operator=(const OnOneCpu&) = delete;
  ~OnOneCpu() {
    if (stays_) sched_setaffinity(0, sizeof before_, &before_);
  }

  [[nodiscard]] bool stays() const { return stays_; }

 private:
  cpu_set_t before_{};
  bool stays_ = false;
};

}  // namespace

bool TurnPipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return false;
  close(ends[0]);
  close(ends[1]);
  return true;
}

EventCostMeter::EventCostMeter(const OverheadConfig& config, CostLoop loop)
    : loop_(std::move(loop)),
      configured_ns_(config.event_cost_ns),
      may_sample_(config.budget_percent > 0),
      cpu_(static_cast<std::size_t>(std::max(0, sched_getcpu()))) {
  if (configured_ns_ != 0) return;
  const OnOneCpu pinned(cpu_);  // the same for both: another one may be slower
  untraced_ = RunLoop().seconds;
}

// Of our CPU: others may be busy. -1 where a state of now can't be had in time.
double EventCostMeter::EventsUpToNow(LiveSource& source, std::uint64_t deadline_ns) const {
  const std::uint64_t asked_ns = loop_.now_ns();
  do {
    const EventState state = source.Snapshot();
    if (state.taken_at_ns < asked_ns) continue;
    if (cpu_ >= state.cpus.size()) return 0;
    const std::vector<std::uint64_t>& events = state.cpus[cpu_].events;
    return static_cast<double>(std::reduce(events.begin(), events.end()));
  } while (loop_.now_ns() < deadline_ns);
  return -1;
}

EventCostMeter::Least EventCostMeter::RunLoop(LiveSource* counted) const {
  const std::uint64_t deadline_ns = loop_.now_ns() + (counted == nullptr ? kLoopNs : kCountNs);
  Least least;
  for (int run = 0; run < kRuns && (run == 0 || loop_.now_ns() < deadline_ns); ++run) {
    const double before = counted == nullptr ? 0 : EventsUpToNow(*counted, deadline_ns);
    const double begin = loop_.cpu_seconds();
    for (int turn = 0; turn < kTurns; ++turn) {
      if (!loop_.turn()) return {};
    }
    const double seconds = (loop_.cpu_seconds() - begin) / kTurns;
    least.seconds = run == 0 ? seconds : std::min(least.seconds, seconds);
    const double after = counted == nullptr ? 0 : EventsUpToNow(*counted, deadline_ns);
    if (before < 0 || after < 0) continue;
    const double events = (after - before) / kTurns;
    least.events = least.events < 0 ? events : std::min(least.events, events);
  }
  return least;
}

EventCost EventCostMeter::Measure(LiveSource& source, const TraceCollectors& collectors) const {
  if (configured_ns_ != 0) return {.seconds = configured_ns_ * kNs, .how = "configured"};
  const double assumed = (source.engine() == "bpf" ? kBpfNs : kTracefsNs) * kNs;
  const OnOneCpu pinned(cpu_);
  if (!pinned.stays()) {
    return {.seconds = assumed,
            .how = "assumed, the process may not stay on one CPU to measure it"};
  }
  const std::uint64_t deadline_ns = loop_.now_ns() + kWholeNs;
  Least traced = RunLoop(&source);
  if (untraced_ == 0 || traced.seconds == 0)
    return {.seconds = assumed, .how = "assumed, no pipe to be had"};
  constexpr const char* kTooBusy = "assumed, the machine is too busy to measure it";
  if (traced.events < 0) return {.seconds = assumed, .how = kTooBusy};
  if (traced.events < kFewestEventsPerTurn) {
    return {.seconds = assumed, .how = "assumed, slab events are not traced"};
  }
  double untraced = untraced_;
  std::vector<std::size_t> tracepoints;
  if (may_sample_) tracepoints = SlabTracepoints(source, collectors);
  std::uint64_t pair_ns = 2 * kLoopNs;
  for (int pair = 0; !tracepoints.empty() && pair < kPairs; ++pair) {
    const std::uint64_t begin_ns = loop_.now_ns();
    if (begin_ns + pair_ns > deadline_ns) break;
    source.Close(tracepoints);
    const double now = RunLoop().seconds;
    untraced = pair == 0 ? now : std::min(untraced, now);  // the first one was long before
    source.Open(tracepoints);
    traced.seconds = std::min(traced.seconds, RunLoop().seconds);
    pair_ns = loop_.now_ns() - begin_ns;
  }
  const double cost = (traced.seconds - untraced) / traced.events;
  if (cost < assumed / kFarthest || cost > assumed * kFarthest) {
    return {.seconds = assumed, .how = kTooBusy};
  }
  return {.seconds = cost, .how = "measured"};
}

}  // namespace kmem
