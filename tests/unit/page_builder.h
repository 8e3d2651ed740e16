// Makes sub-buffers of the kernel's ring buffer record by record, also ones that no kernel writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "heap_page.h"

namespace kmem {

class PageBuilder {
 public:
  static constexpr std::size_t kHeaderBytes = 16;

  explicit PageBuilder(std::uint64_t time_stamp, std::size_t page_size = 4096)
      : time_stamp_(time_stamp), page_size_(page_size) {}

  // Data of `length` bytes, a multiple of 4 from 4 to 112: its length stands in type_len.
  PageBuilder& Data(std::uint32_t delta, std::size_t length) {
    Header(static_cast<std::uint32_t>(length / 4), delta);
    return Payload(length);
  }
  // Data of any length, in a word of its own.
  PageBuilder& LongData(std::uint32_t delta, std::size_t length) {
    Header(0, delta).Word(static_cast<std::uint32_t>(length + 4));
    return Payload(length);
  }
  // Data whose bytes matter.
  PageBuilder& Record(std::uint32_t delta, std::span<const std::byte> record) {
    Header(0, delta).Word(static_cast<std::uint32_t>(record.size() + 4));
    data_.insert(data_.end(), record.begin(), record.end());
    return *this;
  }
  PageBuilder& PaddingToEnd() { return Header(29, 0); }
  // A record that the kernel discarded: `length` bytes follow its second word.
  PageBuilder& Padding(std::uint32_t delta, std::size_t length) {
    Header(29, delta).Word(static_cast<std::uint32_t>(length + 4));
    return Payload(length);
  }
  PageBuilder& TimeExtend(std::uint64_t delta) { return Time(30, delta); }
  // The lower 59 bits of `time` are what the record holds.
  PageBuilder& AbsoluteTime(std::uint64_t time) {
    return Time(31, time & ((UINT64_C(1) << 59) - 1));
  }

  PageBuilder& Header(std::uint32_t type_len, std::uint32_t delta) {
    return Word(type_len | delta << 5);
  }
  PageBuilder& Word(std::uint32_t word) {
    Append(word);
    return *this;
  }

  // Events were lost before this page; the page does not say how many.
  PageBuilder& Lost() {
    flags_ |= UINT32_C(1) << 31;
    return *this;
  }
  // As many were lost: the count is stored behind the data, if there is room for it.
  PageBuilder& Lost(std::uint64_t count) {
    flags_ |= UINT32_C(3) << 30;
    lost_count_ = count;
    return *this;
  }
  // The commit tells of as many bytes of data instead of those that there are.
  PageBuilder& Commit(std::uint32_t length) {
    commit_ = length;
    return *this;
  }

  [[nodiscard]] std::size_t data_size() const { return data_.size(); }

  [[nodiscard]] HeapPage Build() const {
    if (kHeaderBytes + data_.size() > page_size_) throw std::length_error("more than a page");
    std::vector<std::byte> page(page_size_);
    // The kernel ORs an int into a long, so bit 31 fills the upper half too.
    const std::int64_t commit = static_cast<std::int32_t>(
        flags_ | commit_.value_or(static_cast<std::uint32_t>(data_.size())));
    std::memcpy(page.data(), &time_stamp_, sizeof time_stamp_);
    std::memcpy(page.data() + 8, &commit, sizeof commit);
    if (!data_.empty()) std::memcpy(page.data() + kHeaderBytes, data_.data(), data_.size());
    const std::size_t data_end = kHeaderBytes + data_.size();
    if (lost_count_ && data_end + sizeof *lost_count_ <= page_size_) {
      std::memcpy(page.data() + data_end, &*lost_count_, sizeof *lost_count_);
    }
    return HeapPage(page);
  }

 private:
  template <class Value>
  void Append(Value value) {
    const std::size_t at = data_.size();
    data_.resize(at + sizeof value);
    std::memcpy(data_.data() + at, &value, sizeof value);
  }
  PageBuilder& Payload(std::size_t length) {
    data_.resize(data_.size() + length, std::byte{0x5a});
    return *this;
  }
  PageBuilder& Time(std::uint32_t type_len, std::uint64_t time) {
    Header(type_len, static_cast<std::uint32_t>(time & ((1U << 27) - 1)));
    return Word(static_cast<std::uint32_t>(time >> 27));
  }

  std::uint64_t time_stamp_;
  std::size_t page_size_;
  std::vector<std::byte> data_;
  std::uint32_t flags_ = 0;
  std::optional<std::uint32_t> commit_;
  std::optional<std::uint64_t> lost_count_;
};

}  // namespace kmem
