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

  // The gate of a tracepoint, by its index in EventState::tracepoints; open from the start.
  [[nodiscard]] Gate& GateOf(std::size_t tracepoint) { return *gates_[tracepoint]; }
  // Events that met a closed gate: they are counted nowhere else.
  [[nodiscard]] std::uint64_t outside() const { return outside_; }

  // A tracepoint has not been traced for a while, and is from now on.
  void Resume(std::size_t tracepoint);

  // Copies what scrapes need of the collectors' common state into the state, as of `now_ns`.
  void ReadCommon(std::uint64_t now_ns);

  // Tallies one record. Called for every event, by the one thread that owns the state; it neither
  // allocates nor locks. kRecordSlack bytes behind the record must be readable.
  void OnRecord(std::uint32_t cpu, std::uint64_t time_ns, const std::byte* record,
                std::uint32_t length) noexcept;

 private:
  struct Route {
    Handler handler;
    const BoundField* fields;
    std::byte* tallies;  // of CPU 0
    std::size_t stride;
    void* common;
  };
  struct Entry {
    enum class Kind : std::uint8_t { kUnknown, kIgnored, kWanted };
    Kind kind = Kind::kUnknown;
    std::uint32_t tracepoint = 0;  // index in EventState::tracepoints
    std::uint32_t min_length = 0;
    const Gate* gate = nullptr;
    std::vector<Route> routes;
  };
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  Entry& EntryOf(std::uint16_t id);
  std::byte* CommonOf(std::size_t collector);  // nullptr: it has none

  const TraceCollectors& collectors_;
  EventState& state_;
  std::vector<Entry> entries_;                      // by event id
  std::vector<std::unique_ptr<BoundEvent>> bound_;  // what the routes point into
  std::vector<std::vector<Line>> commons_;          // by collector; also that
  std::vector<std::unique_ptr<Gate>> gates_;        // by tracepoint
  std::uint64_t outside_ = 0;
};

}  // namespace kmem
