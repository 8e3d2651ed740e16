/*
 * Slab allocations and frees, tallied: see tally.h for what a tally is.
 *
 * Sources: include/trace/events/kmem.h of Linux 5.10 (kmalloc, kmalloc_node, kmem_cache_alloc,
 * kmem_cache_alloc_node) and 6.1 to 6.18 (without the _node events); mm/slab_common.c and mm/slub.c
 * for when they fire.
 */
#pragma once

#include "collectors/tally.h"

enum {
  /* Upper bounds 8, 16, 32, 64, 96, 128, 192, 256, 512, ... 4 MiB: the size classes of kmalloc
   * (mm/slab_common.c, kmalloc_info) and the powers of two of large kmallocs above; and +Inf. */
  SLAB_SIZE_BUCKETS = 23,
  /* Upper bounds 0, 4, 8, 16, ... 1 MiB; and +Inf. */
  SLAB_WASTE_BUCKETS = 21,
};

/* kfree(NULL) and kfree(ZERO_SIZE_PTR) fire the event and free nothing (include/linux/slab.h). */
#define SLAB_ZERO_SIZE_PTR 16u

struct slab_alloc_event {
  uint64_t ptr; /* 0: the allocation failed, bytes_alloc is then what was tried */
  uint64_t bytes_req;
  uint64_t bytes_alloc;
};

struct slab_free_event {
  uint64_t ptr;
};

struct slab_alloc_counts {
  uint64_t allocations;
  uint64_t failures;
  uint64_t requested_bytes;
  uint64_t unrequested_bytes; /* allocated beyond those: both only grow, so does their sum */
  uint64_t request_size[SLAB_SIZE_BUCKETS];
};

struct slab_kmalloc_counts {
  struct slab_alloc_counts alloc;
  uint64_t waste[SLAB_WASTE_BUCKETS];
};

struct slab_tally {
  struct slab_kmalloc_counts kmalloc;
  struct slab_kmalloc_counts kmalloc_node;
  struct slab_alloc_counts kmem_cache_alloc;
  struct slab_alloc_counts kmem_cache_alloc_node;
  uint64_t kfree;
  uint64_t kmem_cache_free;
};

/* Buckets of sizes up to 1 KiB, by their multiples of 8 bytes: in the kernel looking them up costs
 * less than computing them, which is left to the few sizes above. */
enum { SLAB_TABLE_BYTES = 1024 };
#define SLAB_4(bucket) bucket, bucket, bucket, bucket
#define SLAB_16(bucket) SLAB_4(bucket), SLAB_4(bucket), SLAB_4(bucket), SLAB_4(bucket)
#define SLAB_64(bucket) SLAB_16(bucket), SLAB_16(bucket), SLAB_16(bucket), SLAB_16(bucket)
/* clang-format off */
static const uint8_t slab_size_table[SLAB_TABLE_BYTES / 8 + 1] = {
    0, 0, 1, 2, 2,                                  /* 0, 8, 16, 24, 32 bytes */
    SLAB_4(3), SLAB_4(4), SLAB_4(5),                /* to 64, 96, 128 */
    SLAB_4(6), SLAB_4(6), SLAB_4(7), SLAB_4(7),     /* to 192, 256 */
    SLAB_16(8), SLAB_16(8), SLAB_64(9)};            /* to 512, 1024 */
static const uint8_t slab_waste_table[SLAB_TABLE_BYTES / 8 + 1] = {
    0, 2, 3, 4, 4,                                  /* 0, 8, 16, 24, 32; those to 4 stand apart */
    SLAB_4(5), SLAB_4(6), SLAB_4(6), SLAB_16(7),    /* to 64, 128, 256 */
    SLAB_16(8), SLAB_16(8), SLAB_64(9)};            /* to 512, 1024 */
/* clang-format on */

/* The bucket of a size in bytes. */
KMEM_INLINE uint32_t slab_size_bucket(uint64_t bytes) {
  const uint32_t bucket =
      bytes <= SLAB_TABLE_BYTES ? slab_size_table[(bytes + 7) / 8] : kmem_log2_ceil(bytes) - 1;
  return bucket < SLAB_SIZE_BUCKETS ? bucket : SLAB_SIZE_BUCKETS - 1;
}

/* The bucket of the bytes that a kmalloc got beyond those it asked for. */
KMEM_INLINE uint32_t slab_waste_bucket(uint64_t bytes) {
  if (bytes <= 4) return bytes == 0 ? 0 : 1;
  const uint32_t bucket =
      bytes <= SLAB_TABLE_BYTES ? slab_waste_table[(bytes + 7) / 8] : kmem_log2_ceil(bytes) - 1;
  return bucket < SLAB_WASTE_BUCKETS ? bucket : SLAB_WASTE_BUCKETS - 1;
}

KMEM_INLINE enum kmem_verdict slab_count_alloc(struct slab_alloc_counts* counts,
                                               const struct slab_alloc_event* event) {
  if (event->bytes_alloc < event->bytes_req) return KMEM_IMPLAUSIBLE;
  if (event->ptr == 0) {
    counts->failures++;
    return KMEM_COUNTED;
  }
  counts->allocations++;
  counts->requested_bytes += event->bytes_req;
  counts->unrequested_bytes += event->bytes_alloc - event->bytes_req;
  counts->request_size[slab_size_bucket(event->bytes_req)]++;
  return KMEM_COUNTED;
}

/* A kmalloc's difference is the caller's waste; a cache's is alignment, so it has no histogram. */
KMEM_INLINE enum kmem_verdict slab_count_kmalloc_into(struct slab_kmalloc_counts* counts,
                                                      const struct slab_alloc_event* event) {
  const enum kmem_verdict verdict = slab_count_alloc(&counts->alloc, event);
  if (verdict == KMEM_COUNTED && event->ptr != 0) {
    counts->waste[slab_waste_bucket(event->bytes_alloc - event->bytes_req)]++;
  }
  return verdict;
}

KMEM_INLINE enum kmem_verdict slab_count_kmalloc(struct slab_tally* tally,
                                                 const struct slab_alloc_event* event,
                                                 const struct kmem_context* context) {
  (void)context;
  return slab_count_kmalloc_into(&tally->kmalloc, event);
}

KMEM_INLINE enum kmem_verdict slab_count_kmalloc_node(struct slab_tally* tally,
                                                      const struct slab_alloc_event* event,
                                                      const struct kmem_context* context) {
  (void)context;
  return slab_count_kmalloc_into(&tally->kmalloc_node, event);
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_alloc(struct slab_tally* tally,
                                                          const struct slab_alloc_event* event,
                                                          const struct kmem_context* context) {
  (void)context;
  return slab_count_alloc(&tally->kmem_cache_alloc, event);
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_alloc_node(struct slab_tally* tally,
                                                               const struct slab_alloc_event* event,
                                                               const struct kmem_context* context) {
  (void)context;
  return slab_count_alloc(&tally->kmem_cache_alloc_node, event);
}

KMEM_INLINE enum kmem_verdict slab_count_kfree(struct slab_tally* tally,
                                               const struct slab_free_event* event,
                                               const struct kmem_context* context) {
  (void)context;
  if (event->ptr > SLAB_ZERO_SIZE_PTR) tally->kfree++;
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_free(struct slab_tally* tally,
                                                         const struct slab_free_event* event,
                                                         const struct kmem_context* context) {
  (void)context;
  if (event->ptr > SLAB_ZERO_SIZE_PTR) tally->kmem_cache_free++;
  return KMEM_COUNTED;
}
