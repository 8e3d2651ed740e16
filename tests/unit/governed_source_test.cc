// What a governed source shows of a source whose tracepoints it leaves out for a while: against a
// source that knows when each was traced and what it counted meanwhile. In real time: a window
// takes some 2 s with its pause.
#include "exporter/governed_source.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "exporter/clocks.h"
#include "memory_proc.h"

namespace kmem {
namespace {

using ::testing::IsEmpty;

constexpr std::size_t kTracepoints = 2;
constexpr double kEventCost = 50e-6;
constexpr double kBudgetSeconds = 0.1;  // a second, of all CPUs together
constexpr double kStorm = 6000;         // events a second of each tracepoint: six times the budget
constexpr double kQuiet = 100;
constexpr double kUntraced = 2;

kmem_verdict CountNothing(std::byte* /*tally*/, const std::byte* /*record*/,
                          const BoundField* /*fields*/, const kmem_context& /*context*/) {
  return KMEM_COUNTED;
}

// A word for each of its two tracepoints.
class PairCollector : public TraceCollector {
 public:
  explicit PairCollector(std::string_view second)
      : events_{EventSpec{"first", {}, &CountNothing}, EventSpec{second, {}, &CountNothing}} {}

  [[nodiscard]] std::string_view name() const override { return "pair"; }
  [[nodiscard]] std::span<const EventSpec> events() const override { return events_; }
  [[nodiscard]] std::size_t tally_bytes() const override { return 8 * kTracepoints; }
  void Export(const Tallies& /*tallies*/, const KernelFacts& /*facts*/,
              Families& /*out*/) const override {}

 private:
  std::array<EventSpec, kTracepoints> events_;
};

// When tracepoints were enabled or disabled, and what had been counted by then.
struct Edge {
  bool opens;
  std::vector<std::size_t> tracepoints;
  std::uint64_t at_ns;
  std::vector<std::uint64_t> events;
  std::uint64_t lost;
};

// Events come at a steady rate while their tracepoint is traced, on one CPU.
class SteadySource : public LiveSource {
 public:
  explicit SteadySource(std::string_view second) : names_{"first", second} {}

  void SetRate(double events_per_second) {
    const std::scoped_lock lock(mutex_);
    Pass();
    rate_ = events_per_second;
  }
  // So many of each tracepoint are counted while a group is enabled, before its window begins, and
  // so many are outside of all gates as it ends.
  void AddStrays(std::uint64_t events) {
    const std::scoped_lock lock(mutex_);
    strays_ = events;
  }
  // Of what happens in a window this share of what is counted is lost besides.
  void Lose(double share) {
    const std::scoped_lock lock(mutex_);
    lost_share_ = share;
  }
  void Refuse(std::size_t tracepoint, bool refused) {
    const std::scoped_lock lock(mutex_);
    refused_[tracepoint] = refused;
  }

  // The edges of the whole group's windows, or those of one tracepoint's probes.
  [[nodiscard]] std::vector<Edge> edges(std::size_t tracepoints = kTracepoints) {
    const std::scoped_lock lock(mutex_);
    std::vector<Edge> some;
    std::ranges::copy_if(edges_, std::back_inserter(some),
                         [&](const Edge& edge) { return edge.tracepoints.size() == tracepoints; });
    return some;
  }
  // How often the load was read since the last of the edges: by scrapes, too.
  [[nodiscard]] std::size_t loads_since_edge() {
    const std::scoped_lock lock(mutex_);
    return loads_since_edge_;
  }
  // As many as of its second tracepoint's events, and kUntraced times as many while it is left out.
  [[nodiscard]] std::uint64_t pages() {
    const std::scoped_lock lock(mutex_);
    Pass();
    return static_cast<std::uint64_t>(pages_);
  }
  // Counted and outside, of all tracepoints.
  [[nodiscard]] std::uint64_t all_events() {
    const std::scoped_lock lock(mutex_);
    Pass();
    return Count(0) + Count(1) + outside_;
  }

