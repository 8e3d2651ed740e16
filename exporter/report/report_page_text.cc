#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "exporter/report/report_text.h"
#include "exporter/report/text_parts.h"

namespace kmem {
namespace {

std::string PagesTable(const Pages& pages, double failed_quietly, double failed_unknown) {
  std::set<std::string> types;
  for (const auto& [order, row] : pages.orders) {
    for (const auto& [type, count] : row.allocations) {
      if (count > 0) types.insert(type);
    }
  }
  std::vector<std::string> headings{"order"};
  headings.insert(headings.end(), types.begin(), types.end());
  headings.insert(headings.end(), {"freed", "failed"});
  if (failed_quietly > 0) headings.emplace_back("failed quietly");
  if (failed_unknown > 0) headings.emplace_back("failed, either way");
  Table table(headings);
  for (const auto& [order, row] : pages.orders) {
    if (SumOf(row.allocations) + row.frees + SumOf(row.failures) == 0) continue;
    std::vector<std::string> cells{std::to_string(order)};
    for (const std::string& type : types) {
      cells.push_back(CountText(CountIn(row.allocations, type)));
    }
    cells.push_back(CountText(row.frees));
    cells.push_back(CountText(CountIn(row.failures, "false")));
    if (failed_quietly > 0) cells.push_back(CountText(CountIn(row.failures, "true")));
    if (failed_unknown > 0) cells.push_back(CountText(CountIn(row.failures, "unknown")));
    table.Add(std::move(cells));
  }
  if (table.empty()) return Line("No page was allocated or freed.");
  std::vector<std::string> bytes{"bytes"};
  for (const std::string& type : types) {
    bytes.push_back(BytesText(CountIn(pages.allocated_bytes, type)));
  }
  bytes.push_back(BytesText(pages.freed_bytes));
  bytes.resize(headings.size());
  table.Add(std::move(bytes));
  return table.Text();
}

std::string PagesEach(double pages, double batches) {
  return batches == 0 ? "-" : fmt::format("{:.1f}", pages / batches);
}

std::vector<std::string> ListCells(const std::string& cpu, const CpuLists& lists) {
  return {cpu,
          CountText(lists.refills),
          CountText(lists.refill_pages),
          PagesEach(lists.refill_pages, lists.refills),
          CountText(lists.drains),
          CountText(lists.drain_pages),
          PagesEach(lists.drain_pages, lists.drains),
          CountText(lists.refill_pages - lists.drain_pages)};
}

// The busiest CPUs, by number.
std::vector<std::pair<int, CpuLists>> BusiestCpus(const PerCpuLists& lists) {
  std::vector<std::pair<int, CpuLists>> cpus(lists.cpus.begin(), lists.cpus.end());
  std::ranges::stable_sort(cpus, std::greater<>(),
                           [](const auto& cpu) { return cpu.second.moved_pages(); });
  cpus.resize(std::min(cpus.size(), kRowsShown));
  std::ranges::sort(cpus, std::less<>(), &std::pair<int, CpuLists>::first);
  return cpus;
}

std::string ListsText(const PerCpuLists& lists, Facts& facts) {
  const CpuLists total = lists.total();
  if (total.moved_pages() == 0) return Line("No list was refilled or drained.");
  Table table({"CPU", "refills", "pages", "each", "drains", "pages", "each", "kept"});
  const auto cpus = BusiestCpus(lists);
  for (const auto& [cpu, counts] : cpus) table.Add(ListCells(std::to_string(cpu), counts));
  table.Add(ListCells("all", total));
  const auto busiest = std::ranges::max_element(
      cpus, std::less<>(), [](const auto& cpu) { return cpu.second.moved_pages(); });
  facts.Add("busiest CPU", ShareText(busiest->second.moved_pages(), total.moved_pages()),
            fmt::format("of the pages moved, on CPU {}; {} if all were even", busiest->first,
                        ShareText(1, static_cast<double>(lists.cpus.size()))));
  if (const auto displaced = lists.displaced_share()) {
    facts.Add("drained elsewhere", ShareText(*displaced, 1),
              "of the pages: 0% each CPU drains as it refills, 100% others drain");
  }
  return table.Text() +
         Line(
             "Each refill or drain takes zone->lock once: many pages each are good. Kept: "
             "refilled less drained.") +
         (cpus.size() == lists.cpus.size()
              ? ""
              : Line(fmt::format("These are the {} busiest of {} CPUs.", cpus.size(),
                                 lists.cpus.size())));
}

}  // namespace

std::string PagesText(const Report& report) {
  std::string text = Heading(2, "PAGES: blocks of 2^order pages, by the mobility asked for");
  if (!report.pages) return text + NotCounted("Pages", "needs the collector page");
  double failed = 0;
  double failed_quietly = 0;
  double failed_unknown = 0;
  for (const auto& [order, row] : report.pages->orders) {
    failed += CountIn(row.failures, "false");
    failed_quietly += CountIn(row.failures, "true");
    failed_unknown += CountIn(row.failures, "unknown");
  }
  text += PagesTable(*report.pages, failed_quietly, failed_unknown);
  if (failed + failed_quietly + failed_unknown == 0) return text + Line("No allocation failed.");
  if (failed > 0) text += Line("Failed: somebody did not get memory, and dmesg shows it.");
  if (failed_quietly > 0) {
    text += Line("Failed quietly: with __GFP_NOWARN, such as a huge page's, that may fail.");
  }
  if (failed_unknown > 0) {
    text += Line("Failed, either way: nothing here tells whether with __GFP_NOWARN.");
  }
  return text;
}

std::string ZoneLockText(const Report& report) {
  std::string text = Heading(3, "ZONE->LOCK: what takes it, and so makes CPUs wait for each other");
  if (!report.zone_lock) return text + NotCounted("zone->lock", "needs the collector page");
  const ZoneLock& lock = *report.zone_lock;
  const Pace pace(report.seconds);
  double allocations = 0;
  if (report.pages) {
    for (const auto& [order, row] : report.pages->orders) allocations += SumOf(row.allocations);
  }
  Facts facts;
  if (lock.refills) {
    facts.Add(
        "times taken", pace.Count(*lock.refills + *lock.drains + lock.direct()),
        fmt::format("{} refills and {} drains of per-CPU lists, {} blocks for callers",
                    CountText(*lock.refills), CountText(*lock.drains), CountText(lock.direct())));
  }
  facts.Add("blocks for per-CPU lists", pace.Count(lock.refill_blocks),
            "many each time: the cheap way");
  std::string mostly;
  if (!lock.direct_blocks.empty()) {
    const auto most = std::ranges::max_element(lock.direct_blocks, std::less<>(),
                                               [](const auto& order) { return order.second; });
    mostly = fmt::format(", {} of them of order {}", ShareText(most->second, lock.direct()),
                         most->first);
  }
  facts.Add("blocks for callers", pace.Count(lock.direct()),
            fmt::format("one each time: {} of all allocations{}",
                        ShareText(lock.direct(), allocations), mostly));
  facts.Add("freed one by one", pace.Count(lock.single_frees()),
            fmt::format("{} of the frees: if many, callers should batch",
                        ShareText(lock.single_frees(), lock.frees)));
  facts.Add("freed in batches", pace.Count(lock.batched_frees),
            "lists of pages at once: if many, memory is tight or processes end");
  text += facts.Text();
  if (!lock.refills) text += NotCounted("Times taken", "needs the collector pcp");
  return text;
}

std::string PerCpuText(const Report& report) {
  std::string text = Heading(4, "PER-CPU PAGE LISTS: batches, and the balance between CPUs");
  Facts facts;
  if (!report.per_cpu_lists) {
    text += NotCounted("Refills and drains", "needs the collector pcp");
  } else {
    text += ListsText(*report.per_cpu_lists, facts);
    for (const ListLimits& limits : report.per_cpu_lists->limits) {
      if (limits.high_pages == 0) continue;
      facts.Add(fmt::format("list of node {} {}", limits.numa_node, NameText(limits.mem_zone)),
                CountText(limits.high_pages),
                fmt::format("pages at most, {} a batch (vm.percpu_pagelist_high_fraction)",
                            CountText(limits.batch_pages)));
    }
  }
  if (report.cross_cpu) {
    const CrossCpu& frees = *report.cross_cpu;
    const double all = frees.same_cpu + frees.cross_cpu;
    facts.Add(
        "freed on another CPU", ShareText(frees.cross_cpu, all),
        fmt::format("of some {} pages whose allocation was seen too: their cache lines bounce",
                    CountText(all)));
    if (frees.cross_node) {
      facts.Add("freed on another node", ShareText(*frees.cross_node, all), "worse by far");
    }
  }
  text += facts.Text();
  if (!report.cross_cpu) {
    text += NotCounted("Pages freed on another CPU", "needs collectors.page.cross_cpu");
  }
  return text;
}

}  // namespace kmem
