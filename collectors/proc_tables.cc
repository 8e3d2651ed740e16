#include "collectors/proc_tables.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "collectors/tally.h"

namespace kmem {
namespace {

// <cctype> depends on the locale and on the sign of char.
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsWordChar(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// Walks a table line by line, and the line at hand from left to right. The errors say where but
// don't repeat the text, which may hold anything.
class Scanner {
 public:
  Scanner(std::string_view table, std::string_view text) : table_(table), text_(text) {
    if (text.empty()) Fail("empty");
    if (text.size() > kMaxTableBytes) Fail("too long");
    if (text.back() != '\n') Fail("cut off: the last line has no end");
  }

  // To the next line; false at the end of the text.
  bool NextLine() {
    if (text_.empty()) return false;
    const std::size_t end = text_.find('\n');  // always found: the constructor saw to it
    rest_ = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    ++line_;
    return true;
  }

  void SkipSpaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size())); }

  bool AtEnd() {
    SkipSpaces();
    return rest_.empty();
  }

  // Passes over `token` if it comes next, after any spaces.
  bool Skip(std::string_view token) {
    SkipSpaces();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  void Expect(std::string_view token) {
    if (!Skip(token)) Fail("expected '" + std::string(token) + "'");
  }

  // Letters, digits and underscores: the only kind of name in these tables.
  std::string_view Word() {
    SkipSpaces();
    const auto end = std::find_if_not(rest_.begin(), rest_.end(), IsWordChar);
    const std::string_view word = rest_.substr(0, static_cast<std::size_t>(end - rest_.begin()));
    if (word.empty()) Fail("expected a name");
    rest_.remove_prefix(word.size());
    return word;
  }

  // A decimal number without sign that ends at a space, a comma or the line's end.
  template <class Integer>
  Integer Number(Integer most = std::numeric_limits<Integer>::max()) {
    SkipSpaces();
    Integer value = 0;
    if (rest_.empty() || !IsDigit(rest_.front())) Fail("expected a number");
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc() || value > most) Fail("number too large");
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    if (!rest_.empty() && rest_.front() != ' ' && rest_.front() != ',') Fail("not a number");
    return value;
  }

  [[noreturn]] void Fail(const std::string& why) const {
    std::string where = std::string(table_) + ": ";
    if (line_ > 0) where += "line " + std::to_string(line_) + ": ";
    throw ProcError(where + why);
  }

 private:
  std::string_view table_;
  std::string_view text_;  // the lines to come
  std::string_view rest_;  // of the line at hand
  std::size_t line_ = 0;
};

using NodeZone = std::pair<int, std::string>;

// "Node 0, zone   Normal", with which lines of three of the tables begin; "Node" has been seen.
NodeZone ParseNodeZone(Scanner& in) {
  const int node = in.Number<int>();
  in.Expect(",");
  in.Expect("zone");
  return {node, LowerCase(in.Word())};
}

// A zone that came twice would make two series of one name and labels.
void RefuseSecond(std::set<NodeZone>& seen, const NodeZone& where, const Scanner& in) {
  if (!seen.insert(where).second) in.Fail("this zone of this node came before");
}

// The zone at hand of /proc/zoneinfo, fed with the lines after its first one.
class ZoneReader {
 public:
  explicit ZoneReader(NodeZone where) : out_{where.first, std::move(where.second), 0, 0} {}

  void ReadLine(Scanner& in) {
    if (!in_pagesets_ && in.Skip("managed ")) {
      managed_pages_ = in.Number<std::uint64_t>();
    } else if (!in_pagesets_) {
      // Before it, "high" without a colon is the zone's watermark.
      in_pagesets_ = in.Skip("pagesets") && in.AtEnd();
    } else if (in.Skip("cpu:")) {
      if (cpus_ > 0) CheckCpu(in);
      ++cpus_;
      has_high_ = has_batch_ = false;
    } else if (in.Skip("high:")) {
      out_.high = std::max(out_.high, Limit(in));
      has_high_ = true;
    } else if (in.Skip("batch:")) {
      out_.batch = std::max(out_.batch, Limit(in));
      has_batch_ = true;
    }
  }

  void Finish(const Scanner& in, Zoneinfo& out) {
    if (managed_pages_) {
      out.managed_pages = out.managed_pages.value_or(0) + static_cast<double>(*managed_pages_);
    }
    if (!in_pagesets_) return;
    CheckCpu(in);
    out.pagesets.push_back(std::move(out_));
  }

 private:
  // The kernel's type is int (struct per_cpu_pages, include/linux/mmzone.h, 5.10 to 6.18).
  static std::uint32_t Limit(Scanner& in) {
    return in.Number<std::uint32_t>(std::numeric_limits<std::int32_t>::max());
  }

