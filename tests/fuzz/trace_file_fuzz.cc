// Any bytes as a trace.dat: a result or one line of error. The child that reads it may die of it.

#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "exporter/replay/trace_file.h"

namespace {

// A file of this process's own, removed at its end.
class TemporaryFile {
 public:
  TemporaryFile() : path_("/dev/shm/kmem-fuzz-" + std::to_string(getpid())) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { unlink(path_.c_str()); }

  void Write(const std::uint8_t* data, std::size_t size) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The child's death is no finding: it must not be written down as one.
void DieAsUsual() {
  __sanitizer_set_death_callback(nullptr);
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE}) std::signal(number, SIG_DFL);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TemporaryFile file;
  static const int at_fork = pthread_atfork(nullptr, nullptr, &DieAsUsual);
  if (at_fork != 0) std::abort();
  static const kmem::TraceCollectors collectors = kmem::MakeTraceCollectors({});
  file.Write(data, size);
  try {
    static_cast<void>(kmem::ReadTraceFile(file.path(), collectors, {}));
  } catch (const kmem::ReplayError& error) {
    const std::string_view line = error.what();
    if (line.empty() || line.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
