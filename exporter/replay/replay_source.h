// A recorded trace as a source of events: read once, to its end, when it is made.
#pragma once

#include <string>

#include "exporter/config.h"
#include "exporter/event_source.h"
#include "exporter/replay/trace_file.h"

namespace kmem {

class ReplaySource : public EventSource {
 public:
  // Throws ReplayError.
  ReplaySource(const std::string& path, const Config& config, const TraceCollectors& collectors)
      : result_(ReadTraceFile(path, collectors, config.extra_events)) {}

  [[nodiscard]] std::string_view engine() const override { return "replay"; }
  [[nodiscard]] std::string_view reason() const override { return "--replay was given"; }
  [[nodiscard]] const KernelFacts& facts() const override { return result_.facts; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override {
    return result_.missing_events;
  }
  [[nodiscard]] EventState Snapshot() override { return result_.state; }

 private:
  TraceFileResult result_;
};

}  // namespace kmem
