#include "exporter/governed_source.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <string_view>
#include <tuple>
#include <utility>

#include "exporter/clocks.h"

namespace kmem {
namespace {

constexpr double kNs = 1e-9;
// A window whose events were lost for the most part tells only that there were many.
constexpr double kMostLossFactor = 10;
// A probe's tracepoint has at least and at most this part of the events: of fewer the rate is not
// known, and of more they are little less than all.
constexpr double kLeastProbed = 0.04;
constexpr double kMostProbed = 0.6;
constexpr double kEventsToLearnFrom = 500;
constexpr std::string_view kPageAlloc = "mm_page_alloc";

double Seconds(std::uint64_t ns) { return static_cast<double>(ns) * kNs; }

double ProcessSeconds() { return CpuSeconds(CLOCK_PROCESS_CPUTIME_ID); }

double OnlineCpus() { return static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }

// A tracepoint's text is changed in some 3 steps at each of its few places, after each of which all
// other CPUs are interrupted (x86: text_poke_bp_batch(), Linux 5.10 to 6.18).
double InterruptSeconds(std::size_t tracepoints) {
  constexpr double kInterruptSeconds = 2e-6;
  constexpr double kInterrupts = 12;
  return (OnlineCpus() - 1) * kInterrupts * kInterruptSeconds * static_cast<double>(tracepoints);
}

}  // namespace

GovernedSource::GovernedSource(std::unique_ptr<LiveSource> source,
                               const TraceCollectors& collectors, const ProcReader& proc,
                               const OverheadConfig& config, const EventCost& event_cost)
    : collectors_(collectors),
      proc_(proc),
      source_(std::move(source)),
      groups_(MakeSampleGroups(collectors, source_->Snapshot().tracepoints)),
      scaler_(collectors, groups_),
      windows_(groups_.size()) {
  fixed_.budget_ratio = config.budget_percent / 100;
  fixed_.event_cost_seconds = event_cost.seconds;
  const std::vector<TracepointState> tracepoints = source_->Snapshot().tracepoints;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    windows_[i].open_since_ns = MonotonicNs();
    windows_[i].allocates_pages = std::ranges::any_of(
        groups_[i].tracepoints, [&](std::size_t at) { return tracepoints[at].name == kPageAlloc; });
  }
  outside_charged_ = source_->ReadLoad().outside;
  LogMode(config, event_cost);
  if (fixed_.budget_ratio <= 0) return;
  std::vector<Sampling> sampling;
  for (const SampleGroup& group : groups_) sampling.push_back(group.sampling);
  governor_.emplace(
      Governor::Options{.event_cost_seconds = event_cost.seconds, .seed = std::random_device()()},
      sampling);
  thread_ = std::thread(&GovernedSource::Govern, this);
}

GovernedSource::~GovernedSource() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  stop_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void GovernedSource::LogMode(const OverheadConfig& config, const EventCost& event_cost) const {
  const std::string cost =
      fmt::format("an event costs {:.0f} ns ({})", event_cost.seconds / kNs, event_cost.how);
  if (config.budget_percent <= 0) {
    spdlog::info("overhead: no budget, everything is traced and exact; {}", cost);
    return;
  }
  const double events = config.budget_percent / 100 * OnlineCpus() / event_cost.seconds;
  const double planned = events * Governor::kAim;
  spdlog::info(
      "overhead: at most {:g} % of the CPU time of {} CPUs; {}: beyond some {:.0f} events/s "
      "collectors are sampled",
      config.budget_percent, OnlineCpus(), cost, planned);
  const bool spares_slab = std::ranges::any_of(collectors_, [](const auto& collector) {
    return collector->name() == "slab" && collector->sampling() == Sampling::kNever;
  });
  if (spares_slab) {
    spdlog::info(
        "overhead: slab is never sampled while collectors.slab.live is on: beyond some {:.0f} "
        "events/s its own exceed the budget",
        events);
  }
}

