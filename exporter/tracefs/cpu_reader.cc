#include "exporter/tracefs/cpu_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

namespace kmem {
namespace {

// The number behind "key: " at the beginning of a line.
bool StatsNumber(std::string_view text, std::string_view key, std::uint64_t& value) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.starts_with(key)) {
      return std::from_chars(line.data() + key.size(), line.data() + line.size(), value).ec ==
             std::errc{};
    }
    at = end + 1;
  }
  return false;
}

}  // namespace

std::optional<CpuStats> ParseCpuStats(std::string_view text) {
  CpuStats stats;
  const auto lost = [&stats](LossReason reason) -> std::uint64_t& {
    return stats.lost[static_cast<std::size_t>(reason)];
  };
  if (!StatsNumber(text, "entries: ", stats.entries) ||
      !StatsNumber(text, "overrun: ", lost(LossReason::kOverrun)) ||
      !StatsNumber(text, "commit overrun: ", lost(LossReason::kCommitOverrun)) ||
      !StatsNumber(text, "dropped events: ", lost(LossReason::kDropped)) ||
      !StatsNumber(text, "read events: ", stats.read)) {
    return std::nullopt;
  }
  return stats;
}

CpuReader::CpuReader(const Instance& instance, std::uint32_t cpu)
    : cpu_(cpu),
      raw_(instance.Open(fmt::format("per_cpu/cpu{}/trace_pipe_raw", cpu), O_RDONLY)),
      stats_(instance.Open(fmt::format("per_cpu/cpu{}/stats", cpu), O_RDONLY)) {}

std::ptrdiff_t CpuReader::Read(std::span<std::byte> subbuffer) noexcept {
  for (;;) {
    const ssize_t got = read(raw_.get(), subbuffer.data(), subbuffer.size());
    if (got >= 0) return got;
    // ENODEV: a CPU that has never been online has no buffer yet (kernel/trace/ring_buffer.c,
    // ring_buffer_alloc_read_page(), 5.10 to 6.18).
    if (errno == EAGAIN || errno == ENODEV) return 0;
    if (errno != EINTR) return -1;
  }
}

std::optional<CpuStats> CpuReader::ReadStats() noexcept {
  std::array<char, 512> text;
  const ssize_t got = pread(stats_.get(), text.data(), text.size(), 0);
  if (got <= 0) return std::nullopt;
  return ParseCpuStats({text.data(), static_cast<std::size_t>(got)});
}

// The kernel counts a record as read no later than it hands it out, so it can't have counted fewer
// than we have got, nor fewer losses than before, unless it has begun anew.
bool CpuReader::BeginsAnew(const CpuStats& stats) noexcept {
  bool anew = stats.read < records_;
  for (std::size_t i = 0; i < lost_.size(); ++i) {
    anew |= static_cast<LossReason>(i) != LossReason::kTaken && stats.lost[i] < lost_[i];
  }
  if (!anew) return false;
  lost_ = {};
  records_ = stats.read;
  return true;
}

std::array<std::uint64_t, kLossReasons.size()> CpuReader::NewLosses() noexcept {
  std::array<std::uint64_t, kLossReasons.size()> lost{};
  auto stats = ReadStats();
  if (!stats) return lost;
  began_anew_ |= BeginsAnew(*stats);
  stats->lost[static_cast<std::size_t>(LossReason::kTaken)] =
      stats->read - std::min(stats->read, records_);
  for (std::size_t i = 0; i < lost.size(); ++i) {
    lost[i] = stats->lost[i] - std::min(stats->lost[i], lost_[i]);
  }
  lost_ = stats->lost;
  return lost;
}

void CpuReader::ForgetStats() noexcept {
  const auto stats = ReadStats();
  lost_ = {};
  records_ = stats ? stats->read : 0;  // since then it was we who read
  began_anew_ = false;
}

bool CpuReader::ForgetStatsIfReset() noexcept {
  if (std::exchange(began_anew_, false)) return true;  // and what was lost since is counted
  const auto stats = ReadStats();
  return stats && BeginsAnew(*stats);
}

}  // namespace kmem
