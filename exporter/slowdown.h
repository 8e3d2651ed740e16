// What tracing itself keeps a busy CPU from doing: in a window, a load that has no time to spare
// makes fewer events than while it is not traced. Pure; one thread.
//
// How many is foretold from what an event costs, and corrected by what probes show: before a window
// only one of its tracepoints is traced for a while. Were there nothing to slow the load down, its
// events would come as often then as in the window; of what the window's other events take they
// come more often. Loads change by themselves as well, so what a probe shows is believed as far as
// its like have agreed lately, and the cost as far as it is known.
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

class SlowdownLearner {
 public:
  // One tracepoint in a probe and in the window after it.
  struct Probe {
    double part = 0;   // of the window's events, below 1
    double ratio = 0;  // of its rates: that in the probe to that in the window
  };

  // Learns from a window for which SlowdownFactor() has foretold this.
  void Learn(const Probe& probe, double foretold);
  [[nodiscard]] double Corrected(double foretold) const;
  // How many times what was measured an event has cost there; at least 1.
  [[nodiscard]] double CostRatio(double foretold) const;

 private:
  // The logarithm of the slowdown, to what was foretold: how much more an event costs than was
  // measured. At first that is hardly known: where all CPUs are busy at once, events have been seen
  // to cost three times as much.
  static constexpr double kFirstDoubt = 0.8 * 0.8;
  double cost_ = 1;
  double doubt_ = kFirstDoubt;
  double noise_ = 0.15 * 0.15;  // variance of what probes show beside it, in logarithms
};

// Seconds that each CPU has been idle, by number, from the text of /proc/stat: waiting for I/O
// included; 0 where a CPU is not listed.
std::vector<double> IdleSeconds(std::string_view proc_stat, double ticks_per_second);

}  // namespace kmem
