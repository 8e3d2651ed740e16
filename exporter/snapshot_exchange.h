// Hands the state of the drain thread to scraping threads. The drain thread never waits: it
// publishes by a try-lock, and a scraper holds the lock only while it copies.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "exporter/event_state.h"

namespace kmem {

class SnapshotExchange {
 public:
  // Scraping threads. Asks for a state that holds everything up to now, hastens it by `wake`, waits
  // for it at most `deadline`, and returns a copy of the newest state published.
  EventState Take(std::chrono::milliseconds deadline, const std::function<void()>& wake);

  // The drain thread, before it drains: the number of the newest request. What is drained from now
  // on serves it.
  [[nodiscard]] std::uint64_t NewestRequest() const {
    return newest_request_.load(std::memory_order_acquire);
  }

  // The drain thread, after it drained: publishes a copy that serves all requests up to `request`.
  // False: a scraper is copying just now; try again after the next drain.
  bool Publish(const EventState& state, std::uint64_t request);

 private:
  std::atomic<std::uint64_t> newest_request_{0};
  std::mutex mutex_;
  std::condition_variable published_changed_;
  std::uint64_t served_ = 0;  // the newest request that `published_` serves
  EventState published_;
};

}  // namespace kmem
