// Decides which tracepoints are traced when, so that tracing costs no more than its budget. Pure:
// it is told the time and what has been seen, and says what to do; one thread.
//
// A group of tracepoints is exact, which is always traced, or sampled: traced in windows. Groups of
// Sampling::kLast get the budget first, then the cheaper ones before the dearer. What is left for a
// sampled group, less what enabling and disabling costs, is spent evenly: a window's length follows
// from what its events have cost lately, and is fixed before it begins, so that it does not depend
// on what happens in it. The pauses between are of random length, lest a periodic load hide there.
//
// A group becomes sampled when it was over its share for two seconds (far over: one), or when
// events are lost and many of them are its own. It becomes exact again when all its windows have
// shown for a while that it would stay below 70 % of its share: as long a while as half a minute
// allows, and minutes if it is the third time, so that a load that comes and goes does not make it
// change all the time. Its first window is a short one, as a storm is noticed within moments: how
// much comes is not known then. A quiet window hardly changes the next one's length: windows that
// follow the load's bursts would make their estimates wrong on the average.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "collectors/collector.h"

namespace kmem {

class Governor {
 public:
  struct Options {
    double event_cost_seconds = 0;  // of one event, on the CPU that it happens on
    std::uint64_t seed = 1;
  };

  // What has been seen and spent up to now: all of it but the budget only grows. That goes with the
  // CPUs that are online.
  struct Reading {
    double now = 0;                     // seconds; what follows is of then
    double budget = 0;                  // CPU time per second, of all CPUs together; above 0
    std::vector<std::uint64_t> events;  // by group
    std::uint64_t lost = 0;
    double reader_seconds = 0;
    double toggle_seconds = 0;
  };

  struct Action {
    enum class Kind : std::uint8_t {
      kStart,  // an exact group becomes a sampled one: leave it out
      kProbe,  // a part of it may be traced, to see what the rest slows down
      kOpen,   // a window begins: trace all of it
      kClose,  // it ends: leave it out
      kStop,   // it ends, and the group stays traced: it is exact from now on
      kLoses,  // events are lost by a group that is never sampled; said once
    };
    std::size_t group;
    Kind kind;
  };

  // What a window has shown, as it ends (kClose and kStop).
  struct Window {
    double now = 0;
    double seconds = 0;
    std::uint64_t events = 0;
    std::uint64_t lost = 0;
    std::uint64_t strays = 0;  // events that cost as well, before it and after the one before
    double cost_ratio = 1;     // of what an event has turned out to cost to event_cost_seconds
  };

  // Windows are planned to begin at least so many seconds after one another; at most so many, with
  // the pauses at their longest. By their randomness and changes of plan it is never less than
  // kShortestGap, so each tracepoint is enabled and disabled at most once in that time, a probed
  // one twice.
  static constexpr double kShortestPeriod = 2.0;
  static constexpr double kLongestPeriod = 6.0;
  static constexpr double kJitter = 1.0 / 3;  // of a pause, up or down
  static constexpr double kShortestGap = kShortestPeriod * (1 - kJitter);
  // From the end of a window to that of the next, at the most, whatever the plan.
  static constexpr double kLongestGap = kLongestPeriod * (1 + kJitter);
  // Of the budget that is planned to be spent: estimates err, and what tracing pushes out of the
  // CPUs' caches shows only in what a busy load loses.
  static constexpr double kAim = 0.68;

  Governor(const Options& options, const std::vector<Sampling>& groups);

  // Says what to do now. Each action is taken for done.
  std::vector<Action> Tick(const Reading& reading);
  // Enabling takes a while: the probe or window that was asked for begins now.
  void Began(std::size_t group, double now);
  void WindowEnded(std::size_t group, const Window& window);

  // When the next Tick() is due, in seconds.
  [[nodiscard]] double next_tick() const;
  // As it is planned now.
  [[nodiscard]] double period(std::size_t group) const { return groups_[group].period; }
  [[nodiscard]] bool sampled(std::size_t group) const { return groups_[group].sampled; }

 private:
  static constexpr double kNever = -1e9;
  struct Group {
    Sampling sampling = Sampling::kFirst;
    bool sampled = false;
    bool open = true;
    bool probing = false;
    double rate = 0;        // events a second while it is traced, smoothed
    double allowance = 0;   // seconds per second that it may cost and be exact
    double share = 0;       // that it may cost if it is sampled
    double strays = 0;      // events of a cycle outside of its window, smoothed
    double cost_ratio = 1;  // of its last window; while it is exact, what is still believed of it
    // Exact.
    int ticks_over = 0;
    // Sampled.
    double next_edge = 0;          // when its probe or window is to begin or to end
    double length = 0;             // of that probe or window
    double opened = kNever;        // when the last window began
    double period = 0;             // of this window, the probe and the pause before it
    double calm_since = 0;         // 0: it is not
    double start = kNever;         // of being sampled, the last time
    double start_before = kNever;  // the time before
    bool restless = false;
    bool first_window = false;  // it is yet to show how much comes
    double longest_window = 0;
    // Lately: the least rate and the shortest window at which events were lost; 0: none were.
    double lossy_rate = 0;
    double lossy_window = 0;
    double lossy_until = 0;
  };

  [[nodiscard]] double CostPerEvent(double ratio = 1) const {
    return options_.event_cost_seconds * ratio + reader_cost_;
  }
  [[nodiscard]] double Cost(const Group& group, double events) const {
    return events * CostPerEvent(group.cost_ratio);
  }
  void LearnReaderCost(double seconds, double events);
  void ShareBudget(double budget);
  void ActOnLosses(double lost_share, double now, std::vector<Action>& actions);
  [[nodiscard]] bool MayLose(const Group& group) const;
  void CheckExact(double now, std::vector<Action>& actions);
  void CheckWindows(double now, std::vector<Action>& actions);
  void StartSampling(std::size_t group, double now, std::vector<Action>& actions);
  [[nodiscard]] static double ShortestWindow(const Group& group);
  void PlanPeriod(Group& group) const;
  [[nodiscard]] double WindowSeconds(const Group& group) const;
  [[nodiscard]] double ProbeSeconds(const Group& group) const;
  void PlanPause(Group& group, double now);
  [[nodiscard]] bool MayBeExact(const Group& group, double now) const;

  Options options_;
  std::vector<Group> groups_;
  Reading last_;
  bool first_ = true;
  bool told_of_losses_ = false;
  double windows_until_ = kNever;  // when a group was last traced that is sampled, or is to be
  double reader_cost_ = 0;         // seconds per event, smoothed
  double cycle_cost_ = 0.005;      // of one enabling and disabling, smoothed
  double toggle_seen_ = 0;
  std::uint64_t cycles_ = 0;  // since toggle_seen_
  std::mt19937_64 random_;
};

}  // namespace kmem
