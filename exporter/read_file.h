// Reading a small file whole. Any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "exporter/unique_fd.h"

namespace kmem {

// The file's text, at most `max_bytes` + 1 of it: that many mean that it is too long. Nothing, and
// errno says why, if it cannot be read; if it could not be opened, errno is left as open() set it.
std::optional<std::string> ReadAll(const UniqueFd& file, std::size_t max_bytes);

}  // namespace kmem
