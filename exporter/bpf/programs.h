// Which of the programs in kmem.bpf.c serves a tracepoint of this kernel. Pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/bpf/cpu_tally.h"

namespace kmem {

inline constexpr std::array<std::string_view, KMEM_BPF_EXTRA> kBpfTracepoints{
#define KMEM_BPF_NAME(name) #name,
    KMEM_BPF_TRACEPOINTS(KMEM_BPF_NAME)
#undef KMEM_BPF_NAME
};

// The part of struct kmem_bpf_cpu that is one collector's tally.
struct BpfTally {
  std::string_view collector;
  std::size_t wanted;  // index in kmem_wanted
  std::size_t offset;
  std::size_t bytes;
};
inline constexpr std::array<BpfTally, KMEM_BPF_COLLECTOR_COUNT> kBpfTallies{{
#define KMEM_BPF_TALLY(name)                                              \
  {#name, KMEM_BPF_COLLECTOR_##name, offsetof(struct kmem_bpf_cpu, name), \
   sizeof(kmem_bpf_cpu::name)},
    KMEM_BPF_COLLECTORS(KMEM_BPF_TALLY)
#undef KMEM_BPF_TALLY
}};

// The programs, by name, that read the arguments of such a tracepoint (prototypes.h), the best
// first: the next serves where the kernel refuses the one before. None if it has none for it.
std::vector<std::string> ProgramsFor(std::string_view tracepoint, std::string_view prototype);

}  // namespace kmem
