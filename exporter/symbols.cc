#include "exporter/symbols.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <utility>

namespace kmem {
namespace {

std::string_view TakeUntil(std::string_view& text, char end) {
  const std::size_t at = std::min(text.find(end), text.size());
  const std::string_view taken = text.substr(0, at);
  text.remove_prefix(std::min(at + 1, text.size()));
  return taken;
}

// Of a line of /proc/modules, "name size users dependants state address", and behind it what the
// module taints the kernel with, if it does. Users and dependants come and go.
std::string NameAndAddress(std::string_view line) {
  std::string kept(TakeUntil(line, ' '));
  for (int word = 1; word < 5; ++word) TakeUntil(line, ' ');
  return kept.append(" ").append(TakeUntil(line, ' '));
}

}  // namespace

KernelSymbols::KernelSymbols(const ProcReader& proc) : proc_(proc) { KernelSymbols::Refresh(); }

bool KernelSymbols::available() const {
  const std::scoped_lock lock(mutex_);
  return !entries_.empty();
}

std::string KernelSymbols::problem() const {
  const std::scoped_lock lock(mutex_);
  return problem_;
}

std::uint64_t KernelSymbols::Refresh() {
  const std::scoped_lock lock(mutex_);
  std::string modules;
  try {
    modules = proc_.Read("modules");
  } catch (const ProcError&) {  // a kernel without modules
  }
  std::string names;
  for (std::string_view rest = modules; !rest.empty();) {
    names += NameAndAddress(TakeUntil(rest, '\n'));
    names += '\n';
  }
  // For each reading of it the kernel allocates as much as is asked for: only while it matters.
  if (!problem_.empty()) {
    try {
      names += proc_.Read("sys/kernel/kptr_restrict");
    } catch (const ProcError&) {  // as it was
    }
  }
  const std::size_t hash = std::hash<std::string>()(names) | 1;
  const bool first = seen_hash_ == 0;
  if (hash == std::exchange(seen_hash_, hash)) return version_;
  const bool were_hidden = !problem_.empty();
  Read();
  if (!first && problem_.empty() && were_hidden)
    spdlog::info("the kernel's functions have names now");
  if (!first && !problem_.empty() && !were_hidden) {
    spdlog::warn("functions of modules have no names from now on: {}", problem_);
  }
  return version_;
}

void KernelSymbols::Read() {
  ++version_;
  problem_.clear();
  // Those of the kernel itself do not move while it runs.
  std::erase_if(entries_, [](const Entry& entry) { return entry.module != kKernelItself; });
  try {
    Parse(proc_.Read("kallsyms"));
  } catch (const ProcError& error) {
    problem_ = error.what();
  }
}

// Lines "ffffffff81000000 T _stext", of a module "ffffffffc0000000 t name\t[module]". Of one
// address the first name stands. An arm64 module also has mapping symbols, "$x" where code begins
// (is_mapping_symbol() in include/linux/module_symbol.h).
void KernelSymbols::Parse(std::string_view kallsyms) {
  std::vector<Entry> entries;
  std::string names;
  std::vector<std::string> modules(1, "kernel");
  std::uint32_t module = kKernelItself;
  while (!kallsyms.empty()) {
    std::string_view line = TakeUntil(kallsyms, '\n');
    const std::string_view address_text = TakeUntil(line, ' ');
    const std::string_view kind = TakeUntil(line, ' ');
    if (kind.size() != 1 || std::string_view("tTwW").find(kind[0]) == std::string_view::npos) {
      continue;
    }
    std::uint64_t address = 0;
    const char* end = address_text.data() + address_text.size();
    if (std::from_chars(address_text.data(), end, address, 16).ptr != end || address == 0) continue;
    const std::string_view name = TakeUntil(line, '\t');
    if (name.starts_with('$')) continue;
    if (line.size() > 2 && line.front() == '[' && line.back() == ']') {
      const std::string_view module_name = line.substr(1, line.size() - 2);
      if (modules[module] != module_name) {
        const auto known = std::ranges::find(modules, module_name);
        module = static_cast<std::uint32_t>(known - modules.begin());
        if (known == modules.end()) modules.emplace_back(module_name);
      }
    } else {
      module = kKernelItself;
    }
    entries.push_back({address, static_cast<std::uint32_t>(names.size()), module});
    names += name;
    names += '\0';
  }
  if (entries.empty()) {
    problem_ =
        "the kernel hides the addresses in /proc/kallsyms; they need CAP_SYSLOG and "
        "kernel.kptr_restrict 0 or 1";
    return;
  }
  std::ranges::stable_sort(entries, {}, &Entry::address);
  entries.shrink_to_fit();
  names.shrink_to_fit();
  entries_ = std::move(entries);
  names_ = std::move(names);
  modules_ = std::move(modules);
}

std::optional<Symbol> KernelSymbols::Find(std::uint64_t return_address) const {
  const std::scoped_lock lock(mutex_);
  // The call stands before it, and may be the function's last instruction.
  const std::uint64_t address = return_address - 1;
  auto entry = std::ranges::upper_bound(entries_, address, {}, &Entry::address);
  if (entry == entries_.begin()) return std::nullopt;
  --entry;
  if (address - entry->address > kLongestFunction) return std::nullopt;
  entry = std::ranges::lower_bound(entries_, entry->address, {}, &Entry::address);
  return Symbol{names_.c_str() + entry->name, modules_[entry->module]};
}

std::shared_ptr<Symbols> ReadSymbols(const TraceCollectors& collectors, const ProcReader& proc) {
  const bool wanted = std::ranges::any_of(
      collectors, [](const auto& collector) { return collector->wants_symbols(); });
  if (!wanted) return nullptr;
  auto symbols = std::make_shared<KernelSymbols>(proc);
  if (!symbols->available()) {
    spdlog::warn("call sites have no names, so all are in call_site=\"other\": {}",
                 symbols->problem());
  }
  return symbols;
}

}  // namespace kmem
