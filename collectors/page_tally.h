/*
 * Page allocations and frees, tallied: see tally.h for what a tally is.
 *
 * Sources: include/trace/events/kmem.h and mm/page_alloc.c of Linux 5.10 to 6.18.
 */
#pragma once

#include "collectors/page_cross_tally.h"
#include "collectors/tally.h"

/* mm_page_alloc's pfn where the allocation failed. */
#define PAGE_NO_PFN UINT64_MAX

struct page_alloc_event {
  uint64_t pfn;
  uint64_t gfp_flags; /* 4 bytes wide in 5.10, 8 from 6.1; 0 where the kernel does not tell */
  uint32_t order;
  int32_t migratetype;
};

struct page_zone_locked_event {
  uint32_t order;
  int32_t migratetype;
  int32_t percpu_refill; /* -1 where the kernel has no such field: 5.10 */
};

struct page_free_event {
  uint64_t pfn;
  uint32_t order;
};

struct page_counts {
  uint64_t allocations[KMEM_ORDERS][KMEM_MIGRATETYPES];
  uint64_t failures[KMEM_ORDERS][2];                       /* [1]: with __GFP_NOWARN */
  uint64_t zone_locked[KMEM_ORDERS][KMEM_MIGRATETYPES][2]; /* [1]: to refill a per-CPU list */
  uint64_t frees[KMEM_ORDERS];
  uint64_t batched_frees;
  struct page_cross_counts cross;
};

struct page_tally {
  struct page_counts counts;
  uint64_t gfp_nowarn; /* constant: the bit of __GFP_NOWARN */
  uint64_t node;       /* constant: the CPU's */
};

KMEM_INLINE int page_order_and_type_plausible(uint32_t order, int32_t migratetype) {
  return order < KMEM_ORDERS && migratetype >= 0 && migratetype < KMEM_MIGRATETYPES;
}

/* Whether an allocation under zone->lock refills a per-CPU list. Without the field the kernel's own
 * text line says so of order 0 (include/trace/events/kmem.h, 5.10). */
KMEM_INLINE int page_is_percpu_refill(const struct page_zone_locked_event* event) {
  return event->percpu_refill < 0 ? event->order == 0 : event->percpu_refill != 0;
}

/* The in-kernel programs have no context, and do it themselves. */
KMEM_INLINE int page_crosses_noted(const struct kmem_context* context) {
  return context && context->common;
}

KMEM_INLINE enum kmem_verdict page_count_alloc(struct page_tally* tally,
                                               const struct page_alloc_event* event,
                                               const struct kmem_context* context) {
  if (!page_order_and_type_plausible(event->order, event->migratetype)) return KMEM_IMPLAUSIBLE;
  const uint32_t order = kmem_index(event->order, KMEM_ORDERS);
  const uint32_t type = kmem_index((uint32_t)event->migratetype, KMEM_MIGRATETYPES);
  if (event->pfn == PAGE_NO_PFN) {
    tally->counts.failures[order][(event->gfp_flags & tally->gfp_nowarn) != 0]++;
  } else {
    tally->counts.allocations[order][type]++;
    if (page_crosses_noted(context)) page_cross_note(&tally->counts.cross, context, event->pfn, 0);
  }
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict page_count_zone_locked(struct page_tally* tally,
                                                     const struct page_zone_locked_event* event,
                                                     const struct kmem_context* context) {
  (void)context;
  if (!page_order_and_type_plausible(event->order, event->migratetype)) return KMEM_IMPLAUSIBLE;
  const uint32_t order = kmem_index(event->order, KMEM_ORDERS);
  const uint32_t type = kmem_index((uint32_t)event->migratetype, KMEM_MIGRATETYPES);
  tally->counts.zone_locked[order][type][page_is_percpu_refill(event)]++;
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict page_count_free(struct page_tally* tally,
                                              const struct page_free_event* event,
                                              const struct kmem_context* context) {
  if (event->order >= KMEM_ORDERS) return KMEM_IMPLAUSIBLE;
  tally->counts.frees[kmem_index(event->order, KMEM_ORDERS)]++;
  if (page_crosses_noted(context)) page_cross_note(&tally->counts.cross, context, event->pfn, 1);
  return KMEM_COUNTED;
}

KMEM_INLINE enum kmem_verdict page_count_free_batched(struct page_tally* tally,
                                                      const struct kmem_context* context) {
  (void)context;
  tally->counts.batched_frees++;
  return KMEM_COUNTED;
}
