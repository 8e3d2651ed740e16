// The log: one line per event on standard error, logfmt or JSON. Nothing logs per traced event.
#pragma once

#include <spdlog/spdlog.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "exporter/config.h"

namespace kmem {

// Sets up spdlog's default logger. Call once, before other threads start. Thread-safe from then on.
// A line reads: time=2025-01-02T03:04:05.678Z level=info msg="..." with quotes, backslashes and
// control characters of the message escaped; in JSON the same three keys. Levels are named debug,
// info, warn and error.
void InitLog(const LogConfig& config);

// Foreign text made fit for one line between double quotes, in a log line or an error: quotes,
// backslashes and control characters are escaped as in JSON, each byte that is not UTF-8 becomes
// U+FFFD. Any thread.
std::string Escaped(std::string_view text);

// The bytes of the well-formed UTF-8 sequence (RFC 3629) that `text` starts with; 0 if there is
// none. Any thread.
std::size_t Utf8Length(std::string_view text);

}  // namespace kmem
