// Foreign text, such as a file's or a client's, made fit for the log, errors and metrics. Pure
// functions, any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kmem {

// U+FFFD, which stands for a byte that is not UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// The bytes of the well-formed UTF-8 sequence (RFC 3629) that `text` starts with; 0 if there is
// none.
std::size_t Utf8Length(std::string_view text);

// For one line between double quotes, in a log line or an error: quotes, backslashes and control
// characters are escaped as in JSON, each byte that is not UTF-8 becomes U+FFFD.
std::string Escaped(std::string_view text);

// For an error: escaped, between double quotes, and cut to a bearable length.
std::string Quoted(std::string_view text);

}  // namespace kmem
