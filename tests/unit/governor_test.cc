// The governor against simulated loads: what it would have traced, and what that would have cost.
#include "exporter/governor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

namespace kmem {
namespace {

constexpr double kEventCost = 50e-9;
constexpr double kReaderCost = 10e-9;
constexpr double kToggleCost = 0.0025;  // of enabling, and of disabling
constexpr double kBudget = 0.02;        // 1 % of two CPUs
constexpr double kProbed = 0.3;         // of the events, by a probe's tracepoint
constexpr double kBuffer = 1e12;        // events that are not lost, in a step

// Events per second of each group while time passes.
using Rates = std::function<std::vector<double>(double now)>;

class Simulation {
 public:
  Simulation(std::vector<Sampling> groups, Rates rates, double budget = kBudget)
      : rates_(std::move(rates)),
        traced_(groups.size(), 1),
        window_(groups.size()),
        governor_({.budget = budget, .event_cost_seconds = kEventCost, .seed = 7}, groups) {
    reading_.now = 1000;
    reading_.events.resize(groups.size());
    true_events_.resize(groups.size());
    estimate_.resize(groups.size());
    changes_.resize(groups.size());
    toggles_.resize(groups.size());
    for (Window& window : window_) window.last_end = reading_.now;
    end_ = reading_.now;
  }

  // Events of all groups beyond which a second of tracing loses some.
  void LoseBeyond(double events_per_second) { capacity_ = events_per_second; }
  // Events cost so many times what was measured, as every window shows.
  void CostTimes(double ratio) { cost_ratio_ = ratio; }

  void Run(double seconds) {
    end_ += seconds;
    while (reading_.now < end_) Step();
  }

  [[nodiscard]] double now() const { return reading_.now; }
  [[nodiscard]] bool sampled(std::size_t group) const { return governor_.sampled(group); }
  [[nodiscard]] double spent() const { return spent_; }
  [[nodiscard]] int changes(std::size_t group) const { return changes_[group]; }
  [[nodiscard]] int toggles(std::size_t group) const { return toggles_[group]; }
  [[nodiscard]] double true_events(std::size_t group) const { return true_events_[group]; }
  [[nodiscard]] double estimate(std::size_t group) const {
    const Window& window = window_[group];
    const double counted = static_cast<double>(reading_.events[group]);
    return sampled(group) ? estimate_[group] : estimate_[group] + counted - window.events;
  }

 private:
  struct Window {
    double begin = 0;
    double last_end = 0;
    double events = 0;  // at its begin; of a group that is exact, when it became that
    double events_at_last_end = 0;
    std::uint64_t lost = 0;
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
      const std::vector<double> rates = rates_(reading_.now);
      double traced = 0;
      for (std::size_t i = 0; i < rates.size(); ++i) {
        true_events_[i] += rates[i] * step;
        traced += rates[i] * step * traced_[i];
      }
      const double kept = traced <= capacity_ * step ? 1 : capacity_ * step / traced;
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
    Window& window = window_[action.group];
    const auto counted = static_cast<double>(reading_.events[action.group]);
    if (action.kind == Kind::kOpen) {
      EXPECT_EQ(traced_[action.group], kProbed) << "no probe before";
    }
    if (action.kind != Kind::kStop) {
      spent_ += kToggleCost;
      reading_.toggle_seconds += kToggleCost;
      ++toggles_[action.group];
      Pass(kToggleCost);
    }
    switch (action.kind) {
      case Kind::kProbe:
        EXPECT_EQ(traced_[action.group], 0);
        traced_[action.group] = kProbed;
        governor_.Began(action.group, reading_.now);
        break;
      case Kind::kStart:
        estimate_[action.group] += counted - window.events;
        window.events_at_last_end = static_cast<double>(reading_.events[action.group]);
        window.last_end = reading_.now;
        traced_[action.group] = 0;
        ++changes_[action.group];
        break;
      case Kind::kOpen:
        window.begin = reading_.now;
        window.events = static_cast<double>(reading_.events[action.group]);
        window.lost = reading_.lost;
        traced_[action.group] = 1;
        governor_.Began(action.group, reading_.now);
        break;
      case Kind::kClose:
      case Kind::kStop: {
        const auto now_counted = static_cast<double>(reading_.events[action.group]);
        const double events = now_counted - window.events;
        const double seconds = reading_.now - window.begin;
        estimate_[action.group] += events * (reading_.now - window.last_end) / seconds;
        const double strays = window.events - window.events_at_last_end;
        window.last_end = reading_.now;
        window.events = window.events_at_last_end = now_counted;
        traced_[action.group] = action.kind == Kind::kStop ? 1 : 0;
        if (action.kind == Kind::kStop) ++changes_[action.group];
        governor_.WindowEnded(action.group, {.now = reading_.now,
                                             .seconds = seconds,
                                             .events = static_cast<std::uint64_t>(events),
                                             .lost = reading_.lost - window.lost,
                                             .strays = static_cast<std::uint64_t>(strays),
                                             .cost_ratio = cost_ratio_});
        break;
      }
    }
  }

