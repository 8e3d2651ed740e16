#include "exporter/config_keys.h"

#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>
#include <type_traits>
#include <utility>

#include "exporter/text.h"

namespace kmem {
namespace {

template <class Enum>
using Names = std::vector<std::pair<std::string_view, Enum>>;

Names<EngineChoice> NamesOf(const EngineChoice* /*tag*/) {
  return {{"auto", EngineChoice::kAuto},
          {"tracefs", EngineChoice::kTracefs},
          {"bpf", EngineChoice::kBpf}};
}
Names<OnTracingFailure> NamesOf(const OnTracingFailure* /*tag*/) {
  return {{"exit", OnTracingFailure::kExit}, {"retry", OnTracingFailure::kRetry}};
}
Names<LogLevel> NamesOf(const LogLevel* /*tag*/) {
  return {{"debug", LogLevel::kDebug},
          {"info", LogLevel::kInfo},
          {"warn", LogLevel::kWarn},
          {"error", LogLevel::kError}};
}
Names<LogFormat> NamesOf(const LogFormat* /*tag*/) {
  return {{"logfmt", LogFormat::kLogfmt}, {"json", LogFormat::kJson}};
}

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool HasOnly(std::string_view text, std::size_t max_size, bool (*ok)(char)) {
  return !text.empty() && text.size() <= max_size && std::all_of(text.begin(), text.end(), ok);
}

bool IsFunction(std::string_view text) {  // KSYM_NAME_LEN in include/linux/kallsyms.h, from 6.1
  return HasOnly(text, 512, [](char c) { return c > ' ' && c < '\x7f'; });
}

bool IsEvent(std::string_view text) {
  return HasOnly(text, 64, [](char c) { return (IsAlnum(c) && (c < 'A' || c > 'Z')) || c == '_'; });
}

bool IsInstance(std::string_view text) {
  return HasOnly(text, 64, [](char c) { return IsAlnum(c) || c == '_' || c == '-'; });
}

bool IsAddress(std::string_view text) {
  return HasOnly(text, 256, [](char c) { return c > ' ' && c < '\x7F'; });
}

bool IsAbsolutePath(std::string_view text) {
  return text.size() < 4096 && text.starts_with('/') && Escaped(text) == text;
}

bool IsPowerOfTwo(std::string_view text) {
  std::uint32_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return (number & (number - 1)) == 0;
}

// A path as the server's router compares it: what civetweb would normalise away never matches.
bool IsTelemetryPath(std::string_view text) {
  const auto ok = [](char c) {
    return IsAlnum(c) || c == '/' || c == '.' || c == '_' || c == '~' || c == '-';
  };
  if (!HasOnly(text, 256, ok) || text[0] != '/' || text.ends_with('/')) return false;
  const std::string segments = std::string(text) + '/';
  for (const char* bad : {"//", "/./", "/../"}) {
    if (segments.find(bad) != std::string::npos) return false;
  }
  return text != "/-/healthy" && text != "/-/ready";
}

constexpr std::string_view kPathWords =
    "an absolute path without quotes, backslashes and control characters";

// clang-format off
constexpr auto kRows = std::to_array<ConfigRow>({
    {"engine", [](Config& c) -> ConfigTarget { return &c.engine; }, {},
     "What counts the events: BPF programs in the kernel, or the ring buffers of tracefs; auto takes bpf where it loads"},
    {"on_tracing_failure", [](Config& c) -> ConfigTarget { return &c.on_tracing_failure; }, {},
     "What to do where tracing is impossible: end, or serve the /proc collectors and try again every minute"},
    {"extra_events", [](Config& c) -> ConfigTarget { return &c.extra_events; },
     {.max = 64, .ok = IsEvent, .words = "names of kmem tracepoints (1 to 64 characters of a-z 0-9 _)"},
     "Further kmem tracepoints of this kernel to count"},
    {"web.listen_addresses", [](Config& c) -> ConfigTarget { return &c.web.listen_addresses; },
     {.min = 1, .max = 64, .ok = IsAddress, .words = "addresses HOST:PORT or :PORT"},
     "Addresses to listen on"},
    {"web.telemetry_path", [](Config& c) -> ConfigTarget { return &c.web.telemetry_path; },
     {.ok = IsTelemetryPath,
      .words = "a path of 2 to 256 characters of A-Z a-z 0-9 / . _ ~ - that starts with / and does not end with it, has no segment that is empty, . or .., and is not /-/healthy or /-/ready"},
     "Path under which the metrics are served"},
    {"web.max_requests", [](Config& c) -> ConfigTarget { return &c.web.max_requests; }, {.min = 1, .max = 256},
     "Scrapes served in parallel; more get status 503"},
    {"web.per_cpu_detail", [](Config& c) -> ConfigTarget { return &c.web.per_cpu_detail; }, {},
     "Serve what was read and lost of each CPU one by one (kmem_exporter_cpu_*)"},
    {"web.disable_exporter_metrics", [](Config& c) -> ConfigTarget { return &c.web.disable_exporter_metrics; }, {},
     "Leave out the metrics about the exporter's process (process_*)"},
    {"log.level", [](Config& c) -> ConfigTarget { return &c.log.level; }, {},
     "Least severe level that is logged"},
    {"log.format", [](Config& c) -> ConfigTarget { return &c.log.format; }, {},
     "Form of the log's lines"},
    {"paths.procfs", [](Config& c) -> ConfigTarget { return &c.paths.procfs; },
     {.ok = IsAbsolutePath, .words = kPathWords}, "Mount point of procfs"},
    {"paths.tracefs", [](Config& c) -> ConfigTarget { return &c.paths.tracefs; },
     {.ok = IsAbsolutePath, .words = kPathWords}, "Mount point of tracefs"},
    {"tracefs.instance", [](Config& c) -> ConfigTarget { return &c.tracefs.instance; },
     {.ok = IsInstance, .words = "1 to 64 characters of A-Z a-z 0-9 _ -"},
     "Name of the exporter's own instance below tracefs"},
    {"tracefs.buffer_size_kb", [](Config& c) -> ConfigTarget { return &c.tracefs.buffer_size_kb; },
     {.min = 64, .max = 1048576}, "Ring buffer of each CPU, in KiB"},
    {"tracefs.buffer_total_max_kb", [](Config& c) -> ConfigTarget { return &c.tracefs.buffer_total_max_kb; },
     {.min = 256, .max = 16777216}, "Ring buffers of all CPUs together at most, in KiB; those of each CPU shrink to fit"},
    {"tracefs.subbuffer_size_kb", [](Config& c) -> ConfigTarget { return &c.tracefs.subbuffer_size_kb; },
     {.min = 4, .max = 1024, .ok = IsPowerOfTwo, .words = "a power of two"},
     "Sub-buffer of a ring buffer, in KiB; used by Linux 6.8 and later, which allows up to 128 of its pages"},
    {"tracefs.drain_interval_ms", [](Config& c) -> ConfigTarget { return &c.tracefs.drain_interval_ms; },
     {.min = 1, .max = 1000}, "Longest sleep between two drains of the ring buffers, in ms"},
    {"overhead.budget_percent", [](Config& c) -> ConfigTarget { return &c.overhead.budget_percent; },
     {.min = 0, .max = 100},
     "What tracing may cost, in percent of the CPU time of all CPUs together; beyond it collectors are sampled and their counters scaled; 0 is no limit: everything is exact"},
    {"overhead.event_cost_ns", [](Config& c) -> ConfigTarget { return &c.overhead.event_cost_ns; },
     {.min = 0, .max = 100000},
     "What a traced event costs the CPU on which it happens, in ns; 0 is to measure it at the start"},
    {"collectors.slab.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.slab; }, {},
     "Collector of slab allocations: who allocates, and what is wasted"},
    {"collectors.slab.callsites.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.callsites.enabled; }, {},
     "Count slab allocations by the function that asks for them"},
    {"collectors.slab.callsites.max_series", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.callsites.max_series; },
     {.min = 1, .max = 10000}, "Functions that have series of their own; the rest is in call_site=\"other\""},
    {"collectors.slab.caches.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.caches.enabled; }, {},
     "Count slab allocations by cache, where the kernel names it, and kmalloc by size class"},
    {"collectors.slab.caches.max_series", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.caches.max_series; },
     {.min = 1, .max = 10000}, "Caches that have series of their own; the rest is in cache=\"other\""},
    {"collectors.slab.live.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.live.enabled; }, {},
     "Pair slab allocations with their frees: what is alive, by function and age, and what is freed on another CPU"},
    {"collectors.slab.live.sample_one_in", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.live.sample_one_in; },
     {.min = 1, .max = 1024}, "Follow one object in so many, chosen by its pointer, and scale what is shown up"},
    {"collectors.slab.live.max_objects", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.live.max_objects; },
     {.min = 1024, .max = 16777216}, "Places in the table of live objects (`tracefs`: rounded up to a power of two, of which some nine tenths can be in use)"},
    {"collectors.slab.live.exclude_call_sites", [](Config& c) -> ConfigTarget { return &c.collectors.slab_options.live.exclude_call_sites; },
     {.max = 1024, .ok = IsFunction, .words = "names of kernel functions (1 to 512 printable characters)"},
     "Functions whose objects are not followed, because they are freed without an event"},
    {"collectors.page.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.page; }, {},
     "Collector of page allocations"},
    {"collectors.page.cross_cpu.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.page_options.cross_cpu.enabled; }, {},
     "Count pages freed on another CPU than allocated them"},
    {"collectors.page.cross_cpu.sample_one_in", [](Config& c) -> ConfigTarget { return &c.collectors.page_options.cross_cpu.sample_one_in; },
     {.min = 1, .max = 65536}, "Follow one page in so many; what is counted is multiplied by it"},
    {"collectors.page.cross_cpu.max_pages", [](Config& c) -> ConfigTarget { return &c.collectors.page_options.cross_cpu.max_pages; },
     {.min = 1024, .max = 4194304}, "Pages that can be followed at a time, at 8 bytes each, 32 with the engine tracefs"},
    {"collectors.pcp.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.pcp; }, {},
     "Collector of per-CPU page lists: refills, drains, zone->lock"},
    {"collectors.extfrag.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.extfrag; }, {},
     "Collector of external fragmentation events"},
    {"collectors.fragmentation.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.fragmentation; }, {},
     "Collector of free blocks by order; from /proc, without tracing"},
    {"collectors.compaction.enabled", [](Config& c) -> ConfigTarget { return &c.collectors.compaction; }, {},
     "Collector of memory compaction; from /proc, without tracing"},
});
// clang-format on

