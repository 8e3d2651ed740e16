// Walks one sub-buffer of the kernel's ring buffer, as read from trace_pipe_raw or found in a
// trace.dat, and hands each event's record on. Any bytes at all are safe to walk.
//
// The layout (include/linux/ring_buffer.h and kernel/trace/ring_buffer.c, 5.10 to 6.18):
//   u64 time stamp | local_t commit | data
//   commit: length of the data; bit 31: events were lost before this page; bit 30: how many is
//   stored as a long right behind the data.
//   data: records, each begun by a u32 of which 5 bits are type_len and 27 bits the time since the
//   record before.
//     1..28  data, 4 * type_len bytes
//     0      data, the next u32 is its length, itself included
//     29     padding: to the page's end if the time is 0, else the next u32 says how much follows
//     30     time extend: the next u32 are the time's upper bits
//     31     absolute time stamp, in the same form, its top 5 bits those of the time before
//
// Pure functions; they allocate nothing. Times are in units of the trace's clock (ns).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "collectors/event.h"
#include "exporter/tracefs/format.h"

namespace kmem {

// Why a walk ended before the page's end.
enum class PageError : std::uint8_t {
  kNone,
  kPageTooShort,          // no room for the page's header
  kCommitBeyondPage,      // the data's length exceeds the page
  kRecordBeyondData,      // a record's length exceeds the data
  kRecordLengthTooSmall,  // a length that does not even cover itself
};

struct PageResult {
  PageError error = PageError::kNone;
  bool events_lost = false;       // before this page
  std::uint64_t lost_count = 0;   // how many; 0 where events_lost is set: the page does not say
  std::uint32_t data_length = 0;  // bytes of records
  std::uint32_t records = 0;      // handed to the sink
  std::uint64_t end_ns = 0;       // when the last record was written; without any, the page begun
};

namespace internal {

inline std::uint32_t Load32(const std::byte* at) {
  std::uint32_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline std::uint64_t Load64(const std::byte* at) {
  std::uint64_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline constexpr std::uint32_t kCommitLost = 1U << 31;
inline constexpr std::uint32_t kCommitLostStored = 1U << 30;

inline constexpr std::uint32_t kTypePadding = 29;
inline constexpr std::uint32_t kTypeTimeExtend = 30;
inline constexpr std::uint32_t kTypeTimeStamp = 31;
inline constexpr int kTimeDeltaBits = 27;
inline constexpr std::uint64_t kAbsoluteTimeMask = (UINT64_C(1) << 59) - 1;

// rb_fix_abs_ts() in kernel/trace/ring_buffer.c: the stamp lacks the top bits that a clock may
// have.
inline std::uint64_t AbsoluteTime(std::uint64_t stamp, std::uint64_t before) {
  std::uint64_t time = stamp & kAbsoluteTimeMask;
  if ((before & ~kAbsoluteTimeMask) != 0) {
    time |= before & ~kAbsoluteTimeMask;
    if (time < before) time += kAbsoluteTimeMask + 1;
  }
  return time;
}

// The page's header into `result`; how many bytes of records follow it. 0 where it is corrupt.
inline std::size_t ReadHeader(std::span<const std::byte> page, const PageLayout& layout,
                              PageResult& result) {
  if (page.size() < layout.data_offset) {
    result.error = PageError::kPageTooShort;
    return 0;
  }
  const std::uint32_t commit = Load32(page.data() + layout.commit_offset);
  const std::size_t length = commit & ~(kCommitLost | kCommitLostStored);
  const std::size_t room = page.size() - layout.data_offset;
  if (length > room) {
    result.error = PageError::kCommitBeyondPage;
    return 0;
  }
  const std::byte* const behind = page.data() + layout.data_offset + length;
  result.end_ns = Load64(page.data());
  result.data_length = static_cast<std::uint32_t>(length);
  if ((commit & kCommitLost) != 0) {
    result.events_lost = true;
    if ((commit & kCommitLostStored) != 0 && length + layout.commit_size <= room) {
      result.lost_count = layout.commit_size == 8 ? Load64(behind) : Load32(behind);
    }
  }
  return length;
}

// What something is that is no short record.
struct Special {
  enum class Kind : std::uint8_t { kNothing, kRecord, kEnd };
  Kind kind;
  PageError error;            // not kNone only for kEnd
  std::size_t at;             // where it ends, or where its record begins
  std::size_t record_length;  // of kRecord
  std::uint64_t time;         // from now on; of kRecord: without the header's part
};

// It begins with `header` and goes on at `at`. All by value, so that the walk has it in registers.
inline Special ReadSpecial(std::uint32_t header, std::span<const std::byte> data, std::size_t at,
                           std::uint64_t time) {
  using enum Special::Kind;
  const auto ends = [&](PageError error) { return Special{kEnd, error, at, 0, time}; };
  const std::uint32_t type_len = header & 31;
  const std::uint64_t delta = header >> 5;
  if (type_len == kTypePadding && delta == 0) return ends(PageError::kNone);
  if (data.size() - at < 4) return ends(PageError::kRecordBeyondData);
  const std::uint32_t word = Load32(data.data() + at);
  const std::uint64_t stamp = (std::uint64_t{word} << kTimeDeltaBits) + delta;
  if (type_len == kTypeTimeExtend) return {kNothing, PageError::kNone, at + 4, 0, time + stamp};
  if (type_len == kTypeTimeStamp) {
    return {kNothing, PageError::kNone, at + 4, 0, AbsoluteTime(stamp, time)};
  }
  if (word < 4) return ends(PageError::kRecordLengthTooSmall);
  if (type_len == kTypePadding) {
    if (word > data.size() - at) return ends(PageError::kRecordBeyondData);
    return {kNothing, PageError::kNone, at + word, 0, time + delta};
  }
  return {kRecord, PageError::kNone, at + 4, word - 4, time};
}

}  // namespace internal

// Calls sink(time, record, length) for every event: `record` are `length` bytes, the common fields
// first, valid during the call.
//
// `page` is one whole sub-buffer; kRecordSlack bytes behind it must be readable, because fields are
// loaded eight bytes at a time.
template <class Sink>
PageResult WalkPage(std::span<const std::byte> page, const PageLayout& layout, Sink&& sink) {
  using namespace internal;
  PageResult result;
  const std::size_t length = ReadHeader(page, layout, result);
  if (length == 0) return result;
  const std::span<const std::byte> data = page.subspan(layout.data_offset, length);
  // In locals: the sink may write anywhere, as far as the compiler knows. Each of them that is
  // needed behind the sink costs a register, or a store and a load for each event.
  std::uint64_t time = result.end_ns;
  std::uint32_t records = 0;
  const std::byte* at = data.data();
  const std::byte* const end = at + length;
  while (end - at >= 4) {
    const std::uint32_t header = Load32(at);
    const std::uint32_t type_len = header & 31;
    const std::byte* record = at + 4;
    std::size_t record_length = std::size_t{type_len} * 4;
    if (type_len == 0 || type_len >= kTypePadding) [[unlikely]] {
      const Special special =
          ReadSpecial(header, data, static_cast<std::size_t>(record - data.data()), time);
      at = record = data.data() + special.at;
      time = special.time;
      if (special.kind == Special::Kind::kNothing) continue;
      result.error = special.error;
      if (special.kind == Special::Kind::kEnd) break;
      record_length = special.record_length;
    }
    if (record_length > static_cast<std::size_t>(end - record)) [[unlikely]] {
      result.error = PageError::kRecordBeyondData;
      break;
    }
    time += header >> 5;
    ++records;
    at = record + record_length;
    sink(time, record, static_cast<std::uint32_t>(record_length));
  }
  result.records = records;
  result.end_ns = time;
  return result;
}

}  // namespace kmem
