#include "exporter/proc_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <system_error>
#include <utility>

#include "collectors/proc_tables.h"
#include "exporter/unique_fd.h"

namespace kmem {
namespace {

// By how much the buffer grows. The kernel hands out about a page at a time (seq_read_iter(),
// fs/seq_file.c, 5.10 to 6.18) whatever is asked for.
constexpr std::size_t kChunkBytes = std::size_t{64} << 10;

[[noreturn]] void Fail(const std::string& file, const std::string& why) {
  throw ProcError(file + ": " + why);
}

[[noreturn]] void FailErrno(const std::string& file) {
  Fail(file, std::generic_category().message(errno));
}

}  // namespace

std::string ProcFiles::Read(std::string_view path) const {
  const std::string file = root_ + "/" + std::string(path);
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) FailErrno(file);
  std::string text;
  std::size_t size = 0;
  while (true) {
    if (text.size() == size) text.resize(size + kChunkBytes);
    const ssize_t count = ::read(fd.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) FailErrno(file);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
    if (size > kMaxTableBytes) Fail(file, "too long");
  }
  text.resize(size);
  return text;
}

}  // namespace kmem
