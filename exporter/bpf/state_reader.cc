#include "exporter/bpf/state_reader.h"

#include <cstring>

namespace kmem {

std::optional<std::uint64_t> FinishedEvents(const kmem_bpf_cpu& cpu,
                                            std::span<const std::size_t> marks) {
  std::uint64_t sum = 0;
  for (const std::size_t mark : marks) {
    const std::uint64_t sequence = LoadWord(cpu.marks[mark].sequence);
    if ((sequence & 1) != 0) return std::nullopt;
    sum += sequence;
  }
  return sum;
}

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
    const auto before = FinishedEvents(cpu, marks);
    if (!before) continue;
    CopyWords(from, to);
    if (FinishedEvents(cpu, marks) == before) return true;
  }
  return false;
}

}  // namespace kmem
