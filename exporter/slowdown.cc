#include "exporter/slowdown.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace kmem {
namespace {

// Of what is taken for stolen: the cost of an event is not known better.
constexpr double kMostStolen = 0.75;
constexpr double kMostSlowdown = 1 / (1 - kMostStolen);
// What is known of an event's cost wears off from window to window, by this part of the first
// doubt.
constexpr double kWorn = 0.0025;
constexpr double kLeastNoise = 0.01 * 0.01;
constexpr double kNoiseSmoothing = 0.2;
// What is believed of one probe, and what it may tell of the noise.
constexpr double kMostSurprise = 0.3;
constexpr double kMostNoise = 2;
constexpr double kLeastCost = 0.3;
constexpr double kMostCost = 3;

// A tracepoint that is traced by itself costs more than its part of the events, as what tracing
// needs of the kernel is out of the CPU's caches each time. With this power the estimates of a loop
// of pipes on all CPUs are right on the average with both engines.
double PartOfCost(double part_of_events) { return std::pow(part_of_events, 0.92); }

}  // namespace

double SlowdownFactor(std::span<const CpuWindow> cpus) {
  double seen = 0;
  double undisturbed = 0;
  for (const CpuWindow& cpu : cpus) {
    const double stolen = std::clamp(cpu.tracing_ratio - cpu.idle_ratio, 0.0, kMostStolen);
    seen += static_cast<double>(cpu.events);
    undisturbed += static_cast<double>(cpu.events) / (1 - stolen);
  }
  return seen > 0 ? undisturbed / seen : 1;
}

// A Kalman filter of one number. Of the time between two events while all are traced, u + c, the
// probe shows u and its part of c.
void SlowdownLearner::Learn(const Probe& probe, double foretold) {
  doubt_ = std::min(doubt_ + kWorn * kFirstDoubt, kFirstDoubt);
  const double slowdown = std::log(foretold);
  const double factor = std::exp(cost_ * slowdown);
  const double part = PartOfCost(probe.part);
  const double in_probe = 1 + part * (factor - 1);
  const double slope = slowdown * (1 - part) / in_probe;
  const double off = std::log(probe.ratio) - std::log(factor / in_probe);
  const double surprise = std::clamp(off, -kMostSurprise, kMostSurprise);
  const double expected = slope * slope * doubt_;
  const double noise = std::min(off * off, kMostNoise) - expected;
  noise_ += kNoiseSmoothing * (std::max(noise, kLeastNoise) - noise_);
  const double gain = slope * doubt_ / (expected + noise_);
  cost_ = std::clamp(cost_ + gain * surprise, kLeastCost, kMostCost);
  doubt_ *= 1 - gain * slope;
}

double SlowdownLearner::Corrected(double foretold) const {
  return std::min(std::exp(cost_ * std::log(foretold)), kMostSlowdown);
}

double SlowdownLearner::CostRatio(double foretold) const {
  if (foretold <= 1) return 1;
  return std::max(1.0, (1 - 1 / Corrected(foretold)) / (1 - 1 / foretold));
}

std::vector<double> IdleSeconds(std::string_view proc_stat, double ticks_per_second) {
  // Lines "cpuN user nice system idle iowait ..."; the first line, "cpu ", is their sum.
  constexpr std::size_t kIdle = 3;
  constexpr std::size_t kIowait = 4;
  std::vector<double> idle;
  while (proc_stat.starts_with("cpu")) {
    const std::size_t end = std::min(proc_stat.find('\n'), proc_stat.size());
    const char* at = proc_stat.data() + 3;
    const char* const last = proc_stat.data() + end;
    std::size_t cpu = 0;
    if (const auto number = std::from_chars(at, last, cpu); number.ec == std::errc{}) {
      at = number.ptr;
      std::array<std::uint64_t, kIowait + 1> ticks{};
      for (std::uint64_t& each : ticks) {
        while (at != last && *at == ' ') ++at;
        at = std::from_chars(at, last, each).ptr;
      }
      if (cpu >= idle.size()) idle.resize(std::min(cpu, std::size_t{1} << 16) + 1);
      if (cpu < idle.size()) {
        idle[cpu] = static_cast<double>(ticks[kIdle] + ticks[kIowait]) / ticks_per_second;
      }
    }
    proc_stat.remove_prefix(std::min(end + 1, proc_stat.size()));
  }
  return idle;
}

}  // namespace kmem