  // A CPU without its figures is a sign of a table that was cut off.
  void CheckCpu(const Scanner& in) const {
    if (cpus_ == 0 || !has_high_ || !has_batch_) in.Fail("pagesets: a CPU without high or batch");
  }

  ZonePagesets out_;
  std::optional<std::uint64_t> managed_pages_;
  std::size_t cpus_ = 0;
  bool in_pagesets_ = false;
  bool has_high_ = false;
  bool has_batch_ = false;
};

// "Node    0, zone   Normal, type    Unmovable    5 ...", of which only the name is wanted: the
// counts may be capped, then they start with '>'.
void AddMigratetype(Scanner& in, std::vector<std::string>& names) {
  ParseNodeZone(in);
  if (!in.Skip(",")) return;  // a line of a later table, which has no type
  in.Expect("type");
  std::string name = LowerCase(in.Word());
  if (std::find(names.begin(), names.end(), name) != names.end()) return;  // of a further zone
  if (names.size() == KMEM_MIGRATETYPES) in.Fail("too many migrate types");
  names.push_back(std::move(name));
}

// "Number of blocks type     Unmovable      Movable ...": the header of the next table. It has the
// same names, so it shows whether the first one was whole.
void CheckMigratetypes(Scanner& in, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (LowerCase(in.Word()) != name) in.Fail("migrate types differ from the table before");
  }
  if (!in.AtEnd()) in.Fail("migrate types are missing in the table before");
}

}  // namespace

std::vector<BuddyRow> ParseBuddyinfo(std::string_view text) {
  Scanner in("buddyinfo", text);
  std::vector<BuddyRow> rows;
  std::set<NodeZone> seen;
  while (in.NextLine()) {
    in.Expect("Node ");
    const NodeZone where = ParseNodeZone(in);
    RefuseSecond(seen, where, in);
    BuddyRow row{where.first, where.second, {}};
    while (!in.AtEnd()) {
      if (row.free_blocks.size() == kMaxOrders) in.Fail("too many columns");
      row.free_blocks.push_back(in.Number<std::uint64_t>());
    }
    if (row.free_blocks.empty()) in.Fail("no columns");
    if (!rows.empty() && row.free_blocks.size() != rows.front().free_blocks.size()) {
      in.Fail("not as many columns as in the lines before");
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

VmstatCounters ParseVmstat(std::string_view text, std::span<const std::string_view> prefixes) {
  Scanner in("vmstat", text);
  VmstatCounters counters;
  while (in.NextLine()) {
    const std::string_view name = in.Word();
    const auto value = in.Number<std::uint64_t>();
    if (!in.AtEnd()) in.Fail("more than a name and a number");
    const auto starts_name = [name](std::string_view prefix) { return name.starts_with(prefix); };
    if (std::none_of(prefixes.begin(), prefixes.end(), starts_name)) continue;
    if (!counters.emplace(name, value).second) in.Fail("this name came before");
  }
  return counters;
}

Zoneinfo ParseZoneinfo(std::string_view text) {
  Scanner in("zoneinfo", text);
  Zoneinfo out;
  std::set<NodeZone> seen;
  std::optional<ZoneReader> zone;
  while (in.NextLine()) {
    if (in.Skip("Node ")) {
      if (zone) zone->Finish(in, out);
      NodeZone where = ParseNodeZone(in);
      if (!in.AtEnd()) in.Fail("more than a node and a zone");
      RefuseSecond(seen, where, in);
      out.nodes.insert(where.first);
      zone.emplace(std::move(where));
    } else if (zone) {
      zone->ReadLine(in);
    } else {
      in.Fail("expected a node and a zone");
    }
  }
  if (zone) zone->Finish(in, out);
  return out;
}

Pagetypeinfo ParsePagetypeinfo(std::string_view text) {
  Scanner in("pagetypeinfo", text);
  Pagetypeinfo out;
  in.NextLine();
  in.Expect("Page block order:");
  out.pageblock_order = in.Number<int>(kMaxOrders - 1);
  bool whole = false;
  // Each node repeats the tables; the first has it all.
  while (!whole && in.NextLine()) {
    if (in.Skip("Node ")) {
      AddMigratetype(in, out.migratetypes);
    } else if (in.Skip("Number of blocks type ")) {
      CheckMigratetypes(in, out.migratetypes);
      whole = true;
    }
  }
  if (!whole || out.migratetypes.empty()) in.Fail("cut off: no migrate types");
  return out;
}

std::uint64_t ParseSysctlNumber(std::string_view text, std::string_view name) {
  Scanner in(name, text);
  in.NextLine();
  const auto value = in.Number<std::uint64_t>();
  if (!in.AtEnd() || in.NextLine()) in.Fail("more than a number");
  return value;
}

}  // namespace kmem
