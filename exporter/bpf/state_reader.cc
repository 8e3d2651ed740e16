#include "exporter/bpf/state_reader.h"

#include <cstring>

namespace kmem {
namespace {

// The sum of the marks' sequences, which only grow; nothing if one of the programs is at work.
bool Rest(const kmem_bpf_cpu& cpu, std::span<const std::size_t> marks, std::uint64_t& sum) {
  sum = 0;
  for (const std::size_t mark : marks) {
    const std::uint64_t sequence = LoadWord(cpu.marks[mark].sequence);
    if ((sequence & 1) != 0) return false;
    sum += sequence;
  }
  return true;
}

}  // namespace

void CopyWords(const std::byte* from, std::span<std::byte> to) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(from);
  for (std::size_t at = 0; at < to.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = LoadWord(words[at / sizeof(std::uint64_t)]);
    std::memcpy(to.data() + at, &word, sizeof word);
  }
}

bool CopyBetweenEvents(const kmem_bpf_cpu& cpu, std::span<const std::size_t> marks,
                       const std::byte* from, std::span<std::byte> to, int attempts) {
  for (int i = 0; i < attempts; ++i) {
    std::uint64_t before = 0;
    std::uint64_t after = 0;
    if (!Rest(cpu, marks, before)) continue;
    CopyWords(from, to);
    if (Rest(cpu, marks, after) && before == after) return true;
  }
  return false;
}

}  // namespace kmem