// Decimal digits, and others behind a point.
std::string SetNumber(std::string_view text, const ConfigRange& range, double& number) {
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number, std::chars_format::fixed);
  const bool digits = !text.empty() && text.find_first_not_of("0123456789.-") == text.npos;
  if (!digits || error == std::errc::invalid_argument || end != last) {
    return Quoted(text) + " is not a number";
  }
  if (error != std::errc{} || number < static_cast<double>(range.min) ||
      number > static_cast<double>(range.max)) {
    return Quoted(text) + " is out of range";
  }
  return {};
}

std::string SetNumber(std::string_view text, const ConfigRange& range, std::int64_t& number) {
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  const bool octal = text.size() > 1 && text[0] == '0';  // in YAML 1.1
  if (error == std::errc::invalid_argument || end != last || octal) {
    return Quoted(text) + " is not a whole number";
  }
  if (error != std::errc{} || number < range.min || number > range.max) {
    return Quoted(text) + " is out of range";
  }
  return {};
}

}  // namespace

std::span<const ConfigRow> ConfigRows() { return kRows; }

const ConfigRow* FindConfigRow(std::string_view key) {
  const auto* row = std::ranges::find(kRows, key, &ConfigRow::key);
  return row == kRows.end() ? nullptr : row;
}

std::string AllowedWords(const ConfigRow& row, const ConfigTarget& target) {
  const auto words = [&]<class T>(const T* value) -> std::string {
    const ConfigRange& range = row.range;
    if constexpr (std::is_same_v<T, bool>) {
      return "true or false";
    } else if constexpr (std::is_integral_v<T>) {
      const char* comma = range.words.empty() ? "" : ", ";
      return fmt::format("a whole number from {} to {}{}{}", range.min, range.max, comma,
                         range.words);
    } else if constexpr (std::is_same_v<T, double>) {
      return fmt::format("a number from {} to {}", range.min, range.max);
    } else if constexpr (std::is_enum_v<T>) {
      std::vector<std::string_view> names;
      for (const auto& name : NamesOf(value)) names.push_back(name.first);
      return fmt::format("{}", fmt::join(names, " or "));
    } else if constexpr (std::is_same_v<T, std::string>) {
      return std::string(range.words);
    } else {
      return fmt::format("a list of {} to {} different {}", range.min, range.max, range.words);
    }
  };
  return std::visit(words, target);
}

