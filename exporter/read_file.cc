#include "exporter/read_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace kmem {

std::optional<std::string> ReadAll(const UniqueFd& file, std::size_t max_bytes) {
  // By how much the buffer grows. The kernel hands out about a page of a table at a time
  // (seq_read_iter(), fs/seq_file.c, 5.10 to 6.18) whatever is asked for.
  constexpr std::size_t kChunkBytes = std::size_t{64} << 10;
  if (!file.valid()) return std::nullopt;
  std::string text;
  std::size_t size = 0;
  while (size <= max_bytes) {
    if (text.size() == size) text.resize(std::min(size + kChunkBytes, max_bytes + 1));
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
