#include "exporter/tracing.h"

#include "exporter/tracing_error.h"

namespace kmem {

void Tracing::Start() {
  try {
    std::shared_ptr<EventSource> source = start_();
    const std::scoped_lock lock(mutex_);
    status_ = {std::move(source), "", ""};
  } catch (const TracingError& error) {
    const std::scoped_lock lock(mutex_);
    status_ = {nullptr, std::string(error.reason()), error.what()};
    throw;
  }
}

void Tracing::Stop() {
  // Declared before the lock, so destroyed after it: ending the tracing takes a while.
  Status stopped{nullptr, "stopping", "tracing has been stopped"};
  const std::scoped_lock lock(mutex_);
  std::swap(status_, stopped);
}

Tracing::Status Tracing::status() const {
  const std::scoped_lock lock(mutex_);
  return status_;
}

}  // namespace kmem
