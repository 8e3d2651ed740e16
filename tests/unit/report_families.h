// Families as a scrape would have them, made up.
#pragma once

#include <string_view>

#include "collectors/families.h"

namespace kmem {

// Adds a series to the family of this name, which is made where it is not there yet.
inline void AddSeries(Families& families, FamilyBuilder::Type type, std::string_view name,
                      Labels labels, double value) {
  Families one;
  FamilyBuilder(one, type, name, "made up").Add(labels, value);
  for (auto& family : families) {
    if (family.name != name) continue;
    family.metric.push_back(std::move(one.front().metric.front()));
    return;
  }
  families.push_back(std::move(one.front()));
}

inline void AddCounter(Families& families, std::string_view name, Labels labels, double value) {
  AddSeries(families, FamilyBuilder::Type::Counter, name, labels, value);
}

inline void AddGauge(Families& families, std::string_view name, Labels labels, double value) {
  AddSeries(families, FamilyBuilder::Type::Gauge, name, labels, value);
}

}  // namespace kmem
