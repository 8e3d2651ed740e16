// The names of the kernel's functions, from /proc/kallsyms: addresses stand there for those with
// CAP_SYSLOG and kptr_restrict 0 or 1, and zeros for everybody else (kernel/kallsyms.c,
// kallsyms_show_value()). Read once, and again when /proc/modules has changed, or kptr_restrict
// while they are hidden. Once they are hidden, those of the kernel itself stay. Some MiB of memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectors/collector.h"
#include "exporter/collector_list.h"

namespace kmem {

class KernelSymbols : public Symbols {
 public:
  // Reads them. `proc` must outlive this. What can't be read leaves it unavailable.
  explicit KernelSymbols(const ProcReader& proc);

  [[nodiscard]] bool available() const override;
  std::uint64_t Refresh() override;
  [[nodiscard]] std::optional<Symbol> Find(std::uint64_t return_address) const override;
  // Why it is not available, and what to do.
  [[nodiscard]] std::string problem() const;

 private:
  // One function: 16 bytes, for a kernel has some hundred thousand.
  struct Entry {
    std::uint64_t address;
    std::uint32_t name;    // offset in names_
    std::uint32_t module;  // index in modules_
  };
  static constexpr std::uint32_t kKernelItself = 0;  // among the modules
  void Read();
  void Parse(std::string_view kallsyms);

  const ProcReader& proc_;
  mutable std::mutex mutex_;    // of all below
  std::vector<Entry> entries_;  // by address
  std::string names_;           // each ends with a NUL
  std::vector<std::string> modules_;
  std::size_t seen_hash_ = 0;  // of what tells that they are to be read again; 0: not yet
  std::uint64_t version_ = 1;
  std::string problem_;
};

// Names that are known beforehand, of a recorded trace's addresses.
class SymbolList : public Symbols {
 public:
  explicit SymbolList(std::map<std::uint64_t, Symbol> symbols) : symbols_(std::move(symbols)) {}

  [[nodiscard]] bool available() const override { return !symbols_.empty(); }
  std::uint64_t Refresh() override { return 1; }
  [[nodiscard]] std::optional<Symbol> Find(std::uint64_t return_address) const override {
    const auto found = symbols_.find(return_address);
    return found == symbols_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  const std::map<std::uint64_t, Symbol> symbols_;
};

// The live kernel's names, if one of the collectors has a use for them. If they can't be had the
// log says why. `proc` must outlive them.
std::shared_ptr<Symbols> ReadSymbols(const TraceCollectors& collectors, const ProcReader& proc);

}  // namespace kmem
