#include "exporter/report/report_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "exporter/report/text_parts.h"

namespace kmem {
namespace {

std::string TitleText(const Report& report) {
  if (!report.trace_file.empty()) {
    return fmt::format("kmem_exporter report of the recorded trace {}\n",
                       NameText(report.trace_file));
  }
  return fmt::format(
      "kmem_exporter report of {:.1f} s of the live kernel, counted by engine {} ({})\n",
      report.seconds.value_or(0), report.engine, NameText(report.reason));
}

std::string TrustText(const Trust& trust) {
  std::string doubts;
  if (!trust.lost.empty()) {
    const double lost = SumOf(trust.lost);
    doubts += Line(fmt::format("! {} of {} events were lost ({}): the numbers below are too low.",
                               CountText(lost), CountText(trust.events_read + lost),
                               CountsText(trust.lost)));
  }
  if (!trust.record_errors.empty()) {
    doubts +=
        Line(fmt::format("! {} records could not be read ({}).",
                         CountText(SumOf(trust.record_errors)), CountsText(trust.record_errors)));
  }
  if (!trust.interference.empty()) {
    doubts += Line(fmt::format("! Somebody else changed this tracing ({}): events are missing.",
                               CountsText(trust.interference)));
  }
  for (const auto& [collector, share] : trust.traced_share) {
    doubts += Line(fmt::format("! {} was traced {} of the time: its numbers are estimates.",
                               collector, ShareText(share, 1)));
  }
  if (!trust.failed_tracepoints.empty()) {
    doubts += Line(fmt::format("! Tracepoints that could not be used: {}. What rests on them is 0.",
                               fmt::join(trust.failed_tracepoints, ", ")));
  }
  std::string text = Line(fmt::format("{} events read, {}", CountText(trust.events_read),
                                      doubts.empty() ? "none lost: the numbers are whole."
                                                     : "but the numbers are not whole:")) +
                     doubts;
  if (trust.missing_tracepoints.empty()) return text;
  // The one sign of a kernel that has merged them, from 6.1 on.
  const bool merged = std::ranges::all_of(trust.missing_tracepoints, [](const std::string& name) {
    return name == "kmalloc_node" || name == "kmem_cache_alloc_node";
  });
  return text + Line(fmt::format("Tracepoints that this kernel lacks: {}{}",
                                 fmt::join(trust.missing_tracepoints, ", "),
                                 merged ? " (part of those without _node)." : "."));
}

}  // namespace

std::string ReportText(const Report& report) {
  return TitleText(report) + TrustText(report.trust) + SlabText(report) + PagesText(report) +
         ZoneLockText(report) + PerCpuText(report) + FragmentationText(report);
}

}  // namespace kmem
