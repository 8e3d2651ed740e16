// Bytes on the heap in a block of exactly their size and the slack that the walker and the
// dispatcher may read, so that AddressSanitizer sees a read beyond them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include "collectors/event.h"

namespace kmem {

class HeapPage {
 public:
  explicit HeapPage(std::span<const std::byte> bytes)
      : size_(bytes.size()), bytes_(new std::byte[bytes.size() + kRecordSlack]) {
    std::ranges::copy(bytes, bytes_.get());
    // Not zero, so that a field that reaches into the slack is noticed.
    std::fill_n(bytes_.get() + size_, kRecordSlack, std::byte{0xa5});
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::byte* data() { return bytes_.get(); }
  [[nodiscard]] const std::byte* data() const { return bytes_.get(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {bytes_.get(), size_}; }

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace kmem
