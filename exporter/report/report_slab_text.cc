#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "exporter/report/report_text.h"
#include "exporter/report/text_parts.h"

namespace kmem {
namespace {

std::string CountOrDash(const std::optional<double>& count) {
  return count ? CountText(*count) : "-";
}

std::string BytesOrDash(const std::optional<double>& bytes) {
  return bytes ? BytesText(*bytes) : "-";
}

constexpr const char* kOthers = "(all others)";

// The first rows, as long as they are worth it and not too many, and then the sum of the rest.
template <class Row, class Worth, class Cells, class Sum>
std::string Top(Table table, const std::vector<Row>& rows, Worth worth, Cells cells, Sum sum) {
  const auto first = std::span(rows).first(std::min(kRowsShown, rows.size()));
  const auto end = std::ranges::find_if_not(first, worth);
  for (auto row = first.begin(); row != end; ++row) table.Add(cells(*row));
  const auto rest = std::span(rows).subspan(static_cast<std::size_t>(end - first.begin()));
  if (!rest.empty()) table.Add(cells(sum(rest)));
  return table.Text();
}

std::string SizesText(const CallSite& row) {
  if (row.fixed_size_bytes.value_or(0) > 0) return CountText(*row.fixed_size_bytes) + " B";
  if (!row.size_classes) return "-";
  return CountText(*row.size_classes) + (row.size_classes == 1 ? " class" : " classes");
}

std::vector<std::string> CallSiteCells(const CallSite& row) {
  return {NameText(row.site.call_site),
          NameText(row.site.module),
          CountText(row.allocations),
          BytesText(row.requested_bytes),
          BytesText(row.allocated_bytes),
          BytesText(row.waste_bytes()),
          ShareText(row.waste_bytes(), row.allocated_bytes),
          SizesText(row)};
}

CallSite SumOfCallSites(std::span<const CallSite> rows) {
  CallSite sum;
  sum.site.call_site = kOthers;
  for (const CallSite& row : rows) {
    sum.allocations += row.allocations;
    sum.requested_bytes += row.requested_bytes;
    sum.allocated_bytes += row.allocated_bytes;
  }
  return sum;
}

std::string CandidatesText(const std::vector<CallSite>& call_sites) {
  constexpr std::size_t kNamesShown = 5;  // in a line
  std::vector<std::string> names;
  for (const CallSite& row : call_sites) {
    if (!row.wants_cache()) continue;
    names.push_back(NameText(row.site.call_site));
    if (names.size() == kNamesShown) break;
  }
  if (names.empty()) return Line("No dedicated cache is justified: no large waste is of one size.");
  return Line(
      fmt::format("One size, much waste: a dedicated cache may pay, if there is none, for {}.",
                  fmt::join(names, ", ")));
}

std::string CallSitesText(const Slab& slab) {
  if (!slab.call_sites) return NotCounted("Call sites", "needs collectors.slab.callsites");
  std::string text = "\n" + Line("Call sites by waste");
  if (slab.symbols_hidden) {
    text += Line(
        "! The kernel hides their names, so they are all one: it takes CAP_SYSLOG, and "
        "kernel.kptr_restrict below 2.");
  }
  const auto wastes = [](const CallSite& row) {
    return row.waste_bytes() > 0 && !row.site.is_other();
  };
  return text +
         Top(Table({"<call site", "<module", "allocations", "requested", "allocated", "waste",
                    "share", "sizes"}),
             *slab.call_sites, wastes, CallSiteCells, SumOfCallSites) +
         (slab.symbols_hidden ? "" : CandidatesText(*slab.call_sites));
}

std::string SizeClassesText(const Slab& slab) {
  if (!slab.size_classes) {
    return NotCounted("Size classes of kmalloc", "needs collectors.slab.caches");
  }
  Table table({"size class", "allocations", "requested", "waste", "share"});
  for (const SizeClass& row : *slab.size_classes) {
    const double waste = row.waste_bytes.value_or(0);
    table.Add({NameText(row.size_class), CountText(row.allocations), BytesText(row.requested_bytes),
               BytesOrDash(row.waste_bytes),
               row.waste_bytes ? ShareText(waste, waste + row.requested_bytes) : "-"});
  }
  return "\n" +
         Line("Size classes of kmalloc: a high share says that the sizes asked for fit badly") +
         table.Text();
}

std::vector<std::string> CacheCells(const Cache& row) {
  return {NameText(row.cache), CountOrDash(row.allocations), CountOrDash(row.frees),
          BytesOrDash(row.allocated_bytes)};
}

Cache SumOfCaches(std::span<const Cache> rows) {
  Cache sum;
  sum.cache = kOthers;
  const auto add = [](std::optional<double>& to, const std::optional<double>& count) {
    if (count) to = to.value_or(0) + *count;
  };
  for (const Cache& row : rows) {
    add(sum.allocations, row.allocations);
    add(sum.allocated_bytes, row.allocated_bytes);
    add(sum.frees, row.frees);
  }
  return sum;
}

std::string CachesText(const Slab& slab) {
  if (!slab.caches) {
    return NotCounted("Caches",
                      "needs collectors.slab.caches, and a kernel whose events name them");
  }
  return "\n" + Line("Caches: what the objects of known type are") +
         Top(
             Table({"<cache", "allocations", "frees", "allocated"}), *slab.caches,
             [](const Cache& row) { return !row.is_other(); }, CacheCells, SumOfCaches);
}

LiveSite SumOfLiveSites(std::span<const LiveSite> rows) {
  LiveSite sum;
  sum.site.call_site = kOthers;
  for (const LiveSite& row : rows) {
    sum.objects += row.objects;
    sum.bytes += row.bytes;
    sum.lasting_objects += row.lasting_objects;
    sum.lasting_bytes += row.lasting_bytes;
    for (const auto& [age, bytes] : row.aged_bytes) sum.aged_bytes[age] += bytes;
  }
  return sum;
}

std::string SuspectsTable(const std::vector<LiveSite>& sites) {
  std::set<double> ages;  // that anything has reached
  for (const LiveSite& row : sites) {
    for (const auto& [age, bytes] : row.aged_bytes) {
      if (bytes > 0) ages.insert(age);
    }
  }
  std::vector<std::string> headings{"<call site", "<module",   "objects",
                                    "bytes",      "all alive", "their bytes"};
  for (const double age : ages) headings.push_back(fmt::format("older than {} s", age));
  const auto cells = [&](const LiveSite& row) {
    std::vector<std::string> texts{NameText(row.site.call_site),   NameText(row.site.module),
                                   CountText(row.lasting_objects), BytesText(row.lasting_bytes),
                                   CountText(row.objects),         BytesText(row.bytes)};
    for (const double age : ages) {
      const auto at = row.aged_bytes.find(age);
      texts.push_back(BytesText(at == row.aged_bytes.end() ? 0 : at->second));
    }
    return texts;
  };
  const auto is_suspect = [](const LiveSite& row) {
    return row.lasting_objects > 0 && !row.site.is_other();
  };
  return Top(Table(headings), sites, is_suspect, cells, SumOfLiveSites);
}

std::string LeaksText(const Report& report) {
  if (!report.slab->live) {
    return Line("Suspected leaks: not looked for (needs collectors.slab.live).");
  }
  const Live& live = *report.slab->live;
  const std::string half =
      report.seconds ? fmt::format("first {:.1f} s", *report.seconds / 2) : "trace's first half";
  std::string text =
      "\n" + Line(fmt::format("Suspected leaks: allocated in the {} and alive at the end; a "
                              "leak if it grows for ever",
                              half));
  if (!live.complete) {
    Counts missed = live.dropped;  // the others are objects that are freed without an event
    std::erase_if(missed, [](const auto& reason) {
      return reason.first != "table_full" && reason.first != "busy";
    });
    const std::string why = missed.empty() ? "" : " (" + CountsText(missed) + ")";
    text +=
        Line(fmt::format("! Allocations or frees were missed{}: these numbers are doubtful.", why));
  }
  if (live.one_in > 1) {
    text += Line(fmt::format("Estimated by one object in {}.", CountText(live.one_in)));
  }
  const bool any =
      std::ranges::any_of(live.sites, [](const LiveSite& row) { return row.lasting_objects > 0; });
  return text + (any ? SuspectsTable(live.sites) : Line("None: all of it was freed."));
}

std::string AllocatorsText(const Report& report) {
  std::vector<std::string> headings{"<allocator", "allocations", "failed", "frees",
                                    "requested",  "allocated",   "waste",  "share"};
  if (report.seconds) headings.insert(headings.begin() + 2, "a second");
  Table table(headings);
  for (const auto& [name, traffic] : report.slab->allocators) {
    const double waste = traffic.allocated_bytes - traffic.requested_bytes;
    std::vector<std::string> cells{NameText(name),
                                   CountText(traffic.allocations),
                                   CountText(traffic.failures),
                                   CountText(traffic.frees),
                                   BytesText(traffic.requested_bytes),
                                   BytesText(traffic.allocated_bytes),
                                   BytesText(waste),
                                   ShareText(waste, traffic.allocated_bytes)};
    if (report.seconds) {
      cells.insert(cells.begin() + 2, Pace(report.seconds).Rate(traffic.allocations));
    }
    table.Add(std::move(cells));
  }
  return table.Text() +
         Line(
             "Waste is what was given and not asked for: of kmalloc because no size "
             "class fits,") +
         Line("which a cache of the right size would save; of kmem_cache it is alignment.");
}

}  // namespace

std::string SlabText(const Report& report) {
  const std::string heading =
      Heading(1, "SLAB: who asks for small objects, and what is wasted on them");
  if (!report.slab) return heading + NotCounted("Slab", "needs the collector slab");
  return heading + AllocatorsText(report) + CallSitesText(*report.slab) +
         SizeClassesText(*report.slab) + CachesText(*report.slab) + LeaksText(report);
}

}  // namespace kmem
