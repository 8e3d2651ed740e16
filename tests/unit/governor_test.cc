// The governor against simulated loads.
#include "exporter/governor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "governor_simulation.h"

namespace kmem {
namespace {

Rates Steady(double slab, double page = 1000) {
  return [=](double) { return GroupRates{slab, page}; };
}

std::vector<Sampling> SlabAndPage() { return {Sampling::kFirst, Sampling::kLast}; }

TEST(GovernorTest, LeavesALoadAloneThatTheBudgetCovers) {
  Simulation simulation(SlabAndPage(), Steady(200e3));
  simulation.Run(300);
  EXPECT_EQ(simulation.changes(0), 0);
  EXPECT_EQ(simulation.changes(1), 0);
  EXPECT_EQ(simulation.toggles(0), 0);
}

class GovernorBudgetTest : public testing::TestWithParam<double> {
 protected:
  // Events a second that take so many times the budget.
  [[nodiscard]] static double Rate(double times) {
    return times * GetParam() / (kEventCost + kReaderCost);
  }
};

INSTANTIATE_TEST_SUITE_P(, GovernorBudgetTest, testing::Values(0.002, 0.005, 0.01, 0.02, 0.64));

TEST_P(GovernorBudgetTest, SamplesWithinFiveSecondsOfEachStormAndIsExactWithinThirtyAfterIt) {
  for (double storm = 1.5; Rate(storm) < 200e6; storm *= 1.9) {
    for (double length = 112; length < 121; length += 0.7) {
      // The second one comes soon after the first.
      const std::array begins{1060.3, 1060.3 + length + 40};
      Simulation simulation(
          SlabAndPage(),
          [&](double now) {
            const bool on = std::ranges::any_of(
                begins, [&](double begin) { return now >= begin && now < begin + length; });
            return GroupRates{Rate(on ? storm : 0.4), Rate(0.02)};
          },
          GetParam());
      for (const double begin : begins) {
        simulation.Run(begin - simulation.now());
        ASSERT_FALSE(simulation.sampled(0)) << storm << " times the budget";
        simulation.Run(5);
        ASSERT_TRUE(simulation.sampled(0)) << storm << " times the budget";
        simulation.Run(begin + length - simulation.now());
        ASSERT_TRUE(simulation.sampled(0)) << storm << " times the budget";
        simulation.Run(30);
        ASSERT_FALSE(simulation.sampled(0)) << storm << " times the budget";
      }
      EXPECT_EQ(simulation.changes(0), 4) << storm << " times the budget";
      EXPECT_EQ(simulation.changes(1), 0) << storm << " times the budget";
    }
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

// When it begins to be sampled, how much comes is known of a moment only, which may be a short one.
TEST(GovernorTest, KeepsTheBudgetFromTheFirstWindowOn) {
  for (double storm = 1e6; storm < 40e6; storm *= 2) {
    for (double phase = 0.02; phase < 1; phase += 0.02) {
      const double begin = 1060 + phase;
      Simulation simulation(SlabAndPage(), [=](double now) {
        return GroupRates{now < begin ? kQuiet : storm, 1000};
      });
      simulation.Run(60);
      while (!simulation.sampled(0)) simulation.Run(0.01);
      const double spent = simulation.spent();
      simulation.Run(18);
      EXPECT_LE((simulation.spent() - spent) / 18, kBudget) << storm << " from " << begin;
    }
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

TEST(GovernorTest, RemembersForMinutesThatEventsCostMoreThanWasMeasured) {
  const double full = kBudget / (kEventCost + kReaderCost);
  for (const double quiet_seconds : {60.0, 900.0}) {
    Simulation simulation(SlabAndPage(), [=](double now) {
      const bool storm = now < 1060;
      const bool quiet = now < 1060 + quiet_seconds;
      return GroupRates{full * (storm ? 10 : quiet ? 0.2 : 0.6), 1000};
    });
    simulation.CostTimes(2.5);
    simulation.Run(60 + quiet_seconds);
    EXPECT_FALSE(simulation.sampled(0));
    simulation.Run(5);
    EXPECT_EQ(simulation.sampled(0), quiet_seconds < 300);
    simulation.Run(1800);
    EXPECT_LE(simulation.changes(0), 3);
  }
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

// With the smaller budgets windows are as far apart as they get.
TEST_P(GovernorBudgetTest, ShowsASteadyStormWithinFivePercentOverAMinute) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Simulation simulation(
        SlabAndPage(),
        [](double) {
          return GroupRates{Rate(20), Rate(0.02)};
        },
        GetParam(), seed);
    simulation.Run(60);
    for (int minute = 0; minute < 10; ++minute) {
      const double truth = simulation.true_events(0);
      const double shown = simulation.shown(0);
      simulation.Run(60 + 0.7 * minute);
      EXPECT_NEAR((simulation.shown(0) - shown) / (simulation.true_events(0) - truth), 1, 0.05);
    }
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
      return GroupRates{rates[at], rates[(at * 7) % rates.size()] / 50};
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
      return GroupRates{share * kBudget / (kEventCost + kReaderCost) * noise(random), 1000.0};
    });
    simulation.Run(1800);
    EXPECT_LE(simulation.changes(0), 2) << share;
  }
}

TEST(GovernorTest, HasTheBudgetOfTheCpusThatAreOnline) {
  Simulation simulation(SlabAndPage(), Steady(0.45 * kBudget / (kEventCost + kReaderCost)));
  simulation.Run(60);
  EXPECT_FALSE(simulation.sampled(0));
  simulation.SetBudget(kBudget / 2);
  simulation.Run(5);
  EXPECT_TRUE(simulation.sampled(0));
  simulation.SetBudget(kBudget);
  simulation.Run(60);
  EXPECT_FALSE(simulation.sampled(0));
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
  Simulation simulation({Sampling::kNever, Sampling::kLast}, Steady(kStorm, kStorm));
  simulation.Run(300);
  EXPECT_EQ(simulation.changes(0), 0);
  EXPECT_TRUE(simulation.sampled(1));
}

TEST(GovernorTest, SparesWhoDoesNotLoseEventsWhereWhoDoesIsNeverSampled) {
  for (const double budget : {kBudget, 2.0}) {
    Simulation simulation({Sampling::kNever, Sampling::kLast}, Steady(kStorm, kQuiet), budget);
    simulation.LoseBeyond(1e6);
    simulation.Run(300);
    EXPECT_EQ(simulation.changes(0), 0);
    EXPECT_EQ(simulation.changes(1), 0);
    EXPECT_THAT(simulation.losers(), testing::ElementsAre(0));
  }
}

// It is over its share: its windows are those of the budget, whatever the other group loses.
TEST(GovernorTest, LossesOfAnotherGroupDoNotShortenWindows) {
  const double rate = 0.5 * kBudget / (kEventCost + kReaderCost);
  const auto estimate_of = [rate](double capacity) {
    Simulation simulation({Sampling::kNever, Sampling::kLast}, Steady(kStorm, rate));
    simulation.LoseBeyond(capacity);
    simulation.Run(60);
    EXPECT_TRUE(simulation.sampled(1));
    const double traced = simulation.traced_seconds(1);
    simulation.Run(300);
    return simulation.traced_seconds(1) - traced;
  };
  EXPECT_GE(estimate_of(kStorm / 2), 0.8 * estimate_of(kBuffer));
}

TEST(GovernorTest, SamplesWhatLosesEventsWhateverTheBudget) {
  for (const double budget : {kBudget, 0.5, 2.0, 20.0}) {
    Simulation simulation(SlabAndPage(), Steady(kStorm), budget);
    simulation.LoseBeyond(kStorm / 2);
    simulation.Run(5);
    EXPECT_TRUE(simulation.sampled(0)) << budget;
    const double traced = simulation.traced_seconds(0);
    simulation.Run(600);
    EXPECT_TRUE(simulation.sampled(0)) << budget;
    EXPECT_LT(simulation.traced_seconds(0) - traced, 0.9 * 600) << budget;
    EXPECT_EQ(simulation.changes(0), 1) << budget;
    EXPECT_EQ(simulation.changes(1), 0) << budget;
  }
}

TEST(GovernorTest, SamplesWhoLosesEventsBesideABusierOneThatIsSampled) {
  for (const double budget : {1.0, 20.0}) {  // over it, and not
    Simulation simulation(SlabAndPage(), Steady(kStorm, kStorm / 4), budget);
    simulation.LoseBeyond(kStorm / 5);
    simulation.Run(10);
    EXPECT_TRUE(simulation.sampled(0)) << budget;
    EXPECT_TRUE(simulation.sampled(1)) << budget;
  }
}

// The buffer holds a tenth of a second of the storm, and windows of the budget would be longer.
TEST(GovernorTest, EndsTheLossesOfWindows) {
  Simulation simulation(SlabAndPage(), Steady(kStorm), 1.0);
  simulation.LoseBeyond(kStorm / 10, kStorm / 10);
  simulation.Run(60);
  EXPECT_TRUE(simulation.sampled(0));
  simulation.ForgetLosses();
  simulation.Run(500);
  EXPECT_LT(simulation.lost_share(), 0.001);
  EXPECT_GE(simulation.traced_seconds(0), 500 / 2 * 0.03);
}

// As docs/accuracy.md derives it.
TEST(GovernorTest, EstimatesBurstsWithinTheErrorThatIsDocumented) {
  constexpr int kSeeds = 60;
  constexpr double kSeconds = 600;
  for (const double budget : {0.005, kBudget}) {
    for (const double cycle : {1.0, 2.0, 2.67, 4.0, 6.0, 10.0, 30.0}) {
      for (const double part : {0.5, 0.1}) {
        const Rates rates = [=](double now) {
          return GroupRates{std::fmod(now, cycle) < part * cycle ? kStorm : kQuiet, 1000};
        };
        double sum = 0;
        double squares = 0;
        double period = 0;
        for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
          Simulation simulation(SlabAndPage(), rates, budget, seed);
          simulation.Run(60);
          const double truth = simulation.true_events(0);
          const double estimate = simulation.estimate(0);
          simulation.Run(kSeconds);
          const double error =
              (simulation.estimate(0) - estimate) / (simulation.true_events(0) - truth) - 1;
          sum += error;
          squares += error * error;
          period += simulation.period(0) / kSeeds;
        }
        const double derived = std::sqrt((1 - part) / part) * std::sqrt(period / kSeconds);
        EXPECT_LE(std::abs(sum / kSeeds), 0.01 + 3 * derived / std::sqrt(kSeeds))
            << part << " of " << cycle << " s, budget " << budget;
        EXPECT_LE(std::sqrt(squares / kSeeds), 1.6 * derived)
            << part << " of " << cycle << " s, budget " << budget;
      }
    }
  }
}

TEST_P(GovernorBudgetTest, ComesAndGoesSeldomWithBursts) {
  for (const double cycle : {1.0, 2.0, 10.0, 30.0}) {
    for (const double part : {0.5, 0.1}) {
      Simulation simulation(
          SlabAndPage(),
          [=](double now) {
            return GroupRates{Rate(std::fmod(now, cycle) < part * cycle ? 30 : 0.1), Rate(0.02)};
          },
          GetParam());
      simulation.Run(1800);
      EXPECT_LE(simulation.changes(0), 18) << part << " of " << cycle << " s";
    }
  }
}

}  // namespace
}  // namespace kmem
