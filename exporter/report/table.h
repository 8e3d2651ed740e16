// Text in aligned columns, and numbers as people read them. Pure functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kmem {

// 1,234,567
std::string CountText(double count);
// 0.4, 12.5, 1,234
std::string RateText(double per_second);
// 12 B, 1.2 KiB, 345.6 MiB; also negative
std::string BytesText(double bytes);
// 12.3%; - where there is nothing to take a share of
std::string ShareText(double part, double whole);
// Foreign text for a cell: escaped, and cut to a bearable width.
std::string NameText(std::string_view name);

// Rows of cells. A column is as wide as its widest cell; names stand left, numbers right.
class Table {
 public:
  // A heading that starts with < is of a column of names, any other one of numbers.
  explicit Table(const std::vector<std::string>& headings);

  // As many cells as there are headings.
  void Add(std::vector<std::string> cells);

  [[nodiscard]] bool empty() const { return rows_.size() == 1; }
  // Lines that are indented by two spaces; the headings first.
  [[nodiscard]] std::string Text() const;

 private:
  std::vector<bool> left_;
  std::vector<std::vector<std::string>> rows_;  // the first one holds the headings
};

}  // namespace kmem
