#include "exporter/replay/result_pipe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <type_traits>

namespace kmem {
namespace {

enum class Tag : std::uint8_t { kResult = 1, kError = 2, kEnd = 3 };

// Both directions in one description of the members: Out appends bytes, In takes them back.
class Out {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void Field(T& value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void Bytes(char* data, std::size_t size) { bytes_.append(data, size); }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

struct CutOff {};  // who sent it died meanwhile

class In {
 public:
  explicit In(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void Field(T& value) { Bytes(reinterpret_cast<char*>(&value), sizeof value); }
  void Bytes(char* data, std::size_t size) {
    if (size > bytes_.size() - at_) throw CutOff();
    std::memcpy(data, bytes_.data() + at_, size);
    at_ += size;
  }

 private:
  std::string_view bytes_;  // of the caller
  std::size_t at_ = 0;
};

template <class Direction>
void Walk(Direction& io, std::string& text) {
  std::size_t size = text.size();
  io.Field(size);
  text.resize(size);
  io.Bytes(text.data(), size);
}

template <class Direction, class T>
void Walk(Direction& io, std::vector<T>& values) {
  std::size_t size = values.size();
  io.Field(size);
  values.resize(size);
  for (T& value : values) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      io.Field(value);
    } else {
      Walk(io, value);
    }
  }
}

template <class Direction>
void Walk(Direction& io, Tallies& tallies) {
  std::size_t stride = tallies.stride();
  std::uint32_t cpus = tallies.cpus();
  io.Field(stride);
  io.Field(cpus);
  if (tallies.stride() != stride || tallies.cpus() != cpus) tallies = Tallies(stride, cpus);
  io.Bytes(reinterpret_cast<char*>(tallies.At(0)), stride * cpus);
  Walk(io, tallies.common);
}

template <class Direction>
void Walk(Direction& io, TracepointState& tracepoint) {
  Walk(io, tracepoint.name);
  io.Field(tracepoint.enabled);
  io.Field(tracepoint.skipped);
}

template <class Direction>
void Walk(Direction& io, CpuCounts& cpu) {
  Walk(io, cpu.events);
  io.Field(cpu.lost);
}

template <class Direction>
void Walk(Direction& io, std::map<std::uint64_t, Symbol>& symbols) {
  std::vector<std::uint64_t> addresses;
  addresses.reserve(symbols.size());
  for (const auto& [address, symbol] : symbols) addresses.push_back(address);
  Walk(io, addresses);
  for (const std::uint64_t address : addresses) {
    Walk(io, symbols[address].function);
    Walk(io, symbols[address].module);
  }
}

template <class Direction>
void Walk(Direction& io, TraceFileResult& result) {
  KernelFacts& facts = result.facts;
  io.Field(facts.page_size);
  io.Field(facts.order_count);
  io.Field(facts.pageblock_order);
  io.Field(facts.gfp_nowarn);
  io.Field(facts.change_ownership_told);
  io.Field(facts.cache_allocs_named);
  io.Field(facts.cache_frees_named);
  Walk(io, facts.migratetypes);
  Walk(io, facts.online_cpus);
  // A file has no drains, no buffers of ours, and nobody to interfere.
  EventState& state = result.state;
  Walk(io, state.tallies);
  Walk(io, state.tracepoints);
  Walk(io, state.cpus);
  io.Field(state.record_errors);
  Walk(io, result.missing_events);
  Walk(io, result.symbols);
}

void WriteAll(const UniqueFd& fd, const std::string& bytes) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t put = write(fd.get(), bytes.data() + at, bytes.size() - at);
    if (put < 0 && errno != EINTR) _exit(1);  // the parent is gone
    if (put > 0) at += static_cast<std::size_t>(put);
  }
}

}  // namespace

ResultPipe::ResultPipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw ReplayError(fmt::format("pipe: {}", std::strerror(errno)));
  }
  read_ = UniqueFd(ends[0]);
  write_ = UniqueFd(ends[1]);
}

void ResultPipe::Send(const TraceFileResult& result) {
  TraceFileResult copy = result;
  Out out;
  Tag tag = Tag::kResult;
  Tag end = Tag::kEnd;
  out.Field(tag);
  Walk(out, copy);
  out.Field(end);
  WriteAll(write_, out.bytes());
}

void ResultPipe::SendError(const std::string& what) {
  std::string text = what;
  Out out;
  Tag tag = Tag::kError;
  out.Field(tag);
  Walk(out, text);
  WriteAll(write_, out.bytes());
}

ResultPipe::Received ResultPipe::Receive() {
  write_ = UniqueFd();
  std::string bytes;
  std::array<char, 65536> chunk;
  for (;;) {
    const ssize_t got = read(read_.get(), chunk.data(), chunk.size());
    if (got == 0) break;
    if (got < 0 && errno != EINTR) throw ReplayError(fmt::format("pipe: {}", std::strerror(errno)));
    if (got > 0) bytes.append(chunk.data(), static_cast<std::size_t>(got));
  }
  try {
    Received received;
    In in(bytes);
    Tag tag{};
    in.Field(tag);
    if (tag == Tag::kError) {
      Walk(in, received.error);
      return received;
    }
    TraceFileResult result;
    Walk(in, result);
    in.Field(tag);
    if (tag == Tag::kEnd) received.result = std::move(result);
    return received;
  } catch (const CutOff&) {
    return {};
  }
}

}  // namespace kmem
