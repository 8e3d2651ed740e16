// Finds exported metrics by name and labels.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/families.h"

namespace kmem {

using LabelMap = std::map<std::string, std::string>;

inline LabelMap LabelsOf(const prometheus::ClientMetric& metric) {
  LabelMap labels;
  for (const auto& label : metric.label) labels[label.name] = label.value;
  return labels;
}

// nullptr where there is none.
inline const prometheus::MetricFamily* FindFamily(const Families& families, std::string_view name) {
  for (const auto& family : families) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

inline const prometheus::ClientMetric* FindMetric(const Families& families, std::string_view name,
                                                  const LabelMap& labels) {
  const prometheus::MetricFamily* family = FindFamily(families, name);
  if (family == nullptr) return nullptr;
  for (const auto& metric : family->metric) {
    if (LabelsOf(metric) == labels) return &metric;
  }
  return nullptr;
}

inline bool HasSeries(const Families& families, std::string_view name, const LabelMap& labels) {
  return FindMetric(families, name, labels) != nullptr;
}

// How many metrics a family has; 0 where there is no such family.
inline std::size_t SeriesIn(const Families& families, std::string_view name) {
  const prometheus::MetricFamily* family = FindFamily(families, name);
  return family == nullptr ? 0 : family->metric.size();
}

inline double ValueOf(const prometheus::MetricFamily& family,
                      const prometheus::ClientMetric& metric) {
  return family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
}

// The value of a counter or gauge; NaN, which equals nothing, where there is none.
inline double Value(const Families& families, std::string_view name, const LabelMap& labels = {}) {
  const prometheus::ClientMetric* metric = FindMetric(families, name, labels);
  if (metric == nullptr) return std::nan("");
  return ValueOf(*FindFamily(families, name), *metric);
}

// The sum over all series of a family of counters or gauges that have these labels among others.
inline double Total(const Families& families, std::string_view name, const LabelMap& labels = {}) {
  const prometheus::MetricFamily* family = FindFamily(families, name);
  if (family == nullptr) return std::nan("");
  double total = 0;
  for (const auto& metric : family->metric) {
    const LabelMap has = LabelsOf(metric);
    const bool matches = std::ranges::all_of(labels, [&](const auto& label) {
      const auto at = has.find(label.first);
      return at != has.end() && at->second == label.second;
    });
    if (matches) total += ValueOf(*family, metric);
  }
  return total;
}

// A histogram with its buckets made non-cumulative.
struct Buckets {
  std::vector<double> bounds;  // the last one is infinite
  std::vector<std::uint64_t> counts;
  std::uint64_t count = 0;
  double sum = 0;

  // What lies in the bucket with this upper bound.
  [[nodiscard]] std::uint64_t In(double bound) const {
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      if (bounds[i] == bound) return counts[i];
    }
    throw std::out_of_range("no such bucket: " + std::to_string(bound));
  }
  // The upper bound of the only bucket with anything in it.
  [[nodiscard]] double OnlyBound() const {
    double only = std::nan("");
    for (std::size_t i = 0; i < bounds.size(); ++i) {
      if (counts[i] == 0) continue;
      if (!std::isnan(only)) throw std::logic_error("more than one bucket is filled");
      only = bounds[i];
    }
    return only;
  }
};

// Throws where there is none.
inline Buckets Histogram(const Families& families, std::string_view name,
                         const LabelMap& labels = {}) {
  const prometheus::ClientMetric* metric = FindMetric(families, name, labels);
  if (metric == nullptr || FindFamily(families, name)->type != prometheus::MetricType::Histogram) {
    throw std::out_of_range("no such histogram: " + std::string(name));
  }
  Buckets buckets;
  std::uint64_t before = 0;
  for (const auto& bucket : metric->histogram.bucket) {
    buckets.bounds.push_back(bucket.upper_bound);
    buckets.counts.push_back(bucket.cumulative_count - before);
    before = bucket.cumulative_count;
  }
  buckets.count = metric->histogram.sample_count;
  buckets.sum = metric->histogram.sample_sum;
  EXPECT_EQ(buckets.count, before) << name;
  return buckets;
}

}  // namespace kmem
