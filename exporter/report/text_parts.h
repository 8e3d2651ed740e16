// What the sections of the text are put together from. Pure functions; any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/report/interval.h"
#include "exporter/report/table.h"

namespace kmem {

// Of a list that may be long.
inline constexpr std::size_t kRowsShown = 10;

std::string Heading(int number, std::string_view what);
std::string Line(std::string_view text);
std::string NotCounted(std::string_view what, std::string_view why);

// Lines of a label, a number and what it means.
class Facts {
 public:
  void Add(std::string label, std::string value, std::string meaning);
  [[nodiscard]] std::string Text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Counts, with how many a second where that is known.
class Pace {
 public:
  explicit Pace(std::optional<double> seconds) : seconds_(seconds) {}

  [[nodiscard]] std::string Rate(double count) const;
  [[nodiscard]] std::string Count(double count) const;

 private:
  std::optional<double> seconds_;
};

double SumOf(const Counts& counts);
// 0 where there is none of the name.
double CountIn(const Counts& counts, std::string_view name);
// Each name with its count.
std::string CountsText(const Counts& counts);

}  // namespace kmem
