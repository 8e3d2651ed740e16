/*
 * Slab allocations and frees, tallied: see tally.h for what a tally is.
 *
 * Sources: include/trace/events/kmem.h of Linux 5.10 (kmalloc, kmalloc_node, kmem_cache_alloc,
 * kmem_cache_alloc_node) and 6.1 to 6.18 (without the _node events); mm/slab_common.c and mm/slub.c
 * for when they fire.
 */
#pragma once

#include "collectors/slab_live_tally.h"
#include "collectors/table_tally.h"

enum {
  /* Upper bounds 8, 16, 32, 64, 96, 128, 192, 256, 512, ... 4 MiB: the size classes of kmalloc
   * (mm/slab_common.c, kmalloc_info) and the powers of two of large kmallocs above; and +Inf. */
  SLAB_SIZE_BUCKETS = 23,
  /* Upper bounds 0, 4, 8, 16, ... 1 MiB; and +Inf. */
  SLAB_WASTE_BUCKETS = 21,
  /* Places in the tables that one thread fills for all CPUs. */
  SLAB_SITE_SLOTS = 8192,
  SLAB_CACHE_SLOTS = 2048,
  SLAB_CACHE_NAME_BYTES = 48, /* with the NUL; what is longer is cut */
};

/* kfree(NULL) and kfree(ZERO_SIZE_PTR) fire the event and free nothing (include/linux/slab.h). */
#define SLAB_ZERO_SIZE_PTR 16u

struct slab_alloc_event {
  uint64_t ptr; /* 0: the allocation failed, bytes_alloc is then what was tried */
  uint64_t bytes_req;
  uint64_t bytes_alloc;
  uint64_t call_site; /* the address that the allocation returns to */
  struct kmem_text cache;
};

