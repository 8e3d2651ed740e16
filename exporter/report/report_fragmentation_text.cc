#include <fmt/format.h>

#include <set>

#include "exporter/report/report_text.h"
#include "exporter/report/text_parts.h"

namespace kmem {
namespace {

std::string FallbacksText(const Fragmentation& fragmentation) {
  if (!fragmentation.fallbacks) {
    return NotCounted("Fallbacks to other migratetypes", "needs the collector extfrag");
  }
  if (fragmentation.fallbacks->empty()) {
    return Line("No allocation had to take pages of another migratetype: nothing fragments now.");
  }
  Table table({"<wanted", "<took from", "events", "fragmenting", "block changed type", "<"});
  for (const Fallback& fallback : *fragmentation.fallbacks) {
    const double unknown = CountIn(fallback.change_ownership, "unknown");
    table.Add({NameText(fallback.alloc_migratetype), NameText(fallback.fallback_migratetype),
               CountText(fallback.events), CountText(fallback.fragmenting),
               unknown > 0 ? "unknown" : CountText(CountIn(fallback.change_ownership, "true")),
               fallback.lasting() ? "lasting: these pages can't be moved away" : ""});
  }
  return table.Text() +
         Line("Fragmenting: less than a pageblock was taken, so two types share it now.");
}

std::string FreeMemoryText(const Fragmentation& fragmentation) {
  if (!fragmentation.free_memory) return "";
  std::set<int> orders;
  for (const FreeMemory& zone : *fragmentation.free_memory) {
    for (const auto& [order, index] : zone.unusable_index) orders.insert(order);
  }
  std::vector<std::string> headings{"<node", "<zone"};
  for (const int order : orders) headings.push_back(fmt::format("order {}", order));
  Table table(headings);
  for (const FreeMemory& zone : *fragmentation.free_memory) {
    std::vector<std::string> cells{zone.numa_node, NameText(zone.mem_zone)};
    for (const int order : orders) {
      const auto at = zone.unusable_index.find(order);
      cells.push_back(at == zone.unusable_index.end() ? "-" : ShareText(at->second, 1));
    }
    table.Add(std::move(cells));
  }
  const std::string pageblock =
      fragmentation.pageblock_order
          ? fmt::format("; {} is a pageblock, a huge page's", *fragmentation.pageblock_order)
          : "";
  return "\n" + Line("Free memory in blocks too small for the order, of no use to it" + pageblock) +
         table.Text();
}

std::string PressureText(const Report& report) {
  const Fragmentation& fragmentation = report.fragmentation;
  const Pace pace(report.seconds);
  Facts facts;
  if (fragmentation.compaction) {
    const Compaction& compaction = *fragmentation.compaction;
    const double ended = compaction.failures + compaction.successes;
    facts.Add("direct compactions", pace.Count(compaction.stalls),
              ended == 0 ? "allocations that waited for it"
                         : fmt::format("allocations that waited for it; {} got nothing by it",
                                       ShareText(compaction.failures, ended)));
  }
  if (fragmentation.allocation_stalls) {
    facts.Add("direct reclaims", pace.Count(SumOf(*fragmentation.allocation_stalls)),
              "allocations that had to free memory first: too little is free");
  }
  return facts.Text();
}

std::string KbytesText(double bytes) { return fmt::format("{:.0f}", bytes / 1024); }

std::string MinFreeText(const Report& report) {
  const Fragmentation& fragmentation = report.fragmentation;
  const double lasting = fragmentation.lasting_events();
  std::string text;
  if (lasting > 0) {
    text =
        Line(fmt::format("{} events fragmented memory for good: pages that can't be moved, among "
                         "movable ones.",
                         CountText(lasting)));
  }
  if (!fragmentation.min_free) {
    return text +
           Line(report.trace_file.empty()
                    ? "What to set vm.min_free_kbytes to is not known (needs the collector "
                      "fragmentation)."
                    : "What to set vm.min_free_kbytes to is not in a trace: --path.procfs names "
                      "its machine's /proc.");
  }
  const MinFree& min_free = *fragmentation.min_free;
  const std::string now = KbytesText(min_free.bytes);
  const std::string step = BytesText(min_free.step_bytes);
  if (!min_free.memory_bytes) {
    return text + Line(fmt::format("vm.min_free_kbytes is {}; a step of {} would make it {}, which "
                                   "may be too much: how much memory there is is not known.",
                                   now, step, KbytesText(min_free.bytes + min_free.step_bytes)));
  }
  const std::string most = fmt::format("{:.0f}% of memory ({})", 100 * MinFree::kMostOfMemory,
                                       BytesText(*min_free.memory_bytes * MinFree::kMostOfMemory));
  const auto next = min_free.next_bytes();
  if (!next) {
    return text + Line(fmt::format("vm.min_free_kbytes is {}; a step of {} more would exceed {}: "
                                   "leave it.",
                                   now, step, most));
  }
  if (lasting == 0) {
    return Line(
        fmt::format("vm.min_free_kbytes is {}: no reason here to raise it. (A step of {} "
                    "would make it {}.)",
                    now, step, KbytesText(*next)));
  }
  return text +
         Line(fmt::format("Raise vm.min_free_kbytes from {} by a step of {}, 3 pageblocks a node, "
                          "and look again:",
                          now, step)) +
         fmt::format("      sysctl -w vm.min_free_kbytes={}\n", KbytesText(*next)) +
         Line(fmt::format("Stop at {}: what is kept free serves nobody.", most));
}

}  // namespace

std::string FragmentationText(const Report& report) {
  const std::string pressure = PressureText(report);
  return Heading(5, "EXTERNAL FRAGMENTATION: will large allocations fail, and what helps") +
         FallbacksText(report.fragmentation) + FreeMemoryText(report.fragmentation) +
         (pressure.empty() ? "" : "\n" + pressure) + "\n" + MinFreeText(report);
}

}  // namespace kmem
