// The tables below /proc as files of a directory.
#pragma once

#include <string>

#include "collectors/collector.h"

namespace kmem {

// Reads below `root` (paths.procfs). Any thread.
class ProcFiles : public ProcReader {
 public:
  explicit ProcFiles(std::string root) : root_(std::move(root)) {}
  // Throws ProcError: "ROOT/path: why".
  [[nodiscard]] std::string Read(std::string_view path) const override;

 private:
  std::string root_;
};

}  // namespace kmem
