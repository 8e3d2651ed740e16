// The keys of the configuration: what they are called, which member of Config each sets, what it
// allows and how a text becomes its value. The table is constant; the functions hold nothing back
// and any thread may call them. Part of config.cc's work: nothing else includes this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "exporter/config.h"

namespace kmem {

// The member of a Config that a key sets; its type decides how.
using ConfigTarget =
    std::variant<bool*, int*, std::uint32_t*, double*, std::string*, std::vector<std::string>*,
                 EngineChoice*, OnTracingFailure*, LogLevel*, LogFormat*>;

// The range: of a number, or of a list's length. `ok` and `words` are the rule for a text, a list's
// element, or a number within its range, and that rule in words.
struct ConfigRange {
  std::int64_t min = 0;
  std::int64_t max = 0;
  bool (*ok)(std::string_view text) = nullptr;
  std::string_view words = {};
};

// A key. Adding one is adding its row to the table in config_keys.cc, and its member to Config.
struct ConfigRow {
  std::string_view key;  // dotted path
  ConfigTarget (*target)(Config& config);
  ConfigRange range;
  std::string_view doc;  // one line without full stop; says the unit
};

// All keys; those of one map stand together.
std::span<const ConfigRow> ConfigRows();

// nullptr if there is no such key.
const ConfigRow* FindConfigRow(std::string_view key);

// `target`, here and below, is that of `row`.

// What the key allows, for "allowed is ...". Of the target only the type counts.
std::string AllowedWords(const ConfigRow& row, const ConfigTarget& target);

// The value as the file has it; a list's elements with commas between.
std::string ValueText(const ConfigTarget& target);

// Sets the target, or gives a list one more element. Returns what is wrong, empty if nothing is.
std::string SetValue(const ConfigRow& row, const ConfigTarget& target, std::string_view text);

// Empties a list that is to get `size` elements; does nothing to other targets. Returns what is
// wrong with the size, empty if nothing is.
std::string StartList(const ConfigRow& row, const ConfigTarget& target, std::size_t size);

}  // namespace kmem