  [[nodiscard]] std::string_view engine() const override { return "steady"; }
  [[nodiscard]] std::string_view reason() const override { return "test"; }
  [[nodiscard]] const KernelFacts& facts() const override { return facts_; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override { return missing_; }

  [[nodiscard]] EventState Snapshot() override {
    const std::scoped_lock lock(mutex_);
    return State();
  }

  [[nodiscard]] TraceLoad ReadLoad() override {
    const std::scoped_lock lock(mutex_);
    Pass();
    ++loads_since_edge_;
    return {.events = {Count(0), Count(1)}, .outside = outside_, .lost = lost_};
  }

  [[nodiscard]] double lone_cost_power() const override { return 1; }
  EventState Open(std::span<const std::size_t> tracepoints) override {
    const std::scoped_lock lock(mutex_);
    Pass();
    for (const std::size_t tracepoint : tracepoints) {
      open_[tracepoint] = enabled_[tracepoint] = !refused_[tracepoint];
      if (tracepoints.size() == kTracepoints && open_[tracepoint]) {
        events_[tracepoint] += static_cast<double>(strays_);
      }
    }
    return Record(true, tracepoints);
  }

  EventState Close(std::span<const std::size_t> tracepoints) override {
    const std::scoped_lock lock(mutex_);
    Pass();
    if (tracepoints.size() == kTracepoints && !edges_.empty()) {
      const Edge& begin = edges_.back();
      const std::uint64_t counted = Count(0) + Count(1) - begin.events[0] - begin.events[1];
      lost_ += static_cast<std::uint64_t>(static_cast<double>(counted) * lost_share_);
      outside_ += strays_;
    }
    for (const std::size_t tracepoint : tracepoints) open_[tracepoint] = false;
    return Record(false, tracepoints);
  }

 private:
  void Pass() {
    const std::uint64_t now_ns = MonotonicNs();
    const double seconds = static_cast<double>(now_ns - std::exchange(now_ns_, now_ns)) * 1e-9;
    for (std::size_t i = 0; i < kTracepoints; ++i) {
      if (open_[i]) events_[i] += rate_ * seconds;
    }
    pages_ += (open_[1] ? 1 : kUntraced) * rate_ * seconds;
  }
  [[nodiscard]] std::uint64_t Count(std::size_t tracepoint) const {
    return static_cast<std::uint64_t>(events_[tracepoint]);
  }
  EventState State() {
    Pass();
    EventState state(1, 1);
    state.taken_at_ns = now_ns_;
    state.tallies[0] = Tallies(8 * kTracepoints, 1);
    for (std::size_t i = 0; i < kTracepoints; ++i) {
      const std::uint64_t count = Count(i);
      std::memcpy(state.tallies[0].At(0) + 8 * i, &count, sizeof count);
      state.cpus[0].events.push_back(count);
      state.tracepoints.push_back({.name = std::string(names_[i]), .enabled = enabled_[i]});
    }
    return state;
  }
  EventState Record(bool opens, std::span<const std::size_t> tracepoints) {
    EventState state = State();
    edges_.push_back({.opens = opens,
                      .tracepoints = {tracepoints.begin(), tracepoints.end()},
                      .at_ns = state.taken_at_ns,
                      .events = state.cpus[0].events,
                      .lost = lost_});
    loads_since_edge_ = 0;
    return state;
  }

  std::array<std::string_view, kTracepoints> names_;
  KernelFacts facts_;
  std::vector<std::string> missing_;
  std::mutex mutex_;
  double pages_ = 0;
  std::uint64_t now_ns_ = MonotonicNs();
  double rate_ = kStorm;
  std::uint64_t strays_ = 0;
  double lost_share_ = 0;
  std::array<double, kTracepoints> events_{};
  std::uint64_t outside_ = 0;
  std::uint64_t lost_ = 0;
  std::array<bool, kTracepoints> open_{true, true};
  std::array<bool, kTracepoints> enabled_{true, true};
  std::array<bool, kTracepoints> refused_{};
  std::vector<Edge> edges_;
  std::size_t loads_since_edge_ = 0;
};

class GovernedSourceTest : public ::testing::Test {
 protected:
  explicit GovernedSourceTest(std::string_view second = "second") {
    collectors_.push_back(std::make_unique<PairCollector>(second));
    auto source = std::make_unique<SteadySource>(second);
    steady_ = source.get();
    source_ = std::move(source);
  }

