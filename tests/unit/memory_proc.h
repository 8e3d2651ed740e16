// Tables below /proc that a test makes up.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "collectors/collector.h"

namespace kmem {

// Whatever is not in it can't be read.
class MapProc : public ProcReader {
 public:
  explicit MapProc(std::map<std::string, std::string> files) : files_(std::move(files)) {}

  [[nodiscard]] std::string Read(std::string_view path) const override {
    const auto file = files_.find(std::string(path));
    if (file == files_.end()) throw ProcError(std::string(path) + ": Permission denied");
    return file->second;
  }

 private:
  std::map<std::string, std::string> files_;
};

}  // namespace kmem
