#include "exporter/read_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace kmem {

std::optional<std::string> ReadAll(const UniqueFd& file, std::size_t max_bytes) {
  // By how much the buffer grows: little at first, as for a sysctl the kernel allocates what is
  // asked for and a byte more (proc_sys_call_handler(), fs/proc/proc_sysctl.c, 5.10 to 6.18). Of a
  // table it hands out about a page at a time (seq_read_iter(), fs/seq_file.c), whatever is asked.
  constexpr std::size_t kFirstBytes = 1023;
  constexpr std::size_t kMostBytes = std::size_t{64} << 10;
  if (!file.valid()) return std::nullopt;
  std::string text;
  std::size_t size = 0;
  while (size <= max_bytes) {
    if (text.size() == size) {
      const std::size_t more = std::clamp(size, kFirstBytes, kMostBytes);
      text.resize(std::min(size + more, max_bytes + 1));
    }
    const ssize_t count = ::read(file.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::nullopt;
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  text.resize(size);
  return text;
}

}  // namespace kmem
