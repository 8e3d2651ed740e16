#include "exporter/exposition.h"

#include <prometheus/text_serializer.h>
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
#include <sstream>
#include <system_error>
#include <utility>

#include "exporter/text.h"

namespace kmem {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::string_view kTotal = "_total";

// ---- Header values (RFC 9110) ----

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool SameWord(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, Lower, Lower);
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// Cuts the part before the next `separator` outside quotes off `rest`.
std::string_view TakeUntil(std::string_view& rest, char separator) {
  bool quoted = false;
  std::size_t i = 0;
  for (; i < rest.size() && (quoted || rest[i] != separator); ++i) {
    if (rest[i] == '"') quoted = !quoted;
    if (quoted && rest[i] == '\\') ++i;
  }
  const std::string_view part = rest.substr(0, i);
  rest.remove_prefix(std::min(i + 1, rest.size()));
  return Trim(part);
}

// One element of an Accept or Accept-Encoding list.
struct Choice {
  std::string_view name;     // a media range or a coding
  std::string_view version;  // empty where none is given
  double quality = 1;        // 0 where the client's number is malformed: it is no wish then
};

double ParseQuality(std::string_view text) {
  double quality = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), quality, std::chars_format::fixed);
  const bool good = error == std::errc() && end == text.data() + text.size();
  return good && quality >= 0 && quality <= 1 ? quality : 0;
}

std::vector<Choice> ParseChoices(std::string_view header) {
  std::vector<Choice> choices;
  while (!header.empty()) {
    std::string_view element = TakeUntil(header, ',');
    Choice choice{.name = TakeUntil(element, ';'), .version = {}};
    while (!element.empty()) {
      std::string_view value = TakeUntil(element, ';');
      const std::string_view parameter = TakeUntil(value, '=');
      if (SameWord(parameter, "q")) choice.quality = ParseQuality(value);
      if (!SameWord(parameter, "version")) continue;
      if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
        value = value.substr(1, value.size() - 2);
      }
      choice.version = value;
    }
    if (!choice.name.empty()) choices.push_back(choice);
  }
  return choices;
}

// How exactly `choice` names the format: 0 not at all, 4 with its version.
int Match(const Choice& choice, TextFormat format) {
  const bool open = format == TextFormat::kOpenMetrics;
  if (SameWord(choice.name, open ? "application/openmetrics-text" : "text/plain")) {
    if (choice.version.empty()) return 3;
    // 0.0.1 is what Prometheus calls the draft that became 1.0.0.
    const bool ours =
        open ? choice.version == "1.0.0" || choice.version == "0.0.1" : choice.version == "0.0.4";
    return ours ? 4 : 0;
  }
  if (SameWord(choice.name, open ? "application/*" : "text/*")) return 2;
  return choice.name == "*/*" ? 1 : 0;
}

// The quality the client gives the format: the best of those that name it most exactly.
double Quality(const std::vector<Choice>& choices, TextFormat format) {
  std::pair<int, double> best{0, 0};
  for (const Choice& choice : choices) {
    const int match = Match(choice, format);
    if (match > 0) best = std::max(best, {match, choice.quality});
  }
  return best.second;
}

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
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '\\' || (c == '"' && escape_quotes)) out += '\\';
      out += c;
    }
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

template <typename Number>
void AppendSample(std::string& out, std::string_view name, const ClientMetric& metric, Number value,
                  const ExtraLabel& extra = {}) {
  out += name;
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

std::string_view OpenMetricsType(const MetricFamily& family) {
  switch (family.type) {
    case MetricType::Counter:
      // Its samples would have to be called NAME_total, which would rename the metric.
      return family.name.ends_with(kTotal) ? "counter" : "unknown";
    case MetricType::Gauge:
      return "gauge";
    case MetricType::Summary:
      return "summary";
    case MetricType::Histogram:
      return "histogram";
    case MetricType::Untyped:
      break;
  }
  return "unknown";
}

std::string SerializeOpenMetrics(const std::vector<MetricFamily>& families) {
  std::string out;
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
  return out;
}

// ---- Prometheus 0.0.4 ----

std::string SerializePrometheus(std::vector<MetricFamily>& families) {
  // TextSerializer escapes label values, but not HELP.
  for (MetricFamily& family : families) {
    std::string help;
    AppendEscaped(help, family.help, false);
    family.help = std::move(help);
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

}  // namespace

TextFormat NegotiateFormat(std::string_view accept) {
  const std::vector<Choice> choices = ParseChoices(accept);
  const bool open =
      Quality(choices, TextFormat::kOpenMetrics) > Quality(choices, TextFormat::kPrometheus);
  return open ? TextFormat::kOpenMetrics : TextFormat::kPrometheus;
}

bool AcceptsGzip(std::string_view accept_encoding) {
  bool any = false;
  for (const Choice& choice : ParseChoices(accept_encoding)) {
    if (SameWord(choice.name, "gzip") || SameWord(choice.name, "x-gzip")) return choice.quality > 0;
    if (choice.name == "*") any = choice.quality > 0;
  }
  return any;
}

std::string_view ContentType(TextFormat format) {
  return format == TextFormat::kOpenMetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

std::string Serialize(std::vector<MetricFamily> families, TextFormat format) {
  for (MetricFamily& family : families) {
    MakeValidUtf8(family.help);
    for (ClientMetric& metric : family.metric) {
      for (ClientMetric::Label& label : metric.label) MakeValidUtf8(label.value);
    }
  }
  return format == TextFormat::kOpenMetrics ? SerializeOpenMetrics(families)
                                            : SerializePrometheus(families);
}

std::string Gzip(std::string_view text) {
  constexpr int kGzipWindow = 15 + 16;  // the largest window, and gzip's header, not zlib's
  constexpr int kDefaultMemory = 8;
  z_stream stream{};
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kGzipWindow, kDefaultMemory,
                   Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::bad_alloc();
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> ended(&stream, &deflateEnd);
  // deflateBound makes one call enough; a response is far below 4 GiB, uInt's end.
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  return out;
}

}  // namespace kmem