struct slab_free_event {
  uint64_t ptr;
  struct kmem_text cache;
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

/* By the bucket of bytes_alloc, which for kmalloc is a size class. */
struct slab_class_counts {
  uint64_t allocations[SLAB_SIZE_BUCKETS];
  uint64_t requested_bytes[SLAB_SIZE_BUCKETS];
};

struct slab_counts {
  struct slab_kmalloc_counts kmalloc;
  struct slab_kmalloc_counts kmalloc_node;
  struct slab_class_counts kmalloc_classes;
  struct slab_class_counts kmalloc_node_classes;
  struct slab_alloc_counts kmem_cache_alloc;
  struct slab_alloc_counts kmem_cache_alloc_node;
  uint64_t kfree;
  uint64_t kmem_cache_free;
  struct slab_live_frees kfree_of_live;
  struct slab_live_frees kmem_cache_free_of_live;
};

struct slab_tally {
  struct slab_counts counts;
  uint64_t node; /* constant: the CPU's */
};

/* What the slots' values count: of a call site ... */
enum { SLAB_SITE_ALLOCATIONS, SLAB_SITE_REQUESTED, SLAB_SITE_UNREQUESTED, SLAB_SITE_SIZES };
/* ... where the sizes are: the first one seen, a bit for each bucket of sizes, and a bit that says
 * whether there were others than the first. ... */
enum { SLAB_SIZES_CLASSES_SHIFT = 32, SLAB_SIZES_VARY_SHIFT = 63 };
/* ... and of a cache. */
enum { SLAB_CACHE_ALLOCATIONS, SLAB_CACHE_ALLOCATED_BYTES, SLAB_CACHE_FREES };

/* What one thread tallies for all CPUs beside their tallies. */
struct slab_common {
  uint64_t sites_wanted;
  uint64_t caches_wanted;
  struct slab_live* live; /* NULL: not wanted */
  struct kmem_slot sites[SLAB_SITE_SLOTS];
  struct kmem_slot caches[SLAB_CACHE_SLOTS];
  char cache_names[SLAB_CACHE_SLOTS][SLAB_CACHE_NAME_BYTES];
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
  if (bytes <= SLAB_TABLE_BYTES) {
    return kmem_below(slab_size_table[(bytes + 7) / 8], SLAB_SIZE_BUCKETS);
  }
  const uint32_t bucket = kmem_log2_ceil(bytes) - 1;
  return bucket < SLAB_SIZE_BUCKETS ? bucket : SLAB_SIZE_BUCKETS - 1;
}

/* The bucket of the bytes that a kmalloc got beyond those it asked for. */
KMEM_INLINE uint32_t slab_waste_bucket(uint64_t bytes) {
  if (bytes <= 4) return bytes == 0 ? 0 : 1;
  if (bytes <= SLAB_TABLE_BYTES) {
    return kmem_below(slab_waste_table[(bytes + 7) / 8], SLAB_WASTE_BUCKETS);
  }
  const uint32_t bucket = kmem_log2_ceil(bytes) - 1;
  return bucket < SLAB_WASTE_BUCKETS ? bucket : SLAB_WASTE_BUCKETS - 1;
}

/* `bucket` is that of the bytes asked for, which others want as well. */
KMEM_INLINE enum kmem_verdict slab_count_alloc(struct slab_alloc_counts* counts,
                                               const struct slab_alloc_event* event,
                                               uint32_t bucket) {
  if (event->bytes_alloc < event->bytes_req) return KMEM_IMPLAUSIBLE;
  if (event->ptr == 0) {
    counts->failures++;
    return KMEM_COUNTED;
  }
  counts->allocations++;
  counts->requested_bytes += event->bytes_req;
  counts->unrequested_bytes += event->bytes_alloc - event->bytes_req;
  counts->request_size[bucket]++;
  return KMEM_COUNTED;
}

/* A kmalloc's difference is the caller's waste; a cache's is alignment, so it has no histogram. */
KMEM_INLINE enum kmem_verdict slab_count_kmalloc_into(struct slab_kmalloc_counts* counts,
                                                      const struct slab_alloc_event* event,
                                                      uint32_t bucket) {
  const enum kmem_verdict verdict = slab_count_alloc(&counts->alloc, event, bucket);
  if (verdict == KMEM_COUNTED && event->ptr != 0) {
    counts->waste[slab_waste_bucket(event->bytes_alloc - event->bytes_req)]++;
  }
  return verdict;
}

KMEM_INLINE void slab_count_class(struct slab_class_counts* counts,
                                  const struct slab_alloc_event* event) {
  if (event->ptr == 0) return;
  const uint32_t bucket = slab_size_bucket(event->bytes_alloc);
  counts->allocations[bucket]++;
  counts->requested_bytes[bucket] += event->bytes_req;
}

/* In a table of `size` slots, a power of two, by call site. `bucket` is that of the bytes asked
 * for. */
KMEM_INLINE void slab_count_site_in(struct kmem_slot* slots, uint32_t size,
                                    const struct slab_alloc_event* event, uint32_t bucket) {
  if (event->ptr == 0) return;
  struct kmem_place place;
  kmem_find_place(slots, size, event->call_site, &place);
  struct kmem_slot* const slot = place.slot;
  if (!slot) return;
  const uint32_t requested = (uint32_t)event->bytes_req;
  if (place.taken) {
    slot->values[SLAB_SITE_SIZES] = requested;
    kmem_slot_open(slot);
  }
  slot->values[SLAB_SITE_ALLOCATIONS]++;
  slot->values[SLAB_SITE_REQUESTED] += event->bytes_req;
  slot->values[SLAB_SITE_UNREQUESTED] += event->bytes_alloc - event->bytes_req;
  const uint64_t sizes = slot->values[SLAB_SITE_SIZES];
  const uint64_t varies = (uint32_t)sizes != requested;
  slot->values[SLAB_SITE_SIZES] =
      sizes | UINT64_C(1) << (SLAB_SIZES_CLASSES_SHIFT + bucket) | varies << SLAB_SIZES_VARY_SHIFT;
}

KMEM_INLINE void slab_count_site(struct kmem_slot* slots, uint32_t size,
                                 const struct slab_alloc_event* event) {
  slab_count_site_in(slots, size, event, slab_size_bucket(event->bytes_req));
}

/* Of the table that one thread fills, by the cache's name. NULL: it goes uncounted this time. */
KMEM_INLINE struct kmem_slot* slab_cache_of(struct slab_common* common,
                                            const struct kmem_text* name) {
  struct kmem_place place;
  kmem_find_place(common->caches, SLAB_CACHE_SLOTS, kmem_text_key(name), &place);
  if (place.taken) {
    char* const copy = common->cache_names[place.number];
    const uint32_t most = SLAB_CACHE_NAME_BYTES - 1;
    const uint32_t bytes = name->bytes < most ? name->bytes : most;
    for (uint32_t i = 0; i < bytes; ++i) copy[i] = name->text[i];
    for (uint32_t i = bytes; i < SLAB_CACHE_NAME_BYTES; ++i) copy[i] = 0;
    kmem_slot_open(place.slot);
  }
  return place.slot;
}

/* An event's context where a thread tallies for all CPUs; the in-kernel programs have none. */
KMEM_INLINE struct slab_common* slab_common_of(const struct kmem_context* context) {
  return context ? (struct slab_common*)context->common : 0;
}

KMEM_INLINE void slab_follow_alloc(struct slab_common* common, const struct slab_alloc_event* event,
                                   const struct kmem_context* context) {
  if (!common->live || event->ptr == 0) return;
  const struct slab_live_event live = {
      .time_ns = context->time_ns,
      .ptr = event->ptr,
      .call_site = event->call_site,
      .bytes = event->bytes_alloc < UINT32_MAX ? (uint32_t)event->bytes_alloc : UINT32_MAX,
      .cpu = (uint16_t)context->cpu,
      .kind = SLAB_LIVE_ALLOC};
  slab_live_note(common->live, &live);
}

KMEM_INLINE void slab_follow_free(struct slab_common* common, const struct slab_free_event* event,
                                  const struct kmem_context* context, uint16_t kind) {
  if (!common->live) return;
  const struct slab_live_event live = {.time_ns = context->time_ns,
                                       .ptr = event->ptr,
                                       .call_site = 0,
                                       .bytes = 0,
                                       .cpu = (uint16_t)context->cpu,
                                       .kind = kind};
  slab_live_note(common->live, &live);
}

KMEM_INLINE enum kmem_verdict slab_count_kmalloc_event(struct slab_kmalloc_counts* counts,
                                                       struct slab_class_counts* classes,
                                                       const struct slab_alloc_event* event,
                                                       const struct kmem_context* context) {
  const uint32_t bucket = slab_size_bucket(event->bytes_req);
  const enum kmem_verdict verdict = slab_count_kmalloc_into(counts, event, bucket);
  struct slab_common* const common = slab_common_of(context);
  if (verdict != KMEM_COUNTED || !common) return verdict;
  if (common->sites_wanted) slab_count_site_in(common->sites, SLAB_SITE_SLOTS, event, bucket);
  if (common->caches_wanted) slab_count_class(classes, event);
  slab_follow_alloc(common, event, context);
  return verdict;
}

KMEM_INLINE enum kmem_verdict slab_count_cache_alloc_event(struct slab_alloc_counts* counts,
                                                           const struct slab_alloc_event* event,
                                                           const struct kmem_context* context) {
  const uint32_t bucket = slab_size_bucket(event->bytes_req);
  const enum kmem_verdict verdict = slab_count_alloc(counts, event, bucket);
  struct slab_common* const common = slab_common_of(context);
  if (verdict != KMEM_COUNTED || !common || event->ptr == 0) return verdict;
  if (common->sites_wanted) slab_count_site_in(common->sites, SLAB_SITE_SLOTS, event, bucket);
  if (common->caches_wanted && event->cache.text) {
    struct kmem_slot* const slot = slab_cache_of(common, &event->cache);
    if (slot) {
      slot->values[SLAB_CACHE_ALLOCATIONS]++;
      slot->values[SLAB_CACHE_ALLOCATED_BYTES] += event->bytes_alloc;
    }
  }
  slab_follow_alloc(common, event, context);
  return verdict;
}

KMEM_INLINE enum kmem_verdict slab_count_kmalloc(struct slab_tally* tally,
                                                 const struct slab_alloc_event* event,
                                                 const struct kmem_context* context) {
  return slab_count_kmalloc_event(&tally->counts.kmalloc, &tally->counts.kmalloc_classes, event,
                                  context);
}

KMEM_INLINE enum kmem_verdict slab_count_kmalloc_node(struct slab_tally* tally,
                                                      const struct slab_alloc_event* event,
                                                      const struct kmem_context* context) {
  return slab_count_kmalloc_event(&tally->counts.kmalloc_node, &tally->counts.kmalloc_node_classes,
                                  event, context);
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_alloc(struct slab_tally* tally,
                                                          const struct slab_alloc_event* event,
                                                          const struct kmem_context* context) {
  return slab_count_cache_alloc_event(&tally->counts.kmem_cache_alloc, event, context);
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_alloc_node(struct slab_tally* tally,
                                                               const struct slab_alloc_event* event,
                                                               const struct kmem_context* context) {
  return slab_count_cache_alloc_event(&tally->counts.kmem_cache_alloc_node, event, context);
}

KMEM_INLINE enum kmem_verdict slab_count_kfree(struct slab_tally* tally,
                                               const struct slab_free_event* event,
                                               const struct kmem_context* context) {
  if (event->ptr <= SLAB_ZERO_SIZE_PTR) return KMEM_COUNTED;
  tally->counts.kfree++;
  struct slab_common* const common = slab_common_of(context);
  if (common) slab_follow_free(common, event, context, SLAB_LIVE_KFREE);
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict slab_count_kmem_cache_free(struct slab_tally* tally,
                                                         const struct slab_free_event* event,
                                                         const struct kmem_context* context) {
  if (event->ptr <= SLAB_ZERO_SIZE_PTR) return KMEM_COUNTED;
  tally->counts.kmem_cache_free++;
  struct slab_common* const common = slab_common_of(context);
  if (!common) return KMEM_COUNTED;
  if (common->caches_wanted && event->cache.text) {
    struct kmem_slot* const slot = slab_cache_of(common, &event->cache);
    if (slot) slot->values[SLAB_CACHE_FREES]++;
  }
  slab_follow_free(common, event, context, SLAB_LIVE_KMEM_CACHE_FREE);
  return KMEM_COUNTED;
}
