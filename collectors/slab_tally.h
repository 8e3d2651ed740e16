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
  uint64_t allocated_bytes;
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

/* The bucket of a size in bytes. */
static inline uint32_t slab_size_bucket(uint64_t bytes) {
  const uint32_t log2 = kmem_log2_ceil(bytes);
  if (log2 <= 3) return 0;
  if (log2 <= 6) return log2 - 3;
  if (log2 == 7) return bytes <= 96 ? 4 : 5;
  if (log2 == 8) return bytes <= 192 ? 6 : 7;
  return log2 <= 22 ? log2 - 1 : SLAB_SIZE_BUCKETS - 1;
}

/* The bucket of the bytes that a kmalloc got beyond those it asked for. */
static inline uint32_t slab_waste_bucket(uint64_t bytes) {
  const uint32_t log2 = kmem_log2_ceil(bytes);
  if (bytes == 0) return 0;
  if (log2 <= 2) return 1;
  return log2 <= 20 ? log2 - 1 : SLAB_WASTE_BUCKETS - 1;
}

static inline enum kmem_verdict slab_count_alloc(struct slab_alloc_counts* counts,
                                                 const struct slab_alloc_event* event) {
  if (event->bytes_alloc < event->bytes_req) return KMEM_IMPLAUSIBLE;
  if (event->ptr == 0) {
    counts->failures++;
    return KMEM_COUNTED;
  }
  counts->allocations++;
  counts->requested_bytes += event->bytes_req;
  counts->allocated_bytes += event->bytes_alloc;
  counts->request_size[slab_size_bucket(event->bytes_req)]++;
  return KMEM_COUNTED;
}

/* A kmalloc's difference is the caller's waste; a cache's is alignment, so it has no histogram. */
static inline enum kmem_verdict slab_count_kmalloc_into(struct slab_kmalloc_counts* counts,
                                                        const struct slab_alloc_event* event) {
  const enum kmem_verdict verdict = slab_count_alloc(&counts->alloc, event);
  if (verdict == KMEM_COUNTED && event->ptr != 0) {
    counts->waste[slab_waste_bucket(event->bytes_alloc - event->bytes_req)]++;
  }
  return verdict;
}

static inline enum kmem_verdict slab_count_kmalloc(struct slab_tally* tally,
                                                   const struct slab_alloc_event* event,
                                                   const struct kmem_context* context) {
  (void)context;
  return slab_count_kmalloc_into(&tally->kmalloc, event);
}

static inline enum kmem_verdict slab_count_kmalloc_node(struct slab_tally* tally,
                                                        const struct slab_alloc_event* event,
                                                        const struct kmem_context* context) {
  (void)context;
  return slab_count_kmalloc_into(&tally->kmalloc_node, event);
}

static inline enum kmem_verdict slab_count_kmem_cache_alloc(struct slab_tally* tally,
                                                            const struct slab_alloc_event* event,
                                                            const struct kmem_context* context) {
  (void)context;
  return slab_count_alloc(&tally->kmem_cache_alloc, event);
}

static inline enum kmem_verdict slab_count_kmem_cache_alloc_node(
    struct slab_tally* tally, const struct slab_alloc_event* event,
    const struct kmem_context* context) {
  (void)context;
  return slab_count_alloc(&tally->kmem_cache_alloc_node, event);
}

static inline enum kmem_verdict slab_count_kfree(struct slab_tally* tally,
                                                 const struct slab_free_event* event,
                                                 const struct kmem_context* context) {
  (void)context;
  if (event->ptr > SLAB_ZERO_SIZE_PTR) tally->kfree++;
  return KMEM_COUNTED;
}

static inline enum kmem_verdict slab_count_kmem_cache_free(struct slab_tally* tally,
                                                           const struct slab_free_event* event,
                                                           const struct kmem_context* context) {
  (void)context;
  if (event->ptr > SLAB_ZERO_SIZE_PTR) tally->kmem_cache_free++;
  return KMEM_COUNTED;
}
