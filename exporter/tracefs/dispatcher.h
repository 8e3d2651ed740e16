// From a record to the handlers that want it: one table indexed by event id, filled once at start
// from the collectors' lists of events. Owns nothing of the state it counts into.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"
#include "exporter/collector_list.h"
#include "exporter/event_state.h"
#include "exporter/tracefs/format.h"
#include "exporter/tracefs/page_walker.h"

namespace kmem {

// The counter of a page that could not be walked to its end. `error` is not kNone.
RecordError ToRecordError(PageError error);

// The time in which a tracepoint's events are counted.
struct Gate {
  std::uint64_t from_ns = 0;
  std::uint64_t until_ns = UINT64_MAX;
  [[nodiscard]] bool Has(std::uint64_t time_ns) const {
    return time_ns >= from_ns && time_ns < until_ns;
  }
};

class Dispatcher {
 public:
  // Counts into `state`, whose CPUs and collectors it shapes; both must outlive this. `facts` are
  // written into the tallies.
  Dispatcher(const TraceCollectors& collectors, const KernelFacts& facts, std::uint32_t cpus,
             EventState& state);

  // Adds a tracepoint with the handlers of all collectors that want it. Throws FormatError, and
  // the tracepoint is then known as one that failed.
  void Bind(const std::string& event_name, const Formats& formats);

  // Records of these events are known and wanted by nobody. Events bound stay bound.
  void Ignore(std::span<const std::uint16_t> ids);

  // Has the collectors count what waited for other CPUs' events and do what is due by `now_ns`:
  // every event before `settled_ns` has been handled. Called by the thread that calls OnRecord().
  void SettleCommon(std::uint64_t settled_ns, std::uint64_t now_ns) noexcept;

  // Events have passed unseen: makes the collectors forget what waits for others.
  void Forget();

  // The gate of a tracepoint, by its index in EventState::tracepoints; open from the start.
  [[nodiscard]] Gate& GateOf(std::size_t tracepoint) { return *gates_[tracepoint]; }
  // Events that met a closed gate: they are counted nowhere else.
  [[nodiscard]] std::uint64_t outside() const { return outside_; }

  // A tracepoint has not been traced for a while, and is from now on.
  void Resume(std::size_t tracepoint);

  // Copies what scrapes need of the collectors' common state into the state, as of `now_ns`.
  void ReadCommon(std::uint64_t now_ns);

  // Walks one sub-buffer of that CPU and tallies its records, as OnRecord() does; an error of the
  // walk is counted too.
  PageResult OnPage(std::uint32_t cpu, std::span<const std::byte> page,
                    const PageLayout& layout) noexcept;

  // Tallies one record. Called for every event, by the one thread that owns the state; it neither
  // allocates nor locks. kRecordSlack bytes behind the record must be readable.
  void OnRecord(std::uint32_t cpu, std::uint64_t time_ns, const std::byte* record,
                std::uint32_t length) noexcept;

 private:
  struct Route {
    Handler handler = nullptr;
    const BoundField* fields = nullptr;
    std::byte* tallies = nullptr;  // of CPU 0
    void* common = nullptr;
    const Route* next = nullptr;  // of the same event, for another collector; most have none
    std::uint32_t stride = 0;
  };
  static constexpr std::uint32_t kNoLength = UINT32_MAX;  // a record has at most a sub-buffer's
  struct alignas(64) Entry {
    std::uint32_t min_length = kNoLength;  // kNoLength: nobody wants the event
    std::uint32_t tracepoint = 0;          // index in EventState::tracepoints
    const Gate* gate = nullptr;
    Route first{};  // of one that is wanted: there is one, if only to do nothing
  };
  static_assert(sizeof(Entry) == 64, "what an event needs of it is in one line of the cache");
  // What is the same for all records of a page.
  struct Reading {
    const Entry* entries;
    std::size_t entry_count;
    std::uint64_t* events;  // of the CPU, by tracepoint
    kmem_context context;
  };
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  [[nodiscard]] Reading BeginReading(std::uint32_t cpu) noexcept;
  // OnRecord() of the record that the context tells of.
  void Tally(Reading& reading, const std::byte* record) noexcept;
  // Counts why a record is of no use.
  void CountUnusable(const std::byte* record, std::uint32_t length) noexcept;
  std::byte* CommonOf(std::size_t collector);  // nullptr: it has none

  const TraceCollectors& collectors_;
  EventState& state_;
  std::vector<Entry> entries_;                       // by event id
  std::vector<bool> ignored_;                        // by event id
  std::vector<std::unique_ptr<Route>> more_routes_;  // behind the entries' first ones
  std::vector<std::unique_ptr<BoundEvent>> bound_;   // what the routes point into
  std::vector<std::vector<Line>> commons_;           // by collector; also that
  std::vector<std::unique_ptr<Gate>> gates_;         // by tracepoint
  std::uint64_t outside_ = 0;
};

}  // namespace kmem
