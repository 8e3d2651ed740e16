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

/* The node of a CPU whose node is not known. */
#define KMEM_NO_NODE UINT32_MAX

/* What a handler is told beside the event itself. */
struct kmem_context {
  uint64_t time_ns; /* the event's own time, by the trace's clock */
  uint32_t cpu;     /* the CPU that it happened on */
  uint32_t bytes;   /* of the whole record */
  void* common;     /* what its collector has in common for all CPUs; NULL: nothing */
};

/* A text within a record, without its NUL. At least eight bytes behind it can be read. */
struct kmem_text {
  const char* text; /* NULL: this kernel's records do not have it */
  uint32_t bytes;
};

/* What a handler says of an event. */
enum kmem_verdict {
  KMEM_COUNTED = 0,
  KMEM_IMPLAUSIBLE = 1, /* a field holds what no kernel writes: nothing was counted */
};

/* One program per tracepoint, without calls. Empty makes functions of them that are compiled also
 * where nothing calls them: for lint. */
#ifndef KMEM_INLINE
#define KMEM_INLINE static inline __attribute__((always_inline))
#endif

/* What is rare, out of the way of what is not. Programs in the kernel have no calls. */
#ifdef __bpf__
#define KMEM_RARE KMEM_INLINE
#else
#define KMEM_RARE static __attribute__((noinline, unused))
#endif

/* Write a word from which readers on other CPUs conclude what else was written: they see it before
 * all that is stored behind it, or after all that was stored before it. x86 keeps the order of
 * stores if the compiler does. Elsewhere programs in the kernel have one means, an atomic operation
 * that returns what was there: it is a full barrier (on arm64 from 5.18,
 * arch/arm64/net/bpf_jit_comp.c). */
#if defined(__x86_64__) || defined(__TARGET_ARCH_x86)
#define KMEM_STORE_FIRST(word, value)  \
  do {                                 \
    (word) = (value);                  \
    __asm__ volatile("" ::: "memory"); \
  } while (0)
#define KMEM_STORE_LAST(word, value)   \
  do {                                 \
    __asm__ volatile("" ::: "memory"); \
    (word) = (value);                  \
  } while (0)
#elif defined(__bpf__)
#define KMEM_STORE_FIRST(word, value) \
  ((void)__atomic_exchange_n(&(word), (value), __ATOMIC_SEQ_CST))
#define KMEM_STORE_LAST(word, value) KMEM_STORE_FIRST(word, value)
#else
#define KMEM_STORE_FIRST(word, value)                     \
  do {                                                    \
    __atomic_store_n(&(word), (value), __ATOMIC_RELAXED); \
    __atomic_thread_fence(__ATOMIC_RELEASE);              \
  } while (0)
#define KMEM_STORE_LAST(word, value) __atomic_store_n(&(word), (value), __ATOMIC_RELEASE)
#endif

/* An index that was found to be below `size`, a power of two. The kernel's verifier has to see that
 * for itself, and compilers merge comparisons so that it can't. */
KMEM_INLINE uint32_t kmem_index(uint32_t index, uint32_t size) {
#ifdef __bpf__
  __asm__ volatile("" : "+r"(index));
  return index & (size - 1);
#else
  (void)size;
  return index;
#endif
}

/* What is below `size` by what was done to get it, which the kernel's verifier can't know. */
KMEM_INLINE uint32_t kmem_below(uint32_t value, uint32_t size) {
#ifdef __bpf__
  return value < size ? value : size - 1;
#else
  (void)size;
  return value;
#endif
}

/* Whether two CPUs' nodes are known to be two. */
KMEM_INLINE int kmem_nodes_differ(uint64_t a, uint64_t b) {
  return a != b && a != KMEM_NO_NODE && b != KMEM_NO_NODE;
}

/* A text as a key of a table; two texts have the same one by chance once in 2^64. Never 0. */
KMEM_INLINE uint64_t kmem_text_key(const struct kmem_text* text) {
  uint64_t key = text->bytes + UINT64_C(0x9E3779B97F4A7C15);
  const char* at = text->text;
  uint64_t word;
  uint32_t rest = text->bytes;
  for (; rest > 8; rest -= 8, at += 8) {
    __builtin_memcpy(&word, at, sizeof word);
    key = (key ^ word) * UINT64_C(0xD6E8FEB86659FD93);
    key ^= key >> 32;
  }
  __builtin_memcpy(&word, at, sizeof word);
  key = (key ^ (rest ? word << (64 - 8 * rest) : 0)) * UINT64_C(0xD6E8FEB86659FD93);
  key ^= key >> 32;
  return key ? key : 1;
}

/* The smallest n with 2^n >= value; 0 for 0 and 1. */
KMEM_INLINE uint32_t kmem_log2_ceil(uint64_t value) {
  if (value <= 1) return 0;
#ifdef __bpf__ /* has no instruction for it, and clang 14 does not survive the builtin */
  uint64_t rest = value - 1;
  uint32_t log2 = 1;
  for (uint32_t step = 32; step > 0; step /= 2) {
    if (rest >> step) {
      rest >>= step;
      log2 += step;
    }
  }
  return log2;
#else
  return 64u - (uint32_t)__builtin_clzll(value - 1);
#endif
}
