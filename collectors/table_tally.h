/*
 * Counts by key (a call site's address, a cache): a table of fixed size with open addressing, in
 * the plain C of tally.h. Empty is all zero. One writer: a CPU's program, or the one thread that
 * owns the collectors' state. Readers may look at any time (slab_tables.h).
 *
 * A key has its place among KMEM_PROBES neighbours. Where all of them are taken, the one of them
 * that came least often lately gives way, in time: each newcomer ages them by one, each of their
 * own events makes them younger. So what comes often stays, whatever number of keys passes by, and
 * what becomes frequent finds a place. Counts of a key that gave way are gone from the table: who
 * needs sums takes them from the tallies.
 */
#pragma once

#include "collectors/tally.h"

enum {
  KMEM_PROBES = 8,
  KMEM_SLOT_VALUES = 4,
  KMEM_SCORE_MAX = 255,
};

struct kmem_slot {
  uint64_t key;        /* 0: free */
  uint32_t generation; /* odd: its owner is being changed. Moves on with each change */
  uint32_t score;      /* of its events, less those of newcomers; at most KMEM_SCORE_MAX */
  uint64_t values[KMEM_SLOT_VALUES];
};

/* Spreads keys whose differences lie anywhere in the word: Fibonacci hashing (Knuth, TAOCP 6.4). */
KMEM_INLINE uint32_t kmem_hash(uint64_t key) {
  return (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

KMEM_INLINE void kmem_slot_take(struct kmem_slot* slot, uint64_t key) {
  KMEM_STORE_FIRST(slot->generation, slot->generation + 1);
  slot->key = key;
  slot->score = 1;
  for (uint32_t i = 0; i < KMEM_SLOT_VALUES; ++i) slot->values[i] = 0;
}

/* Lets readers see a slot that was taken, and all that was written about its owner since. */
KMEM_INLINE void kmem_slot_open(struct kmem_slot* slot) {
  KMEM_STORE_LAST(slot->generation, slot->generation + 1);
}

/* Where a key was found: its slot and that slot's number, or NULL if its neighbours are all busier
 * and it goes uncounted this time. If it is new there, the caller has to open the slot. */
struct kmem_place {
  struct kmem_slot* slot;
  uint32_t number;
  uint32_t taken;
};

/* The place of a key among `size` (a power of two) slots, taken for it if it had none. */
KMEM_RARE void kmem_search_place(struct kmem_slot* slots, uint32_t size, uint64_t key,
                                 struct kmem_place* place) {
  const uint32_t home = kmem_hash(key);
  place->slot = 0;
  place->number = 0;
  place->taken = 0;
  if (key == 0) return;
  for (uint32_t i = 0; i < KMEM_PROBES; ++i) {
    const uint32_t number = kmem_index((home + i) & (size - 1), size);
    struct kmem_slot* const slot = &slots[number];
    if (slot->key != key && slot->key != 0) continue;
    place->slot = slot;
    place->number = number;
    if (slot->key == key) {
      if (slot->score < KMEM_SCORE_MAX) slot->score++;
    } else {
      place->taken = 1;
      kmem_slot_take(slot, key);
    }
    return;
  }
  for (uint32_t i = 0; i < KMEM_PROBES; ++i) {
    const uint32_t number = kmem_index((home + i) & (size - 1), size);
    struct kmem_slot* const slot = &slots[number];
    if (slot->score > 0) {
      slot->score--;
    } else if (!place->slot) {
      place->slot = slot;
      place->number = number;
      place->taken = 1;
    }
  }
  if (place->slot) kmem_slot_take(place->slot, key);
}

/* The same. Nearly all keys are where they are looked for first. */
KMEM_INLINE void kmem_find_place(struct kmem_slot* slots, uint32_t size, uint64_t key,
                                 struct kmem_place* place) {
#ifndef __bpf__
  const uint32_t number = kmem_hash(key) & (size - 1);
  struct kmem_slot* const slot = &slots[number];
  if (slot->key == key && key != 0) {
    place->slot = slot;
    place->number = number;
    place->taken = 0;
    if (slot->score < KMEM_SCORE_MAX) slot->score++;
    return;
  }
#endif
  kmem_search_place(slots, size, key, place);
}
