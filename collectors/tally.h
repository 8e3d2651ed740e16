/*
 * What every collector's tally shares. Plain C that a C++20 compiler and clang's BPF target both
 * accept: fixed-width integers, fixed size, no allocation, no lock, no clock.
 *
 * A tally is the state of one collector on one CPU. All zero is its empty state, save the constants
 * that its collector's Init() writes. Each tracepoint has words of its own in it, so that no two
 * tracepoints that may interrupt each other write the same word. Whoever runs the handlers of a CPU
 * owns that CPU's tallies.
 */
#pragma once

#include <stdint.h>

enum {
  /* Orders run from 0 to MAX_ORDER - 1 (include/linux/mmzone.h): 11 of them on x86-64, 14 on arm64
   * with 64 KiB pages. Above this bound an order is not plausible. */
  KMEM_ORDERS = 16,
  /* enum migratetype (include/linux/mmzone.h, 5.10 to 6.18) has at most 6 values. */
  KMEM_MIGRATETYPES = 8,
};

/* What a handler is told beside the event itself. */
struct kmem_context {
  uint64_t time_ns; /* the event's own time, by the trace's clock */
  uint32_t cpu;     /* the CPU that it happened on */
};

/* What a handler says of an event. */
enum kmem_verdict {
  KMEM_COUNTED = 0,
  KMEM_IMPLAUSIBLE = 1, /* a field holds what no kernel writes: nothing was counted */
};

/* The smallest n with 2^n >= value; 0 for 0 and 1. */
static inline uint32_t kmem_log2_ceil(uint64_t value) {
  return value <= 1 ? 0 : 64u - (uint32_t)__builtin_clzll(value - 1);
}
