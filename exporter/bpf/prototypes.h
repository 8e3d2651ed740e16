// What the running kernel's BTF says of its tracepoints. Used once at start.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

struct btf;

namespace kmem {

// The arguments that a tracepoint passes to its programs, a letter for each:
//   w  an integer of 8 bytes        p  a pointer
//   i  an integer or enum of 4      c  a pointer to struct kmem_cache
//   b  one of 1 or 2                ?  anything else
// From `typedef void (*btf_trace_NAME)(void *, ...)`, which every tracepoint has since 5.5
// (include/trace/bpf_probe.h); the first, hidden argument is left out. Nothing if the kernel lacks
// the tracepoint.
std::optional<std::string> TracepointPrototype(const btf& kernel, std::string_view tracepoint);

// The bit of a name such as __GFP_NOWARN, from `enum { ___GFP_NOWARN_BIT, ... }` in
// include/linux/gfp_types.h, which kernels have from 6.9; 0 where there is none.
std::uint64_t GfpBitInBtf(const btf& kernel, std::string_view name);

}  // namespace kmem
