#include "exporter/config.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <concepts>
#include <sstream>
#include <system_error>
#include <utility>
#include <variant>

#include "exporter/log.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxFileBytes = 1 << 20;
constexpr std::size_t kMaxDepth = 16;  // of nested maps and lists; the deepest key needs 4
// yaml-cpp gathers the brackets of a line before it reports the first one, at 240 bytes each. No
// comment or text has as many that stay open.
constexpr int kMaxOpenBrackets = 1000;

// ---- The keys. Adding one is adding its row to kRows, and its member to Config.

using Target = std::variant<bool*, int*, std::uint32_t*, std::string*, std::vector<std::string>*,
                            OnTracingFailure*, LogLevel*, LogFormat*>;

template <class Enum>
using Names = std::vector<std::pair<std::string_view, Enum>>;

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

// The range: of a number, or of a list's length. `ok` and `words` are the rule for a text, a list's
// element, or a number within its range, and that rule in words.
struct Range {
  std::int64_t min = 0;
  std::int64_t max = 0;
  bool (*ok)(std::string_view text) = nullptr;
  std::string_view words = {};
};

struct Row {
  std::string_view key;
  Target (*target)(Config& config);
  Range range;
  std::string_view doc;
};

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool HasOnly(std::string_view text, std::size_t max_size, bool (*ok)(char)) {
  return !text.empty() && text.size() <= max_size && std::all_of(text.begin(), text.end(), ok);
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
const Row kRows[] = {
    {"on_tracing_failure", [](Config& c) -> Target { return &c.on_tracing_failure; }, {},
     "What to do where tracing is impossible: end, or serve the /proc collectors and try again every minute"},
    {"extra_events", [](Config& c) -> Target { return &c.extra_events; },
     {.max = 64, .ok = IsEvent, .words = "names of kmem tracepoints (1 to 64 characters of a-z 0-9 _)"},
     "Further kmem tracepoints of this kernel to count"},
    {"web.listen_addresses", [](Config& c) -> Target { return &c.web.listen_addresses; },
     {.min = 1, .max = 64, .ok = IsAddress, .words = "addresses HOST:PORT or :PORT"},
     "Addresses to listen on"},
    {"web.telemetry_path", [](Config& c) -> Target { return &c.web.telemetry_path; },
     {.ok = IsTelemetryPath,
      .words = "a path of 2 to 256 characters of A-Z a-z 0-9 / . _ ~ - that starts with / and does not end with it, has no segment that is empty, . or .., and is not /-/healthy or /-/ready"},
     "Path under which the metrics are served"},
    {"web.max_requests", [](Config& c) -> Target { return &c.web.max_requests; }, {.min = 1, .max = 256},
     "Scrapes served in parallel; more get status 503"},
    {"web.per_cpu_detail", [](Config& c) -> Target { return &c.web.per_cpu_detail; }, {},
     "Serve what was read and lost of each CPU one by one (kmem_exporter_cpu_*)"},
    {"web.disable_exporter_metrics", [](Config& c) -> Target { return &c.web.disable_exporter_metrics; }, {},
     "Leave out the metrics about the exporter's process (process_*)"},
    {"log.level", [](Config& c) -> Target { return &c.log.level; }, {},
     "Least severe level that is logged"},
    {"log.format", [](Config& c) -> Target { return &c.log.format; }, {},
     "Form of the log's lines"},
    {"paths.procfs", [](Config& c) -> Target { return &c.paths.procfs; },
     {.ok = IsAbsolutePath, .words = kPathWords}, "Mount point of procfs"},
    {"paths.tracefs", [](Config& c) -> Target { return &c.paths.tracefs; },
     {.ok = IsAbsolutePath, .words = kPathWords}, "Mount point of tracefs"},
    {"tracefs.instance", [](Config& c) -> Target { return &c.tracefs.instance; },
     {.ok = IsInstance, .words = "1 to 64 characters of A-Z a-z 0-9 _ -"},
     "Name of the exporter's own instance below tracefs"},
    {"tracefs.buffer_size_kb", [](Config& c) -> Target { return &c.tracefs.buffer_size_kb; },
     {.min = 64, .max = 1048576}, "Ring buffer of each CPU, in KiB"},
    {"tracefs.buffer_total_max_kb", [](Config& c) -> Target { return &c.tracefs.buffer_total_max_kb; },
     {.min = 256, .max = 16777216}, "Ring buffers of all CPUs together at most, in KiB; those of each CPU shrink to fit"},
    {"tracefs.subbuffer_size_kb", [](Config& c) -> Target { return &c.tracefs.subbuffer_size_kb; },
     {.min = 4, .max = 1024, .ok = IsPowerOfTwo, .words = "a power of two"},
     "Sub-buffer of a ring buffer, in KiB; used by Linux 6.8 and later"},
    {"tracefs.drain_interval_ms", [](Config& c) -> Target { return &c.tracefs.drain_interval_ms; },
     {.min = 1, .max = 1000}, "Longest sleep between two drains of the ring buffers, in ms"},
    {"collectors.slab.enabled", [](Config& c) -> Target { return &c.collectors.slab; }, {},
     "Collector of slab allocations: who allocates, and what is wasted"},
    {"collectors.page.enabled", [](Config& c) -> Target { return &c.collectors.page; }, {},
     "Collector of page allocations"},
    {"collectors.pcp.enabled", [](Config& c) -> Target { return &c.collectors.pcp; }, {},
     "Collector of per-CPU page lists: refills, drains, zone->lock"},
    {"collectors.extfrag.enabled", [](Config& c) -> Target { return &c.collectors.extfrag; }, {},
     "Collector of external fragmentation events"},
    {"collectors.fragmentation.enabled", [](Config& c) -> Target { return &c.collectors.fragmentation; }, {},
     "Collector of free blocks by order; from /proc, without tracing"},
    {"collectors.compaction.enabled", [](Config& c) -> Target { return &c.collectors.compaction; }, {},
     "Collector of memory compaction; from /proc, without tracing"},
};
// clang-format on

const Row* FindRow(std::string_view key) {
  const auto* row = std::ranges::find(kRows, key, &Row::key);
  return row == std::end(kRows) ? nullptr : row;
}

// ---- Values: what a row allows, what it holds, and how it is set.

std::string AllowedWords(const Row& row, const Target& target) {
  const auto words = [&]<class T>(const T* value) -> std::string {
    const Range& range = row.range;
    if constexpr (std::is_same_v<T, bool>) {
      return "true or false";
    } else if constexpr (std::is_integral_v<T>) {
      const char* comma = range.words.empty() ? "" : ", ";
      return fmt::format("a whole number from {} to {}{}{}", range.min, range.max, comma,
                         range.words);
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

std::string ValueText(const Target& target) {
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

// Foreign text in an error: quoted, of a bearable length.
std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 64;
  std::size_t end = std::min(text.size(), kShown);
  while (end < text.size() && end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return fmt::format("\"{}{}\"", Escaped(text.substr(0, end)), end < text.size() ? "..." : "");
}

std::string SetNumber(std::string_view text, const Range& range, std::int64_t& number) {
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

// Sets the target, or gives a list one more element. Returns what is wrong, empty if nothing is.
std::string SetValue(const Target& target, std::string_view text, const Range& range) {
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
    } else {
      std::int64_t number = 0;
      if constexpr (std::is_integral_v<T>) {
        std::string problem = SetNumber(text, range, number);
        if (!problem.empty()) return problem;
      }
      if (range.ok != nullptr && !range.ok(text)) return Quoted(text) + " is not allowed";
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

std::string ListSizeProblem(std::size_t size, const Range& range) {
  if (size < static_cast<std::size_t>(range.min)) return "has too few elements";
  if (size > static_cast<std::size_t>(range.max)) return "has too many elements";
  return {};
}

// ---- YAML to a tree of our own. yaml-cpp's parser reports events; its Node is not used: it
// accepts duplicate keys, expands aliases and recurses without a bound of ours.

struct Place {
  int line = 1;
  int column = 1;
};

struct Node {
  enum class Kind { kNull, kText, kList, kMap };
  Kind kind = Kind::kNull;
  Place place;  // of a null: where the next token stands
  std::string text;
  bool quoted = false;
  std::vector<Node> items;  // a list's elements; a map's keys and values in turn
};

class TreeReader : public YAML::EventHandler {
 public:
  // Both must outlive the reader. A byte order mark is not part of `text`.
  TreeReader(std::string_view text, std::string_view file) : text_(text), file_(file) {}

  Node Read() {
    CheckCharacters();
    std::istringstream stream{std::string(text_)};
    try {
      YAML::Parser parser(stream);
      while (parser.HandleNextDocument(*this)) {
      }
    } catch (const YAML::Exception& error) {
      if (At(error.mark) == '*') OnAlias(error.mark, 0);  // of an anchor that does not exist
      Refuse(error.mark, fmt::format("is not valid YAML ({})", Escaped(error.msg)),
             "a YAML map of keys and values");
    }
    return std::move(root_);
  }

  [[noreturn]] void Fail(Place place, std::string_view key, std::string_view problem,
                         std::string_view allowed) const {
    throw ConfigError(fmt::format("{}:{}:{}: {}: {}, allowed is {}", Escaped(file_), place.line,
                                  place.column, key, problem, allowed));
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) Refuse(mark, "has a second document", "one document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(mark, anchor, {}, Node::Kind::kNull);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    Refuse(mark, "is an alias", "the value itself");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node& node = Add(mark, anchor, tag, Node::Kind::kText);
    node.text = value;
    node.quoted = tag == "!";
    if (!QuoteEnds(mark)) Refuse(mark, "has no closing quote", "a complete text");
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    Open(mark, Add(mark, anchor, tag, Node::Kind::kList));
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    Open(mark, Add(mark, anchor, tag, Node::Kind::kMap));
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  static Place PlaceOf(const YAML::Mark& mark) {
    return {std::max(mark.line, 0) + 1, std::max(mark.column, 0) + 1};
  }

  // The byte at the mark; yaml-cpp counts in bytes.
  [[nodiscard]] char At(const YAML::Mark& mark) const {
    const auto at = static_cast<std::size_t>(mark.pos);
    return mark.pos >= 0 && at < text_.size() ? text_[at] : '\0';
  }

  // The dotted path of what is being read.
  [[nodiscard]] std::string Path() const {
    std::string path;
    for (const Node* node : open_) {
      if (node->items.empty()) break;
      if (node->kind == Node::Kind::kList) {
        path += fmt::format("[{}]", node->items.size() - 1);
      } else {
        // The key, whether its value has come or not.
        const std::string& key = node->items[(node->items.size() - 1) / 2 * 2].text;
        path += (path.empty() ? "" : ".") + Escaped(std::string_view(key).substr(0, 64));
      }
    }
    return path.empty() ? "document" : path;
  }

  [[noreturn]] void Refuse(const YAML::Mark& mark, std::string_view problem,
                           std::string_view allowed) const {
    Fail(PlaceOf(mark), Path(), problem, allowed);
  }

  Node& Add(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& tag,
            Node::Kind kind) {
    Node* node = &root_;
    if (!open_.empty()) node = &open_.back()->items.emplace_back();
    node->kind = kind;
    node->place = PlaceOf(mark);
    // A null comes without its tag, and "!" is also the tag of quoted text: the byte decides.
    const char at = At(mark);
    if (anchor != 0 || at == '&') Refuse(mark, "has an anchor", "a value without one");
    const bool tagged = at == '!' || !(tag.empty() || tag == "?" || tag == "!");
    if (tagged) Refuse(mark, "has a tag", "a value without one");
    return *node;
  }

  // `open_` may point into vectors: a vector only grows while none of its elements is open.
  void Open(const YAML::Mark& mark, Node& node) {
    if (open_.size() == kMaxDepth) RefuseDepth(PlaceOf(mark));
    open_.push_back(&node);
  }

  [[noreturn]] void RefuseDepth(Place place) const {
    Fail(place, "document", "is nested too deep", fmt::format("a depth of {}", kMaxDepth));
  }

  // yaml-cpp 0.7 takes the end of the file for the end of a quoted text.
  [[nodiscard]] bool QuoteEnds(const YAML::Mark& mark) const {
    const char quote = At(mark);
    if (quote != '"' && quote != '\'') return true;
    for (std::size_t at = static_cast<std::size_t>(mark.pos) + 1; at < text_.size(); ++at) {
      if (quote == '"' && text_[at] == '\\') {
        ++at;
      } else if (text_[at] == quote) {
        if (quote == '"' || at + 1 == text_.size() || text_[at + 1] != quote) return true;
        ++at;
      }
    }
    return false;
  }

  // yaml-cpp guesses at encodings, takes byte 4 for the end, and reads on past bad UTF-8.
  void CheckCharacters() const {
    Place place;
    int brackets = 0;
    for (std::size_t at = 0; at < text_.size();) {
      const std::size_t length = Utf8Length(text_.substr(at));
      if (length == 0) Fail(place, "document", "is not UTF-8", "UTF-8");
      const char c = text_[at];
      const bool end_of_line = c == '\n' || text_.substr(at, 2) == "\r\n";
      if (!end_of_line && c != '\t' && ((c >= 0 && c < ' ') || c == '\x7F')) {
        Fail(place, "document", "has a control character", "text, tabs and line ends");
      }
      if (c == '[' || c == '{') ++brackets;
      if (c == ']' || c == '}') --brackets;
      if (brackets > kMaxOpenBrackets) RefuseDepth(place);
      at += length;
      place = c == '\n' ? Place{place.line + 1, 1}
                        : Place{place.line, place.column + static_cast<int>(length)};
    }
  }

  std::string_view text_;
  std::string_view file_;
  int documents_ = 0;
  Node root_;
  std::vector<Node*> open_;  // from the root to the list or map being read
};

// ---- The tree to values.

class Applier {
 public:
  Applier(const TreeReader& reader, Config& config) : reader_(reader), config_(config) {}

  // `prefix` is the path of the map with a dot behind it; empty at the top.
  void ApplyMap(const Node& map, const std::string& prefix) {
    for (std::size_t at = 0; at + 1 < map.items.size(); at += 2) {
      const Node& name = map.items[at];
      const std::string key = prefix + Escaped(std::string_view(name.text).substr(0, 64));
      if (name.kind != Node::Kind::kText) {
        reader_.Fail(name.place, prefix.empty() ? "document" : prefix.substr(0, prefix.size() - 1),
                     "has a key that is not text", KeysBelow(prefix));
      }
      for (std::size_t before = 0; before < at; before += 2) {
        if (map.items[before].text != name.text) continue;
        reader_.Fail(name.place, key,
                     fmt::format("stands twice (first in line {})", map.items[before].place.line),
                     "each key once");
      }
      if (name.text.find('.') != std::string::npos) {
        reader_.Fail(name.place, key, "is written with a dot", "a map within a map");
      }
      ApplyKey(name, map.items[at + 1], key);
    }
  }

 private:
  void ApplyKey(const Node& name, const Node& value, const std::string& key) {
    if (const Row* row = FindRow(key)) {
      SetRow(*row, name, value);
    } else if (const std::string keys = KeysBelow(key + '.'); keys.empty()) {
      const std::size_t dot = key.rfind('.');
      reader_.Fail(name.place, key, "is an unknown key",
                   KeysBelow(dot == std::string::npos ? "" : key.substr(0, dot + 1)));
    } else if (value.kind == Node::Kind::kText || value.kind == Node::Kind::kList) {
      reader_.Fail(value.place, key, "is not a map", "a map of " + keys);
    } else {
      ApplyMap(value, key + '.');  // one without keys, its lines commented out, is fine
    }
  }

  // The names of the keys of that map.
  static std::string KeysBelow(std::string_view prefix) {
    std::vector<std::string_view> names;
    for (const Row& row : kRows) {
      if (!row.key.starts_with(prefix)) continue;
      const std::string_view rest = row.key.substr(prefix.size());
      const std::string_view name = rest.substr(0, rest.find('.'));
      if (names.empty() || names.back() != name) names.push_back(name);
    }
    return fmt::format("{}", fmt::join(names, ", "));
  }

  void SetRow(const Row& row, const Node& name, const Node& value) {
    const Target target = row.target(config_);
    const std::string key(row.key);
    const auto* list = std::get_if<std::vector<std::string>*>(&target);
    if (list == nullptr || value.kind == Node::Kind::kNull) {
      SetScalar(row, target, value, value.kind == Node::Kind::kNull ? name.place : value.place,
                key);
      return;
    }
    if (value.kind != Node::Kind::kList) {
      reader_.Fail(value.place, key, "is not a list", AllowedWords(row, target));
    }
    (*list)->clear();
    const std::string problem = ListSizeProblem(value.items.size(), row.range);
    if (!problem.empty()) reader_.Fail(value.place, key, problem, AllowedWords(row, target));
    for (std::size_t at = 0; at < value.items.size(); ++at) {
      SetScalar(row, target, value.items[at], value.items[at].place,
                fmt::format("{}[{}]", key, at));
    }
  }

  void SetScalar(const Row& row, const Target& target, const Node& node, Place place,
                 const std::string& key) const {
    std::string problem = KindProblem(target, node);
    if (problem.empty()) problem = SetValue(target, node.text, row.range);
    if (!problem.empty()) reader_.Fail(place, key, problem, AllowedWords(row, target));
  }

  static std::string KindProblem(const Target& target, const Node& node) {
    if (node.kind == Node::Kind::kNull) return "has no value";
    if (node.kind == Node::Kind::kList) return "is a list";
    if (node.kind == Node::Kind::kMap) return "is a map";
    const auto is = [&]<class... T>(std::variant<T...>* /*tag*/) {
      return (std::holds_alternative<T>(target) || ...);
    };
    const bool is_text =
        is(static_cast<std::variant<std::string*, std::vector<std::string>*>*>(nullptr));
    const bool is_plain = is(static_cast<std::variant<bool*, int*, std::uint32_t*>*>(nullptr));
    if (is_plain && node.quoted) return Quoted(node.text) + " is quoted, which makes it text";
    if (is_text && !node.quoted && LooksTyped(node.text)) {
      return Quoted(node.text) + " is not text without quotes";
    }
    return {};
  }

  // Plain words that YAML takes for a truth value or a number.
  static bool LooksTyped(std::string_view text) {
    for (const char* word : {"true", "True", "TRUE", "false", "False", "FALSE"}) {
      if (text == word) return true;
    }
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    const bool radix = text.starts_with("0x") || text.starts_with("0o");
    if (radix) return text.find_first_not_of("0123456789abcdefABCDEF", 2) == std::string_view::npos;
    double number = 0;
    const char* last = text.data() + text.size();
    return !text.empty() && (text[0] == '.' || (text[0] >= '0' && text[0] <= '9')) &&
           std::from_chars(text.data(), last, number).ptr == last;
  }

  const TreeReader& reader_;
  Config& config_;
};

struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd;
};

std::string ReadFile(const std::string& path) {
  const auto fail = [&](const std::string& problem) {
    throw ConfigError(fmt::format("{}: {}, allowed is a regular file of at most {} bytes",
                                  Escaped(path), problem, kMaxFileBytes));
  };
  const auto reason = [] { return std::generic_category().message(errno); };
  // Without O_NONBLOCK a FIFO would hold the start for ever, as would some files of /proc.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0) fail("cannot be opened (" + reason() + ")");
  if (!S_ISREG(status.st_mode)) {
    fail(S_ISDIR(status.st_mode) ? "is a directory" : "is not a regular file");
  }
  std::string text(kMaxFileBytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(file.fd, text.data() + size, text.size() - size);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot be read (" + reason() + ")");
    size += static_cast<std::size_t>(got);
  }
  if (size > kMaxFileBytes) fail("is too large");
  text.resize(size);
  return text;
}

}  // namespace

void ApplyYaml(std::string_view text, std::string_view file, Config& config) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  TreeReader reader(text, file);
  if (text.size() > kMaxFileBytes) {
    reader.Fail({}, "document", "is too large", fmt::format("at most {} bytes", kMaxFileBytes));
  }
  const Node root = reader.Read();
  if (root.kind == Node::Kind::kText || root.kind == Node::Kind::kList) {
    reader.Fail(root.place, "document", "is not a map", "a YAML map of keys and values");
  }
  Config result = config;
  Applier(reader, result).ApplyMap(root, "");
  config = std::move(result);
}

void ApplyYamlFile(const std::string& path, Config& config) {
  ApplyYaml(ReadFile(path), path, config);
}

std::vector<ConfigKey> ConfigKeys() {
  Config defaults;
  std::vector<ConfigKey> keys;
  for (const Row& row : kRows) {
    const Target target = row.target(defaults);
    keys.push_back(
        {std::string(row.key), std::string(row.doc), AllowedWords(row, target), ValueText(target)});
  }
  return keys;
}

void ApplyFlag(std::string_view flag, std::string_view key, const std::vector<std::string>& values,
               Config& config) {
  const Row* row = FindRow(key);
  if (row == nullptr) throw std::logic_error(fmt::format("no key {}", key));
  const Target target = row->target(config);
  std::string problem;
  if (const auto* list = std::get_if<std::vector<std::string>*>(&target)) {
    (*list)->clear();
    problem = ListSizeProblem(values.size(), row->range);
  }
  for (const std::string& value : values) {
    if (problem.empty()) problem = SetValue(target, value, row->range);
  }
  if (problem.empty()) return;
  throw ConfigError(
      fmt::format("{}: {}, allowed is {}", flag, problem, AllowedWords(*row, target)));
}

}  // namespace kmem
