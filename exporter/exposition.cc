#include "exporter/exposition.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include "exporter/text.h"

namespace kmem {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::string_view kTotal = "_total";

// ---- Text ----

void MakeValidUtf8(std::string& text) {
  const auto ascii = [](char c) { return static_cast<std::uint8_t>(c) < 0x80; };
  if (std::ranges::all_of(text, ascii)) return;
  std::string valid;
  valid.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t length = Utf8Length(rest);
    valid += length > 0 ? rest.substr(0, length) : kReplacementCharacter;
    rest.remove_prefix(std::max<std::size_t>(length, 1));
  }
  text = std::move(valid);
}

void AppendEscaped(std::string& out, std::string_view text, bool escape_quotes) {
  const auto escaped = [=](char c) {
    return c == '\n' || c == '\\' || (c == '"' && escape_quotes);
  };
  if (std::ranges::none_of(text, escaped)) {  // nearly all are like that
    out += text;
    return;
  }
  for (const char c : text) {
    if (escaped(c)) out += '\\';
    out += c == '\n' ? 'n' : c;
  }
}

// ---- OpenMetrics 1.0 ----

std::optional<std::string_view> SpecialNumber(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return std::nullopt;
}

void AppendNumber(std::string& out, double value) {
  if (const auto special = SpecialNumber(value)) {
    out += *special;
    return;
  }
  std::array<char, 32> digits;
  out.append(digits.data(), std::to_chars(digits.begin(), digits.end(), value).ptr);
}

void AppendNumber(std::string& out, std::uint64_t value) {
  std::array<char, 32> digits;
  out.append(digits.data(), std::to_chars(digits.begin(), digits.end(), value).ptr);
}

// The canonical form of le and quantile, which Prometheus 3 also turns every other form into: Go's
// %g, whose exponent begins at 1e+06 and below 1e-04, and a ".0" after integers.
std::string CanonicalNumber(double value) {
  if (const auto special = SpecialNumber(value)) return std::string(*special);
  std::array<char, 32> digits;
  const double magnitude = std::abs(value);
  const bool fixed = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e6);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  std::string text(digits.data(), std::to_chars(digits.begin(), digits.end(), value, format).ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// A label that the format itself adds: le or quantile.
struct ExtraLabel {
  std::string_view name;
  std::string value;
};

// With the blank before the value.
void AppendLabels(std::string& out, const ClientMetric& metric, const ExtraLabel& extra) {
  char before = '{';
  for (const ClientMetric::Label& label : metric.label) {
    out += std::exchange(before, ',');
    out += label.name;
    out += "=\"";
    AppendEscaped(out, label.value, true);
    out += '"';
  }
  if (!extra.name.empty()) {
    out += std::exchange(before, ',');
    out.append(extra.name).append("=\"").append(extra.value).append("\"");
  }
  if (before == ',') out += '}';
  out += ' ';
}

template <typename Number>
void AppendSample(std::string& out, std::string_view name, const ClientMetric& metric, Number value,
                  const ExtraLabel& extra = {}) {
  out += name;
  AppendLabels(out, metric, extra);
  AppendNumber(out, value);
  out += '\n';
}

void AppendHistogram(std::string& out, const std::string& name, const ClientMetric& metric) {
  const ClientMetric::Histogram& histogram = metric.histogram;
  const std::string bucket_name = name + "_bucket";
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    AppendSample(out, bucket_name, metric, bucket.cumulative_count,
                 {"le", CanonicalNumber(bucket.upper_bound)});
  }
  // The format demands the +Inf bucket; whoever built the family may have left it out.
  if (histogram.bucket.empty() || !std::isinf(histogram.bucket.back().upper_bound)) {
    AppendSample(out, bucket_name, metric, histogram.sample_count, {"le", "+Inf"});
  }
  AppendSample(out, name + "_count", metric, histogram.sample_count);
  AppendSample(out, name + "_sum", metric, histogram.sample_sum);
}

void AppendSummary(std::string& out, const std::string& name, const ClientMetric& metric) {
  for (const ClientMetric::Quantile& quantile : metric.summary.quantile) {
    AppendSample(out, name, metric, quantile.value,
                 {"quantile", CanonicalNumber(quantile.quantile)});
  }
  AppendSample(out, name + "_count", metric, metric.summary.sample_count);
  AppendSample(out, name + "_sum", metric, metric.summary.sample_sum);
}

