// Names for every address, so that none is in `other` for want of one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "collectors/collector.h"

namespace kmem {

class NamedByAddress : public Symbols {
 public:
  [[nodiscard]] bool available() const override { return true; }
  std::uint64_t Refresh() override { return 1; }
  [[nodiscard]] std::optional<Symbol> Find(std::uint64_t address) const override {
    return Symbol{"f" + std::to_string(address), "kernel"};
  }
};

}  // namespace kmem
