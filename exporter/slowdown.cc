#include "exporter/slowdown.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "collectors/collector.h"
#include "collectors/proc_tables.h"

namespace kmem {
namespace {

// Of what is taken for stolen: the cost of an event is not known better.
constexpr double kMostStolen = 0.75;
constexpr double kMostSlowdown = 1 / (1 - kMostStolen);
// What is known wears off from window to window, by this part of the first doubt.
constexpr double kWorn = 0.0025;
constexpr double kLeastNoise = 0.01 * 0.01;
constexpr double kNoiseSmoothing = 0.2;
// What is believed of one probe, and what it may tell of the noise.
constexpr double kMostSurprise = 0.3;
constexpr double kMostNoise = 2;
constexpr std::array kLeastTimes{0.3, -1.0};
constexpr std::array kMostTimes{3.0, 5.0};

}  // namespace

Foretold Foretell(std::span<const CpuWindow> cpus) {
  double seen = 0;
  Foretold undisturbed{.idle_helps = 0, .idle_is_lost = 0};
  for (const CpuWindow& cpu : cpus) {
    const auto events = static_cast<double>(cpu.events);
    const auto without = [events](double stolen) {
      return events / (1 - std::clamp(stolen, 0.0, kMostStolen));
    };
    seen += events;
    undisturbed.idle_helps += without(cpu.tracing_ratio - std::max(cpu.idle_ratio, 0.0));
    undisturbed.idle_is_lost += without(cpu.tracing_ratio);
  }
  if (seen <= 0) return {};
  return {.idle_helps = undisturbed.idle_helps / seen,
          .idle_is_lost = undisturbed.idle_is_lost / seen};
}

SlowdownLearner::Pair SlowdownLearner::Parts(const Foretold& foretold) {
  return {std::log(foretold.idle_helps), std::log(foretold.idle_is_lost / foretold.idle_helps)};
}

// A Kalman filter of two numbers. Of the time between two events while all are traced, u + c, the
// probe shows u and its part of c.
void SlowdownLearner::Learn(const Probe& probe, const Foretold& foretold) {
  const Pair parts = Parts(foretold);
  const double factor = std::exp(times_[0] * parts[0] + times_[1] * parts[1]);
  const double in_probe = 1 + probe.part * (factor - 1);
  Pair slope{};
  Pair shared{};  // of the doubt with what the probe shows
  double expected = 0;
  for (std::size_t i = 0; i < slope.size(); ++i) {
    doubt_[i][i] = std::min(doubt_[i][i] + kWorn * kFirstDoubt[i], kFirstDoubt[i]);
    slope[i] = parts[i] * (1 - probe.part) / in_probe;
  }
  for (std::size_t i = 0; i < slope.size(); ++i) {
    shared[i] = doubt_[i][0] * slope[0] + doubt_[i][1] * slope[1];
    expected += slope[i] * shared[i];
  }
  const double off = std::log(probe.ratio) - std::log(factor / in_probe);
  const double surprise = std::clamp(off, -kMostSurprise, kMostSurprise);
  const double noise = std::min(off * off, kMostNoise) - expected;
  noise_ += kNoiseSmoothing * (std::max(noise, kLeastNoise) - noise_);
  for (std::size_t i = 0; i < slope.size(); ++i) {
    const double gain = shared[i] / (expected + noise_);
    times_[i] = std::clamp(times_[i] + gain * surprise, kLeastTimes[i], kMostTimes[i]);
    for (std::size_t j = 0; j < slope.size(); ++j) doubt_[i][j] -= gain * shared[j];
  }
}

double SlowdownLearner::Corrected(const Foretold& foretold) const {
  const Pair parts = Parts(foretold);
  return std::clamp(std::exp(times_[0] * parts[0] + times_[1] * parts[1]), 1.0, kMostSlowdown);
}

// What a load waits for costs no CPU time.
double SlowdownLearner::CostRatio(const Foretold& foretold) const {
  if (foretold.idle_helps <= 1) return 1;
  const double slowdown = std::min(std::pow(foretold.idle_helps, times_[0]), kMostSlowdown);
  return std::max(1.0, (1 - 1 / slowdown) / (1 - 1 / foretold.idle_helps));
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

std::optional<std::uint64_t> PagesAllocated(std::string_view proc_vmstat) {
  constexpr std::array<std::string_view, 1> kPrefixes{"pgalloc_"};
  try {
    std::optional<std::uint64_t> pages;
    for (const auto& [name, count] : ParseVmstat(proc_vmstat, kPrefixes)) {
      pages = pages.value_or(0) + count;
    }
    return pages;
  } catch (const ProcError&) {
    return std::nullopt;
  }
}

}  // namespace kmem
