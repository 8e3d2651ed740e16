// What an event costs, on a machine of which everything is known: what a turn of the loop takes,
// what others do meanwhile, and how long the source needs.
#include "exporter/event_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr double kTurnSeconds = 4.6e-6;
constexpr double kEventSeconds = 60e-9;
constexpr std::uint64_t kEventsPerTurn = 18;
constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kRunTurns = 100;
constexpr double kNear = 1e-12;

// The CPU on which the test is kept, with whom else it has.
struct Machine {
  std::uint64_t now_ns = 1'000 * kMs;
  double cpu_seconds = 0;
  std::uint64_t events = 0;
  std::uint64_t turns = 0;
  bool traced = false;
  bool has_pipes = true;
  std::uint64_t events_per_turn = kEventsPerTurn;
  double event_seconds = kEventSeconds;
  double clock_per_cpu_time = 1;  // above 1 where others run, too
  // In a turn: events of others, and what they make it slower by.
  std::function<std::uint64_t(std::uint64_t turn)> others_events = [](auto) { return 0; };
  std::function<double(std::uint64_t turn)> others_seconds = [](auto) { return 0; };

  bool Turn() {
    if (!has_pipes) return false;
    double seconds = kTurnSeconds + others_seconds(turns);
    if (traced) {
      seconds += static_cast<double>(events_per_turn) * event_seconds;
      events += events_per_turn + others_events(turns);
    }
    cpu_seconds += seconds;
    now_ns += static_cast<std::uint64_t>(seconds * clock_per_cpu_time * 1e9);
    ++turns;
    return true;
  }
  CostLoop Loop() {
    return {.turn = [this] { return Turn(); },
            .cpu_seconds = [this] { return cpu_seconds; },
            .now_ns = [this] { return now_ns; }};
  }
};

class MachineSource : public LiveSource {
 public:
  MachineSource(Machine& machine, std::size_t cpu) : machine_(machine), cpu_(cpu) {
    machine_.traced = true;
  }

  std::string engine_name = "bpf";
  std::uint64_t toggle_ns = 2 * kMs;
  std::uint64_t snapshot_ns = 100'000;
  // How old a state is, by the number of the call.
  std::function<std::uint64_t(int call)> age_ns = [](auto) { return 0; };

  [[nodiscard]] const std::vector<std::vector<std::size_t>>& closed() const { return closed_; }

  [[nodiscard]] std::string_view engine() const override { return engine_name; }
  [[nodiscard]] std::string_view reason() const override { return "test"; }
  [[nodiscard]] const KernelFacts& facts() const override { return facts_; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override { return missing_; }
  [[nodiscard]] TraceLoad ReadLoad() override { return {}; }

  [[nodiscard]] EventState Snapshot() override {
    machine_.now_ns += snapshot_ns;
    EventState state(0, static_cast<std::uint32_t>(cpu_ + 2));
    state.taken_at_ns = machine_.now_ns - age_ns(calls_++);
    for (const char* const name : {"mm_page_alloc", "kfree", "kmalloc"}) {
      state.tracepoints.push_back({.name = name, .enabled = true});
    }
    for (CpuCounts& cpu : state.cpus) cpu.events = {1'000'000 * machine_.turns, 0, 0};
    state.cpus[cpu_].events = {0, machine_.events / 3, machine_.events - machine_.events / 3};
    // What was counted since is not in a state of before.
    if (state.taken_at_ns < machine_.now_ns) state.cpus[cpu_].events = {0, 0, 0};
    return state;
  }
  [[nodiscard]] double lone_cost_power() const override { return 1; }
  EventState Open(std::span<const std::size_t> /*tracepoints*/) override { return Toggle(true); }
  EventState Close(std::span<const std::size_t> tracepoints) override {
    closed_.emplace_back(tracepoints.begin(), tracepoints.end());
    return Toggle(false);
  }

 private:
  EventState Toggle(bool traced) {
    EXPECT_NE(machine_.traced, traced);
    machine_.traced = traced;
    machine_.now_ns += toggle_ns;
    return {};
  }

  Machine& machine_;
  std::size_t cpu_;
  KernelFacts facts_;
  std::vector<std::string> missing_;
  std::vector<std::vector<std::size_t>> closed_;
  int calls_ = 0;
};

class EventCostTest : public ::testing::Test {
 protected:
  EventCostTest() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu_, &one);
    EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  }
  EventCostTest(const EventCostTest&) = delete;
  EventCostTest& operator=(const EventCostTest&) = delete;
  ~EventCostTest() override { sched_setaffinity(0, sizeof cpus_, &cpus_); }

  // The source is traced from after the meter was made until the end.
  EventCost Measure(const OverheadConfig& config = {}) {
    const std::uint64_t begin_ns = machine_.now_ns;
    machine_.traced = false;
    const EventCostMeter meter(config, machine_.Loop());
    machine_.traced = true;
    const EventCost cost = meter.Measure(source_, collectors_);
    EXPECT_TRUE(machine_.traced);
    whole_ns_ = machine_.now_ns - begin_ns;
    return cost;
  }

  static cpu_set_t Affinity() {
    cpu_set_t cpus{};
    sched_getaffinity(0, sizeof cpus, &cpus);
    return cpus;
  }

  cpu_set_t cpus_ = Affinity();
  std::size_t cpu_ = static_cast<std::size_t>(sched_getcpu());
  Machine machine_;
  MachineSource source_{machine_, cpu_};
  TraceCollectors collectors_ = MakeTraceCollectors({});
  std::uint64_t whole_ns_ = 0;
};