  void Start(double budget_seconds = kBudgetSeconds) { Start(proc_, budget_seconds); }
  void Start(const ProcReader& proc, double budget_seconds = kBudgetSeconds) {
    const auto cpus = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
    const OverheadConfig config{.budget_percent = 100 * budget_seconds / cpus};
    const EventCost cost{.seconds = kEventCost, .how = "given"};
    governed_.emplace(std::move(source_), collectors_, proc, config, cost);
  }

  // What is shown of each tracepoint by its collector; tracepoints must show the same.
  std::vector<std::uint64_t> Shown() {
    EventState state = governed_->Snapshot();
    std::vector<std::uint64_t> shown;
    for (std::size_t i = 0; i < kTracepoints; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, state.tallies[0].At(0) + 8 * i, sizeof word);
      EXPECT_EQ(state.cpus[0].events[i] + state.tracepoints[i].untraced, word);
      shown.push_back(word);
    }
    for (std::size_t i = 0; i < kTracepoints && !last_shown_.empty(); ++i) {
      EXPECT_GE(shown[i], last_shown_[i]) << "a counter has fallen";
    }
    return last_shown_ = shown;
  }

  bool WaitFor(const std::function<bool()>& condition, double seconds) {
    const std::uint64_t deadline_ns = MonotonicNs() + static_cast<std::uint64_t>(seconds * 1e9);
    while (!condition()) {
      if (MonotonicNs() > deadline_ns) return false;
      Shown();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }
  // The group was left out for the first time, and `windows` windows have ended.
  bool WaitForWindows(std::size_t windows) {
    return WaitFor([&] { return steady_->edges().size() >= 1 + 2 * windows; }, 30);
  }

  // What the windows that have ended by now are to show of a tracepoint.
  double Expected(std::size_t tracepoint) {
    const std::vector<Edge> edges = steady_->edges();
    auto shown = static_cast<double>(edges.front().events[tracepoint]);
    std::uint64_t last_end_ns = edges.front().at_ns;
    for (std::size_t i = 1; i + 1 < edges.size(); i += 2) {
      const Edge& begin = edges[i];
      const Edge& end = edges[i + 1];
      EXPECT_TRUE(begin.opens && !end.opens);
      const double counted = static_cast<double>(end.events[0] + end.events[1]) -
                             static_cast<double>(begin.events[0] + begin.events[1]);
      if (counted == 0) {
        last_end_ns = end.at_ns;
        continue;
      }
      const double kept = counted / (counted + static_cast<double>(end.lost - begin.lost));
      const double traced = static_cast<double>(end.at_ns - begin.at_ns) /
                            static_cast<double>(end.at_ns - last_end_ns);
      shown +=
          static_cast<double>(end.events[tracepoint] - begin.events[tracepoint]) / traced / kept;
      last_end_ns = end.at_ns;
    }
    return shown;
  }
  // What is known is shown bit by bit: all of it once nothing happens any more.
  bool ShowsExpectedInTheEnd(double off = 2) {
    steady_->SetRate(0);
    return WaitFor(
        [&] {
          const std::vector<std::uint64_t> shown = Shown();
          return std::abs(static_cast<double>(shown[0]) - Expected(0)) <= off &&
                 std::abs(static_cast<double>(shown[1]) - Expected(1)) <= off;
        },
        60);
  }
  std::string ShownAndExpected() {
    const std::vector<std::uint64_t> shown = Shown();
    return fmt::format("shown {} and {}, expected {} and {}", shown[0], shown[1], Expected(0),
                       Expected(1));
  }
  double TracedSeconds() { return governed_->Snapshot().overhead->traced_seconds.at(0).value(); }

  // In the pause after so many windows. Nothing is read before: what is read while a window closes
  // is of that moment, however long closing takes. The governing thread reads the load once as a
  // window ends, and next when it has done with it.
  double TracedByWindows(std::size_t windows) {
    const std::uint64_t deadline_ns = MonotonicNs() + 30'000'000'000;
    while (steady_->edges().size() < 1 + 2 * windows || steady_->loads_since_edge() < 2) {
      if (MonotonicNs() > deadline_ns) {
        ADD_FAILURE() << "no " << windows << " windows in 30 s";
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return TracedSeconds();
  }

  TraceCollectors collectors_;
  // Nobody knows how idle the CPUs are: nothing is made up for what tracing slows down.
  MapProc proc_{{}};
  std::unique_ptr<SteadySource> source_;
  SteadySource* steady_ = nullptr;
  std::optional<GovernedSource> governed_;
  std::vector<std::uint64_t> last_shown_;
};

TEST_F(GovernedSourceTest, AWindowStandsForTheTimeSinceTheOneBefore) {
  steady_->AddStrays(100);
  Start();
  const double traced = TracedByWindows(1);
  const double traced_by_both = TracedByWindows(2);
  const std::vector<Edge> edges = steady_->edges();
  ASSERT_EQ(edges.size(), 5U);
  EXPECT_NEAR(traced_by_both - traced, static_cast<double>(edges[4].at_ns - edges[3].at_ns) * 1e-9,
              1e-6);
  // Of both one was probed, for which the second window had the first one to go by.
  const std::vector<Edge> probe = steady_->edges(1);
  ASSERT_EQ(probe.size(), 2U);
  EXPECT_TRUE(probe[0].opens && !probe[1].opens);
  EXPECT_LE(probe[1].at_ns, edges[3].at_ns);
  // All events cost, also those that are not shown.
  const Overhead overhead = *governed_->Snapshot().overhead;
  EXPECT_NEAR(overhead.trace_seconds, static_cast<double>(steady_->all_events()) * kEventCost,
              1e-6);
  EXPECT_GT(overhead.toggle_seconds, 0);
  EXPECT_TRUE(ShowsExpectedInTheEnd()) << ShownAndExpected();
}

TEST_F(GovernedSourceTest, WhatAWindowLostIsMadeUpFor) {
  steady_->Lose(0.5);
  Start();
  ASSERT_TRUE(WaitForWindows(2));
  // Lost events are whole.
  EXPECT_TRUE(ShowsExpectedInTheEnd(20)) << ShownAndExpected();
}

TEST_F(GovernedSourceTest, BecomesExactAgainAndCountsFromThereOnOneByOne) {
  Start();
  ASSERT_TRUE(WaitForWindows(1));
  steady_->SetRate(kQuiet);
  // Longer than any window, and than it takes until all that windows made known is shown.
  const auto is_exact = [&] {
    const std::vector<Edge> edges = steady_->edges();
    return edges.back().opens && MonotonicNs() - edges.back().at_ns > 12'000'000'000;
  };
  ASSERT_TRUE(WaitFor(is_exact, 60));
  // What is shown lies between what has happened before and after.
  struct Look {
    std::uint64_t shown = 0;
    std::uint64_t happened_before = 0;
    std::uint64_t happened_after = 0;
    double traced = 0;
    double before = 0;
    double after = 0;
  };
  const auto look = [&] {
    const auto now = [] { return static_cast<double>(MonotonicNs()) * 1e-9; };
    Look seen;
    seen.happened_before = steady_->all_events();
    seen.before = now();
    const std::vector<std::uint64_t> shown = Shown();
    seen.shown = shown[0] + shown[1];
    seen.traced = TracedSeconds();
    seen.after = now();
    seen.happened_after = steady_->all_events();
    return seen;
  };
  const Look first = look();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const Look last = look();
  EXPECT_GE(last.shown + 2, first.shown + last.happened_before - first.happened_after);
  EXPECT_LE(last.shown, first.shown + last.happened_after - first.happened_before + 2);
  EXPECT_GE(last.traced - first.traced, last.before - first.after - 1e-6);
  EXPECT_LE(last.traced - first.traced, last.after - first.before + 1e-6);
  EXPECT_TRUE(is_exact());
}

// A CPU that is never idle, and the kernel's own count of pages.
class PagesProc : public ProcReader {
 public:
  explicit PagesProc(SteadySource& source) : source_(source) {}
  [[nodiscard]] std::string Read(std::string_view path) const override {
    if (path == "stat") return "cpu0 9 9 9 0 0 0\n";
    return fmt::format("pgalloc_normal {}\n", source_.pages());
  }

 private:
  SteadySource& source_;
};

class GovernedPagesTest : public GovernedSourceTest {
 protected:
  GovernedPagesTest() : GovernedSourceTest("mm_page_alloc") {}
};

TEST_F(GovernedPagesTest, WhatTheKernelCountsTellsWhatTracingKeptFromHappening) {
  const PagesProc proc(*steady_);
  Start(proc);
  ASSERT_TRUE(WaitForWindows(6));
  steady_->SetRate(0);
  const auto all_is_shown = [this, last = Shown()[1], since_ns = MonotonicNs()]() mutable {
    if (const std::uint64_t shown = Shown()[1]; std::exchange(last, shown) != shown) {
      since_ns = MonotonicNs();
    }
    return MonotonicNs() - since_ns > 1'000'000'000;
  };
  ASSERT_TRUE(WaitFor(all_is_shown, 60));
  EXPECT_THAT(steady_->edges(1), IsEmpty()) << "nothing is left to probe";
  const auto exact = static_cast<double>(steady_->edges().front().events[1]);
  const double factor = (static_cast<double>(Shown()[1]) - exact) / (Expected(1) - exact);
  // A window of 30 ms, the first, is too short to learn from. By the cost of an event alone it
  // were 2.4; a tenth of the time is traced.
  EXPECT_NEAR(factor, 1 + 0.9 * (kUntraced - 1), 0.2);
  governed_.reset();
}

TEST_F(GovernedSourceTest, OneThatCannotBeTracedAgainLeavesTheOtherAsItIs) {
  Start();
  ASSERT_TRUE(WaitForWindows(1));
  steady_->Refuse(1, true);
  ASSERT_TRUE(WaitForWindows(2));
  EXPECT_FALSE(governed_->Snapshot().tracepoints[1].enabled);
  steady_->Refuse(1, false);
  ASSERT_TRUE(WaitForWindows(3));
  EXPECT_TRUE(governed_->Snapshot().tracepoints[1].enabled);
  const std::vector<Edge> edges = steady_->edges();
  EXPECT_EQ(edges[4].events[1], edges[3].events[1]);
  EXPECT_GT(edges[4].events[0], edges[3].events[0]);
  EXPECT_TRUE(ShowsExpectedInTheEnd()) << ShownAndExpected();
}

TEST_F(GovernedSourceTest, WithoutABudgetNothingIsLeftOut) {
  Start(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  EXPECT_THAT(steady_->edges(), IsEmpty());
  const std::uint64_t before = steady_->all_events();
  const std::vector<std::uint64_t> shown = Shown();
  EXPECT_GE(shown[0] + shown[1], before);
  EXPECT_LE(shown[0] + shown[1], steady_->all_events());
  const Overhead overhead = *governed_->Snapshot().overhead;
  EXPECT_EQ(overhead.toggle_seconds, 0);
  EXPECT_NEAR(overhead.traced_seconds.at(0).value(), 1.5, 0.5);
}

}  // namespace
}  // namespace kmem
