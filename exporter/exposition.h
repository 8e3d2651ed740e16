// Metric families to text: Prometheus 0.0.4 and OpenMetrics 1.0, and which of them a client gets.
// Pure functions, any thread.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <string_view>
#include <vector>

namespace kmem {

enum class TextFormat { kPrometheus, kOpenMetrics };

// The format for an Accept header (RFC 9110 quality values); the 0.0.4 format where the client
// leaves it open.
TextFormat NegotiateFormat(std::string_view accept);

// Whether an Accept-Encoding header asks for gzip.
bool AcceptsGzip(std::string_view accept_encoding);

std::string_view ContentType(TextFormat format);

// Serialises. Label values are made valid UTF-8 (each bad byte becomes U+FFFD) and HELP is escaped.
// Counters' names end in _total, as the metric contract has them.
std::string Serialize(std::vector<prometheus::MetricFamily> families, TextFormat format);

// gzip's format at zlib's fastest level.
std::string Gzip(std::string_view text);

}  // namespace kmem
