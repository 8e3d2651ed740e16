#include "exporter/snapshot_exchange.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "exporter/event_state.h"

namespace kmem {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Never reached where the test passes.
constexpr std::chrono::seconds kForever{60};

EventState StateOf(std::uint64_t number) {
  EventState state(0, 1);
  state.cpus[0].events.assign(4, number);
  state.taken_at_ns = number;
  return state;
}
void Nothing() {}

TEST(SnapshotExchangeTest, WithoutAnAnswerTheNewestStateIsTakenAtTheDeadline) {
  SnapshotExchange exchange;
  ASSERT_TRUE(exchange.Publish(StateOf(1), 0));
  ASSERT_TRUE(exchange.Publish(StateOf(2), 0));
  const auto begin = Clock::now();
  EXPECT_EQ(exchange.Take(milliseconds(20), &Nothing).taken_at_ns, 2U);
  EXPECT_GE(Clock::now() - begin, milliseconds(20));
}

TEST(SnapshotExchangeTest, BeforeAnythingIsPublishedAnEmptyStateIsTaken) {
  SnapshotExchange exchange;
  const EventState state = exchange.Take(milliseconds(0), &Nothing);
  EXPECT_TRUE(state.cpus.empty());
  EXPECT_EQ(state.taken_at_ns, 0U);
}

TEST(SnapshotExchangeTest, AStateThatServesTheRequestIsTakenAtOnce) {
  SnapshotExchange exchange;
  ASSERT_TRUE(exchange.Publish(StateOf(1), 0));
  const EventState state = exchange.Take(
      kForever, [&] { EXPECT_TRUE(exchange.Publish(StateOf(2), exchange.NewestRequest())); });
  EXPECT_EQ(state.taken_at_ns, 2U);
}

TEST(SnapshotExchangeTest, AStateDrainedBeforeTheRequestDoesNotServeIt) {
  SnapshotExchange exchange;
  const std::uint64_t before = exchange.NewestRequest();
  const auto begin = Clock::now();
  const EventState state =
      exchange.Take(milliseconds(20), [&] { EXPECT_TRUE(exchange.Publish(StateOf(3), before)); });
  EXPECT_GE(Clock::now() - begin, milliseconds(20));
  EXPECT_EQ(state.taken_at_ns, 3U) << "it is still the newest";
}

TEST(SnapshotExchangeTest, EachRequestHasANumberOfItsOwn) {
  SnapshotExchange exchange;
  const std::uint64_t first = exchange.NewestRequest();
  exchange.Take(milliseconds(0), &Nothing);
  EXPECT_EQ(exchange.NewestRequest(), first + 1);
  exchange.Take(milliseconds(0), &Nothing);
  EXPECT_EQ(exchange.NewestRequest(), first + 2);
}

TEST(SnapshotExchangeTest, APublishedStateIsACopy) {
  SnapshotExchange exchange;
  EventState state = StateOf(1);
  ASSERT_TRUE(exchange.Publish(state, 0));
  state.cpus[0].events[0] = 99;
  EventState taken = exchange.Take(milliseconds(0), &Nothing);
  EXPECT_EQ(taken.cpus[0].events[0], 1U);
  taken.cpus[0].events[0] = 98;
  EXPECT_EQ(exchange.Take(milliseconds(0), &Nothing).cpus[0].events[0], 1U);
}

TEST(SnapshotExchangeTest, ATakerThatWaitsDoesNotKeepThePublisherOut) {
  SnapshotExchange exchange;
  std::thread taker([&] { EXPECT_EQ(exchange.Take(kForever, &Nothing).taken_at_ns, 5U); });
  while (exchange.NewestRequest() == 0) std::this_thread::yield();
  // The taker may be about to wait and hold the lock for that moment; it lets go of it.
  while (!exchange.Publish(StateOf(5), 1)) std::this_thread::yield();
  taker.join();
}

// Like the drain thread and scrapes: what was counted before Take() is in what it gives, states are
// whole, and later ones are never older. Made for the thread sanitizer, too.
TEST(SnapshotExchangeTest, TakersSeeWholeStatesThatHoldAllThatHappenedBefore) {
  SnapshotExchange exchange;
  ASSERT_TRUE(exchange.Publish(StateOf(0), 0));
  std::atomic<std::uint64_t> happened{0};
  std::atomic<int> takers_left{4};
  std::mutex mutex;
  std::condition_variable wanted;
  bool awake = false;

  std::thread drain([&] {
    while (takers_left > 0) {
      {
        std::unique_lock lock(mutex);
        wanted.wait(lock, [&] { return awake || takers_left == 0; });
        awake = false;
      }
      // A lost try-lock is tried again, as the next drain would.
      for (bool done = false; !done;) {
        const std::uint64_t request = exchange.NewestRequest();
        done = exchange.Publish(StateOf(happened), request);
      }
    }
  });
  const auto wake = [&] {
    {
      const std::scoped_lock lock(mutex);
      awake = true;
    }
    wanted.notify_one();
  };
  std::vector<std::thread> takers;
  for (int i = 0; i < 4; ++i) {
    takers.emplace_back([&] {
      std::uint64_t last = 0;
      for (int round = 0; round < 200; ++round) {
        const std::uint64_t before = ++happened;
        const EventState state = exchange.Take(kForever, wake);
        EXPECT_GE(state.taken_at_ns, before);
        EXPECT_GE(state.taken_at_ns, last);
        last = state.taken_at_ns;
        for (const std::uint64_t events : state.cpus.at(0).events) EXPECT_EQ(events, last);
      }
      {
        const std::scoped_lock lock(mutex);
        --takers_left;
      }
      wanted.notify_one();
    });
  }
  for (std::thread& taker : takers) taker.join();
  drain.join();
}

// The one thing that takes time under the lock is the taker's copy of a large state. That its owner
// is not kept waiting shows in Publish() saying no while it lasts.
TEST(SnapshotExchangeTest, PublishSaysNoWhileATakerCopiesInsteadOfWaiting) {
  SnapshotExchange exchange;
  EventState large(0, 1);
  large.cpus[0].events.assign(std::size_t{1} << 20, 1);
  ASSERT_TRUE(exchange.Publish(large, 0));
  std::atomic<bool> done{false};
  std::thread taker([&] {
    while (!done) exchange.Take(milliseconds(0), &Nothing);
  });
  const EventState small = StateOf(1);
  const auto deadline = Clock::now() + kForever;
  bool refused = false;
  while (!refused && Clock::now() < deadline) {
    // Every attempt that succeeds is undone, so that there is always something large to copy.
    refused = !exchange.Publish(small, 0) || !exchange.Publish(large, 0);
  }
  done = true;
  taker.join();
  EXPECT_TRUE(refused);
}

TEST(EventStateTest, LossesAndErrorsAreCountedWhereTheyBelong) {
  EventState state(0, 2);
  state.AddLoss(1, LossReason::kDropped, 5);
  state.AddLoss(1, LossReason::kDropped, 2);
  state.AddLoss(0, LossReason::kCommitOverrun, 1);
  state.Count(RecordError::kShortPayload);
  state.Count(RecordError::kLossUncounted);
  state.Count(RecordError::kLossUncounted);
  state.Count(Interference::kClock);
  using Losses = std::array<std::uint64_t, 4>;
  EXPECT_EQ(state.cpus[0].lost, (Losses{0, 0, 1, 0}));
  EXPECT_EQ(state.cpus[1].lost, (Losses{0, 7, 0, 0}));
  EXPECT_EQ(state.record_errors, (std::array<std::uint64_t, 9>{0, 0, 0, 0, 0, 1, 0, 0, 2}));
  EXPECT_EQ(state.interference, (std::array<std::uint64_t, 4>{0, 0, 0, 1}));
}

TEST(EventStateTest, NamesStandInTheOrderOfTheirEnums) {
  const auto name = [](auto value, const auto& names) {
    return names.at(static_cast<std::size_t>(value));
  };
  EXPECT_EQ(name(LossReason::kOverrun, kLossReasons), "overrun");
  EXPECT_EQ(name(LossReason::kDropped, kLossReasons), "dropped");
  EXPECT_EQ(name(LossReason::kCommitOverrun, kLossReasons), "commit_overrun");
  EXPECT_EQ(name(LossReason::kTaken, kLossReasons), "taken");
  EXPECT_EQ(name(RecordError::kPageTooShort, kRecordErrors), "page_too_short");
  EXPECT_EQ(name(RecordError::kCommitBeyondPage, kRecordErrors), "commit_beyond_page");
  EXPECT_EQ(name(RecordError::kRecordBeyondData, kRecordErrors), "record_beyond_data");
  EXPECT_EQ(name(RecordError::kRecordLengthTooSmall, kRecordErrors), "record_too_small");
  EXPECT_EQ(name(RecordError::kUnknownEventId, kRecordErrors), "unknown_event_id");
  EXPECT_EQ(name(RecordError::kShortPayload, kRecordErrors), "short_payload");
  EXPECT_EQ(name(RecordError::kImplausibleValue, kRecordErrors), "implausible_value");
  EXPECT_EQ(name(RecordError::kReadFailed, kRecordErrors), "read_failed");
  EXPECT_EQ(name(RecordError::kLossUncounted, kRecordErrors), "loss_uncounted");
  EXPECT_EQ(name(Interference::kDisabled, kInterferences), "disabled");
  EXPECT_EQ(name(Interference::kCleared, kInterferences), "cleared");
  EXPECT_EQ(name(Interference::kResized, kInterferences), "resized");
  EXPECT_EQ(name(Interference::kClock, kInterferences), "clock");
}

}  // namespace
}  // namespace kmem
