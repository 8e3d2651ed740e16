// What tracing itself keeps a busy CPU from doing: in a window, a load that has no time to spare
// makes fewer events than while it is not traced. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace kmem {

// One CPU in one window.
struct CpuWindow {
  std::uint64_t events = 0;
  double tracing_ratio = 0;  // share of its time that tracing took
  double idle_ratio = 0;     // share of its time that it was idle, traced or not
};

// By how much more the events would have been. Time that was idle makes good for what tracing took,
// as what there was to do was done all the same; beyond it the work was put off.
double SlowdownFactor(std::span<const CpuWindow> cpus);

// Seconds that each CPU has been idle, by number, from the text of /proc/stat: waiting for I/O
// included; 0 where a CPU is not listed.
std::vector<double> IdleSeconds(std::string_view proc_stat, double ticks_per_second);

}  // namespace kmem
