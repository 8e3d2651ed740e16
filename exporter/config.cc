#include "exporter/config.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/fmt/ranges.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "exporter/config_keys.h"
#include "exporter/read_file.h"
#include "exporter/text.h"
#include "exporter/unique_fd.h"
#include "exporter/yaml_tree.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxFileBytes = 1 << 20;

// Sets the values of a tree's keys, by the rows of config_keys.h.
class Applier {
 public:
  // Both must outlive the applier. `file` is the name used in errors.
  Applier(std::string_view file, Config& config) : file_(file), config_(config) {}

  // `prefix` is the path of the map with a dot behind it; empty at the top.
  void ApplyMap(const YamlNode& map, const std::string& prefix) {
    for (std::size_t at = 0; at + 1 < map.items.size(); at += 2) {
      const YamlNode& name = map.items[at];
      const std::string key = prefix + ShownKey(name.text);
      if (name.kind != YamlNode::Kind::kText) {
        RefuseYaml(file_, name.place,
                   prefix.empty() ? "document" : prefix.substr(0, prefix.size() - 1),
                   "has a key that is not text", KeysBelow(prefix));
      }
      for (std::size_t before = 0; before < at; before += 2) {
        if (map.items[before].text != name.text) continue;
        RefuseYaml(file_, name.place, key,
                   fmt::format("stands twice (first in line {})", map.items[before].place.line),
                   "each key once");
      }
      if (name.text.find('.') != std::string::npos) {
        RefuseYaml(file_, name.place, key, "is written with a dot", "a map within a map");
      }
      ApplyKey(name, map.items[at + 1], key);
    }
  }

 private:
  void ApplyKey(const YamlNode& name, const YamlNode& value, const std::string& key) {
    if (const ConfigRow* row = FindConfigRow(key)) {
      SetRow(*row, name, value);
    } else if (const std::string keys = KeysBelow(key + '.'); keys.empty()) {
      const std::size_t dot = key.rfind('.');
      RefuseYaml(file_, name.place, key, "is an unknown key",
                 KeysBelow(dot == std::string::npos ? "" : key.substr(0, dot + 1)));
    } else if (value.kind == YamlNode::Kind::kText || value.kind == YamlNode::Kind::kList) {
      RefuseYaml(file_, value.place, key, "is not a map", "a map of " + keys);
    } else {
      ApplyMap(value, key + '.');  // one without keys, its lines commented out, is fine
    }
  }

  // The names of the keys of that map.
  static std::string KeysBelow(std::string_view prefix) {
    std::vector<std::string_view> names;
    for (const ConfigRow& row : ConfigRows()) {
      if (!row.key.starts_with(prefix)) continue;
      const std::string_view rest = row.key.substr(prefix.size());
      const std::string_view name = rest.substr(0, rest.find('.'));
      if (names.empty() || names.back() != name) names.push_back(name);
    }
    return fmt::format("{}", fmt::join(names, ", "));
  }

  void SetRow(const ConfigRow& row, const YamlNode& name, const YamlNode& value) {
    const ConfigTarget target = row.target(config_);
    const std::string key(row.key);
    const bool is_list = std::holds_alternative<std::vector<std::string>*>(target);
    if (!is_list || value.kind == YamlNode::Kind::kNull) {
      SetScalar(row, target, value, value.kind == YamlNode::Kind::kNull ? name.place : value.place,
                key);
      return;
    }
    if (value.kind != YamlNode::Kind::kList) {
      RefuseYaml(file_, value.place, key, "is not a list", AllowedWords(row, target));
    }
    const std::string problem = StartList(row, target, value.items.size());
    if (!problem.empty()) RefuseYaml(file_, value.place, key, problem, AllowedWords(row, target));
    for (std::size_t at = 0; at < value.items.size(); ++at) {
      SetScalar(row, target, value.items[at], value.items[at].place,
                fmt::format("{}[{}]", key, at));
    }
  }

  void SetScalar(const ConfigRow& row, const ConfigTarget& target, const YamlNode& node,
                 YamlPlace place, const std::string& key) const {
    std::string problem = KindProblem(target, node);
    if (problem.empty()) problem = SetValue(row, target, node.text);
    if (!problem.empty()) RefuseYaml(file_, place, key, problem, AllowedWords(row, target));
  }

  static std::string KindProblem(const ConfigTarget& target, const YamlNode& node) {
    if (node.kind == YamlNode::Kind::kNull) return "has no value";
    if (node.kind == YamlNode::Kind::kList) return "is a list";
    if (node.kind == YamlNode::Kind::kMap) return "is a map";
    const auto problem = [&]<class T>(const T* /*type*/) -> std::string {
      if constexpr (std::is_arithmetic_v<T>) {
        if (node.quoted) return Quoted(node.text) + " is quoted, which makes it text";
      } else if constexpr (!std::is_enum_v<T>) {
        if (!node.quoted && LooksTyped(node.text)) {
          return Quoted(node.text) + " is not text without quotes";
        }
      }
      return {};
    };
    return std::visit(problem, target);
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

  std::string_view file_;
  Config& config_;
};

[[noreturn]] void RefuseFile(const std::string& path, const std::string& problem) {
  throw ConfigError(fmt::format("{}: {}, allowed is a regular file of at most {} bytes",
                                Escaped(path), problem, kMaxFileBytes));
}

std::string ReadFile(const std::string& path) {
  const auto reason = [] { return " (" + std::generic_category().message(errno) + ")"; };
  // Without O_NONBLOCK a FIFO would hold the start for ever, as would some files of /proc.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) {
    RefuseFile(path, "cannot be opened" + reason());
  }
  if (S_ISDIR(status.st_mode)) RefuseFile(path, "is a directory");
  if (!S_ISREG(status.st_mode)) RefuseFile(path, "is not a regular file");
  std::optional<std::string> text = ReadAll(file, kMaxFileBytes);
  if (!text) RefuseFile(path, "cannot be read" + reason());
  if (text->size() > kMaxFileBytes) RefuseFile(path, "is too large");
  return *std::move(text);
}

}  // namespace

void ApplyYaml(std::string_view text, std::string_view file, Config& config) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  if (text.size() > kMaxFileBytes) {
    RefuseYaml(file, {}, "document", "is too large",
               fmt::format("at most {} bytes", kMaxFileBytes));
  }
  Config result = config;
  Applier(file, result).ApplyMap(ReadYaml(text, file), "");
  config = std::move(result);
}

void ApplyYamlFile(const std::string& path, Config& config) {
  ApplyYaml(ReadFile(path), path, config);
}

std::vector<ConfigKey> ConfigKeys() {
  Config defaults;
  std::vector<ConfigKey> keys;
  for (const ConfigRow& row : ConfigRows()) {
    const ConfigTarget target = row.target(defaults);
    keys.push_back(
        {std::string(row.key), std::string(row.doc), AllowedWords(row, target), ValueText(target)});
  }
  return keys;
}

void ApplyFlag(std::string_view flag, std::string_view key, const std::vector<std::string>& values,
               Config& config) {
  const ConfigRow* row = FindConfigRow(key);
  if (row == nullptr) throw std::logic_error(fmt::format("no key {}", key));
  const ConfigTarget target = row->target(config);
  std::string problem = StartList(*row, target, values.size());
  for (const std::string& value : values) {
    if (problem.empty()) problem = SetValue(*row, target, value);
  }
  if (problem.empty()) return;
  throw ConfigError(
      fmt::format("{}: {}, allowed is {}", flag, problem, AllowedWords(*row, target)));
}

}  // namespace kmem
