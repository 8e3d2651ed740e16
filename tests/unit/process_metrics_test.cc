#include "exporter/process_metrics.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "collectors/proc_tables.h"
#include "exporter/proc_files.h"

namespace kmem {
namespace {

Families Appended() {
  Families out;
  AppendProcessMetrics(out);
  return out;
}

double Value(const std::string& name) {
  for (const auto& family : Appended()) {
    if (family.name != name) continue;
    const auto& metric = family.metric.at(0);
    return family.type == prometheus::MetricType::Counter ? metric.counter.value
                                                          : metric.gauge.value;
  }
  ADD_FAILURE() << name << " is missing";
  return 0;
}

TEST(ProcessMetricsTest, GivesTheSevenFamiliesOfTheClientLibraries) {
  std::map<std::string, bool> counters;
  for (const auto& family : Appended()) {
    counters[family.name] = family.type == prometheus::MetricType::Counter;
    EXPECT_FALSE(family.help.empty());
    ASSERT_EQ(family.metric.size(), 1U);
    EXPECT_TRUE(family.metric[0].label.empty());
  }
  const std::map<std::string, bool> expected{{"process_cpu_seconds_total", true},
                                             {"process_open_fds", false},
                                             {"process_max_fds", false},
                                             {"process_virtual_memory_bytes", false},
                                             {"process_resident_memory_bytes", false},
                                             {"process_start_time_seconds", false},
                                             {"process_threads", false}};
  EXPECT_EQ(counters, expected);
}

TEST(ProcessMetricsTest, OpenDescriptorsFollowTheProcess) {
  const double before = Value("process_open_fds");
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(Value("process_open_fds"), before + 1);
  ::close(fd);
  EXPECT_EQ(Value("process_open_fds"), before);
}

TEST(ProcessMetricsTest, MaxDescriptorsIsTheSoftLimit) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(Value("process_max_fds"), static_cast<double>(limit.rlim_cur));
}

TEST(ProcessMetricsTest, ThreadsAreCounted) {
  std::promise<void> stop;
  const std::shared_future<void> stopped = stop.get_future().share();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([stopped] { stopped.wait(); });
  EXPECT_GE(Value("process_threads"), 9);  // a sanitizer may have one of its own
  EXPECT_LT(Value("process_threads"), 100);
  stop.set_value();
  for (std::thread& thread : threads) thread.join();
}

TEST(ProcessMetricsTest, CpuTimeIsThatOfTheProcess) {
  // Whole ticks of user and of system time: up to two of them behind.
  const double clock = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  EXPECT_NEAR(Value("process_cpu_seconds_total"), clock, 0.1);
}

TEST(ProcessMetricsTest, StartTimeIsInTheRecentPast) {
  const double now = static_cast<double>(std::time(nullptr));
  const double start = Value("process_start_time_seconds");
  EXPECT_LE(start, now + 2);  // btime is rounded
  EXPECT_GT(start, now - 3600);
}

TEST(ProcessMetricsTest, MemoryIsPlausible) {
  EXPECT_GT(Value("process_resident_memory_bytes"), 100e3);
  EXPECT_GE(Value("process_virtual_memory_bytes"), Value("process_resident_memory_bytes"));
}

TEST(ProcessMetricsTest, ANameWithSpacesAndParenthesesIsNoObstacle) {
  char old_name[16] = {};
  ::prctl(PR_GET_NAME, old_name);
  ::prctl(PR_SET_NAME, "a) R 1 (b c");
  EXPECT_GT(Value("process_resident_memory_bytes"), 100e3);
  EXPECT_GE(Value("process_threads"), 1);
  ::prctl(PR_SET_NAME, old_name);
}

class ProcFilesTest : public ::testing::Test {
 protected:
  ProcFilesTest() { std::filesystem::create_directories(root_ + "/sys/vm"); }
  ~ProcFilesTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    std::ofstream(root_ + "/" + path) << text;
  }

  const std::string root_ = ::testing::TempDir() + "proc_files_" + std::to_string(::getpid());
};

TEST_F(ProcFilesTest, ReadsFilesBelowTheRoot) {
  Write("sys/vm/min_free_kbytes", "11264\n");
  EXPECT_EQ(ProcFiles(root_).Read("sys/vm/min_free_kbytes"), "11264\n");
}

TEST_F(ProcFilesTest, ReadsFilesOfAnyLength) {
  const std::string text(300000, 'x');
  Write("zoneinfo", text);
  EXPECT_EQ(ProcFiles(root_).Read("zoneinfo"), text);
  Write("empty", "");
  EXPECT_EQ(ProcFiles(root_).Read("empty"), "");
}

TEST_F(ProcFilesTest, ReadsTheRealTables) {
  EXPECT_FALSE(ParseBuddyinfo(ProcFiles("/proc").Read("buddyinfo")).empty());
}

std::string ErrorOf(const std::string& root, std::string_view path) {
  try {
    (void)ProcFiles(root).Read(path);
    return {};
  } catch (const ProcError& error) {
    return error.what();
  }
}

TEST_F(ProcFilesTest, SaysWhichFileAndWhyItCouldNotBeRead) {
  EXPECT_EQ(ErrorOf(root_, "buddyinfo"), root_ + "/buddyinfo: No such file or directory");
  EXPECT_EQ(ErrorOf(root_, "sys"), root_ + "/sys: Is a directory");
}

TEST_F(ProcFilesTest, DoesNotReadWithoutEnd) {
  EXPECT_EQ(ErrorOf("/dev", "zero"), "/dev/zero: too long");
}

}  // namespace
}  // namespace kmem