EventState GovernedSource::Snapshot() {
  EventState state = source_->Snapshot();
  scaler_.Apply(state);
  state.overhead = ReadOverhead(MonotonicNs());
  return state;
}

Overhead GovernedSource::ReadOverhead(std::uint64_t now_ns) {
  const TraceLoad load = source_->ReadLoad();
  const std::uint64_t events =
      std::accumulate(load.events.begin(), load.events.end(), load.outside + load.lost);
  Overhead overhead = fixed_;
  const std::scoped_lock lock(mutex_);
  overhead.trace_seconds =
      static_cast<double>(events) * overhead.event_cost_seconds + cost_above_measured_seconds_;
  overhead.drain_seconds =
      load.reader_seconds + std::max(0.0, thread_seconds_ - toggle_thread_seconds_);
  overhead.toggle_seconds = toggle_seconds_;
  overhead.traced_seconds.resize(collectors_.size());
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Windows& windows = windows_[i];
    const std::uint64_t open_ns =
        windows.open_since_ns == 0 ? 0 : now_ns - std::min(now_ns, windows.open_since_ns);
    // A window that is just being closed turns out to have ended before now.
    windows.reported_ns = std::max(windows.reported_ns, windows.traced_ns + open_ns);
    for (const std::size_t collector : groups_[i].collectors) {
      overhead.traced_seconds[collector] = static_cast<double>(windows.reported_ns) * kNs;
    }
  }
  return overhead;
}

std::uint64_t GovernedSource::EventsOf(std::size_t group, const TraceLoad& load) const {
  std::uint64_t events = 0;
  for (const std::size_t tracepoint : groups_[group].tracepoints) events += load.events[tracepoint];
  return events;
}

Governor::Reading GovernedSource::Read() {
  const TraceLoad load = source_->ReadLoad();
  Governor::Reading reading;
  reading.now = Seconds(MonotonicNs());
  reading.budget = fixed_.budget_ratio * OnlineCpus();
  for (std::size_t i = 0; i < groups_.size(); ++i) reading.events.push_back(EventsOf(i, load));
  reading.lost = load.lost;
  reading.reader_seconds = load.reader_seconds;
  reading.toggle_seconds = toggle_seconds_;
  return reading;
}

void GovernedSource::Govern() {
  for (;;) {
    for (const Governor::Action& action : governor_->Tick(Read())) Do(action);
    const double now = Seconds(MonotonicNs());
    const auto pause = std::chrono::duration<double>(std::max(0.001, governor_->next_tick() - now));
    std::unique_lock lock(mutex_);
    thread_seconds_ = ThreadSeconds();
    if (stop_changed_.wait_for(lock, pause, [this] { return stopping_; })) return;
  }
}

void GovernedSource::Do(const Governor::Action& action) {
  using Kind = Governor::Action::Kind;
  const std::vector<std::size_t>& tracepoints = groups_[action.group].tracepoints;
  Windows& windows = windows_[action.group];
  switch (action.kind) {
    case Kind::kStart: {
      scaler_.Expect(action.group);
      EventState state = Toggle([&] { return source_->Close(tracepoints); }, tracepoints.size());
      scaler_.Start(action.group, state);
      windows.last_end_ns = state.taken_at_ns;
      windows.idle_at_end = ReadIdle();
      windows.pace_at_last_end = ReadPace(windows);
      windows.events_at_end = Counted(action.group, state);
      CountTraced(action.group, state.taken_at_ns, false);
      spdlog::debug("{} is sampled from now on", NameOf(action.group));
      break;
    }
    case Kind::kProbe:
      BeginProbe(action.group);
      governor_->Began(action.group, Seconds(MonotonicNs()));
      break;
    case Kind::kOpen: {
      if (windows.probe.open) EndProbe(action.group);
      EventState state = Toggle([&] { return source_->Open(tracepoints); }, tracepoints.size());
      BeginWindow(action.group, state);
      CountTraced(action.group, state.taken_at_ns, true);
      governor_->Began(action.group, Seconds(state.taken_at_ns));
      break;
    }
    case Kind::kClose: {
      AboutToEnd(action.group);
      EventState state = Toggle([&] { return source_->Close(tracepoints); }, tracepoints.size());
      EndWindow(action.group, state, false);
      CountTraced(action.group, state.taken_at_ns, false);
      break;
    }
    case Kind::kStop: {
      AboutToEnd(action.group);
      EventState state = source_->Open({});  // one of now: a snapshot may be of before the window
      EndWindow(action.group, state, true);
      spdlog::debug("{} is exact from now on", NameOf(action.group));
      break;
    }
    case Kind::kLoses:
      spdlog::warn("events are lost, most likely those of {}, which is never sampled",
                   NameOf(action.group));
      break;
  }
}

