#include "exporter/snapshot_exchange.h"

namespace kmem {

EventState SnapshotExchange::Take(std::chrono::milliseconds deadline,
                                  const std::function<void()>& wake) {
  const std::uint64_t mine = newest_request_.fetch_add(1, std::memory_order_acq_rel) + 1;
  wake();
  std::unique_lock lock(mutex_);
  published_changed_.wait_for(lock, deadline, [&] { return served_ >= mine; });
  return published_;
}

bool SnapshotExchange::Publish(const EventState& state, std::uint64_t request) {
  {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    published_ = state;
    served_ = request;
  }
  published_changed_.notify_all();
  return true;
}

}  // namespace kmem
