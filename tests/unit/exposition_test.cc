#include "exporter/exposition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>
#include <zlib.h>

#include <array>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "collectors/families.h"

namespace kmem {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Type = prometheus::MetricType;

Families OneMetric(Type type, std::string_view name, double value) {
  Families families;
  FamilyBuilder(families, type, name, "Help.").Add({}, value);
  return families;
}

std::string LabelLine(std::string_view value, TextFormat format) {
  Families families;
  FamilyBuilder(families, Type::Gauge, "kmem_g", "Help.").Add({{"cache", value}}, 1);
  std::string text = Serialize(families, format);
  text.erase(0, text.find("\nkmem_g{") + 1);
  return text.substr(0, text.find('\n'));
}

std::string Gunzip(std::string_view packed) {
  z_stream stream{};
  EXPECT_EQ(inflateInit2(&stream, 15 + 16), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  std::string out;
  std::array<char, 4096> buffer;
  int result = Z_OK;
  while (result == Z_OK) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = static_cast<uInt>(buffer.size());
    result = inflate(&stream, Z_NO_FLUSH);
    out.append(buffer.data(), buffer.size() - stream.avail_out);
  }
  EXPECT_EQ(result, Z_STREAM_END);
  inflateEnd(&stream);
  return out;
}

// ---- Negotiation ----

TEST(NegotiateFormat, GivesPrometheus2ItsOpenMetrics) {
  EXPECT_EQ(NegotiateFormat("application/openmetrics-text;version=1.0.0,"
                            "application/openmetrics-text;version=0.0.1;q=0.75,"
                            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            TextFormat::kOpenMetrics);
}

TEST(NegotiateFormat, GivesPrometheus3ItsOpenMetrics) {
  EXPECT_EQ(NegotiateFormat("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                            "application/openmetrics-text;version=0.0.1;q=0.5,"
                            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
                            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"),
            TextFormat::kOpenMetrics);
}

TEST(NegotiateFormat, GivesPrometheusThatPrefersProtobufTheNextBest) {
  EXPECT_EQ(NegotiateFormat("application/vnd.google.protobuf;"
                            "proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
                            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
                            "application/openmetrics-text;version=0.0.1;q=0.4,"
                            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
                            "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"),
            TextFormat::kOpenMetrics);
}

TEST(NegotiateFormat, GivesTextWhereTheClientLeavesItOpen) {
  for (const char* accept :
       {"", "*/*", "text/plain", "text/*", "text/plain;version=0.0.4",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json",
        "application/openmetrics-text,text/plain", "application/openmetrics-text;q=0.5,*/*"}) {
    EXPECT_EQ(NegotiateFormat(accept), TextFormat::kPrometheus) << accept;
  }
}

TEST(NegotiateFormat, GivesOpenMetricsWhereItIsPreferred) {
  for (const char* accept :
       {"application/openmetrics-text", "Application/OpenMetrics-Text ; Version=\"1.0.0\"",
        "application/openmetrics-text;version=0.0.1", "text/plain;q=0.5,application/*;q=0.6",
        "text/plain;q=0,*/*", "application/openmetrics-text;q=1.000, text/plain;q=0.999"}) {
    EXPECT_EQ(NegotiateFormat(accept), TextFormat::kOpenMetrics) << accept;
  }
}

TEST(NegotiateFormat, TakesNoVersionItDoesNotSpeak) {
  EXPECT_EQ(NegotiateFormat("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"),
            TextFormat::kPrometheus);
  EXPECT_EQ(NegotiateFormat("text/plain;version=1.0.0,application/openmetrics-text;q=0.1"),
            TextFormat::kOpenMetrics);
}

TEST(NegotiateFormat, TheMoreExactRangeBeatsTheHigherQuality) {
  EXPECT_EQ(NegotiateFormat("*/*;q=1,application/openmetrics-text;q=0.9"), TextFormat::kPrometheus);
  EXPECT_EQ(NegotiateFormat("*/*;q=0.9,application/openmetrics-text;version=1.0.0;q=1,"
                            "application/openmetrics-text;q=0.1"),
            TextFormat::kOpenMetrics);
}

TEST(NegotiateFormat, SurvivesMalformedHeaders) {
  for (const char* accept :
       {",", ";", ";;=,", "application/openmetrics-text;q=", "application/openmetrics-text;q=2",
        "application/openmetrics-text;q=-1", "application/openmetrics-text;q=nan", "a;b=\"\\", "\"",
        "q=1;q"}) {
    EXPECT_EQ(NegotiateFormat(accept), TextFormat::kPrometheus) << accept;
  }
}

TEST(AcceptsGzip, OnlyWhereTheClientSaysSo) {
  for (const char* yes : {"gzip", "GZIP", "deflate, gzip;q=0.5", "*", "identity, *;q=0.1", "x-gzip",
                          "gzip;q=1.0,*;q=0", "gzip ; q=0.001"}) {
    EXPECT_TRUE(AcceptsGzip(yes)) << yes;
  }
  for (const char* no : {"", "identity", "deflate", "gzip;q=0", "gzip;q=0.000", "*;q=0",
                         "*,gzip;q=0", "gzip;q=0,*", "gzipped", "br;q=1.0, identity"}) {
    EXPECT_FALSE(AcceptsGzip(no)) << no;
  }
}

TEST(ContentType, NamesVersionAndCharset) {
  EXPECT_EQ(ContentType(TextFormat::kPrometheus), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(ContentType(TextFormat::kOpenMetrics),
            "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

// ---- Prometheus 0.0.4 ----

TEST(SerializePrometheus, WritesCountersGaugesAndHistograms) {
  Families families;
  FamilyBuilder(families, Type::Counter, "kmem_c_total", "Counts.")
      .Add({{"cpu", "0"}, {"cache", "x"}}, 3);
  FamilyBuilder(families, Type::Gauge, "kmem_g", "Gauges.").Add({}, 0.5);
  const std::array<double, 2> bounds{64, 4096};
  const std::array<std::uint64_t, 3> counts{1, 2, 3};
  FamilyBuilder(families, Type::Histogram, "kmem_h_bytes", "Sizes.")
      .AddHistogram({{"cpu", "0"}}, bounds, counts, 12345);
  EXPECT_EQ(Serialize(families, TextFormat::kPrometheus),
            "# HELP kmem_c_total Counts.\n"
            "# TYPE kmem_c_total counter\n"
            "kmem_c_total{cpu=\"0\",cache=\"x\"} 3\n"
            "# HELP kmem_g Gauges.\n"
            "# TYPE kmem_g gauge\n"
            "kmem_g 0.5\n"
            "# HELP kmem_h_bytes Sizes.\n"
            "# TYPE kmem_h_bytes histogram\n"
            "kmem_h_bytes_count{cpu=\"0\"} 6\n"
            "kmem_h_bytes_sum{cpu=\"0\"} 12345\n"
            "kmem_h_bytes_bucket{cpu=\"0\",le=\"64\"} 1\n"
            "kmem_h_bytes_bucket{cpu=\"0\",le=\"4096\"} 3\n"
            "kmem_h_bytes_bucket{cpu=\"0\",le=\"+Inf\"} 6\n");
}

// The serialiser that everybody else uses, on numbers that are easily written in another way.
TEST(SerializePrometheus, WritesWhatPrometheusCppWrites) {
  using Limits = std::numeric_limits<double>;
  Families families;
  const std::vector<double> values{0,
                                   -0.0,
                                   1,
                                   -1,
                                   0.1,
                                   0.1 + 0.2,
                                   1e-4,
                                   1e-5,
                                   123456,
                                   1234567.5,
                                   1e14,
                                   1e15 - 1,
                                   1e15,
                                   1e16,
                                   1e17,
                                   9007199254740993.0,
                                   1e300,
                                   5e-324,
                                   Limits::infinity(),
                                   -Limits::infinity(),
                                   1.7976931348623157e308};
  for (const Type type : {Type::Counter, Type::Gauge}) {
    FamilyBuilder family(families, type, "x_total", "Help.");
    for (const double value : values) {
      family.Add({{"a", "b\"\\\n"}, {"v", std::to_string(value)}}, value);
      family.Add({}, value);
    }
  }
  const std::vector<double> bounds{0, 0.00005, 0.0001, 0.25, 96, 1048576, 4194304};
  FamilyBuilder histogram(families, Type::Histogram, "h_bytes", "Help.");
  histogram.AddHistogram({{"a", "b"}}, bounds, std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8},
                         1.5);
  histogram.AddHistogram({}, bounds, std::vector<std::uint64_t>{0, 0, 0, 0, 0, 0, 0, 0}, 1e18);
  auto& rest = families.emplace_back();
  rest.name = "without_help";
  rest.type = Type::Untyped;
  rest.metric.emplace_back().untyped.value = 3;
  auto& summary = families.emplace_back();
  summary.name = "s";
  summary.type = Type::Summary;
  summary.metric.emplace_back().summary = {7, 2.5, {{0.5, 1}, {0.99, 2}}};
  std::ostringstream theirs;
  prometheus::TextSerializer().Serialize(theirs, families);
  EXPECT_EQ(Serialize(families, TextFormat::kPrometheus), theirs.str());
}

TEST(SerializePrometheus, EscapesHelpOnce) {
  Families families;
  FamilyBuilder(families, Type::Gauge, "kmem_g", "a\\b\nc \"d\"").Add({}, 1);
  EXPECT_THAT(Serialize(families, TextFormat::kPrometheus),
              StartsWith("# HELP kmem_g a\\\\b\\nc \"d\"\n# TYPE"));
}

// ---- OpenMetrics 1.0 ----

TEST(SerializeOpenMetrics, NamesCounterFamiliesWithoutTotalAndSamplesWithIt) {
  Families families;
  FamilyBuilder(families, Type::Counter, "kmem_c_total", "Counts.")
      .Add({{"cpu", "0"}, {"cache", "x"}}, 3);
  EXPECT_EQ(Serialize(families, TextFormat::kOpenMetrics),
            "# HELP kmem_c Counts.\n"
            "# TYPE kmem_c counter\n"
            "kmem_c_total{cpu=\"0\",cache=\"x\"} 3\n"
            "# EOF\n");
}

TEST(SerializeOpenMetrics, CallsACounterWithoutTotalUnknown) {
  EXPECT_EQ(Serialize(OneMetric(Type::Counter, "kmem_c", 3), TextFormat::kOpenMetrics),
            "# HELP kmem_c Help.\n# TYPE kmem_c unknown\nkmem_c 3\n# EOF\n");
}

TEST(SerializeOpenMetrics, LeavesInfoMetricsGauges) {
  EXPECT_THAT(
      Serialize(OneMetric(Type::Gauge, "kmem_exporter_build_info", 1), TextFormat::kOpenMetrics),
      HasSubstr("# TYPE kmem_exporter_build_info gauge\nkmem_exporter_build_info 1\n"));
}

TEST(SerializeOpenMetrics, WritesBoundsAsCanonicalFloats) {
  Families families;
  const std::array<double, 8> bounds{0, 1e-5, 0.0001, 0.25, 1, 4096, 1048576, 1e21};
  const std::array<std::uint64_t, 9> counts{1, 1, 1, 1, 1, 1, 1, 1, 1};
  FamilyBuilder(families, Type::Histogram, "kmem_h", "Sizes.")
      .AddHistogram({}, bounds, counts, 2.5);
  EXPECT_EQ(Serialize(families, TextFormat::kOpenMetrics),
            "# HELP kmem_h Sizes.\n"
            "# TYPE kmem_h histogram\n"
            "kmem_h_bucket{le=\"0.0\"} 1\n"
            "kmem_h_bucket{le=\"1e-05\"} 2\n"
            "kmem_h_bucket{le=\"0.0001\"} 3\n"
            "kmem_h_bucket{le=\"0.25\"} 4\n"
            "kmem_h_bucket{le=\"1.0\"} 5\n"
            "kmem_h_bucket{le=\"4096.0\"} 6\n"
            "kmem_h_bucket{le=\"1.048576e+06\"} 7\n"
            "kmem_h_bucket{le=\"1e+21\"} 8\n"
            "kmem_h_bucket{le=\"+Inf\"} 9\n"
            "kmem_h_count 9\n"
            "kmem_h_sum 2.5\n"
            "# EOF\n");
}

TEST(SerializeOpenMetrics, AddsAMissingInfBucket) {
  prometheus::MetricFamily family{"kmem_h", "Sizes.", Type::Histogram, {}};
  family.metric.emplace_back().histogram = {5, 7, {{3, 1}}};
  family.metric.emplace_back().histogram = {0, 0, {}};
  const std::string text = Serialize({family}, TextFormat::kOpenMetrics);
  EXPECT_THAT(text, HasSubstr("kmem_h_bucket{le=\"1.0\"} 3\nkmem_h_bucket{le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("kmem_h_bucket{le=\"+Inf\"} 0\nkmem_h_count 0\n"));
}

TEST(SerializeOpenMetrics, WritesSummariesAndUntyped) {
  prometheus::MetricFamily summary{"kmem_s", "S.", Type::Summary, {}};
  summary.metric.emplace_back().summary = {4, 10, {{0.5, 2}}};
  prometheus::MetricFamily untyped{"kmem_u", "U.", Type::Untyped, {}};
  untyped.metric.emplace_back().untyped.value = 7;
  EXPECT_EQ(Serialize({summary, untyped}, TextFormat::kOpenMetrics),
            "# HELP kmem_s S.\n# TYPE kmem_s summary\n"
            "kmem_s{quantile=\"0.5\"} 2\nkmem_s_count 4\nkmem_s_sum 10\n"
            "# HELP kmem_u U.\n# TYPE kmem_u unknown\nkmem_u 7\n# EOF\n");
}

TEST(SerializeOpenMetrics, WritesTheShortestExactValues) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::array<std::pair<double, const char*>, 9> values{
      {{0, "0"},
       {0.1, "0.1"},
       {1234567, "1234567"},
       {9007199254740993, "9007199254740992"},
       {-2.5, "-2.5"},
       {1e300, "1e+300"},
       {std::nan(""), "NaN"},
       {kInfinity, "+Inf"},
       {-kInfinity, "-Inf"}}};
  for (const auto& [value, text] : values) {
    EXPECT_THAT(Serialize(OneMetric(Type::Gauge, "kmem_g", value), TextFormat::kOpenMetrics),
                HasSubstr("\nkmem_g " + std::string(text) + "\n"));
  }
}

TEST(SerializeOpenMetrics, EscapesHelp) {
  Families families;
  FamilyBuilder(families, Type::Gauge, "kmem_g", "a\\b\nc \"d\"").Add({}, 1);
  EXPECT_THAT(Serialize(families, TextFormat::kOpenMetrics),
              StartsWith("# HELP kmem_g a\\\\b\\nc \\\"d\\\"\n# TYPE"));
}

TEST(SerializeOpenMetrics, EndsAnEmptyExpositionToo) {
  EXPECT_EQ(Serialize({}, TextFormat::kOpenMetrics), "# EOF\n");
  EXPECT_EQ(Serialize({}, TextFormat::kPrometheus), "");
}

// ---- Odd bytes ----

class OddBytes : public ::testing::TestWithParam<TextFormat> {};

TEST_P(OddBytes, AreEscapedInLabelValues) {
  EXPECT_EQ(LabelLine("a\"b\\c\nd", GetParam()), R"(kmem_g{cache="a\"b\\c\nd"} 1)");
}

TEST_P(OddBytes, StayWhereTheyAreWellFormed) {
  for (const std::string value :
       {"plain", "gr\xC3\xBC\xC3\x9F", "\xE2\x82\xAC", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "\xC2\x80", "\xE0\xA0\x80", "\x01\x7F"}) {
    EXPECT_EQ(LabelLine(value, GetParam()), "kmem_g{cache=\"" + value + "\"} 1");
  }
}

TEST_P(OddBytes, BecomeReplacementCharactersWhereIllFormed) {
  const std::string r = "\xEF\xBF\xBD";
  const std::array<std::pair<std::string, std::string>, 12> cases{{
      {"\xFF", r},
      {"a\x80z", "a" + r + "z"},
      {"\xC0\xAF", r + r},                  // overlong
      {"\xE0\x9F\xBF", r + r + r},          // overlong
      {"\xF0\x8F\xBF\xBF", r + r + r + r},  // overlong
      {"\xED\xA0\x80", r + r + r},          // a surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},  // past U+10FFFF
      {"\xF5\x80\x80\x80", r + r + r + r},
      {"\xE2\x82", r + r},         // cut off
      {"\xE2\x82z", r + r + "z"},  // broken off
      {"\xC3\xC3\xBC", r + "\xC3\xBC"},
      {"\xF0\x9F\x98", r + r + r},
  }};
  for (const auto& [value, expected] : cases) {
    EXPECT_EQ(LabelLine(value, GetParam()), "kmem_g{cache=\"" + expected + "\"} 1");
  }
}

TEST_P(OddBytes, AreReplacedInHelp) {
  Families families;
  FamilyBuilder(families, Type::Gauge, "kmem_g", "a\xFFz").Add({}, 1);
  EXPECT_THAT(Serialize(families, GetParam()), StartsWith("# HELP kmem_g a\xEF\xBF\xBDz\n"));
}

INSTANTIATE_TEST_SUITE_P(Formats, OddBytes,
                         ::testing::Values(TextFormat::kPrometheus, TextFormat::kOpenMetrics));

// ---- gzip ----

TEST(Gzip, RoundTripsAgainAndAgainInTheSameMemory) {
  std::string noise;
  for (unsigned i = 0, x = 1; i < 100000; ++i, x = x * 1664525 + 1013904223) {
    noise += static_cast<char>(x >> 24);
  }
  const std::string repeated(1 << 20, 'x');
  Gzip gzip;
  std::string packed;
  for (const std::string& text : {std::string(), std::string("kmem 1\n"), repeated, noise,
                                  std::string("kmem 1\n"), repeated}) {
    gzip.CompressTo(packed, text);
    EXPECT_EQ(Gunzip(packed), text);
  }
  EXPECT_LT(packed.size(), repeated.size() / 100);
}

TEST(SerializeTo, ReplacesWhatWasThereAndKeepsItsMemory) {
  std::string out(100000, 'x');
  const char* memory = out.data();
  SerializeTo(out, OneMetric(Type::Gauge, "kmem_g", 1), TextFormat::kPrometheus);
  EXPECT_EQ(out, Serialize(OneMetric(Type::Gauge, "kmem_g", 1), TextFormat::kPrometheus));
  EXPECT_EQ(out.data(), memory);
}

}  // namespace
}  // namespace kmem