std::string GovernedSource::NameOf(std::size_t group) const {
  std::string name;
  for (const std::size_t collector : groups_[group].collectors) {
    name +=
        fmt::format("{}{}", name.empty() ? "collector " : " and ", collectors_[collector]->name());
  }
  return name.empty() ? "extra_events" : name;
}

EventState GovernedSource::Toggle(const std::function<EventState()>& change,
                                  std::size_t tracepoints) {
  const double begin = ThreadSeconds();
  EventState state = change();
  const double mine = ThreadSeconds() - begin;
  const std::scoped_lock lock(mutex_);
  toggle_seconds_ += mine + InterruptSeconds(tracepoints);
  toggle_thread_seconds_ += mine;
  thread_seconds_ = begin + mine;
  return state;
}

void GovernedSource::CountTraced(std::size_t group, std::uint64_t now_ns, bool open) {
  const std::scoped_lock lock(mutex_);
  Windows& windows = windows_[group];
  if (!open) windows.traced_ns += now_ns - std::min(now_ns, windows.open_since_ns);
  windows.open_since_ns = open ? now_ns : 0;
}

std::vector<std::uint64_t> GovernedSource::CountedByCpu(std::size_t group,
                                                        const EventState& state) const {
  std::vector<std::uint64_t> events;
  for (const CpuCounts& cpu : state.cpus) {
    std::uint64_t& sum = events.emplace_back();
    for (const std::size_t tracepoint : groups_[group].tracepoints) sum += cpu.events[tracepoint];
  }
  return events;
}

std::vector<std::uint64_t> GovernedSource::CountedByTracepoint(std::size_t group,
                                                               const EventState& state) const {
  std::vector<std::uint64_t> events;
  for (const std::size_t tracepoint : groups_[group].tracepoints) {
    std::uint64_t& sum = events.emplace_back();
    for (const CpuCounts& cpu : state.cpus) sum += cpu.events[tracepoint];
  }
  return events;
}

std::uint64_t GovernedSource::Counted(std::size_t group, const EventState& state) const {
  const auto events = CountedByCpu(group, state);
  return std::reduce(events.begin(), events.end());
}

std::vector<double> GovernedSource::ReadIdle() const {
  try {
    return IdleSeconds(proc_.Read("stat"), static_cast<double>(sysconf(_SC_CLK_TCK)));
  } catch (const ProcError&) {
    return {};
  }
}

std::optional<GovernedSource::Pace> GovernedSource::ReadPace(const Windows& windows) const {
  if (!windows.allocates_pages) return std::nullopt;
  try {
    const std::optional<std::uint64_t> pages = PagesAllocated(proc_.Read("vmstat"));
    if (!pages) return std::nullopt;
    return Pace{.seconds = Seconds(MonotonicNs()), .count = static_cast<double>(*pages)};
  } catch (const ProcError&) {
    return std::nullopt;
  }
}

