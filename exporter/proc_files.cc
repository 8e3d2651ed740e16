#include "exporter/proc_files.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "collectors/proc_tables.h"
#include "exporter/read_file.h"
#include "exporter/unique_fd.h"

namespace kmem {

std::string ProcFiles::Read(std::string_view path) const {
  const std::string file = root_ + "/" + std::string(path);
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  std::optional<std::string> text = ReadAll(fd, kMaxTableBytes);
  if (!text) throw ProcError(file + ": " + std::generic_category().message(errno));
  if (text->size() > kMaxTableBytes) throw ProcError(file + ": too long");
  return *std::move(text);
}

}  // namespace kmem
