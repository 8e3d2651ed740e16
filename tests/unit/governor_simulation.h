// The governor against a simulated load: what it would have traced and shown, and what that would
// have cost.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "exporter/governor.h"
#include "exporter/scaler.h"

namespace kmem {

inline constexpr double kEventCost = 50e-9;
inline constexpr double kReaderCost = 10e-9;
inline constexpr double kToggleCost = 0.0025;  // of enabling, and of disabling
inline constexpr double kBudget = 0.02;        // 1 % of two CPUs
inline constexpr double kProbed = 0.3;         // of the events, by a probe's tracepoint
inline constexpr double kBuffer = 1e12;        // events that are not lost, in a step

// Events per second of each group while time passes.
using GroupRates = std::array<double, 2>;
using Rates = std::function<GroupRates(double now)>;

class Simulation {
 public:
  Simulation(std::vector<Sampling> groups, Rates rates, double budget = kBudget,
             std::uint64_t seed = 7)
      : rates_(std::move(rates)),
        traced_(groups.size(), 1),
        window_(groups.size()),
        governor_({.event_cost_seconds = kEventCost, .seed = seed}, groups) {
    reading_.now = 1000;
    reading_.budget = budget;
    reading_.events.resize(groups.size());
    true_events_.resize(groups.size());
    counters_.resize(groups.size());
    spreads_.resize(groups.size());
    changes_.resize(groups.size());
    toggles_.resize(groups.size());
    traced_seconds_.resize(groups.size());
    for (Window& window : window_) window.last_end = reading_.now;
    end_ = reading_.now;
  }

  // Events of all groups beyond which a second of tracing loses some, with room for so many.
  void LoseBeyond(double events_per_second, double room = 0) {
    capacity_ = events_per_second;
    room_ = room;
  }
  // As where CPUs come or go.
  void SetBudget(double budget) { reading_.budget = budget; }
  // Events cost so many times what was measured, as every window shows.
  void CostTimes(double ratio) { cost_ratio_ = ratio; }

  void Run(double seconds) {
    end_ += seconds;
    while (reading_.now < end_) Step();
  }

  [[nodiscard]] double period(std::size_t group) const { return governor_.period(group); }
  [[nodiscard]] double now() const { return reading_.now; }
  [[nodiscard]] bool sampled(std::size_t group) const { return governor_.sampled(group); }
  [[nodiscard]] double spent() const { return spent_; }
  [[nodiscard]] int changes(std::size_t group) const { return changes_[group]; }
  [[nodiscard]] int toggles(std::size_t group) const { return toggles_[group]; }
  [[nodiscard]] double traced_seconds(std::size_t group) const { return traced_seconds_[group]; }
  [[nodiscard]] double lost_share() const {
    const double lost = static_cast<double>(reading_.lost) - lost_forgotten_;
    return lost / (lost + static_cast<double>(AllEvents()) - all_forgotten_);
  }
  // From here on it counts anew.
  void ForgetLosses() {
    lost_forgotten_ = static_cast<double>(reading_.lost);
    all_forgotten_ = static_cast<double>(AllEvents());
  }
  [[nodiscard]] const std::vector<std::size_t>& losers() const { return losers_; }
  [[nodiscard]] double true_events(std::size_t group) const { return true_events_[group]; }
  // What is known of a group's events, and what a scrape would show.
  [[nodiscard]] double estimate(std::size_t group) const {
    const ScaledCounter& counter = counters_[group];
    const std::uint64_t counted = reading_.events[group] - counter.begin;
    return static_cast<double>(counter.known + (sampled(group) ? 0 : counted));
  }
  double shown(std::size_t group) {
    return static_cast<double>(counters_[group].Show(reading_.events[group], !sampled(group),
                                                     spreads_[group].PartAt(now_ns())));
  }

 private:
  struct Window {
    double asked_for = 0;
    double begin = 0;
    double last_end = 0;
    double events = 0;  // at its begin; of a group that is exact, when it became that
    double events_at_last_end = 0;
    std::uint64_t lost = 0;
    std::uint64_t all = 0;  // events of all groups
  };

  void Step() {
    const auto actions = governor_.Tick(reading_);
    for (const auto& action : actions) Do(action);
    Pass(std::min(governor_.next_tick(), end_) - reading_.now);
  }