// The rarer a tracepoint is, the less it matters what it costs itself. Where the kernel counts as
// well, there is nothing to probe.
void GovernedSource::BeginProbe(std::size_t group) {
  Windows& windows = windows_[group];
  if (windows.pace_at_last_end) return;
  Probe& probe = windows.probe;
  const double all = std::reduce(windows.each.begin(), windows.each.end());
  double least = kMostProbed;
  for (std::size_t place = 0; place < windows.each.size(); ++place) {
    const double part = windows.each[place] / all;
    if (!(part >= kLeastProbed && part <= least)) continue;
    least = part;
    probe.place = place;
    probe.open = true;
  }
  if (!probe.open) return;
  const std::size_t tracepoint = groups_[group].tracepoints[probe.place];
  const EventState state = Toggle([&] { return source_->Open({&tracepoint, 1}); }, 1);
  probe.begin_ns = state.taken_at_ns;
  probe.events_at_begin = CountedByTracepoint(group, state)[probe.place];
}

void GovernedSource::EndProbe(std::size_t group) {
  Probe& probe = windows_[group].probe;
  const std::size_t tracepoint = groups_[group].tracepoints[probe.place];
  const EventState state = Toggle([&] { return source_->Close({&tracepoint, 1}); }, 1);
  probe.open = false;
  probe.events =
      static_cast<double>(CountedByTracepoint(group, state)[probe.place] - probe.events_at_begin);
  probe.rate = probe.events / Seconds(state.taken_at_ns - probe.begin_ns);
}

void GovernedSource::BeginWindow(std::size_t group, EventState& state) {
  scaler_.BeginWindow(group, state);
  Windows& windows = windows_[group];
  windows.events_at_begin = Counted(group, state);
  windows.each_at_begin = CountedByTracepoint(group, state);
  windows.cpus_at_begin = CountedByCpu(group, state);
  const TraceLoad load = source_->ReadLoad();
  windows.lost_at_begin = load.lost;
  windows.all_at_begin = std::reduce(load.events.begin(), load.events.end());
  windows.process_at_begin = ProcessSeconds();
  windows.pace_at_begin = ReadPace(windows);
}

void GovernedSource::AboutToEnd(std::size_t group) {
  Windows& windows = windows_[group];
  windows.pace_at_end = ReadPace(windows);
  windows.process_at_end = ProcessSeconds();
}

std::optional<SlowdownLearner::Probe> GovernedSource::ShownBy(const Windows& windows,
                                                              double seconds) const {
  const auto& [last, begin, end] =
      std::tie(windows.pace_at_last_end, windows.pace_at_begin, windows.pace_at_end);
  if (last && begin && end) {
    const double outside = begin->count - last->count;
    const double inside = end->count - begin->count;
    if (outside < kEventsToLearnFrom || inside < kEventsToLearnFrom) return std::nullopt;
    return SlowdownLearner::Probe{.part = 0,
                                  .ratio = outside / (begin->seconds - last->seconds) /
                                           (inside / (end->seconds - begin->seconds))};
  }
  const Probe& probe = windows.probe;
  const double probed = windows.each[probe.place];
  if (probe.events < kEventsToLearnFrom || probed < kEventsToLearnFrom) return std::nullopt;
  const double all = std::reduce(windows.each.begin(), windows.each.end());
  return SlowdownLearner::Probe{.part = std::pow(probed / all, source_->lone_cost_power()),
                                .ratio = probe.rate / (probed / seconds)};
}

GovernedSource::Slowdown GovernedSource::SlowdownOf(std::size_t group, const EventState& state,
                                                    double seconds, double period) {
  Windows& windows = windows_[group];
  const Foretold foretold = ForetellBy(group, state, seconds, period);
  windows.each.clear();
  for (const std::uint64_t events : CountedByTracepoint(group, state)) {
    const std::uint64_t before = windows.each_at_begin[windows.each.size()];
    windows.each.push_back(static_cast<double>(events - before));
  }
  const auto shown = ShownBy(windows, seconds);
  if (shown && foretold.idle_is_lost > 1) windows.learner.Learn(*shown, foretold);
  windows.probe.events = 0;
  return {.foretold = foretold,
          .learned = windows.learner.Corrected(foretold),
          .cost_ratio = windows.learner.CostRatio(foretold)};
}

