#include "exporter/flags.h"

#include <spdlog/fmt/fmt.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "exporter/text.h"

namespace kmem {
namespace {

// The flags that stand for a key of the file. Their help and their range are the key's.
struct KeyFlag {
  const char* name;
  const char* key;
};
constexpr auto kKeyFlags = std::to_array<KeyFlag>({
    {"--engine", "engine"},
    {"--web.listen-address", "web.listen_addresses"},  // repeatable, as the key is a list
    {"--web.telemetry-path", "web.telemetry_path"},
    {"--web.max-requests", "web.max_requests"},
    {"--log.level", "log.level"},
    {"--log.format", "log.format"},
    {"--path.procfs", "paths.procfs"},
    {"--path.tracefs", "paths.tracefs"},
    {"--overhead.budget-percent", "overhead.budget_percent"},
});
constexpr std::string_view kRepeatable = "--web.listen-address";

struct OwnFlag {
  const char* name;
  const char* value;  // what the help calls it; nullptr: the flag takes none
  const char* doc;
};
constexpr auto kOwnFlags = std::to_array<OwnFlag>({
    {"--config.file", "FILE",
     "YAML file to read; flags beat it. At most 1 MiB. Default: none, the defaults of all keys."},
    {"--config.check", nullptr, "Check the flags and the file of --config.file, and exit."},
    {"--replay", "FILE",
     "Read this trace.dat instead of the live kernel. The collectors of /proc are off unless "
     "--path.procfs is given. Default: none."},
    {"--replay.exit", nullptr,
     "With --replay: print the metrics to standard output at the end of the file, and exit."},
    {"--cleanup", nullptr,
     "Remove the tracefs instance that a killed exporter left, and exit: for uninstalling."},
    {"--duration", "SECONDS",
     "With report: how long to watch the live kernel, 1 to 86400. Default: 10."},
    {"--json", nullptr, "With report: print JSON, for programs."},
    {"--version", nullptr, "Show the version and exit."},
});
constexpr std::string_view kReportCommand = "report";
constexpr int kLongestReportSeconds = 86400;

// The names of the collectors: those of the keys collectors.NAME.enabled.
std::vector<std::string> CollectorNames() {
  constexpr std::string_view kBefore = "collectors.";
  constexpr std::string_view kBehind = ".enabled";
  std::vector<std::string> names;
  for (const ConfigKey& key : ConfigKeys()) {
    if (!key.name.starts_with(kBefore) || !key.name.ends_with(kBehind)) continue;
    const std::string name =
        key.name.substr(kBefore.size(), key.name.size() - kBefore.size() - kBehind.size());
    if (name.find('.') == std::string::npos) names.push_back(name);  // else a part of one
  }
  return names;
}

// One entry of the help: the flag, and its text broken into lines beside it.
std::string HelpEntry(const std::string& flag, const std::string& text) {
  constexpr std::size_t kIndent = 34;
  constexpr std::size_t kWidth = 100;
  std::string out = fmt::format("  {:<{}}", flag, kIndent - 2);
  std::size_t column = out.size();
  if (column > kIndent) {
    out += '\n' + std::string(kIndent, ' ');
    column = kIndent;
  }
  for (const std::string& word : CLI::detail::split(text, ' ')) {
    if (column > kIndent && column + 1 + word.size() > kWidth) {
      out += '\n' + std::string(kIndent, ' ');
      column = kIndent;
    } else if (column > kIndent) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out + '\n';
}

std::string Help() {
  const std::vector<ConfigKey> keys = ConfigKeys();
  const auto key_of = [&](std::string_view name) -> const ConfigKey& {
    return *std::ranges::find(keys, name, &ConfigKey::name);
  };
  std::string out =
      "usage: kmem_exporter [<flags>]\n"
      "       kmem_exporter report [<flags>]\n\n"
      "Exports the Linux kernel's kmem tracepoints as Prometheus metrics.\n"
      "report: watches the kernel for some seconds, or reads a recorded trace, and prints for\n"
      "people what it saw: who wastes, who leaks, what fragments.\n\n"
      "Flags:\n" +
      HelpEntry("-h, --help", "Show this help and exit.");
  for (const OwnFlag& flag : kOwnFlags) {
    const std::string value = flag.value == nullptr ? "" : fmt::format("={}", flag.value);
    out += HelpEntry(fmt::format("    {}{}", flag.name, value), flag.doc);
  }
  for (const KeyFlag& flag : kKeyFlags) {
    const ConfigKey& key = key_of(flag.key);
    const bool repeatable = flag.name == kRepeatable;
    out += HelpEntry(
        fmt::format("    {}={}{}", flag.name, key.default_value, repeatable ? " ..." : ""),
        fmt::format("{}: {}.{} Default: {}.", key.doc, key.allowed,
                    repeatable ? " Repeatable; replaces the file's list." : "", key.default_value));
  }
  for (const std::string& name : CollectorNames()) {
    const ConfigKey& key = key_of("collectors." + name + ".enabled");
    out += HelpEntry(
        "    --[no-]collector." + name,
        fmt::format("{}. Default: {}.", key.doc, key.default_value == "true" ? "on" : "off"));
  }
  return out;
}

[[noreturn]] void Refuse(std::string_view argument, std::string_view problem) {
  throw ConfigError(fmt::format("{}: {}; see --help", argument, problem));
}

// The command line as CLI11 reads it: which flags were given, with which values.
class Arguments {
 public:
  explicit Arguments(const std::vector<std::string>& arguments) {
    app_.set_help_flag();
    app_.allow_extras();  // refused below, in our words
    AddFlag("-h,--help");
    for (const OwnFlag& flag : kOwnFlags) {
      flag.value == nullptr ? AddFlag(flag.name) : AddOption(flag.name);
    }
    for (const KeyFlag& flag : kKeyFlags) AddOption(flag.name);
    for (const std::string& name : CollectorNames()) {
      AddFlag("--collector." + name);
      AddFlag("--no-collector." + name);
    }
    Parse(arguments);
  }

  [[nodiscard]] bool Has(const std::string& name) const {
    return app_.get_option(name)->count() > 0;
  }
  [[nodiscard]] std::vector<std::string> Values(const std::string& name) const {
    return app_.get_option(name)->results();
  }
  [[nodiscard]] std::string Value(const std::string& name) const {
    return Has(name) ? Values(name).front() : "";
  }

 private:
  void AddFlag(const std::string& name) { app_.add_flag(name)->disable_flag_override(); }

  void AddOption(const std::string& name) {
    auto* option = app_.add_option(name)->expected(1)->allow_extra_args(false);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);  // counted below
    options_.push_back(name);
  }

  [[nodiscard]] bool IsOption(const std::string& name) const {
    return std::ranges::find(options_, name) != options_.end();
  }

  void Parse(const std::vector<std::string>& arguments) {
    RefuseBadValues(arguments);
    try {
      app_.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::ParseError& error) {
      const std::string last = arguments.empty() ? "" : arguments.back();
      if (IsOption(last)) Refuse(last, "has no value");
      throw ConfigError(Escaped(error.what()) + "; see --help");
    }
    for (const std::string& name : options_) {
      const std::vector<std::string> values = Values(name);
      for (const std::string& value : values) {
        if (value.empty() || value.starts_with("--")) Refuse(name, "has no value");
      }
      if (values.size() > 1 && name != kRepeatable) Refuse(name, "is given twice");
    }
    if (Has("--help") || app_.remaining().empty()) return;
    const std::string extra = app_.remaining().front();
    if (extra.starts_with('-')) {
      Refuse(Escaped(extra.substr(0, extra.find('='))), "is an unknown flag");
    }
    Refuse(fmt::format("\"{}\"", Escaped(extra)), "is not a flag, and only flags are allowed");
  }

  // CLI11 would take the next flag for a value missing behind =, and =true for a plain flag.
  void RefuseBadValues(const std::vector<std::string>& arguments) const {
    for (const std::string& argument : arguments) {
      const std::size_t equals = argument.find('=');
      if (equals == std::string::npos || !argument.starts_with("--")) continue;
      const std::string name = argument.substr(0, equals);
      if (app_.get_option_no_throw(name) == nullptr) continue;  // unknown, refused later
      if (!IsOption(name)) Refuse(name, "takes no value");
      if (equals + 1 == argument.size()) Refuse(name, "has no value");
    }
  }

  CLI::App app_;
  std::vector<std::string> options_;
};

void RefuseContradictions(const Arguments& arguments, bool report) {
  for (const char* name : {"--duration", "--json"}) {
    if (!report && arguments.Has(name)) Refuse(name, "needs the command report");
  }
  for (const char* name : {"--config.check", "--cleanup", "--replay.exit"}) {
    if (report && arguments.Has(name)) Refuse(name, "cannot go with the command report");
  }
  for (const KeyFlag& flag : kKeyFlags) {
    const bool web = std::string_view(flag.name).starts_with("--web.");
    if (report && web && arguments.Has(flag.name)) {
      Refuse(flag.name, "cannot go with the command report");
    }
  }
  if (arguments.Has("--duration") && arguments.Has("--replay")) {
    Refuse("--duration", "cannot go with --replay");
  }
  const char* first = nullptr;
  for (const char* action : {"--config.check", "--cleanup", "--replay"}) {
    if (!arguments.Has(action)) continue;
    if (first != nullptr) Refuse(action, fmt::format("cannot go with {}", first));
    first = action;
  }
  if (arguments.Has("--replay.exit") && !arguments.Has("--replay")) {
    Refuse("--replay.exit", "needs --replay");
  }
  if (arguments.Has("--config.check") && !arguments.Has("--config.file")) {
    Refuse("--config.check", "needs --config.file");
  }
  for (const std::string& name : CollectorNames()) {
    if (arguments.Has("--collector." + name) && arguments.Has("--no-collector." + name)) {
      Refuse("--no-collector." + name, fmt::format("cannot go with --collector.{}", name));
    }
  }
}

int ReadDuration(const std::string& text) {
  int seconds = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, seconds);
  if (error == std::errc{} && rest == end && seconds >= 1 && seconds <= kLongestReportSeconds) {
    return seconds;
  }
  throw ConfigError(
      fmt::format("--duration: {} is out of range, allowed is a whole number from 1 to {}",
                  Quoted(text), kLongestReportSeconds));
}

Config ReadConfig(const Arguments& arguments, bool report) {
  Config config;
  if (report) config.log.level = LogLevel::kWarn;
  if (arguments.Has("--config.file")) ApplyYamlFile(arguments.Value("--config.file"), config);
  for (const KeyFlag& flag : kKeyFlags) {
    if (arguments.Has(flag.name)) {
      ApplyFlag(flag.name, flag.key, arguments.Values(flag.name), config);
    }
  }
  config.paths.procfs_given = arguments.Has("--path.procfs");
  for (const std::string& name : CollectorNames()) {
    const std::string key = "collectors." + name + ".enabled";
    if (arguments.Has("--collector." + name)) {
      ApplyFlag("--collector." + name, key, {"true"}, config);
    }
    if (arguments.Has("--no-collector." + name)) {
      ApplyFlag("--no-collector." + name, key, {"false"}, config);
    }
  }
  return config;
}

}  // namespace

std::variant<CommandLine, PrintAndExit> ParseCommandLine(const std::vector<std::string>& arguments,
                                                         const std::string& version) {
  const bool report = !arguments.empty() && arguments.front() == kReportCommand;
  const Arguments given(report ? std::vector<std::string>(arguments.begin() + 1, arguments.end())
                               : arguments);
  if (given.Has("--help")) return PrintAndExit{Help()};
  if (given.Has("--version")) {
    return PrintAndExit{version.ends_with('\n') ? version : version + '\n'};
  }
  RefuseContradictions(given, report);
  CommandLine result;
  if (given.Has("--config.check")) result.action = CommandLine::Action::kCheckConfig;
  if (given.Has("--cleanup")) result.action = CommandLine::Action::kCleanup;
  if (report) result.action = CommandLine::Action::kReport;
  result.config_file = given.Value("--config.file");
  result.replay_file = given.Value("--replay");
  result.replay_exit = given.Has("--replay.exit");
  result.report_json = given.Has("--json");
  if (given.Has("--duration")) result.report_seconds = ReadDuration(given.Value("--duration"));
  result.config = ReadConfig(given, report);
  return result;
}

}  // namespace kmem
