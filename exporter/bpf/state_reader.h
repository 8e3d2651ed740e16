// Reads a CPU's state while that CPU's programs write it. Any thread; neither allocates nor locks,
// and the programs notice nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "exporter/bpf/cpu_tally.h"

namespace kmem {

// Twice the events that the programs with these marks have finished, so it only grows; nothing
// while one of them is at work.
std::optional<std::uint64_t> FinishedEvents(const kmem_bpf_cpu& cpu,
                                            std::span<const std::size_t> marks);

// A word that is being written is read as it was before or as it is then, and before whatever is
// read next.
inline std::uint64_t LoadWord(const std::uint64_t& word) {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

// Copies `to.size()` bytes, a multiple of 8, word by word: each word is whole, but an event that is
// being counted may be in some of them only.
void CopyWords(const std::byte* from, std::span<std::byte> to);

// The same between two events of the tracepoints with these marks, so that all words belong
// together. False, with anything in `to`, if no attempt (each takes a microsecond or less) met such
// a moment: an event was interrupted, or they come too fast.
bool CopyBetweenEvents(const kmem_bpf_cpu& cpu, std::span<const std::size_t> marks,
                       const std::byte* from, std::span<std::byte> to, int attempts);

}  // namespace kmem
