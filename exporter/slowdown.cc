#include "exporter/slowdown.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace kmem {
namespace {

// Of what is taken for stolen: the cost of an event is not known better.
constexpr double kMostStolen = 0.75;

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
