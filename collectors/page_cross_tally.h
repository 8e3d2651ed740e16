/*
 * Pages allocated on one CPU and freed on another, of a sample of the pages: see tally.h for what a
 * tally is.
 *
 * A page is known by its number (the ring buffer's records have it) or by its struct page (the
 * in-kernel programs have that). Whether it is in the sample is decided by a hash of that alone, so
 * whoever's allocation was seen, its free is seen too. From the one to the other a table of fixed
 * size remembers the CPU. It is shared by all CPUs, and one word per page says everything, so that
 * CPUs can write it without locks: a page has one owner at a time, and allocations and frees of it
 * take turns. Only where two pages come to one place within nanoseconds is one of them forgotten
 * without being counted as evicted (5.10 has no atomic exchange for programs).
 *
 * A newcomer that finds its set full takes the place of any of them. So the table follows pages
 * that are freed soon, however many are there for long; those give way, and that is counted.
 *
 * A page is looked up by its first page's number: of a block that was split before it is freed in
 * parts, the first part counts.
 *
 * Sources: mm/page_alloc.c of Linux 5.10 to 6.18.
 */
#pragma once

#include "collectors/tally.h"

enum {
  PAGE_CROSS_WAYS = 8, /* places of a set: a cache line */
};

/* Of the sample, not scaled. */
struct page_cross_counts {
  uint64_t same_cpu;   /* freed where they had been allocated */
  uint64_t cross_cpu;  /* freed elsewhere */
  uint64_t cross_node; /* those of them that were allocated by a CPU of another node */
  uint64_t evicted;    /* lost sight of. Written by allocations, the others by frees */
};

/* A place: 32 bits of the hash, the era's 16, and 16 for the CPU's number + 1. 0: free, as is one
 * of another era. */
struct page_cross_set {
  uint64_t places[PAGE_CROSS_WAYS];
};

/* The sample is one page in `one_in`: those whose hash is not above this. */
KMEM_INLINE uint64_t page_cross_threshold(uint32_t one_in) { return UINT64_MAX / one_in; }

/* Neighbours lie far apart, and any run of them spreads evenly: Fibonacci hashing (Knuth, TAOCP
 * 6.4). A new era forgets what is in the table, and takes another sample. */
KMEM_INLINE uint64_t page_cross_hash(uint64_t page, uint64_t era) {
  return (page + era) * UINT64_C(0x9E3779B97F4A7C15);
}

/* The number of a sampled page's set among `sets`. */
KMEM_INLINE uint32_t page_cross_set_of(uint64_t hash, uint32_t one_in, uint32_t sets) {
  return (uint32_t)(((hash * one_in) >> 32) * sets >> 32);
}

/* A place's word without the CPU. */
KMEM_INLINE uint64_t page_cross_word(uint64_t hash, uint64_t era) {
  return (hash >> 8) << 32 | (era & 0xFFFF) << 16;
}

/* Remembers the CPU that a page was allocated on. 1 if another page was evicted for it. */
KMEM_INLINE uint64_t page_cross_put(struct page_cross_set* set, uint64_t hash, uint64_t era,
                                    uint32_t cpu) {
  const uint64_t word = page_cross_word(hash, era);
  uint32_t way = PAGE_CROSS_WAYS;
  for (uint32_t i = 0; i < PAGE_CROSS_WAYS; ++i) {
    const uint64_t place = set->places[i];
    /* It is there if its free was not seen. */
    if (place >> 16 == word >> 16) {
      way = i;
      break;
    }
    if (place == 0 || (uint16_t)(place >> 16) != (uint16_t)era) way = i;
  }
  const uint64_t evicted = way == PAGE_CROSS_WAYS;
  if (evicted) way = (uint32_t)(hash >> 40);
  set->places[way & (PAGE_CROSS_WAYS - 1)] = word | (uint16_t)(cpu + 1);
  return evicted;
}

/* Forgets a page that was freed. The number + 1 of the CPU that it was allocated on; 0: not known.
 */
KMEM_INLINE uint32_t page_cross_take(struct page_cross_set* set, uint64_t hash, uint64_t era) {
  const uint64_t word = page_cross_word(hash, era);
  for (uint32_t i = 0; i < PAGE_CROSS_WAYS; ++i) {
    const uint64_t place = set->places[i];
    if (place >> 16 != word >> 16) continue;
    set->places[i] = 0;
    return (uint16_t)place;
  }
  return 0;
}

/* Counts a free of a page that was allocated by another CPU, of node `from`. */
KMEM_INLINE void page_cross_count(struct page_cross_counts* counts, uint64_t from, uint64_t to) {
  counts->cross_cpu++;
  if (kmem_nodes_differ(from, to)) counts->cross_node++;
}

/* ---- Where one thread tallies for all CPUs. It reads their buffers one after another, so events
 * wait in a queue until those of all CPUs are there, and are then counted in the order of their
 * times. */

struct page_cross_event {
  uint64_t time_ns;
  uint64_t hash;
  uint32_t number; /* those of one CPU ascend */
  uint16_t cpu;
  uint16_t freed;
};

/* What stands at the beginning of the memory that it takes; the sets follow, and the queue. */
struct page_cross_common {
  uint64_t threshold;
  uint64_t era;
  uint32_t one_in;
  uint32_t sets;
  uint32_t room; /* of the queue */
  uint32_t queued;
  uint64_t events; /* that were ever queued */
} __attribute__((aligned(64)));

KMEM_INLINE struct page_cross_set* page_cross_sets(struct page_cross_common* common) {
  return (struct page_cross_set*)(common + 1);
}

KMEM_INLINE struct page_cross_event* page_cross_queue(struct page_cross_common* common) {
  return (struct page_cross_event*)(page_cross_sets(common) + common->sets);
}

/* An allocation or a free of a page. One that finds no room is lost sight of. */
KMEM_INLINE void page_cross_note(struct page_cross_counts* counts,
                                 const struct kmem_context* context, uint64_t page,
                                 uint16_t freed) {
  struct page_cross_common* const common = (struct page_cross_common*)context->common;
  const uint64_t hash = page_cross_hash(page, common->era);
  if (hash > common->threshold) return;
  if (common->queued == common->room) {
    counts->evicted++;
    return;
  }
  struct page_cross_event* const event = &page_cross_queue(common)[common->queued++];
  event->time_ns = context->time_ns;
  event->hash = hash;
  event->number = (uint32_t)common->events++;
  event->cpu = (uint16_t)context->cpu;
  event->freed = freed;
}
