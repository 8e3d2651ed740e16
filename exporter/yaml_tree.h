// A YAML text as a tree in which every value knows its place, for the configuration's errors. It is
// read strictly: what YAML allows beyond one document of plain maps, lists and texts is refused.
// Whoever reads the tree owns it. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kmem {

// Where something stands in the file: lines and columns (of bytes) from 1.
struct YamlPlace {
  int line = 1;
  int column = 1;
};

struct YamlNode {
  enum class Kind { kNull, kText, kList, kMap };
  Kind kind = Kind::kNull;
  YamlPlace place;  // of a null: where the next token stands
  std::string text;
  bool quoted = false;          // the text
  std::vector<YamlNode> items;  // a list's elements; a map's keys and values in turn
};

// The document: a map, or null if it has no content. A map may still have the same key twice, or
// keys that are not text. `text` comes without byte order mark; `file` is its name in errors.
// Throws ConfigError.
YamlNode ReadYaml(std::string_view text, std::string_view file);

// Throws the ConfigError FILE:LINE:COLUMN: KEY: PROBLEM, allowed is ALLOWED. `file` is made fit for
// that here, `key` and the rest by the caller.
[[noreturn]] void RefuseYaml(std::string_view file, YamlPlace place, std::string_view key,
                             std::string_view problem, std::string_view allowed);

// One key of a map as it appears in the path of an error: escaped and cut to a bearable length.
std::string ShownKey(std::string_view key);

}  // namespace kmem
