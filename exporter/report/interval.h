// How metrics grew between two scrapes. Pure values; any thread.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectors/families.h"

namespace kmem {

// One series: what a counter grew by, or a gauge's last value.
struct Sample {
  std::map<std::string, std::string, std::less<>> labels;
  double value = 0;

  // Empty where there is no such label.
  [[nodiscard]] std::string Label(std::string_view name) const;
};
using Samples = std::vector<Sample>;

// By the value of a label.
using Counts = std::map<std::string, double, std::less<>>;

class Interval {
 public:
  // Both must outlive this. A series that `start` lacks began at 0; one that `end` lacks is left
  // out.
  Interval(const Families& start, const Families& end);

  [[nodiscard]] bool Has(std::string_view family) const;
  // Of counters; none where there is no such family.
  [[nodiscard]] Samples Growth(std::string_view family) const;
  // Of gauges, as they were at the end and at the start.
  [[nodiscard]] Samples Values(std::string_view family) const;
  [[nodiscard]] Samples ValuesAtStart(std::string_view family) const;

 private:
  const Families& start_;
  const Families& end_;
};

// The samples that have all of these labels.
Samples With(Samples samples, Labels labels);

double Sum(const Samples& samples);
Counts SumBy(const Samples& samples, std::string_view label);

}  // namespace kmem
