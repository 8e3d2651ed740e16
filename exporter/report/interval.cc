#include "exporter/report/interval.h"

#include <algorithm>

namespace kmem {
namespace {

const prometheus::MetricFamily* Find(const Families& families, std::string_view name) {
  const auto at = std::ranges::find(families, name, &prometheus::MetricFamily::name);
  return at == families.end() ? nullptr : &*at;
}

Samples Read(const Families& families, std::string_view name) {
  Samples samples;
  const prometheus::MetricFamily* family = Find(families, name);
  if (family == nullptr) return samples;
  for (const prometheus::ClientMetric& metric : family->metric) {
    Sample& sample = samples.emplace_back();
    for (const auto& label : metric.label) sample.labels[label.name] = label.value;
    sample.value =
        family->type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
  }
  return samples;
}

}  // namespace

std::string Sample::Label(std::string_view name) const {
  const auto at = labels.find(name);
  return at == labels.end() ? "" : at->second;
}

Interval::Interval(const Families& start, const Families& end) : start_(start), end_(end) {}

bool Interval::Has(std::string_view family) const { return Find(end_, family) != nullptr; }

Samples Interval::Growth(std::string_view family) const {
  std::map<decltype(Sample::labels), double> before;
  for (const Sample& sample : Read(start_, family)) before[sample.labels] = sample.value;
  Samples samples = Read(end_, family);
  for (Sample& sample : samples) {
    const auto at = before.find(sample.labels);
    if (at != before.end()) sample.value = std::max(0.0, sample.value - at->second);
  }
  return samples;
}

Samples Interval::Values(std::string_view family) const { return Read(end_, family); }

Samples Interval::ValuesAtStart(std::string_view family) const { return Read(start_, family); }

Samples With(Samples samples, Labels labels) {
  std::erase_if(samples, [&](const Sample& sample) {
    return std::ranges::any_of(
        labels, [&](const auto& label) { return sample.Label(label.first) != label.second; });
  });
  return samples;
}

double Sum(const Samples& samples) {
  double sum = 0;
  for (const Sample& sample : samples) sum += sample.value;
  return sum;
}

Counts SumBy(const Samples& samples, std::string_view label) {
  Counts counts;
  for (const Sample& sample : samples) counts[sample.Label(label)] += sample.value;
  return counts;
}

}  // namespace kmem
