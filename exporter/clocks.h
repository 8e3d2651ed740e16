// The clocks that the engines and the governor go by. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>

namespace kmem {

// CLOCK_MONOTONIC: trace_clock `mono` (kernel/trace/trace.c, trace_clocks[], 5.10 to 6.18) and
// bpf_ktime_get_ns() are this one.
inline std::uint64_t MonotonicNs() {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// CPU time, of CLOCK_THREAD_CPUTIME_ID and its like; 0 where the clock can't be read.
inline double CpuSeconds(clockid_t clock) {
  timespec now{};
  if (clock_gettime(clock, &now) != 0) return 0;
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Of the calling thread.
inline double ThreadSeconds() { return CpuSeconds(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace kmem
