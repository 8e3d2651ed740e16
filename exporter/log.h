// The log: one line per event on standard error, logfmt or JSON. Nothing logs per traced event.
#pragma once

#include <spdlog/spdlog.h>

#include "exporter/config.h"

namespace kmem {

// Sets up spdlog's default logger. Call once, before other threads start. Thread-safe from then on.
// A line reads: time=2025-01-02T03:04:05.678Z level=info msg="..." with quotes, backslashes and
// control characters of the message escaped; in JSON the same three keys. Levels are named debug,
// info, warn and error.
void InitLog(const LogConfig& config);

}  // namespace kmem
