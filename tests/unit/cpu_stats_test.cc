#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "exporter/tracefs/cpu_reader.h"
#include "recorded_data.h"

namespace kmem {
namespace {

std::uint64_t Lost(const CpuStats& stats, LossReason reason) {
  return stats.lost.at(static_cast<std::size_t>(reason));
}

TEST(CpuStatsTest, EachCounterIsTakenFromItsLine) {
  const auto stats = ParseCpuStats(
      "entries: 1\noverrun: 2\ncommit overrun: 3\nbytes: 4\noldest event ts:     5.000006\n"
      "now ts:     7.000008\ndropped events: 9\nread events: 10\n");
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->entries, 1U);
  EXPECT_EQ(Lost(*stats, LossReason::kOverrun), 2U);
  EXPECT_EQ(Lost(*stats, LossReason::kCommitOverrun), 3U);
  EXPECT_EQ(Lost(*stats, LossReason::kDropped), 9U);
  EXPECT_EQ(stats->read, 10U);
}

TEST(CpuStatsTest, TheOrderOfTheLinesDoesNotMatter) {
  const auto stats = ParseCpuStats(
      "read events: 10\ncommit overrun: 3\nunheard of: 7\noverrun: 2\ndropped events: "
      "18446744073709551615\nentries: 1\n");
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(Lost(*stats, LossReason::kOverrun), 2U);
  EXPECT_EQ(Lost(*stats, LossReason::kDropped), UINT64_MAX);
  EXPECT_EQ(stats->read, 10U);
}

TEST(CpuStatsTest, AMissingOrBrokenCounterGivesNothing) {
  const std::vector<std::string> lines{"entries: 1\n", "overrun: 2\n", "commit overrun: 3\n",
                                       "dropped events: 9\n", "read events: 10\n"};
  for (std::size_t missing = 0; missing < lines.size(); ++missing) {
    for (const char* instead : {"", "\n", "entries 1\n", ": 5\n"}) {
      std::string text;
      for (std::size_t i = 0; i < lines.size(); ++i) text += i == missing ? instead : lines[i];
      EXPECT_FALSE(ParseCpuStats(text).has_value()) << text;
    }
    for (const char* number : {"", "x", "-1", "99999999999999999999"}) {
      std::string text;
      for (std::size_t i = 0; i < lines.size(); ++i) {
        text +=
            i == missing ? lines[i].substr(0, lines[i].find(": ") + 2) + number + "\n" : lines[i];
      }
      EXPECT_FALSE(ParseCpuStats(text).has_value()) << text;
    }
  }
  EXPECT_FALSE(ParseCpuStats("").has_value());
}

class RecordedStatsTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, RecordedStatsTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(RecordedStatsTest, AreUnderstood) {
  for (const char* name : {"cpu0.stats", "cpu1.stats"}) {
    const auto stats = ParseCpuStats(ReadWhole(PagesOf(GetParam(), name)));
    ASSERT_TRUE(stats.has_value());
    EXPECT_GT(stats->read, 0U);
    EXPECT_EQ(stats->entries, 0U);
    EXPECT_THAT(stats->lost, ::testing::Each(0U));
  }
  const auto lost = ParseCpuStats(ReadWhole(PagesOf(GetParam(), "cpu0-lost.stats")));
  ASSERT_TRUE(lost.has_value());
  EXPECT_GT(Lost(*lost, LossReason::kOverrun), 0U);
  EXPECT_EQ(Lost(*lost, LossReason::kDropped), 0U);
  EXPECT_EQ(Lost(*lost, LossReason::kCommitOverrun), 0U);
}

TEST_P(RecordedStatsTest, CutAnywhereGiveNothingUntilTheLastCounterHasBegun) {
  for (const char* name : {"cpu0.stats", "cpu1.stats", "cpu0-lost.stats"}) {
    const std::string whole = ReadWhole(PagesOf(GetParam(), name));
    const std::size_t last = whole.find("read events: ") + std::string("read events: ").size();
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::optional<CpuStats> stats = ParseCpuStats(whole.substr(0, length));
      EXPECT_EQ(stats.has_value(), length > last) << name << " cut at " << length;
    }
  }
}

}  // namespace
}  // namespace kmem
