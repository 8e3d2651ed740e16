// Metric families to text: Prometheus 0.0.4 and OpenMetrics 1.0, and which of them a client gets.
// Functions without a state, any thread, and a compressor, of one thread at a time.
#pragma once

#include <prometheus/metric_family.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct z_stream_s;  // zlib's

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

// The same in place of what is in `out`, whose memory is used again.
void SerializeTo(std::string& out, std::vector<prometheus::MetricFamily> families,
                 TextFormat format);

// gzip's format at zlib's fastest level. Keeps zlib's state, some 270 KiB, from text to text.
class Gzip {
 public:
  Gzip();

  // In place of what is in `out`, whose memory is used again.
  void CompressTo(std::string& out, std::string_view text);

 private:
  struct End {
    void operator()(z_stream_s* stream) const;
  };
  std::unique_ptr<z_stream_s, End> stream_;
};

}  // namespace kmem
