// Why BPF programs can't be had, in one line for people.
#pragma once

#include <string>
#include <string_view>

#include "exporter/tracing_error.h"

namespace kmem {

// Puts an errno of a BPF operation into words. `lockdown` is the text of
// /sys/kernel/security/lockdown, `detail` what libbpf or the verifier said; both may be empty.
TracingError DescribeBpfFailure(int error, std::string_view operation, std::string_view lockdown,
                                std::string_view detail);

// Collects what libbpf says while this lives, in place of its printing it. libbpf has one printer
// for the whole process, so one of these at a time, in the main thread.
class LibbpfLog {
 public:
  LibbpfLog();
  LibbpfLog(const LibbpfLog&) = delete;
  LibbpfLog& operator=(const LibbpfLog&) = delete;
  ~LibbpfLog();

  // Forgets what was said.
  void Clear();
  // Throws what DescribeBpfFailure() makes of it.
  [[noreturn]] void Fail(int error, std::string_view operation) const;
};

// The verifier's verdict in what libbpf said, or else libbpf's first word on it.
std::string EssenceOfLibbpfLog(std::string_view text);

}  // namespace kmem
