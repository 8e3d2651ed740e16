// The exporter's configuration: plain values, read once at start and constant from then on.
// Sources, in order: the defaults below, the YAML file, the flags.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/page.h"
#include "collectors/slab.h"

namespace kmem {

// A wrong flag, file or value. what() is the one line to print: what, where, what is allowed.
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class EngineChoice { kAuto, kTracefs, kBpf };
enum class OnTracingFailure { kExit, kRetry };
enum class LogLevel { kDebug, kInfo, kWarn, kError };
enum class LogFormat { kLogfmt, kJson };

struct WebConfig {
  std::vector<std::string> listen_addresses{":15636"};
  std::string telemetry_path = "/metrics";
  int max_requests = 40;  // parallel scrapes, 1 to 256
  bool per_cpu_detail = false;
  bool disable_exporter_metrics = false;  // process_* only
  bool operator==(const WebConfig&) const = default;
};

struct LogConfig {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kLogfmt;
  bool operator==(const LogConfig&) const = default;
};

struct PathsConfig {
  std::string procfs = "/proc";
  bool procfs_given = false;  // by --path.procfs: a replay then has its /proc collectors
  std::string tracefs = "/sys/kernel/tracing";
  bool operator==(const PathsConfig&) const = default;
};

struct TracefsConfig {
  std::string instance = "kmem_exporter";     // [A-Za-z0-9_-]{1,64}
  std::uint32_t buffer_size_kb = 1024;        // per CPU, 64 to 1048576
  std::uint32_t buffer_total_max_kb = 65536;  // all CPUs, 256 to 16777216
  std::uint32_t subbuffer_size_kb = 64;       // 4 to 1024, a power of two; kernels from 6.8
  std::uint32_t drain_interval_ms = 50;       // the longest sleep, 1 to 1000
  bool operator==(const TracefsConfig&) const = default;
};

struct OverheadConfig {
  double budget_percent = 1.0;      // of the machine's CPU time, 0 to 100; 0: no limit
  std::uint32_t event_cost_ns = 0;  // 0 to 100000; 0: measured at the start
  bool operator==(const OverheadConfig&) const = default;
};

// Which collectors run, by name, in the order of the metric contract.
struct CollectorsConfig {
  bool slab = true;
  SlabOptions slab_options;
  bool page = true;
  PageOptions page_options;
  bool pcp = true;
  bool extfrag = true;
  bool fragmentation = true;
  bool compaction = true;
  bool operator==(const CollectorsConfig&) const = default;
};

struct Config {
  EngineChoice engine = EngineChoice::kAuto;
  OnTracingFailure on_tracing_failure = OnTracingFailure::kExit;
  std::vector<std::string> extra_events;  // further kmem tracepoints to count, [a-z0-9_]{1,64}
  WebConfig web;
  LogConfig log;
  PathsConfig paths;
  TracefsConfig tracefs;
  OverheadConfig overhead;
  CollectorsConfig collectors;
  bool operator==(const Config&) const = default;
};

// Overlays the YAML text (at most 1 MiB) on `config`. `file` is the name used in errors, which read
// FILE:LINE:COLUMN: KEY: what is wrong, allowed is what is allowed; KEY is the dotted path, or
// `document` for what concerns the file as a whole; lines and columns (of bytes) count from 1.
// Throws ConfigError and leaves `config` as it was then.
void ApplyYaml(std::string_view text, std::string_view file, Config& config);

// Reads the file (a regular one of at most 1 MiB) and overlays it. Throws ConfigError.
void ApplyYamlFile(const std::string& path, Config& config);

// One key of the file, as the help text and the tests of the documentation want it.
struct ConfigKey {
  std::string name;           // dotted path
  std::string doc;            // one line without full stop; says the unit
  std::string allowed;        // the range, in words
  std::string default_value;  // a list's elements with commas between
};
std::vector<ConfigKey> ConfigKeys();

// Gives the key of this dotted path the value of a flag (a list: the values), by the file's ranges.
// Errors read FLAG: what is wrong, allowed is what is allowed. Throws ConfigError; std::logic_error
// for a key that does not exist.
void ApplyFlag(std::string_view flag, std::string_view key, const std::vector<std::string>& values,
               Config& config);

}  // namespace kmem
