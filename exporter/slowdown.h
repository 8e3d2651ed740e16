// What tracing itself keeps a busy CPU from doing: in a window, a load that has no time to spare
// makes fewer events than while it is not traced. Pure; one thread.
//
// How many is foretold from what an event costs, and corrected by what probes show. Either a
// counter of the kernel's own goes along with the events, traced or not: then its rates outside and
// in the window tell. Or before a window only one of its tracepoints is traced for a while: were
// there nothing to slow the load down, its events would come as often then as in the window; of
// what the window's other events take they come more often. Loads change by themselves as well, so
// what a probe shows is believed as far as its like have agreed lately, and what is foretold as far
// as it is known.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
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

// By how much more the events would have been, by what they cost.
struct Foretold {
  // Time that was idle makes good for what tracing took, as what there was to do was done all the
  // same; beyond it the work was put off.
  double idle_helps = 1;
  // It does not, as the load waits for its own work, on another CPU, say. At least idle_helps.
  double idle_is_lost = 1;
};

Foretold Foretell(std::span<const CpuWindow> cpus);

class SlowdownLearner {
 public:
  // What is rated by itself, and in the window after it.
  struct Probe {
    double part = 0;   // of what tracing the window's events costs, below 1; 0: nothing was traced
    double ratio = 0;  // of its rates: that by itself to that in the window
  };

  // Learns from a window for which this was foretold.
  void Learn(const Probe& probe, const Foretold& foretold);
  [[nodiscard]] double Corrected(const Foretold& foretold) const;
  // How many times what was measured an event has cost there; at least 1.
  [[nodiscard]] double CostRatio(const Foretold& foretold) const;

 private:
  using Pair = std::array<double, 2>;
  // Of the logarithm of the slowdown: what is foretold where idle time helps, and what comes on top
  // where it is lost.
  [[nodiscard]] static Pair Parts(const Foretold& foretold);

  // By how much each of them is to be multiplied: how much more an event costs than was measured,
  // and how far idle time is lost. At first neither is much known: where all CPUs are busy at once,
  // events have been seen to cost three times as much, and where they wait for one another, the
  // time lost to be twice what tracing took.
  static constexpr Pair kFirstDoubt{0.8 * 0.8, 1.5 * 1.5};
  Pair times_{1, 0};
  std::array<Pair, 2> doubt_{Pair{kFirstDoubt[0], 0}, Pair{0, kFirstDoubt[1]}};  // covariance
  double noise_ = 0.15 * 0.15;  // variance of what probes show beside it, in logarithms
};

// Seconds that each CPU has been idle, by number, from the text of /proc/stat: waiting for I/O
// included; 0 where a CPU is not listed.
std::vector<double> IdleSeconds(std::string_view proc_stat, double ticks_per_second);

// Pages that have been allocated, of all zones, from the text of /proc/vmstat: pgalloc_*
// (mm/page_alloc.c, 5.10 to 6.18), which goes up where mm_page_alloc fires. None where it has no
// such line, or is no such text.
std::optional<std::uint64_t> PagesAllocated(std::string_view proc_vmstat);

}  // namespace kmem