Foretold GovernedSource::ForetellBy(std::size_t group, const EventState& state, double seconds,
                                    double period) {
  Windows& windows = windows_[group];
  const std::vector<double> before = std::exchange(windows.idle_at_end, ReadIdle());
  const std::vector<double>& now = windows.idle_at_end;
  const std::vector<std::uint64_t> counted = CountedByCpu(group, state);
  // On whichever CPU our own threads ran.
  const double ours = (windows.process_at_end - windows.process_at_begin) / OnlineCpus();
  std::vector<CpuWindow> cpus;
  for (std::size_t i = 0; i < counted.size(); ++i) {
    const std::uint64_t events =
        counted[i] - (i < windows.cpus_at_begin.size() ? windows.cpus_at_begin[i] : 0);
    if (events == 0) continue;
    // Nothing is made up where it is not known how busy the CPU was; one that is offline has no
    // line.
    const bool known = i < before.size() && i < now.size() && now[i] >= before[i];
    const double taken = static_cast<double>(events) * fixed_.event_cost_seconds + ours;
    cpus.push_back({.events = events,
                    .tracing_ratio = known ? taken / seconds : 0,
                    .idle_ratio = known ? (now[i] - before[i]) / period : 0});
  }
  return Foretell(cpus);
}

void GovernedSource::EndWindow(std::size_t group, EventState& state, bool exact) {
  Windows& windows = windows_[group];
  const std::uint64_t end_ns = state.taken_at_ns;
  const auto length =
      static_cast<double>(std::max(end_ns, windows.open_since_ns + 1) - windows.open_since_ns);
  const auto period = static_cast<double>(end_ns - std::min(end_ns, windows.last_end_ns));
  const std::uint64_t events = Counted(group, state) - windows.events_at_begin;
  const TraceLoad load = source_->ReadLoad();
  // Of what was lost meanwhile nobody knows of which tracepoint it was: a share like that of the
  // rest.
  const std::uint64_t all =
      std::reduce(load.events.begin(), load.events.end()) - windows.all_at_begin;
  const auto lost = static_cast<std::uint64_t>(
      static_cast<double>(load.lost - windows.lost_at_begin) *
      std::min(1.0,
               static_cast<double>(events) / static_cast<double>(std::max<std::uint64_t>(all, 1))));
  // Nobody knows either of which group they are: each is charged once.
  const std::uint64_t outside = load.outside - std::exchange(outside_charged_, load.outside);
  const std::uint64_t strays = windows.events_at_begin - windows.events_at_end + outside;
  const double loss_factor = std::min(
      static_cast<double>(events + lost) / static_cast<double>(std::max<std::uint64_t>(events, 1)),
      kMostLossFactor);
  if (lost > 0) windows.probe.events = 0;  // its window's rates are not known as well
  const auto slowdown = SlowdownOf(group, state, length * kNs, period * kNs);
  const double left_out = (period / length - 1) * slowdown.learned;
  scaler_.EndWindow(group, state, (1 + left_out) * std::max(loss_factor, 1.0), exact,
                    Governor::kLongestGap);
  spdlog::debug(
      "{}: a window of {:.1f} ms in {:.2f} s had {} events, {} were lost and {} came beside it; "
      "without tracing there would have been {:.3f} times as many, by the cost of an event {:.3f} "
      "to {:.3f}",
      NameOf(group), length / 1e6, period * kNs, events, lost, strays, slowdown.learned,
      slowdown.foretold.idle_helps, slowdown.foretold.idle_is_lost);
  windows.last_end_ns = end_ns;
  windows.pace_at_last_end = ReadPace(windows);
  governor_->WindowEnded(group, {.now = Seconds(MonotonicNs()),
                                 .seconds = length * kNs,
                                 .events = events,
                                 .lost = lost,
                                 .strays = strays,
                                 .cost_ratio = slowdown.cost_ratio});
  const std::scoped_lock lock(mutex_);
  cost_above_measured_seconds_ += static_cast<double>(events + lost + strays) *
                                  fixed_.event_cost_seconds * (slowdown.cost_ratio - 1);
  windows.events_at_end = windows.events_at_begin + events;
}

}  // namespace kmem