  Rates rates_;
  double capacity_ = kBuffer;
  double cost_ratio_ = 1;
  Governor::Reading reading_;
  double end_ = 0;
  double spent_ = 0;
  std::vector<double> traced_;  // share of the events, by group
  std::vector<Window> window_;
  std::vector<double> true_events_;
  std::vector<double> estimate_;
  std::vector<int> changes_;
  std::vector<int> toggles_;
  Governor governor_;
};

constexpr double kStorm = 20e6;
constexpr double kQuiet = 20e3;

Rates Steady(double slab, double page = 1000) {
  return [=](double) { return std::vector<double>{slab, page}; };
}

std::vector<Sampling> SlabAndPage() { return {Sampling::kFirst, Sampling::kLast}; }

TEST(GovernorTest, LeavesALoadAloneThatTheBudgetCovers) {
  Simulation simulation(SlabAndPage(), Steady(200e3));
  simulation.Run(300);
  EXPECT_EQ(simulation.changes(0), 0);
  EXPECT_EQ(simulation.changes(1), 0);
  EXPECT_EQ(simulation.toggles(0), 0);
}

TEST(GovernorTest, SamplesWithinFiveSecondsOfAStormAndIsExactWithinThirtyAfterIt) {
  for (double storm = 1e6; storm < 100e6; storm *= 3) {
    const double begin = 1060.3;
    Simulation simulation(SlabAndPage(), [=](double now) {
      const bool on = now >= begin && now < begin + 120;
      return std::vector<double>{on ? storm : kQuiet, 1000};
    });
    simulation.Run(begin - 1000);
    EXPECT_FALSE(simulation.sampled(0));
    simulation.Run(5);
    EXPECT_TRUE(simulation.sampled(0)) << storm;
    simulation.Run(115);
    EXPECT_TRUE(simulation.sampled(0)) << storm;
    simulation.Run(30);
    EXPECT_FALSE(simulation.sampled(0)) << storm;
    EXPECT_EQ(simulation.changes(0), 2) << storm;
    EXPECT_EQ(simulation.changes(1), 0) << storm;
  }
}

TEST(GovernorTest, KeepsTheBudgetInASteadyStorm) {
  for (double storm = 0.5e6; storm < 40e6; storm *= 2) {  // 32 million take two CPUs whole
    Simulation simulation(SlabAndPage(), Steady(storm));
    simulation.Run(30);
    const double spent = simulation.spent();
    simulation.Run(600);
    const double share = (simulation.spent() - spent) / 600;
    EXPECT_LE(share, kBudget * 1.02) << storm;
    EXPECT_GE(share, kBudget * 0.6) << storm;  // what may be spent makes the estimate better
  }
}

TEST(GovernorTest, KeepsTheBudgetWhereEventsCostMoreThanWasMeasured) {
  Simulation simulation(SlabAndPage(), Steady(4e6));
  simulation.CostTimes(3);
  simulation.Run(30);
  const double spent = simulation.spent();
  simulation.Run(600);
  const double share = (simulation.spent() - spent) / 600;
  EXPECT_LE(share, kBudget * 1.02);
  EXPECT_GE(share, kBudget * 0.6);
}

TEST(GovernorTest, EstimatesASteadyStormWithinTwoPercentOverFiveMinutes) {
  for (double storm = 1e6; storm < 100e6; storm *= 3) {
    Simulation simulation(SlabAndPage(), Steady(storm));
    simulation.Run(20);
    const double truth = simulation.true_events(0);
    const double estimate = simulation.estimate(0);
    simulation.Run(300);
    EXPECT_NEAR((simulation.estimate(0) - estimate) / (simulation.true_events(0) - truth), 1, 0.02)
        << storm;
  }
}

TEST(GovernorTest, NeverTogglesMoreOftenThanItPromises) {
  std::mt19937_64 random(3);
  for (int history = 0; history < 20; ++history) {
    std::vector<double> rates(200);
    for (double& rate : rates) {
      rate = std::exp(std::uniform_real_distribution<double>(5, 18)(random));
    }
    const double change = std::uniform_real_distribution<double>(0.1, 30)(random);
    Simulation simulation(SlabAndPage(), [&](double now) {
      const auto at = static_cast<std::size_t>(now / change) % rates.size();
      return std::vector<double>{rates[at], rates[(at * 7) % rates.size()] / 50};
    });
    simulation.Run(600);
    for (const std::size_t group : {std::size_t{0}, std::size_t{1}}) {
      // Of a probe, a window and its end, 2/3 of the period after the last at the least.
      EXPECT_LE(simulation.toggles(group),
                3 * 600 / (Governor::kShortestPeriod * (1 - Governor::kJitter)) + 3);
      // From exact to sampled and back takes seconds, and the more often the longer.
      EXPECT_LE(simulation.changes(group), 2 * 600 / Governor::kShortestPeriod / 5);
    }
  }
}

TEST(GovernorTest, DoesNotSwingAtTheEdgeOfTheBudget) {
  for (double share = 0.5; share < 1.5; share += 0.05) {
    std::mt19937_64 random(5);
    std::normal_distribution<double> noise(1, 0.05);
    Simulation simulation(SlabAndPage(), [&](double) {
      return std::vector<double>{share * kBudget / (kEventCost + kReaderCost) * noise(random),
                                 1000.0};
    });
    simulation.Run(1800);
    EXPECT_LE(simulation.changes(0), 2) << share;
  }
}

TEST(GovernorTest, SamplesPagesLast) {
  // Slab alone is over the budget by far; the pages take half of it.
  Simulation simulation(SlabAndPage(), Steady(kStorm, 0.5 * kBudget / (kEventCost + kReaderCost)));
  simulation.Run(300);
  EXPECT_TRUE(simulation.sampled(0));
  EXPECT_EQ(simulation.changes(1), 0);
  // And where they alone are over it, both.
  Simulation both(SlabAndPage(), Steady(kStorm, kStorm));
  both.Run(300);
  EXPECT_TRUE(both.sampled(0));
  EXPECT_TRUE(both.sampled(1));
}

TEST(GovernorTest, NeverSamplesWhatCanNotBe) {
  Simulation simulation({Sampling::kNever, Sampling::kLast}, Steady(kStorm, kQuiet));
  simulation.LoseBeyond(1e6);
  simulation.Run(300);
  EXPECT_EQ(simulation.changes(0), 0);
}

TEST(GovernorTest, SamplesWhatLosesEventsThoughTheBudgetWouldCoverIt) {
  Simulation simulation(SlabAndPage(), Steady(kStorm), 2.0);
  simulation.LoseBeyond(kStorm / 2);
  simulation.Run(5);
  EXPECT_TRUE(simulation.sampled(0));
  simulation.Run(600);
  EXPECT_TRUE(simulation.sampled(0));
  EXPECT_EQ(simulation.changes(0), 1);
}

TEST(GovernorTest, ComesAndGoesSeldomWithBursts) {
  Simulation simulation(SlabAndPage(), [](double now) {
    return std::vector<double>{std::fmod(now, 10) < 5 ? kStorm : kQuiet, 1000};
  });
  simulation.Run(1800);
  EXPECT_LE(simulation.changes(0), 20);
  EXPECT_NEAR(simulation.estimate(0) / simulation.true_events(0), 1, 0.15);
}

}  // namespace
}  // namespace kmem
