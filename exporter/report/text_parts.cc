#include "exporter/report/text_parts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

namespace kmem {

std::string Heading(int number, std::string_view what) {
  return fmt::format("\n{}. {}\n", number, what);
}

std::string Line(std::string_view text) { return fmt::format("  {}\n", text); }

std::string NotCounted(std::string_view what, std::string_view why) {
  return fmt::format("  {}: not counted ({}).\n", what, why);
}

void Facts::Add(std::string label, std::string value, std::string meaning) {
  rows_.push_back({std::move(label), std::move(value), std::move(meaning)});
}

std::string Facts::Text() const {
  Table table({"<", "", "<"});
  for (const auto& row : rows_) table.Add(row);
  const std::string text = table.Text();
  return text.substr(text.find('\n') + 1);  // without the line of headings
}

std::string Pace::Rate(double count) const {
  return seconds_.value_or(0) > 0 ? RateText(count / *seconds_) : "-";
}

std::string Pace::Count(double count) const {
  if (seconds_.value_or(0) <= 0) return CountText(count);
  return fmt::format("{} ({}/s)", CountText(count), Rate(count));
}

double SumOf(const Counts& counts) {
  double sum = 0;
  for (const auto& [name, count] : counts) sum += count;
  return sum;
}

double CountIn(const Counts& counts, std::string_view name) {
  const auto at = counts.find(name);
  return at == counts.end() ? 0 : at->second;
}

std::string CountsText(const Counts& counts) {
  std::vector<std::string> words;
  for (const auto& [name, count] : counts) {
    words.push_back(fmt::format("{} {}", NameText(name), CountText(count)));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace kmem
