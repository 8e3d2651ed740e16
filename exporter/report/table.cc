#include "exporter/report/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "exporter/text.h"

namespace kmem {
namespace {

constexpr std::size_t kLongestName = 48;

// Characters; a byte that is no UTF-8 counts as one.
std::size_t Width(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    text.remove_prefix(std::max<std::size_t>(1, Utf8Length(text)));
    ++width;
  }
  return width;
}

}  // namespace

std::string CountText(double count) {
  std::string digits = fmt::format("{:.0f}", std::abs(count));
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  if (std::round(count) < 0) digits.insert(digits.begin(), '-');
  return digits;
}

std::string RateText(double per_second) {
  return per_second < 100 ? fmt::format("{:.1f}", per_second) : CountText(per_second);
}

std::string BytesText(double bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  // Not 1024.0 of a unit, which 1023.96 of it would be shown as.
  while (std::abs(bytes) >= 1023.95 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string ShareText(double part, double whole) {
  return whole == 0 ? "-" : fmt::format("{:.1f}%", 100 * part / whole);
}

std::string NameText(std::string_view name) {
  std::string text = Escaped(name);
  if (Width(text) <= kLongestName) return text;
  std::size_t end = 0;
  for (std::size_t i = 0; i + 3 < kLongestName; ++i) {
    end += std::max<std::size_t>(1, Utf8Length(std::string_view(text).substr(end)));
  }
  return text.substr(0, end) + "...";
}

Table::Table(const std::vector<std::string>& headings) {
  std::vector<std::string>& row = rows_.emplace_back();
  for (const std::string& heading : headings) {
    left_.push_back(heading.starts_with('<'));
    row.push_back(left_.back() ? heading.substr(1) : heading);
  }
}

void Table::Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string Table::Text() const {
  std::vector<std::size_t> widths(left_.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::size_t space = widths[i] - Width(row[i]);
      line.append(left_[i] ? 2 : 2 + space, ' ');
      line += row[i];
      if (left_[i]) line.append(space, ' ');
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  }
  return text;
}

}  // namespace kmem
