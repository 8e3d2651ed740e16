#include "collectors/families.h"

#include <limits>

namespace kmem {
namespace {

prometheus::MetricFamily& Append(Families& out, FamilyBuilder::Type type, std::string_view name,
                                 std::string_view help) {
  prometheus::MetricFamily& family = out.emplace_back();
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

}  // namespace

FamilyBuilder::FamilyBuilder(Families& out, Type type, std::string_view name, std::string_view help)
    : family_(Append(out, type, name, help)) {}

prometheus::ClientMetric& FamilyBuilder::NewMetric(Labels labels) {
  prometheus::ClientMetric& metric = family_.metric.emplace_back();
  metric.label.reserve(labels.size());
  for (const auto& [name, value] : labels) {
    metric.label.push_back({std::string(name), std::string(value)});
  }
  return metric;
}

void FamilyBuilder::Add(Labels labels, double value) {
  prometheus::ClientMetric& metric = NewMetric(labels);
  if (family_.type == Type::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

void FamilyBuilder::AddHistogram(Labels labels, std::span<const double> bounds,
                                 std::span<const std::uint64_t> counts, double sum) {
  prometheus::ClientMetric& metric = NewMetric(labels);
  metric.histogram.bucket.reserve(counts.size());
  std::uint64_t cumulative = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    cumulative += counts[i];
    const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({cumulative, bound});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = sum;
}

}  // namespace kmem