std::string ValueText(const ConfigTarget& target) {
  const auto text = []<class T>(const T* value) -> std::string {
    if constexpr (std::is_enum_v<T>) {
      for (const auto& [name, known] : NamesOf(value)) {
        if (known == *value) return std::string(name);
      }
      return {};
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      return fmt::format("{}", fmt::join(*value, ", "));
    } else {
      return fmt::format("{}", *value);
    }
  };
  return std::visit(text, target);
}

std::string SetValue(const ConfigRow& row, const ConfigTarget& target, std::string_view text) {
  const auto set = [&]<class T>(T* value) -> std::string {
    if constexpr (std::is_same_v<T, bool>) {
      if (text != "true" && text != "false") return Quoted(text) + " is neither true nor false";
      *value = text == "true";
      return {};
    } else if constexpr (std::is_enum_v<T>) {
      for (const auto& [name, known] : NamesOf(value)) {
        if (name != text) continue;
        *value = known;
        return {};
      }
      return Quoted(text) + " is unknown";
    } else if constexpr (std::is_same_v<T, double>) {
      return SetNumber(text, row.range, *value);
    } else {
      std::int64_t number = 0;
      if constexpr (std::is_integral_v<T>) {
        std::string problem = SetNumber(text, row.range, number);
        if (!problem.empty()) return problem;
      }
      if (row.range.ok != nullptr && !row.range.ok(text)) return Quoted(text) + " is not allowed";
      if constexpr (std::is_integral_v<T>) {
        *value = static_cast<T>(number);
      } else if constexpr (std::is_same_v<T, std::string>) {
        *value = text;
      } else {
        if (std::ranges::find(*value, text) != value->end()) return Quoted(text) + " stands twice";
        value->emplace_back(text);
      }
      return {};
    }
  };
  return std::visit(set, target);
}

std::string StartList(const ConfigRow& row, const ConfigTarget& target, std::size_t size) {
  const auto* list = std::get_if<std::vector<std::string>*>(&target);
  if (list == nullptr) return {};
  (*list)->clear();
  if (size < static_cast<std::size_t>(row.range.min)) return "has too few elements";
  if (size > static_cast<std::size_t>(row.range.max)) return "has too many elements";
  return {};
}

}  // namespace kmem
