#include "exporter/text.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <iterator>

namespace kmem {

std::size_t Utf8Length(std::string_view text) {
  const auto byte = [&](std::size_t at) {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
  };
  if (text.empty()) return 0;
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  // The second byte's range keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t at = 2; at < length; ++at) {
    if ((byte(at) & 0xC0U) != 0x80U) return 0;
  }
  return length;
}

std::string Escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = Utf8Length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += kReplacementCharacter;
    } else if (first == '"' || first == '\\') {
      out.append({'\\', text[0]});
    } else if (first == '\n' || first == '\r' || first == '\t') {
      out += first == '\n' ? "\\n" : first == '\r' ? "\\r" : "\\t";
    } else if (first < 0x20 || first == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", unsigned{first});
    } else if (first == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0) {
      // U+0080 to U+009F: terminals take them for control sequences.
      fmt::format_to(std::back_inserter(out), "\\u{:04x}",
                     unsigned{static_cast<unsigned char>(text[1])});
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 64;
  std::size_t end = std::min(text.size(), kShown);
  while (end < text.size() && end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return fmt::format("\"{}{}\"", Escaped(text.substr(0, end)), end < text.size() ? "..." : "");
}

}  // namespace kmem