  // Events happen in steps of a few milliseconds, until so many seconds are over.
  void Pass(double seconds) {
    double left = std::max(seconds, 0.0005);
    while (left > 0) {
      const double step = std::min(left, 0.005);
      const GroupRates rates = rates_(reading_.now);
      double traced = 0;
      for (std::size_t i = 0; i < rates.size(); ++i) {
        true_events_[i] += rates[i] * step;
        traced += rates[i] * step * traced_[i];
        if (traced_[i] == 1) traced_seconds_[i] += step;
      }
      const double room = capacity_ * step + room_ - waiting_;
      const double kept = traced <= room ? 1 : room / traced;
      waiting_ = std::clamp(waiting_ + traced * kept - capacity_ * step, 0.0, room_);
      for (std::size_t i = 0; i < rates.size(); ++i) {
        const double counted = rates[i] * step * traced_[i] * kept;
        reading_.events[i] += static_cast<std::uint64_t>(counted);
      }
      reading_.lost += static_cast<std::uint64_t>(traced * (1 - kept));
      spent_ += traced * (kEventCost * cost_ratio_ + kReaderCost);
      reading_.reader_seconds += traced * kReaderCost;
      reading_.now += step;
      left -= step;
    }
  }

  void Do(const Governor::Action& action) {
    using Kind = Governor::Action::Kind;
    if (action.kind == Kind::kLoses) {
      losers_.push_back(action.group);
      return;
    }
    Window& window = window_[action.group];
    ScaledCounter& counter = counters_[action.group];
    Spread& spread = spreads_[action.group];
    if (action.kind == Kind::kOpen) {
      EXPECT_GE(reading_.now - window.asked_for, Governor::kShortestGap - 1e-9);
      window.asked_for = reading_.now;
      EXPECT_EQ(traced_[action.group], kProbed) << "no probe before";
    }
    if (action.kind != Kind::kStop) {
      spent_ += kToggleCost;
      reading_.toggle_seconds += kToggleCost;
      ++toggles_[action.group];
      Pass(kToggleCost);
    }
    switch (action.kind) {
      case Kind::kLoses:
        break;
      case Kind::kProbe:
        EXPECT_EQ(traced_[action.group], 0);
        traced_[action.group] = kProbed;
        governor_.Began(action.group, reading_.now);
        break;
      case Kind::kStart:
        counter.Start(reading_.events[action.group], spread.PartAt(now_ns()));
        window.events_at_last_end = static_cast<double>(reading_.events[action.group]);
        window.last_end = reading_.now;
        traced_[action.group] = 0;
        ++changes_[action.group];
        break;
      case Kind::kOpen:
        window.begin = reading_.now;
        window.events = static_cast<double>(reading_.events[action.group]);
        counter.begin = reading_.events[action.group];
        window.lost = reading_.lost;
        window.all = AllEvents();
        traced_[action.group] = 1;
        governor_.Began(action.group, reading_.now);
        break;
      case Kind::kClose:
      case Kind::kStop: {
        const auto now_counted = static_cast<double>(reading_.events[action.group]);
        const double events = now_counted - window.events;
        const double seconds = reading_.now - window.begin;
        const double factor = (reading_.now - window.last_end) / seconds;
        counter.EndWindow(reading_.events[action.group],
                          static_cast<std::uint64_t>(std::ldexp(factor, Spread::kBits)),
                          spread.PartAt(now_ns()));
        spread = {.begin_ns = now_ns(),
                  .length_ns = static_cast<std::uint64_t>(Governor::kLongestGap * 1e9)};
        const double part =
            events / static_cast<double>(std::max<std::uint64_t>(AllEvents() - window.all, 1));
        const double lost = static_cast<double>(reading_.lost - window.lost) * part;
        const double strays = window.events - window.events_at_last_end;
        window.last_end = reading_.now;
        window.events = window.events_at_last_end = now_counted;
        traced_[action.group] = action.kind == Kind::kStop ? 1 : 0;
        if (action.kind == Kind::kStop) ++changes_[action.group];
        governor_.WindowEnded(action.group, {.now = reading_.now,
                                             .seconds = seconds,
                                             .events = static_cast<std::uint64_t>(events),
                                             .lost = static_cast<std::uint64_t>(lost),
                                             .strays = static_cast<std::uint64_t>(strays),
                                             .cost_ratio = cost_ratio_});
        break;
      }
    }
  }

  [[nodiscard]] std::uint64_t now_ns() const {
    return static_cast<std::uint64_t>(reading_.now * 1e9);
  }
  [[nodiscard]] std::uint64_t AllEvents() const {
    return std::reduce(reading_.events.begin(), reading_.events.end());
  }

  Rates rates_;
  double capacity_ = kBuffer;
  double room_ = 0;
  double waiting_ = 0;  // events in it
  double lost_forgotten_ = 0;
  double all_forgotten_ = 0;
  double cost_ratio_ = 1;
  Governor::Reading reading_;
  double end_ = 0;
  double spent_ = 0;
  std::vector<double> traced_;  // share of the events, by group
  std::vector<Window> window_;
  std::vector<double> true_events_;
  std::vector<ScaledCounter> counters_;
  std::vector<Spread> spreads_;
  std::vector<int> changes_;
  std::vector<int> toggles_;
  std::vector<double> traced_seconds_;
  std::vector<std::size_t> losers_;
  Governor governor_;
};

inline constexpr double kStorm = 20e6;
inline constexpr double kQuiet = 20e3;

}  // namespace kmem