TEST_F(EventCostTest, IsWhatTracingAddsToATurnByTheEventsOfTheCpu) {
  const EventCost cost = Measure();
  EXPECT_EQ(cost.how, "measured");
  EXPECT_NEAR(cost.seconds, kEventSeconds, kNear);
  EXPECT_THAT(source_.closed(), SizeIs(4));
  EXPECT_THAT(source_.closed(), ::testing::Each(ElementsAre(1, 2))) << "slab's, and no page's";
  EXPECT_LT(whole_ns_, 110 * kMs);
}

TEST_F(EventCostTest, IsNotMadeLessByTheEventsOfOthersOnThatCpu) {
  // As many again in two runs of three.
  machine_.others_events = [](std::uint64_t turn) {
    return turn / kRunTurns % 3 == 0 ? 0 : kEventsPerTurn;
  };
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
}

TEST_F(EventCostTest, IsNotMadeMoreByThoseWhoMakeSomeRunsSlower) {
  machine_.others_seconds = [](std::uint64_t turn) {
    return turn / kRunTurns % 3 == 0 ? 0 : kTurnSeconds;
  };
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
}

TEST_F(EventCostTest, IsThatOfAMachineAtItsFastestNow) {
  // Twice as slow for one pair.
  machine_.others_seconds = [this](std::uint64_t /*turn*/) {
    return source_.closed().size() == 2 ? kTurnSeconds : 0;
  };
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
  // Faster before the start than ever since.
  machine_.others_seconds = [begin = machine_.turns](std::uint64_t turn) {
    return turn < begin + kRunTurns * 12 ? -kTurnSeconds / 4 : 0;
  };
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
}

TEST_F(EventCostTest, TakesATenthOfASecondHoweverSlowTheMachineIs) {
  for (const double slower : {2, 10, 50}) {
    machine_.clock_per_cpu_time = slower;
    EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear) << slower;
    EXPECT_LT(whole_ns_, 150 * kMs) << slower;
  }
  machine_.clock_per_cpu_time = 2;
  source_.toggle_ns = 30 * kMs;
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
  EXPECT_LT(whole_ns_, 150 * kMs);
}

TEST_F(EventCostTest, GoesByStatesOfNowOnly) {
  source_.age_ns = [](int call) { return call % 3 == 0 ? 5 * kMs : 0; };
  EXPECT_NEAR(Measure().seconds, kEventSeconds, kNear);
  source_.age_ns = [](int /*call*/) { return 100 * kMs; };
  const EventCost cost = Measure();
  EXPECT_EQ(cost.how, "assumed, the machine is too busy to measure it");
  EXPECT_DOUBLE_EQ(cost.seconds, 40e-9);
  EXPECT_LT(whole_ns_, 150 * kMs);
}

TEST_F(EventCostTest, IsAssumedByTheEngineWhereItCannotBeMeasured) {
  machine_.events_per_turn = 1;
  EXPECT_EQ(Measure().how, "assumed, slab events are not traced");
  EXPECT_DOUBLE_EQ(Measure().seconds, 40e-9);
  machine_.events_per_turn = kEventsPerTurn;
  for (const double seconds : {1e-9, 1e-6}) {
    machine_.event_seconds = seconds;
    EXPECT_EQ(Measure().how, "assumed, the machine is too busy to measure it");
  }
  machine_.has_pipes = false;
  source_.engine_name = "tracefs";
  EXPECT_EQ(Measure().how, "assumed, no pipe to be had");
  EXPECT_DOUBLE_EQ(Measure().seconds, 120e-9);
}

// Of the calling thread, as a service's filter of system calls does.
void ForbidToStayOnOneCpu() {
  std::array<sock_filter, 4> filter{{{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
                                     {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_sched_setaffinity},
                                     {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
                                     {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}}};
  const sock_fprog program{filter.size(), filter.data()};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

// Its events would be counted of a CPU on which it no longer is.
TEST_F(EventCostTest, IsAssumedWhereTheThreadMayNotStayOnOneCpu) {
  EventCost cost;
  std::thread([&] {
    ForbidToStayOnOneCpu();
    cost = Measure();
  }).join();
  EXPECT_EQ(cost.how, "assumed, the process may not stay on one CPU to measure it");
  EXPECT_DOUBLE_EQ(cost.seconds, 40e-9);
}

TEST_F(EventCostTest, LeavesNothingOutWithoutABudget) {
  EXPECT_NEAR(Measure({.budget_percent = 0}).seconds, kEventSeconds, kNear);
  EXPECT_THAT(source_.closed(), IsEmpty());
}

TEST_F(EventCostTest, IsWhatTheConfigurationSaysIfItDoes) {
  const EventCost cost = Measure({.event_cost_ns = 77});
  EXPECT_EQ(cost.how, "configured");
  EXPECT_NEAR(cost.seconds, 77e-9, kNear);
  EXPECT_EQ(machine_.turns, 0U);
}

}  // namespace
}  // namespace kmem
