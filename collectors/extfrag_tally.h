/*
 * External fragmentation, tallied: see tally.h for what a tally is.
 *
 * mm_page_alloc_extfrag fires when an allocation takes pages of another migratetype's pageblock
 * (mm/page_alloc.c, 5.10 to 6.18). `fragmenting` is not stored in the record: it is
 * fallback_order < pageblock_order (include/trace/events/kmem.h).
 */
#pragma once

#include "collectors/tally.h"

enum {
  EXTFRAG_OWNERSHIP_UNKNOWN = 2,
  EXTFRAG_OWNERSHIPS = 3, /* false, true, unknown */
};

struct extfrag_event {
  int32_t alloc_order;
  int32_t fallback_order;
  int32_t alloc_migratetype;
  int32_t fallback_migratetype;
  int32_t change_ownership; /* 0, 1, or EXTFRAG_OWNERSHIP_UNKNOWN where it is not told */
};

struct extfrag_counts {
  /* [alloc][fallback][fragmenting][change_ownership] */
  uint64_t events[KMEM_MIGRATETYPES][KMEM_MIGRATETYPES][2][EXTFRAG_OWNERSHIPS];
  uint64_t alloc_order[KMEM_ORDERS];
  uint64_t fallback_order[KMEM_ORDERS];
};

struct extfrag_tally {
  struct extfrag_counts counts;
  uint64_t pageblock_order; /* constant */
};

KMEM_INLINE enum kmem_verdict extfrag_count(struct extfrag_tally* tally,
                                            const struct extfrag_event* event,
                                            const struct kmem_context* context) {
  (void)context;
  const uint32_t alloc_order = (uint32_t)event->alloc_order;
  const uint32_t fallback_order = (uint32_t)event->fallback_order;
  const uint32_t alloc_type = (uint32_t)event->alloc_migratetype;
  const uint32_t fallback_type = (uint32_t)event->fallback_migratetype;
  const uint32_t ownership = (uint32_t)event->change_ownership;
  if (alloc_order >= KMEM_ORDERS || fallback_order >= KMEM_ORDERS ||
      alloc_type >= KMEM_MIGRATETYPES || fallback_type >= KMEM_MIGRATETYPES ||
      ownership >= EXTFRAG_OWNERSHIPS) {
    return KMEM_IMPLAUSIBLE;
  }
  const int fragmenting = fallback_order < tally->pageblock_order;
  tally->counts.events[kmem_index(alloc_type, KMEM_MIGRATETYPES)]
                      [kmem_index(fallback_type, KMEM_MIGRATETYPES)][fragmenting][ownership]++;
  tally->counts.alloc_order[kmem_index(alloc_order, KMEM_ORDERS)]++;
  tally->counts.fallback_order[kmem_index(fallback_order, KMEM_ORDERS)]++;
  return KMEM_COUNTED;
}
