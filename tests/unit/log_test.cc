#include "exporter/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "exporter/text.h"

namespace kmem {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

const char* const kTime = "[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+[.][0-9][0-9][0-9]Z";

// What `act` writes to standard error with this log.
std::string Logged(const LogConfig& config, const std::function<void()>& act) {
  InitLog(config);
  ::testing::internal::CaptureStderr();
  act();
  return ::testing::internal::GetCapturedStderr();
}

TEST(LogTest, LogfmtLinesHaveTimeLevelAndQuotedMessage) {
  const std::string out = Logged({LogLevel::kInfo, LogFormat::kLogfmt},
                                 [] { spdlog::info("listening on {}", ":15636"); });
  EXPECT_THAT(out, MatchesRegex(std::string("time=") + kTime +
                                " level=info msg=\"listening on :15636\"\n"));
}

TEST(LogTest, JsonLinesHaveTheSameThreeKeys) {
  const std::string out =
      Logged({LogLevel::kInfo, LogFormat::kJson}, [] { spdlog::warn("a \"b\"\n"); });
  EXPECT_THAT(out, MatchesRegex(std::string("[{]\"time\":\"") + kTime +
                                "\",\"level\":\"warn\",\"msg\":\"a ..b...n\"[}]\n"));
  EXPECT_THAT(out, HasSubstr(R"("msg":"a \"b\"\n"})"));
}

TEST(LogTest, TheTimeIsUtcWhateverTheTimeZone) {
  setenv("TZ", "Asia/Kathmandu", 1);
  tzset();
  const auto before = std::chrono::floor<std::chrono::hours>(std::chrono::system_clock::now());
  const std::string out = Logged({}, [] { spdlog::info("x"); });
  const auto after = std::chrono::floor<std::chrono::hours>(std::chrono::system_clock::now());
  unsetenv("TZ");
  tzset();
  const auto hour = [](std::chrono::system_clock::time_point time) {
    const std::time_t clock = std::chrono::system_clock::to_time_t(time);
    std::tm utc{};
    gmtime_r(&clock, &utc);
    char text[32];
    return std::string(text, std::strftime(text, sizeof text, "time=%Y-%m-%dT%H:", &utc));
  };
  EXPECT_TRUE(out.starts_with(hour(before)) || out.starts_with(hour(after))) << out;
}

TEST(LogTest, LevelsBelowTheThresholdAreSilent) {
  const char* const names[] = {"debug", "info", "warn", "error"};
  const LogLevel levels[] = {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError};
  for (std::size_t threshold = 0; threshold < 4; ++threshold) {
    const std::string out = Logged({levels[threshold], LogFormat::kLogfmt}, [] {
      spdlog::debug("x");
      spdlog::info("x");
      spdlog::warn("x");
      spdlog::error("x");
    });
    for (std::size_t level = 0; level < 4; ++level) {
      const bool shown = out.find(std::string("level=") + names[level] + " ") != std::string::npos;
      EXPECT_EQ(shown, level >= threshold) << names[level] << " at " << names[threshold];
    }
  }
}

TEST(LogTest, AMessageIsAlwaysOneLine) {
  for (const LogFormat format : {LogFormat::kLogfmt, LogFormat::kJson}) {
    const std::string out = Logged({LogLevel::kInfo, format}, [] {
      spdlog::info("a\nlevel=error msg=\"forged\"\r\x1b[31m\xff {} {{");
    });
    EXPECT_EQ(out.find('\n'), out.size() - 1);
    EXPECT_THAT(out, HasSubstr(R"(a\nlevel=error msg=\"forged\"\r\u001b[31m)"));
  }
}

TEST(LogTest, EscapesWhatIsNotPlainText) {
  const struct {
    std::string text;
    std::string escaped;
  } cases[] = {
      {"", ""},
      {"plain /proc=1 {}", "plain /proc=1 {}"},
      {"\"\\", "\\\"\\\\"},
      {"\n\r\t", "\\n\\r\\t"},
      {std::string("\0\x01\x1f\x7f", 4), "\\u0000\\u0001\\u001f\\u007f"},
      {"\xC2\x85\xC2\x9B", "\\u0085\\u009b"},
      {"\xC2\xA0\xC3\xA4\xE2\x82\xAC\xF0\x9F\x90\xA7",
       "\xC2\xA0\xC3\xA4\xE2\x82\xAC\xF0\x9F\x90\xA7"},
      {"a\xFF"
       "b",
       "a\xEF\xBF\xBD"
       "b"},
      {"\xE2\x82", "\xEF\xBF\xBD\xEF\xBF\xBD"},
  };
  for (const auto& c : cases) EXPECT_EQ(Escaped(c.text), c.escaped);
}

TEST(LogTest, KnowsWellFormedUtf8) {
  const struct {
    std::string text;
    std::size_t length;
  } cases[] = {
      {"", 0},
      {"a", 1},
      {std::string("\0", 1), 1},
      {"\xC2\x80", 2},
      {"\xE0\xA0\x80x", 3},
      {"\xED\x9F\xBF", 3},
      {"\xF0\x90\x80\x80", 4},
      {"\xF4\x8F\xBF\xBF", 4},
      {"\x80", 0},              // a continuation
      {"\xC1\xBF", 0},          // overlong
      {"\xE0\x9F\xBF", 0},      // overlong
      {"\xED\xA0\x80", 0},      // a surrogate
      {"\xF0\x8F\xBF\xBF", 0},  // overlong
      {"\xF4\x90\x80\x80", 0},  // beyond U+10FFFF
      {"\xF5\x80\x80\x80", 0},
      {"\xE2\x82", 0},  // cut off
      {"\xC3(", 0},
  };
  for (const auto& c : cases) EXPECT_EQ(Utf8Length(c.text), c.length) << Escaped(c.text);
}

TEST(LogTest, LinesOfSeveralThreadsDoNotMix) {
  const std::string out = Logged({}, [] {
    std::vector<std::thread> threads;
    for (int id = 0; id < 4; ++id) {
      threads.emplace_back([] {
        for (int i = 0; i < 200; ++i) spdlog::info("0123456789");
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  std::size_t lines = 0;
  const std::string end = " level=info msg=\"0123456789\"\n";
  for (std::size_t at = 0; at < out.size(); ++lines) {
    const std::size_t next = out.find('\n', at) + 1;
    ASSERT_EQ(out.compare(at, 5, "time="), 0);
    ASSERT_EQ(next - at, 5 + 24 + end.size());
    at = next;
  }
  EXPECT_EQ(lines, 800U);
}

}  // namespace
}  // namespace kmem
