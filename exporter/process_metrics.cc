#include "exporter/process_metrics.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "exporter/proc_files.h"

namespace kmem {
namespace {

using Type = FamilyBuilder::Type;

// Numbers of fields in /proc/PID/stat, from 1 (proc(5); do_task_stat(), fs/proc/array.c, 5.10 to
// 6.18). The third is the first one behind the command's name.
enum StatField : std::size_t {
  kState = 3,
  kUtime = 14,
  kStime = 15,
  kNumThreads = 20,
  kStartTime = 22,
  kVsize = 23,
  kRss = 24,
};

std::string ReadOwnProc(std::string_view path) {
  try {
    return ProcFiles("/proc").Read(path);
  } catch (const ProcError&) {
    return {};
  }
}

// The first word of `text`, which is taken off it; empty at the end.
std::string_view TakeWord(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

std::optional<double> ToNumber(std::string_view word) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return static_cast<double>(value);
}

// The number behind `label`, which begins a line.
std::optional<double> NumberAfter(std::string_view text, std::string_view label) {
  for (std::size_t at = text.find(label); at != std::string_view::npos;
       at = text.find(label, at + 1)) {
    if (at > 0 && text[at - 1] != '\n') continue;
    std::string_view rest = text.substr(at + label.size());
    const std::string_view word = TakeWord(rest);
    if (word == "unlimited") return 0x1p64;  // as the clients have it
    return ToNumber(word);
  }
  return std::nullopt;
}

// /proc/self/stat by field.
class Stat {
 public:
  Stat() {
    const std::string text = ReadOwnProc("self/stat");
    // The name may itself hold spaces and parentheses; it ends at the last one.
    const std::size_t name_end = text.rfind(')');
    if (name_end == std::string::npos) return;
    std::string_view rest = std::string_view(text).substr(name_end + 1);
    for (std::size_t field = kState; field < fields_.size(); ++field) {
      fields_[field] = ToNumber(TakeWord(rest));
    }
  }

  // In `unit`s; nothing where it isn't known.
  [[nodiscard]] std::optional<double> Get(StatField field, double unit = 1) const {
    if (!fields_[field]) return std::nullopt;
    return *fields_[field] * unit;
  }

 private:
  std::array<std::optional<double>, kRss + 1> fields_;
};

std::optional<double> Sum(std::optional<double> a, std::optional<double> b) {
  if (!a || !b) return std::nullopt;
  return *a + *b;
}

std::optional<double> OpenDescriptors() {
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc/self/fd", error);
  double count = 0;
  while (!error && entry != std::filesystem::directory_iterator()) {
    ++count;
    entry.increment(error);
  }
  if (error) return std::nullopt;
  return count - 1;  // less the one that the directory was read through
}

void Append(Families& out, Type type, std::string_view name, std::string_view help,
            std::optional<double> value) {
  if (value) FamilyBuilder(out, type, name, help).Add({}, *value);
}

}  // namespace

void AppendProcessMetrics(Families& out) {
  const Stat stat;
  const double tick_seconds = 1.0 / static_cast<double>(::sysconf(_SC_CLK_TCK));
  const auto page_bytes = static_cast<double>(::sysconf(_SC_PAGESIZE));
  Append(out, Type::Counter, "process_cpu_seconds_total",
         "User and system CPU time that the exporter has used. From /proc/self/stat.",
         Sum(stat.Get(kUtime, tick_seconds), stat.Get(kStime, tick_seconds)));
  Append(out, Type::Gauge, "process_open_fds",
         "File descriptors that the exporter has open. From /proc/self/fd.", OpenDescriptors());
  Append(
      out, Type::Gauge, "process_max_fds",
      "File descriptors that the exporter may have open, the soft limit. From /proc/self/limits.",
      NumberAfter(ReadOwnProc("self/limits"), "Max open files"));
  Append(out, Type::Gauge, "process_virtual_memory_bytes",
         "Virtual memory of the exporter. From /proc/self/stat.", stat.Get(kVsize));
  Append(out, Type::Gauge, "process_resident_memory_bytes",
         "Resident memory of the exporter. From /proc/self/stat.", stat.Get(kRss, page_bytes));
  Append(
      out, Type::Gauge, "process_start_time_seconds",
      "When the exporter was started, in seconds since 1970. From /proc/self/stat and /proc/stat.",
      Sum(NumberAfter(ReadOwnProc("stat"), "btime"), stat.Get(kStartTime, tick_seconds)));
  Append(out, Type::Gauge, "process_threads", "Threads of the exporter. From /proc/self/stat.",
         stat.Get(kNumThreads));
}

}  // namespace kmem
