// The tracefs engine: our instance of the kernel's ring buffer, read and tallied by one drain
// thread, which owns the collectors' state from start to stop.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "exporter/config.h"
#include "exporter/live_source.h"
#include "exporter/snapshot_exchange.h"
#include "exporter/tracefs/cpu_reader.h"
#include "exporter/tracefs/dispatcher.h"
#include "exporter/tracefs/instance.h"
#include "exporter/tracefs/page_walker.h"
#include "exporter/tracefs/watch.h"

namespace kmem {

class TracefsEngine : public LiveSource {
 public:
  // Starts tracing. `proc` gives what the formats do not say of the kernel; `reason` says why this
  // engine. Throws TracingError.
  TracefsEngine(const Config& config, const TraceCollectors& collectors, const ProcReader& proc,
                std::string reason);
  // Stops: disables the events, reads what is left, removes the instance.
  ~TracefsEngine() override;

  [[nodiscard]] std::string_view engine() const override { return "tracefs"; }
  [[nodiscard]] std::string_view reason() const override { return reason_; }
  [[nodiscard]] const KernelFacts& facts() const override { return facts_; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override {
    return missing_events_;
  }
  [[nodiscard]] EventState Snapshot() override;
  [[nodiscard]] TraceLoad ReadLoad() override;
  // By this the estimates of a loop of pipes on all CPUs are right on the average.
  [[nodiscard]] double lone_cost_power() const override { return 0.94; }
  EventState Open(std::span<const std::size_t> tracepoints) override;
  EventState Close(std::span<const std::size_t> tracepoints) override;

 private:
  enum class Wish : std::uint8_t { kNone, kOpen, kClose };  // of a gate

  void SizeBuffers(const TracefsConfig& config);
  void AddFormats(Formats& formats, const std::vector<std::string>& wanted);
  std::vector<std::string> EnableEvents();
  void OpenReaders();

  // The drain thread.
  void Run();
  void Wait();
  void Drain();
  void DrainCpu(CpuReader& reader);
  void LookAfterInstance();
  void CountLosses();
  void Publish(std::uint64_t request, std::uint64_t drained_up_to_ns);
  void PlanNextDrain(std::uint64_t now_ns);
  void Wake() const;
  void MoveGates(std::uint64_t now_ns);
  void PublishLoad();

  // The governing thread.
  void ExpectOpenEvents();
  // Has the gates moved; returns when that was.
  std::uint64_t MoveGates(std::span<const std::size_t> tracepoints, Wish wish);
  // The state once all that has happened up to now has been read.
  EventState StateOfNow();

  const TraceCollectors& collectors_;
  std::string reason_;
  KernelFacts facts_;
  std::vector<std::string> missing_events_;
  EventState state_;
  std::optional<Dispatcher> dispatcher_;
  PageLayout layout_;

  Instance instance_;
  std::vector<CpuReader> readers_;
  std::optional<Watch> watch_;
  std::mutex watch_mutex_;  // of the watch, and of the instance's events
  std::vector<bool> open_;  // by tracepoint: is to be enabled; the governing thread's

  std::vector<std::byte> subbuffer_;  // one sub-buffer and kRecordSlack
  std::uint32_t subbuffer_size_ = 0;
  std::uint64_t buffer_bytes_per_cpu_ = 0;
  std::uint64_t fullest_bytes_ = 0;  // of one CPU in the last drain
  int longest_sleep_ms_;
  int sleep_ms_;
  std::vector<pollfd> poll_fds_;  // the wake-up first
  bool woken_by_buffer_ = false;
  int spurious_wakeups_ = 0;  // in a row
  std::uint64_t last_drain_ns_ = 0;
  std::uint64_t last_look_ns_ = 0;
  std::uint64_t served_request_ = 0;

  // What the drain thread tells of itself.
  std::vector<std::atomic<std::uint64_t>> read_events_;  // by tracepoint
  std::atomic<std::uint64_t> read_outside_{0};
  std::atomic<std::uint64_t> known_lost_{0};
  bool told_of_taken_ = false;
  // What it is asked to do before it drains, by tracepoint. It moves the gates itself: so nothing
  // is counted between its looking at the clock and that, however long it has to wait for a CPU.
  std::vector<std::atomic<Wish>> wishes_;
  std::atomic<bool> any_wish_{false};      // all of them have been made
  std::atomic<std::uint64_t> edge_ns_{0};  // when it did so last
  std::vector<std::atomic<bool>> failed_;  // by tracepoint: could not be enabled again
  std::vector<bool> stuck_;                // by tracepoint: could not be disabled, and was logged

  SnapshotExchange exchange_;
  UniqueFd wake_;  // an eventfd
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace kmem