void AppendMetric(std::string& out, const MetricFamily& family, const ClientMetric& metric) {
  switch (family.type) {
    case MetricType::Counter:
      return AppendSample(out, family.name, metric, metric.counter.value);
    case MetricType::Gauge:
      return AppendSample(out, family.name, metric, metric.gauge.value);
    case MetricType::Untyped:
      return AppendSample(out, family.name, metric, metric.untyped.value);
    case MetricType::Summary:
      return AppendSummary(out, family.name, metric);
    case MetricType::Histogram:
      return AppendHistogram(out, family.name, metric);
  }
}

std::string_view PlainType(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Gauge:
      return "gauge";
    case MetricType::Summary:
      return "summary";
    case MetricType::Histogram:
      return "histogram";
    case MetricType::Untyped:
      break;
  }
  return "untyped";
}

std::string_view OpenMetricsType(const MetricFamily& family) {
  // Its samples would have to be called NAME_total, which would rename the metric.
  const bool misnamed = family.type == MetricType::Counter && !family.name.ends_with(kTotal);
  return misnamed || family.type == MetricType::Untyped ? "unknown" : PlainType(family.type);
}

// About as many bytes as the text has, so that it is not copied while it grows.
std::size_t ExpectedBytes(const std::vector<MetricFamily>& families) {
  constexpr std::size_t kRest = 24;  // a value, and what stands around a label
  std::size_t bytes = 0;
  for (const MetricFamily& family : families) {
    bytes += 2 * family.name.size() + family.help.size() + 2 * kRest;
    for (const ClientMetric& metric : family.metric) {
      std::size_t sample = family.name.size() + kRest;
      for (const auto& label : metric.label) sample += label.name.size() + label.value.size() + 4;
      const std::size_t buckets = metric.histogram.bucket.size() + metric.summary.quantile.size();
      bytes += buckets == 0 ? sample : (sample + kRest) * (buckets + 2);
    }
  }
  return bytes;
}

void AppendOpenMetrics(std::string& out, const std::vector<MetricFamily>& families) {
  for (const MetricFamily& family : families) {
    const std::string_view type = OpenMetricsType(family);
    std::string_view name = family.name;
    if (type == "counter") name.remove_suffix(kTotal.size());
    out.append("# HELP ").append(name).append(" ");
    AppendEscaped(out, family.help, true);
    out.append("\n# TYPE ").append(name).append(" ").append(type).append("\n");
    for (const ClientMetric& metric : family.metric) AppendMetric(out, family, metric);
  }
  out += "# EOF\n";
}

// ---- Prometheus 0.0.4, as prometheus-cpp's TextSerializer writes it, at a fifth of its time ----

// printf's %.16g. Nearly all numbers are counts, and short to write.
void AppendPlainNumber(std::string& out, double value) {
  constexpr double kExact = 1e15;  // and in all digits
  if (std::abs(value) < kExact && value == std::trunc(value) && !std::signbit(value)) {
    return AppendNumber(out, static_cast<std::uint64_t>(value));
  }
  if (const auto special = SpecialNumber(value)) {
    out += *special;
    return;
  }
  std::array<char, 32> digits;
  out.append(
      digits.data(),
      std::to_chars(digits.begin(), digits.end(), value, std::chars_format::general, 16).ptr);
}
void AppendPlainNumber(std::string& out, std::uint64_t value) { AppendNumber(out, value); }

template <typename Number>
void AppendPlainSample(std::string& out, std::string_view name, std::string_view suffix,
                       const ClientMetric& metric, Number value, const ExtraLabel& extra = {}) {
  out.append(name).append(suffix);
  AppendLabels(out, metric, extra);
  AppendPlainNumber(out, value);
  out += '\n';
}

std::string PlainNumber(double value) {
  std::string text;
  AppendPlainNumber(text, value);
  return text;
}

