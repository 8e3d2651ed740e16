// What a source of events has seen so far: the one thing that passes from the thread that reads
// events to the threads that serve scrapes, by copy.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"

namespace kmem {

// Why events were lost (kmem_exporter_events_lost_total). per_cpu/cpuN/stats in
// kernel/trace/trace.c: tracing_stats_read().
// kTaken: somebody else read them out of our instance.
enum class LossReason : std::uint8_t { kOverrun, kDropped, kCommitOverrun, kTaken };
inline constexpr std::array<std::string_view, 4> kLossReasons{"overrun", "dropped",
                                                              "commit_overrun", "taken"};

// Why a record, or the rest of a page, could not be used (kmem_exporter_record_errors_total).
enum class RecordError : std::uint8_t {
  kPageTooShort,
  kCommitBeyondPage,
  kRecordBeyondData,
  kRecordLengthTooSmall,
  kUnknownEventId,
  kShortPayload,
  kImplausibleValue,
  kReadFailed,
  kLossUncounted,  // events were lost, the page does not say how many: at least one
};
inline constexpr std::array<std::string_view, 9> kRecordErrors{
    "page_too_short",    "commit_beyond_page", "record_beyond_data",
    "record_too_small",  "unknown_event_id",   "short_payload",
    "implausible_value", "read_failed",        "loss_uncounted"};

// What others did to our tracing (kmem_exporter_interference_total).
enum class Interference : std::uint8_t { kDisabled, kCleared, kResized, kClock };
inline constexpr std::array<std::string_view, 4> kInterferences{"disabled", "cleared", "resized",
                                                                "clock"};

// Upper bounds in seconds of kmem_exporter_drain_duration_seconds.
inline constexpr std::array<double, 10> kDrainBounds{0.00005, 0.0001, 0.00025, 0.0005, 0.001,
                                                     0.0025,  0.005,  0.01,    0.05,   0.25};

// Counters of one CPU.
struct CpuCounts {
  std::vector<std::uint64_t> events;  // by tracepoint, in the order of EventState::tracepoints
  std::array<std::uint64_t, kLossReasons.size()> lost{};
};

// One tracepoint that this kernel has and that is wanted.
struct TracepointState {
  std::string name;
  bool enabled = false;
  // Times that it fired while its own handler was at work on that CPU: known by number only.
  std::uint64_t skipped = 0;
  // What is to be shown besides what was counted, for the times that it was not traced. Wraps
  // around where that is less.
  std::uint64_t untraced = 0;
};

// What tracing has cost, in seconds of CPU time, and what it may cost.
struct Overhead {
  double budget_ratio = 0;        // share of the machine's CPU time; 0: no limit
  double event_cost_seconds = 0;  // of one event, on the CPU that it happens on
  double trace_seconds = 0;       // the events
  double drain_seconds = 0;       // reading what they left
  double toggle_seconds = 0;      // enabling and disabling tracepoints
  // By collector: how long its tracepoints have been traced; nothing where it has none in use.
  std::vector<std::optional<double>> traced_seconds;
};

// Copying allocates once; assignment between two states of one source allocates nothing.
struct EventState {
  EventState() = default;
  EventState(std::size_t collectors, std::uint32_t cpu_count)
      : tallies(collectors), cpus(cpu_count) {}

  std::vector<Tallies> tallies;  // by collector, in the order that the source was given
  std::vector<TracepointState> tracepoints;
  std::vector<CpuCounts> cpus;
  std::array<std::uint64_t, kRecordErrors.size()> record_errors{};
  std::array<std::uint64_t, kInterferences.size()> interference{};
  std::array<std::uint64_t, kDrainBounds.size() + 1> drains{};
  double drain_seconds = 0;
  std::uint64_t buffer_bytes = 0;    // memory of the kernel's buffers, all CPUs
  std::uint64_t taken_at_ns = 0;     // CLOCK_MONOTONIC when the last drain ended
  std::optional<Overhead> overhead;  // of a live kernel's tracing

  void AddLoss(std::uint32_t cpu, LossReason reason, std::uint64_t events) {
    cpus[cpu].lost[static_cast<std::size_t>(reason)] += events;
  }
  void Count(RecordError error) { record_errors[static_cast<std::size_t>(error)]++; }
  void Count(Interference kind) { interference[static_cast<std::size_t>(kind)]++; }
};

}  // namespace kmem
