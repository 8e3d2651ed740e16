// Looks after our instance: others can disable its events, switch its tracing off, resize its
// buffer or change its clock. What can be restored is restored. Owned and used by the drain thread;
// a look costs a handful of reads and allocates nothing while all is well.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/event_state.h"
#include "exporter/tracefs/instance.h"
#include "exporter/unique_fd.h"

namespace kmem {

class Watch {
 public:
  // Remembers how things stand now. `events` are those enabled. Throws TracingError.
  Watch(Instance& instance, std::vector<std::string> events);

  // From now on these are enabled, and no others are missed.
  void Expect(std::vector<std::string> events);

  struct Finding {
    // By Interference: found now, and not at the last look already.
    std::array<bool, kInterferences.size()> found{};
    // The kernel emptied the buffer and reset its counters, for what others did or for our
    // restoring.
    bool buffer_reset = false;
  };
  // Compares and restores. One log line for what it finds.
  Finding Look();

  // Memory of the instance's buffers, all CPUs, in bytes.
  [[nodiscard]] std::uint64_t BufferBytes() const;

 private:
  // A file of the instance that holds one value.
  struct Setting {
    std::string file;
    UniqueFd fd;
    std::string expected;  // as it is read
    std::string restore;   // as it is written
    bool wrong = false;    // at the last look, after the attempt to restore it
  };
  [[nodiscard]] Setting Remember(const std::string& file, const std::string& restore) const;
  // Whether the setting has been changed; tries to restore it.
  bool LookAt(Setting& setting, Interference kind, Finding& finding);
  bool LookAtEvents(Finding& finding);
  // Whether all our events are in the text of set_event.
  [[nodiscard]] bool AllEnabled(std::string_view set_event) const;
  // The text of set_event, until the next call.
  std::string_view EnabledEvents();

  Instance& instance_;
  std::vector<std::string> events_;
  Setting tracing_on_;
  Setting clock_;
  Setting buffer_size_;
  Setting subbuffer_size_;  // without a descriptor where the kernel has no such file
  Setting enabled_events_;
  std::string enabled_text_;
  UniqueFd total_size_;
};

// The current value in the text of trace_clock: "[mono]" among the others.
std::string CurrentClock(std::string_view trace_clock);

}  // namespace kmem
