// Whether events are being traced, and by what: starts the source of events and, where the
// configuration says so, tries again while it can't be started.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "exporter/event_source.h"

namespace kmem {

class Tracing {
 public:
  // `start` makes the source or throws TracingError.
  explicit Tracing(std::function<std::unique_ptr<EventSource>()> start)
      : start_(std::move(start)) {}

  // The main thread. Throws TracingError, having remembered its reason.
  void Start();
  // The main thread. Ends the tracing; the last scrape that still holds the source ends it really.
  void Stop();

  // Any thread. The source, or nothing; then `reason` is why not, one word.
  struct Status {
    std::shared_ptr<EventSource> source;
    std::string reason;
    std::string message;  // the same as a line for people
  };
  [[nodiscard]] Status status() const;

 private:
  std::function<std::unique_ptr<EventSource>()> start_;
  mutable std::mutex mutex_;
  Status status_{nullptr, "starting", "tracing is being started"};
};

}  // namespace kmem
