#include "exporter/tracefs/watch.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

namespace kmem {
namespace {

// Long enough for the settings' files.
using Buffer = std::array<char, 4096>;

std::string_view ReadInto(const UniqueFd& fd, Buffer& buffer) {
  const ssize_t got = pread(fd.get(), buffer.data(), buffer.size(), 0);
  return {buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

std::string FirstWord(const std::string& text) { return text.substr(0, text.find_first_of(" \n")); }

}  // namespace

std::string CurrentClock(std::string_view trace_clock) {
  const std::size_t open = trace_clock.find('[');
  const std::size_t close = trace_clock.find(']', open);
  if (open == std::string_view::npos || close == std::string_view::npos) return "";
  return std::string(trace_clock.substr(open + 1, close - open - 1));
}

Watch::Watch(Instance& instance, std::vector<std::string> events)
    : instance_(instance),
      events_(std::move(events)),
      tracing_on_(Remember("tracing_on", "1")),
      clock_(Remember("trace_clock", CurrentClock(instance.ReadSetting("trace_clock")))),
      buffer_size_(Remember("buffer_size_kb", FirstWord(instance.ReadSetting("buffer_size_kb")))),
      enabled_events_{"set_event", instance.Open("set_event", O_RDONLY), "", "", false},
      total_size_(instance.Open("buffer_total_size_kb", O_RDONLY)) {
  const char* const file = "buffer_subbuf_size_kb";
  if (instance.HasSetting(file)) {
    subbuffer_size_ = Remember(file, FirstWord(instance.ReadSetting(file)));
  }
  enabled_events_.expected = EnabledEvents();
}

// A read gives a part of it, with whole lines.
std::string_view Watch::EnabledEvents() {
  enabled_text_.clear();
  Buffer buffer;
  for (;;) {
    const ssize_t got = pread(enabled_events_.fd.get(), buffer.data(), buffer.size(),
                              static_cast<off_t>(enabled_text_.size()));
    if (got <= 0) return enabled_text_;
    enabled_text_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

void Watch::Expect(std::vector<std::string> events) {
  events_ = std::move(events);
  const std::string_view now = EnabledEvents();
  // Else the next look finds what is wrong.
  if (AllEnabled(now)) enabled_events_.expected = now;
}

Watch::Setting Watch::Remember(const std::string& file, const std::string& restore) const {
  Setting setting{file, instance_.Open(file, O_RDONLY), "", restore, false};
  Buffer buffer;
  setting.expected = ReadInto(setting.fd, buffer);
  return setting;
}

bool Watch::LookAt(Setting& setting, Interference kind, Finding& finding) {
  if (!setting.fd.valid()) return false;
  Buffer buffer;
  if (ReadInto(setting.fd, buffer) == setting.expected) {
    setting.wrong = false;
    return false;
  }
  try {
    instance_.WriteSetting(setting.file, setting.restore);
  } catch (const TracingError& error) {
    if (!setting.wrong) spdlog::error("our tracing can't be restored: {}", error.what());
  }
  finding.found[static_cast<std::size_t>(kind)] |= !setting.wrong;
  setting.wrong = ReadInto(setting.fd, buffer) != setting.expected;
  return true;
}

bool Watch::AllEnabled(std::string_view set_event) const {
  // Lines "SYSTEM:EVENT"; others may have enabled events of their own here.
  return std::ranges::all_of(events_, [&](const std::string& event) {
    const std::size_t at = set_event.find(":" + event + "\n");
    return at != std::string_view::npos;
  });
}

bool Watch::LookAtEvents(Finding& finding) {
  const std::string_view now = EnabledEvents();
  if (now == enabled_events_.expected) {
    enabled_events_.wrong = false;
    return false;
  }
  if (AllEnabled(now)) {
    enabled_events_.expected = now;
    return false;
  }
  try {
    for (const std::string& event : events_) instance_.EnableEvent(event);
  } catch (const TracingError& error) {
    if (!enabled_events_.wrong) spdlog::error("our tracing can't be restored: {}", error.what());
  }
  finding.found[static_cast<std::size_t>(Interference::kDisabled)] |= !enabled_events_.wrong;
  enabled_events_.wrong = !AllEnabled(EnabledEvents());
  return true;
}

Watch::Finding Watch::Look() {
  Finding finding;
  // The sub-buffers first: with a size of theirs that we do not know every read is wrong.
  finding.buffer_reset |= LookAt(subbuffer_size_, Interference::kResized, finding);
  LookAt(buffer_size_, Interference::kResized, finding);
  finding.buffer_reset |= LookAt(clock_, Interference::kClock, finding);
  LookAt(tracing_on_, Interference::kDisabled, finding);
  LookAtEvents(finding);
  const auto found = [&finding](Interference kind) {
    return finding.found[static_cast<std::size_t>(kind)];
  };
  if (std::ranges::count(finding.found, true) != 0) {
    spdlog::warn("somebody changed our tracefs instance:{}{}{}; events in between were not counted",
                 found(Interference::kDisabled) ? " tracing or events disabled" : "",
                 found(Interference::kResized) ? " buffer resized" : "",
                 found(Interference::kClock) ? " clock changed" : "");
  }
  return finding;
}

std::uint64_t Watch::BufferBytes() const {
  Buffer buffer;
  const std::string_view text = ReadInto(total_size_, buffer);
  std::uint64_t kb = 0;
  std::from_chars(text.data(), text.data() + text.size(), kb);
  return kb * 1024;
}

}  // namespace kmem
