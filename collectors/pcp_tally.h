/*
 * Refills and drains of the per-CPU page lists, tallied: see tally.h for what a tally is.
 *
 * The kernel fires one event per block (mm_page_alloc_zone_locked in rmqueue_bulk(),
 * mm_page_pcpu_drain in free_pcppages_bulk(), mm/page_alloc.c, 5.10 to 6.18), all of a batch under
 * one hold of zone->lock. So a batch is a run of consecutive events of one kind on one CPU. It ends
 *  - at an event of another kind: a drain for a refill, a refill for a drain, an allocation under
 *    zone->lock that is no refill;
 *  - at a mm_page_alloc or mm_page_free of that CPU: the lock's holder has then let go of it;
 *  - after a gap. Inside a batch events are about 1 us apart, with interrupts off; between two
 *    batches without any of the events above lie at least the unlocking and locking of zone->lock
 *    and, for lists drained in turn, the walk to the next list. 20 us lets a batch survive a slow
 *    machine (an emulated one takes 5 us an event) and an NMI, and still tells apart what a timer
 *    (vmstat_update) drains one after another.
 */
#pragma once

#include "collectors/page_tally.h"

#define PCP_BATCH_GAP_NS 20000u

enum {
  /* Upper bounds 1, 2, 4, ... 4096 pages; and +Inf. */
  PCP_BATCH_BUCKETS = 14,
};

struct pcp_drain_event {
  uint32_t order;
};

/* Batches that have ended. */
struct pcp_counts {
  uint64_t batches;
  uint64_t pages;
  uint64_t sizes[PCP_BATCH_BUCKETS];
};

/* One kind of batch. The open one is not in `closed`. */
struct pcp_batches {
  struct pcp_counts closed;
  uint64_t events;     /* of this kind */
  uint64_t open_pages; /* of the open batch; 0: none is open */
  uint64_t last_ns;    /* time of its last event */
  uint64_t breaks;     /* what pcp_breaks() was at its last event */
};

struct pcp_tally {
  struct pcp_batches refill;
  struct pcp_batches drain;
  /* Each written by its own tracepoint and only compared by the others: what ends a batch. */
  uint64_t page_allocs;
  uint64_t page_frees;
  uint64_t direct_allocs;
};

KMEM_INLINE uint32_t pcp_batch_bucket(uint64_t pages) {
  const uint32_t log2 = kmem_log2_ceil(pages);
  return log2 <= 12 ? log2 : PCP_BATCH_BUCKETS - 1;
}

KMEM_INLINE void pcp_close(struct pcp_batches* batches) {
  if (batches->open_pages == 0) return;
  batches->closed.batches++;
  batches->closed.pages += batches->open_pages;
  batches->closed.sizes[pcp_batch_bucket(batches->open_pages)]++;
  batches->open_pages = 0;
}

/* Changes whenever an event happens that ends an open batch of the kind that `other` is not. */
KMEM_INLINE uint64_t pcp_breaks(const struct pcp_tally* tally, const struct pcp_batches* other) {
  return tally->page_allocs + tally->page_frees + tally->direct_allocs + other->events;
}

KMEM_INLINE void pcp_add(struct pcp_batches* batches, uint64_t breaks, uint32_t order,
                         uint64_t time_ns) {
  if (batches->breaks != breaks || time_ns - batches->last_ns > PCP_BATCH_GAP_NS) {
    pcp_close(batches);
  }
  batches->events++;
  batches->open_pages += UINT64_C(1) << order;
  batches->last_ns = time_ns;
  batches->breaks = breaks;
}

KMEM_INLINE enum kmem_verdict pcp_count_zone_locked(struct pcp_tally* tally,
                                                    const struct page_zone_locked_event* event,
                                                    const struct kmem_context* context) {
  if (event->order >= KMEM_ORDERS) return KMEM_IMPLAUSIBLE;
  if (page_is_percpu_refill(event)) {
    pcp_add(&tally->refill, pcp_breaks(tally, &tally->drain), event->order, context->time_ns);
  } else {
    tally->direct_allocs++;
  }
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict pcp_count_drain(struct pcp_tally* tally,
                                              const struct pcp_drain_event* event,
                                              const struct kmem_context* context) {
  if (event->order >= KMEM_ORDERS) return KMEM_IMPLAUSIBLE;
  pcp_add(&tally->drain, pcp_breaks(tally, &tally->refill), event->order, context->time_ns);
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict pcp_count_page_alloc(struct pcp_tally* tally,
                                                   const struct kmem_context* context) {
  (void)context;
  tally->page_allocs++;
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict pcp_count_page_free(struct pcp_tally* tally,
                                                  const struct kmem_context* context) {
  (void)context;
  tally->page_frees++;
  return KMEM_COUNTED;
}

/* Closes batches that nothing can continue any more: every event before now_ns has been counted. */
KMEM_INLINE void pcp_close_stale(struct pcp_tally* tally, uint64_t now_ns) {
  struct pcp_batches* const kinds[2] = {&tally->refill, &tally->drain};
  const uint64_t breaks[2] = {pcp_breaks(tally, &tally->drain), pcp_breaks(tally, &tally->refill)};
  for (int i = 0; i < 2; ++i) {
    const int gap = now_ns > kinds[i]->last_ns && now_ns - kinds[i]->last_ns > PCP_BATCH_GAP_NS;
    if (gap || kinds[i]->breaks < breaks[i]) pcp_close(kinds[i]);
  }
}
