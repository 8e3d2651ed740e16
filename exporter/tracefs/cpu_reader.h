// One CPU's ring buffer: reads its sub-buffers, and what the kernel itself counted for it.
// Owned and used by the drain thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "exporter/event_state.h"
#include "exporter/tracefs/instance.h"
#include "exporter/unique_fd.h"

namespace kmem {

// per_cpu/cpuN/stats: tracing_stats_read() in kernel/trace/trace.c, 5.10 to 6.18.
struct CpuStats {
  std::array<std::uint64_t, kLossReasons.size()> lost{};  // by LossReason; none taken
  std::uint64_t entries = 0;                              // written and not yet read
  std::uint64_t read = 0;                                 // events read since the last reset
};

// Finds the counters in the text of a stats file; nothing where one is missing.
std::optional<CpuStats> ParseCpuStats(std::string_view text);

class CpuReader {
 public:
  // Opens the CPU's files. Throws TracingError.
  CpuReader(const Instance& instance, std::uint32_t cpu);

  [[nodiscard]] std::uint32_t cpu() const { return cpu_; }
  [[nodiscard]] int raw_fd() const { return raw_.get(); }

  // Reads one sub-buffer, as full as it is now. Its bytes; 0: the buffer is empty; -1: errno says
  // why it can't be read.
  std::ptrdiff_t Read(std::span<std::byte> subbuffer) noexcept;

  // Events lost, by reason, since the last call, from the kernel's counters: all that is read has
  // been handed on (AddRecords).
  std::array<std::uint64_t, kLossReasons.size()> NewLosses() noexcept;

  // Records handed on by the walker.
  void AddRecords(std::uint64_t records) noexcept { records_ += records; }

  // The kernel starts its counters anew when the buffer is reset. The one forgets ours after a
  // reset that is known; the other finds out whether there was one.
  void ForgetStats() noexcept;
  bool ForgetStatsIfReset() noexcept;

 private:
  std::optional<CpuStats> ReadStats() noexcept;
  // Whether these are of after a reset; then ours begin anew as well. All that is read has been
  // handed on.
  bool BeginsAnew(const CpuStats& stats) noexcept;

  std::uint32_t cpu_;
  UniqueFd raw_;
  UniqueFd stats_;
  std::array<std::uint64_t, kLossReasons.size()> lost_{};  // as the kernel last said
  bool began_anew_ = false;    // there was a reset that was not yet asked for
  std::uint64_t records_ = 0;  // since the last reset
};

}  // namespace kmem
