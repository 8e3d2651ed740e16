#include "exporter/slowdown.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace kmem {
namespace {

using testing::ElementsAre;

TEST(SlowdownTest, IsNoneWhereTheCpuHadTimeToSpare) {
  const std::array cpus{CpuWindow{.events = 100, .tracing_ratio = 0.2, .idle_ratio = 0.3}};
  EXPECT_EQ(SlowdownFactor(cpus), 1);
}

TEST(SlowdownTest, IsTheTimeThatTracingTookOnABusyCpu) {
  const std::array cpus{CpuWindow{.events = 100, .tracing_ratio = 0.2, .idle_ratio = 0}};
  EXPECT_DOUBLE_EQ(SlowdownFactor(cpus), 1.25);
}

TEST(SlowdownTest, WeighsCpusByTheirEvents) {
  const std::array cpus{CpuWindow{.events = 300, .tracing_ratio = 0.5, .idle_ratio = 0},
                        CpuWindow{.events = 100, .tracing_ratio = 0.1, .idle_ratio = 1}};
  EXPECT_DOUBLE_EQ(SlowdownFactor(cpus), 700.0 / 400);
}

TEST(SlowdownTest, StaysFiniteWhateverIsMeasured) {
  const std::array cpus{CpuWindow{.events = 1, .tracing_ratio = 9, .idle_ratio = -1}};
  EXPECT_DOUBLE_EQ(SlowdownFactor(cpus), 4);
  EXPECT_EQ(SlowdownFactor({}), 1);
}

TEST(SlowdownTest, ReadsIdleTimeByCpu) {
  EXPECT_THAT(
      IdleSeconds("cpu  1 2 3 400 50 6\ncpu0 1 1 1 300 20 3\ncpu2 0 1 2 100 30 3\nintr 1\n", 100),
      ElementsAre(3.2, 0, 1.3));
  EXPECT_THAT(IdleSeconds("", 100), ElementsAre());
  EXPECT_THAT(IdleSeconds("cpu0", 100), ElementsAre(0));
}

}  // namespace
}  // namespace kmem
