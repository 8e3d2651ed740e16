#include "exporter/kernel_facts.h"

#include <unistd.h>

#include <charconv>

#include "collectors/proc_tables.h"

namespace kmem {

std::vector<std::string> CommonMigratetypes() {
  return {"unmovable", "movable", "reclaimable", "highatomic"};
}

std::vector<std::uint32_t> ParseOnlineCpus(std::string_view proc_stat) {
  // Lines "cpuN user nice ..."; the first line, "cpu ", is their sum.
  std::vector<std::uint32_t> cpus;
  std::size_t at = 0;
  while (at < proc_stat.size()) {
    const std::size_t end = std::min(proc_stat.find('\n', at), proc_stat.size());
    const std::string_view line = proc_stat.substr(at, end - at);
    if (!line.starts_with("cpu")) break;
    std::uint32_t cpu = 0;
    if (std::from_chars(line.data() + 3, line.data() + line.size(), cpu).ec == std::errc{}) {
      cpus.push_back(cpu);
    }
    at = end + 1;
  }
  return cpus;
}

KernelFacts ReadKernelFacts(const ProcReader& proc) {
  KernelFacts facts;
  facts.page_size = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  facts.migratetypes = CommonMigratetypes();
  try {
    const auto rows = ParseBuddyinfo(proc.Read("buddyinfo"));
    if (!rows.empty()) facts.order_count = static_cast<int>(rows.front().free_blocks.size());
  } catch (const ProcError&) {  // the default stands
  }
  try {
    const Pagetypeinfo info = ParsePagetypeinfo(proc.Read("pagetypeinfo"));
    facts.migratetypes = info.migratetypes;
    facts.pageblock_order = info.pageblock_order;
  } catch (const ProcError&) {  // the defaults stand
  }
  try {
    facts.online_cpus = ParseOnlineCpus(proc.Read("stat"));
  } catch (const ProcError&) {  // series of CPUs then begin with their first event
  }
  return facts;
}

}  // namespace kmem
