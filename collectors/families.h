// Building of metric families in prometheus-cpp's data model, afresh for every scrape.
// Used by the scraping thread only; nothing here is shared.
#pragma once

#include <prometheus/metric_family.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kmem {

using Families = std::vector<prometheus::MetricFamily>;

// A label's name and value. Values may hold any bytes: the exposition makes them valid UTF-8.
using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

// Appends one family to `out` and metrics to that family. `out` must not be used by anybody else
// while the builder lives.
class FamilyBuilder {
 public:
  using Type = prometheus::MetricType;

  FamilyBuilder(Families& out, Type type, std::string_view name, std::string_view help);

  // For those that get many metrics: makes room for so many at once.
  void Reserve(std::size_t metrics) { family_.metric.reserve(metrics); }

  // One sample of a counter or gauge.
  void Add(Labels labels, double value);

  // One histogram: `bounds` are the upper bounds without +Inf, `counts` one number per bucket, not
  // cumulative, its last one for +Inf: counts.size() == bounds.size() + 1. `sum` in the metric's
  // unit.
  void AddHistogram(Labels labels, std::span<const double> bounds,
                    std::span<const std::uint64_t> counts, double sum);

 private:
  prometheus::ClientMetric& NewMetric(Labels labels);

  prometheus::MetricFamily& family_;
};

}  // namespace kmem
