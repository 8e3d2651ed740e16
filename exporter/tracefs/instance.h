// The exporter's own tracefs instance: a private ring buffer with its own set of enabled events, so
// that nobody else's tracing is touched. Rests on libtracefs, which is included by the .cc alone.
//
// While it lives, a file of it is held open. So the kernel refuses its removal (a second copy of
// the exporter sees that), and when the process dies in whatever way, the kernel switches the
// tracing off and frees the buffer (free_buffer with disable_on_free: kernel/trace/trace.c,
// tracing_free_buffer_release(), 5.10 to 6.18). What a killed exporter leaves is an idle instance,
// which the next start removes.
//
// Used by one thread at a time. Its destructor removes the instance: every file of it that was
// opened through Open() must be closed by then.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/tracing_error.h"
#include "exporter/unique_fd.h"

struct tracefs_instance;

namespace kmem {

// Puts an errno of a tracefs operation into words. `lockdown` is the text of
// /sys/kernel/security/lockdown, `label` that of /proc/self/attr/current; empty where it can't be
// read.
TracingError DescribeTracefsFailure(int error, const std::string& path, std::string_view lockdown,
                                    std::string_view label);

class Instance {
 public:
  // Makes the instance afresh, whatever a killed exporter left. Throws TracingError.
  Instance(const std::string& tracing_dir, const std::string& name);
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;
  ~Instance();

  // Removes what a killed exporter left; false if there was nothing. Throws TracingError: kInUse if
  // a running one holds it.
  static bool RemoveStale(const std::string& tracing_dir, const std::string& name);

  [[nodiscard]] bool HasEvent(const std::string& event) const;
  // The texts of events/kmem/EVENT/format and events/header_page. Throw TracingError.
  [[nodiscard]] std::string EventFormat(const std::string& event) const;
  [[nodiscard]] std::string HeaderPage() const;
  // Throws TracingError.
  void EnableEvent(const std::string& event);
  void DisableEvent(const std::string& event);
  void DisableAllEvents() noexcept;

  // Settings are files of the instance. Throw TracingError.
  [[nodiscard]] bool HasSetting(const std::string& file) const;
  void WriteSetting(const std::string& file, const std::string& value);
  [[nodiscard]] std::string ReadSetting(const std::string& file) const;

  // Opens a file of the instance; non-blocking. Throws TracingError.
  [[nodiscard]] UniqueFd Open(const std::string& file, int flags) const;

  // The CPUs that have a buffer here: every possible one, ascending.
  [[nodiscard]] std::vector<std::uint32_t> Cpus() const;

 private:
  [[nodiscard]] TracingError Failure(int error, const std::string& file) const;

  std::string tracing_dir_;
  std::string dir_;
  std::unique_ptr<tracefs_instance, void (*)(tracefs_instance*)> instance_;
  UniqueFd free_buffer_;
};

}  // namespace kmem