void AppendPlainHistogram(std::string& out, const std::string& name, const ClientMetric& metric) {
  const ClientMetric::Histogram& histogram = metric.histogram;
  AppendPlainSample(out, name, "_count", metric, histogram.sample_count);
  AppendPlainSample(out, name, "_sum", metric, histogram.sample_sum);
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    AppendPlainSample(out, name, "_bucket", metric, bucket.cumulative_count,
                      {"le", PlainNumber(bucket.upper_bound)});
  }
  if (histogram.bucket.empty() || !std::isinf(histogram.bucket.back().upper_bound)) {
    AppendPlainSample(out, name, "_bucket", metric, histogram.sample_count, {"le", "+Inf"});
  }
}

void AppendPlainSummary(std::string& out, const std::string& name, const ClientMetric& metric) {
  AppendPlainSample(out, name, "_count", metric, metric.summary.sample_count);
  AppendPlainSample(out, name, "_sum", metric, metric.summary.sample_sum);
  for (const ClientMetric::Quantile& quantile : metric.summary.quantile) {
    AppendPlainSample(out, name, "", metric, quantile.value,
                      {"quantile", PlainNumber(quantile.quantile)});
  }
}

void AppendPlainMetric(std::string& out, const MetricFamily& family, const ClientMetric& metric) {
  switch (family.type) {
    case MetricType::Counter:
      return AppendPlainSample(out, family.name, "", metric, metric.counter.value);
    case MetricType::Gauge:
      return AppendPlainSample(out, family.name, "", metric, metric.gauge.value);
    case MetricType::Untyped:
      return AppendPlainSample(out, family.name, "", metric, metric.untyped.value);
    case MetricType::Summary:
      return AppendPlainSummary(out, family.name, metric);
    case MetricType::Histogram:
      return AppendPlainHistogram(out, family.name, metric);
  }
}

void AppendPrometheus(std::string& out, const std::vector<MetricFamily>& families) {
  for (const MetricFamily& family : families) {
    if (!family.help.empty()) {
      out.append("# HELP ").append(family.name).append(" ");
      AppendEscaped(out, family.help, false);
      out += '\n';
    }
    out.append("# TYPE ").append(family.name).append(" ").append(PlainType(family.type)) += '\n';
    for (const ClientMetric& metric : family.metric) AppendPlainMetric(out, family, metric);
  }
}

}  // namespace

void SerializeTo(std::string& out, std::vector<MetricFamily> families, TextFormat format) {
  for (MetricFamily& family : families) {
    MakeValidUtf8(family.help);
    for (ClientMetric& metric : family.metric) {
      for (ClientMetric::Label& label : metric.label) MakeValidUtf8(label.value);
    }
  }
  out.clear();
  out.reserve(ExpectedBytes(families));
  if (format == TextFormat::kOpenMetrics) {
    AppendOpenMetrics(out, families);
  } else {
    AppendPrometheus(out, families);
  }
}

std::string Serialize(std::vector<MetricFamily> families, TextFormat format) {
  std::string out;
  SerializeTo(out, std::move(families), format);
  return out;
}

Gzip::Gzip() {
  constexpr int kGzipWindow = 15 + 16;  // the largest window, and gzip's header, not zlib's
  constexpr int kDefaultMemory = 8;
  auto stream = std::make_unique<z_stream>();
  if (deflateInit2(stream.get(), Z_BEST_SPEED, Z_DEFLATED, kGzipWindow, kDefaultMemory,
                   Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::bad_alloc();
  }
  stream_.reset(stream.release());
}

void Gzip::End::operator()(z_stream* stream) const {
  deflateEnd(stream);
  delete stream;
}

void Gzip::CompressTo(std::string& out, std::string_view text) {
  // Metrics shrink to a twentieth: deflateBound(), which is more than the text, would mostly be
  // memory that is written for nothing.
  constexpr std::size_t kShrinkTo = 16;
  constexpr std::size_t kLeast = std::size_t{4} << 10;
  deflateReset(stream_.get());
  stream_->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream_->avail_in = static_cast<uInt>(text.size());  // far below 4 GiB, uInt's end
  out.resize(std::max(text.size() / kShrinkTo, kLeast));
  for (;;) {
    stream_->next_out = reinterpret_cast<Bytef*>(out.data()) + stream_->total_out;
    stream_->avail_out = static_cast<uInt>(out.size() - stream_->total_out);
    if (deflate(stream_.get(), Z_FINISH) == Z_STREAM_END) break;
    out.resize(2 * out.size());
  }
  out.resize(stream_->total_out);
}

}  // namespace kmem
