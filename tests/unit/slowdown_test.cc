#include "exporter/slowdown.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

namespace kmem {
namespace {

using testing::ElementsAre;

TEST(SlowdownTest, IsNoneWhereTheCpuHadTimeToSpare) {
  const std::array cpus{CpuWindow{.events = 100, .tracing_ratio = 0.2, .idle_ratio = 0.3}};
  EXPECT_EQ(Foretell(cpus).idle_helps, 1);
  EXPECT_DOUBLE_EQ(Foretell(cpus).idle_is_lost, 1.25);
}

TEST(SlowdownTest, IsTheTimeThatTracingTookOnABusyCpu) {
  const std::array cpus{CpuWindow{.events = 100, .tracing_ratio = 0.2, .idle_ratio = 0}};
  EXPECT_DOUBLE_EQ(Foretell(cpus).idle_helps, 1.25);
}

TEST(SlowdownTest, WeighsCpusByTheirEvents) {
  const std::array cpus{CpuWindow{.events = 300, .tracing_ratio = 0.5, .idle_ratio = 0},
                        CpuWindow{.events = 100, .tracing_ratio = 0.1, .idle_ratio = 1}};
  EXPECT_DOUBLE_EQ(Foretell(cpus).idle_helps, 700.0 / 400);
}

TEST(SlowdownTest, StaysFiniteWhateverIsMeasured) {
  const std::array cpus{CpuWindow{.events = 1, .tracing_ratio = 9, .idle_ratio = -1}};
  EXPECT_DOUBLE_EQ(Foretell(cpus).idle_helps, 4);
  EXPECT_EQ(Foretell({}).idle_helps, 1);
  EXPECT_EQ(Foretell({}).idle_is_lost, 1);
}

// On CPUs without time to spare.
Foretold Busy(double slowdown) { return {.idle_helps = slowdown, .idle_is_lost = slowdown}; }

// What a probe with a part of the cost shows on a CPU without time to spare.
SlowdownLearner::Probe ProbeOf(double part, double slowdown) {
  return {.part = part, .ratio = slowdown / (1 + part * (slowdown - 1))};
}

TEST(SlowdownLearnerTest, BelievesTheCostOfAnEventUntilItHasSeenMore) {
  const SlowdownLearner learner;
  EXPECT_DOUBLE_EQ(learner.Corrected(Busy(1.5)), 1.5);
}

TEST(SlowdownLearnerTest, LearnsFromASteadyLoadThatEventsCostMore) {
  SlowdownLearner learner;
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> unsteady(0, 0.02);
  for (int window = 0; window < 20; ++window) {
    auto probe = ProbeOf(window % 2 == 0 ? 0.11 : 0.4, 1.9);
    probe.ratio *= unsteady(random);
    learner.Learn(probe, Busy(1.6));
  }
  EXPECT_NEAR(learner.Corrected(Busy(1.6)) / 1.9, 1, 0.015);
}

TEST(SlowdownLearnerTest, StaysWithWhatProbesShowThoughItIsFarFromWhatWasForetold) {
  SlowdownLearner learner;
  for (int window = 0; window < 16; ++window) learner.Learn(ProbeOf(0.3, 2), Busy(1.3));
  EXPECT_NEAR(learner.Corrected(Busy(1.3)) / 2, 1, 0.02);
  for (int window = 0; window < 500; ++window) learner.Learn(ProbeOf(0.3, 2), Busy(1.3));
  EXPECT_NEAR(learner.Corrected(Busy(1.3)) / 2, 1, 0.005);
  // Half of the time is taken by tracing, not the 0.23 of it that the cost had foretold.
  EXPECT_NEAR(learner.CostRatio(Busy(1.3)), 0.5 / (1 - 1 / 1.3), 0.02);
}

TEST(SlowdownLearnerTest, NeverSaysThatAnEventCostsLessThanWasMeasured) {
  SlowdownLearner learner;
  for (int window = 0; window < 20; ++window) learner.Learn(ProbeOf(0.3, 1.2), Busy(1.6));
  EXPECT_LT(learner.Corrected(Busy(1.6)), 1.3);
  EXPECT_EQ(learner.CostRatio(Busy(1.6)), 1);
  EXPECT_EQ(learner.CostRatio(Busy(1)), 1);
}

TEST(SlowdownLearnerTest, TakesWhatALoadDoesByItselfForNoise) {
  SlowdownLearner learner;
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> bursts(0, 0.7);
  double worst = 0;
  for (int window = 0; window < 1000; ++window) {
    auto probe = ProbeOf(0.2, 1.1);
    probe.ratio *= bursts(random);
    learner.Learn(probe, Busy(1.1));
    worst = std::max(worst, std::abs(learner.Corrected(Busy(1.1)) / 1.1 - 1));
  }
  EXPECT_LT(worst, 0.05);
}

TEST(SlowdownLearnerTest, MakesNothingUpForALoadThatIsNotSlowedDown) {
  SlowdownLearner learner;
  for (int window = 0; window < 100; ++window) learner.Learn({.part = 0.2, .ratio = 2}, Busy(1));
  EXPECT_DOUBLE_EQ(learner.Corrected(Busy(1)), 1);
}

TEST(SlowdownLearnerTest, LearnsThatALoadIsSlowedDownThoughItsCpusAreIdleAtTimes) {
  SlowdownLearner learner;
  const Foretold half_idle{.idle_helps = 1.05, .idle_is_lost = 1.3};
  learner.Learn({.part = 0, .ratio = 1.5}, half_idle);
  EXPECT_GT(learner.Corrected(half_idle), 1.25);
  for (int window = 0; window < 5; ++window) learner.Learn({.part = 0, .ratio = 1.5}, half_idle);
  EXPECT_NEAR(learner.Corrected(half_idle) / 1.5, 1, 0.03);
  // A load that waits costs no more for it.
  EXPECT_LT(learner.CostRatio(half_idle), 1.5);
}

TEST(SlowdownLearnerTest, MakesNothingUpForALoadThatComesAndGoesOnIdleCpus) {
  SlowdownLearner learner;
  const Foretold idle{.idle_helps = 1, .idle_is_lost = 1.1};
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> bursts(0, 0.7);
  double sum = 0;
  constexpr int kWindows = 1000;
  for (int window = 0; window < kWindows; ++window) {
    learner.Learn({.part = 0, .ratio = bursts(random)}, idle);
    EXPECT_LT(learner.Corrected(idle), 1.1);
    sum += learner.Corrected(idle);
  }
  EXPECT_LT(sum / kWindows, 1.02);
}

TEST(SlowdownLearnerTest, StaysFiniteWhateverIsMeasured) {
  SlowdownLearner learner;
  for (int window = 0; window < 100; ++window) learner.Learn({.part = 0.01, .ratio = 1e9}, Busy(4));
  EXPECT_DOUBLE_EQ(learner.Corrected(Busy(4)), 4);
}

TEST(SlowdownTest, ReadsIdleTimeByCpu) {
  EXPECT_THAT(
      IdleSeconds("cpu  1 2 3 400 50 6\ncpu0 1 1 1 300 20 3\ncpu2 0 1 2 100 30 3\nintr 1\n", 100),
      ElementsAre(3.2, 0, 1.3));
  EXPECT_THAT(IdleSeconds("", 100), ElementsAre());
  EXPECT_THAT(IdleSeconds("cpu0", 100), ElementsAre(0));
}

TEST(SlowdownTest, ReadsAllocatedPagesOfAllZones) {
  EXPECT_EQ(PagesAllocated("nr_free_pages 7\npgalloc_dma 1\npgalloc_normal 30\npgfree 9\n"), 31);
  EXPECT_EQ(PagesAllocated("pgfree 9\n"), std::nullopt);
  EXPECT_EQ(PagesAllocated("pgalloc_dma one\n"), std::nullopt);
}

}  // namespace
}  // namespace kmem
