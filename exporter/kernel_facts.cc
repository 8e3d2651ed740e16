#include "exporter/kernel_facts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "collectors/proc_tables.h"
#include "exporter/read_file.h"
#include "exporter/unique_fd.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxListBytes = 64 << 10;
constexpr std::uint32_t kMaxCpus = 65536;  // no kernel has more

// Takes a number off the text's beginning.
bool TakeNumber(std::string_view& text, std::uint32_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

}  // namespace

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

std::vector<std::uint32_t> ParseCpuList(std::string_view text) {
  std::vector<std::uint32_t> cpus;
  std::uint32_t first = 0;
  while (TakeNumber(text, first) && first < kMaxCpus) {
    std::uint32_t last = first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      if (!TakeNumber(text, last)) break;
    }
    for (std::uint32_t cpu = first; cpu <= std::min(last, kMaxCpus - 1); ++cpu) cpus.push_back(cpu);
    if (!text.starts_with(',')) break;
    text.remove_prefix(1);
  }
  return cpus;
}

std::vector<std::uint32_t> ReadCpuNodes(const std::string& directory) {
  std::vector<std::uint32_t> nodes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    std::string_view number = name;
    std::uint32_t node = 0;
    if (!number.starts_with("node")) continue;
    number.remove_prefix(4);
    if (!TakeNumber(number, node) || !number.empty()) continue;
    const UniqueFd file(open((entry.path() / "cpulist").c_str(), O_RDONLY | O_CLOEXEC));
    for (const std::uint32_t cpu : ParseCpuList(ReadAll(file, kMaxListBytes).value_or(""))) {
      if (cpu >= nodes.size()) nodes.resize(cpu + std::size_t{1}, KernelFacts::kNoNode);
      nodes[cpu] = node;
    }
  }
  return nodes;
}

KernelFacts ReadKernelFacts(const ProcReader& proc) {
  KernelFacts facts;
  facts.page_size = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  facts.migratetypes = CommonMigratetypes();
  // Unless it is known better: a huge page's, which a page of eight-byte entries maps
  // (pageblock_order in include/linux/pageblock-flags.h, 5.10 to 6.18): 9, 11 or 13.
  facts.pageblock_order = static_cast<int>(std::bit_width(facts.page_size / 8)) - 1;
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
