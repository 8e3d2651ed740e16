/*
 * Slab objects that are alive, by pointer: a table of fixed size with open addressing, and what the
 * call sites hold, in the plain C of tally.h. One thread owns it.
 *
 * That thread reads the CPUs one after another, so a free may come before the allocation that it
 * belongs to, and the events of a pointer in any order. So they wait in a queue until those of all
 * CPUs are there, and are then applied in the order of their times (slab_live_queue.h). Of a free
 * it is then known for certain which allocation it belongs to, and on which CPU that was.
 *
 * What finds no room in the queue is applied at once. What is alive is right all the same: a place
 * holds what the latest event of its pointer, by time, said; what came earlier can't change that,
 * and a place whose object was freed stays until every earlier event has been handled. It then is
 * another pointer's to take. Such a free belongs to nothing for certain.
 *
 * An allocation of a pointer that was alive means that a free was not seen. Which it was shows once
 * all earlier events have been handled: where none was missed, there were as many allocations as
 * frees, but for those that brought the place to life or ended it (`balance`).
 */
#pragma once

#include "collectors/table_tally.h"

enum {
  SLAB_LIVE_PROBES = 64, /* neighbours among which a pointer has its place */
  SLAB_LIVE_SITES = 4096,
  SLAB_LIVE_SITE_PROBES = 8,
  SLAB_LIVE_AGES = 4, /* up to a minute, ten, an hour, and more */
  /* A call site whose objects have ended so often by being allocated anew, and this share of them
   * at least, one in so many, frees them without an event: of events lost by accident it is less.
   */
  SLAB_LIVE_SILENT_REUSES = 64,
  SLAB_LIVE_SILENT_ONE_IN = 4,
  SLAB_LIVE_QUEUE_ONE_IN = 4, /* room in the queue: one event in so many places of the table */
  SLAB_LIVE_RUNS = 4096,      /* parts of the queue whose times ascend: some two for each CPU */
};

/* The whole table is looked through once in so long. */
#define SLAB_LIVE_LAP_NS UINT64_C(10000000000)

/* Why something was not followed. */
enum {
  SLAB_LIVE_TABLE_FULL,     /* an event found no place */
  SLAB_LIVE_POINTER_REUSED, /* an object's pointer was allocated anew: its free was not seen */
  SLAB_LIVE_FREE_UNSEEN,    /* an object of a call site that frees without an event */
  SLAB_LIVE_BUSY,           /* the kernel's map was locked (in-kernel engine) */
  SLAB_LIVE_REASONS
};

/* Why a call site is not shown. */
enum { SLAB_LIVE_SHOWN, SLAB_LIVE_SILENT, SLAB_LIVE_EXCLUDED };

/* In place of a pointer: what there was has moved, and what follows has not. */
#define SLAB_LIVE_HOLE UINT64_C(1)

struct slab_live_object {
  uint64_t ptr;          /* 0: a free place */
  uint64_t time_ns;      /* of its latest event */
  uint32_t bytes;        /* that it takes */
  int32_t balance;       /* allocations less frees that nothing is known of yet */
  uint16_t site;         /* its number, from 1; 0: not alive */
  uint16_t balance_site; /* of the object that was last replaced */
  uint8_t age;
  uint8_t era;  /* when it was allocated */
  uint16_t cpu; /* that it was allocated on */
};

/* An allocation, or a free by one of these functions. */
enum { SLAB_LIVE_ALLOC, SLAB_LIVE_KFREE, SLAB_LIVE_KMEM_CACHE_FREE };

struct slab_live_event {
  uint64_t time_ns;
  uint64_t ptr;
  uint64_t call_site; /* of an allocation, as the bytes */
  uint32_t bytes;     /* at most UINT32_MAX */
  uint16_t cpu;
  uint16_t kind;
};

/* Events of the queue from the one to before the other, and the time and the CPU of the first. */
struct slab_live_run {
  uint64_t time_ns;
  uint32_t begin;
  uint32_t end;
  uint32_t cpu;
  uint32_t unused;
};

/* Frees whose allocation is known. Of the sample, not scaled. */
struct slab_live_frees {
  uint64_t same_cpu;   /* on the CPU that allocated the object */
  uint64_t cross_cpu;  /* elsewhere */
  uint64_t cross_node; /* those of them where the other CPU is of another node */
};

struct slab_live_site {
  uint64_t call_site; /* 0: a free place */
  uint64_t objects;
  uint64_t bytes[SLAB_LIVE_AGES]; /* of objects of this age */
  uint64_t freed;                 /* objects that ended by a free, lately ... */
  uint64_t reused;                /* ... and by being allocated anew */
  uint32_t generation;            /* moves on with each new owner of the place */
  uint32_t left_out;
};

struct slab_live {
  uint64_t places;       /* a power of two */
  uint64_t most_hash;    /* of the pointers that are followed */
  uint64_t used;         /* places that are not free */
  uint64_t settled_ns;   /* every event before has been handled */
  uint64_t hand;         /* where the table was looked through last; it goes down ... */
  uint64_t hand_ns;      /* ... and when */
  uint64_t hand_left_ns; /* time that was too short for a step */
  uint64_t dropped[SLAB_LIVE_REASONS];
  uint64_t era;        /* objects of another one are not paired with their frees */
  uint64_t started_ns; /* the time of the first event; 0: there was none */
  uint64_t room;       /* of the queue */
  uint64_t queued;
  /* The last one stands for those that find no place. */
  struct slab_live_site sites[SLAB_LIVE_SITES + 1];
  struct slab_live_run runs[SLAB_LIVE_RUNS];
  struct slab_live_object* objects;
  struct slab_live_event* queue;
};

KMEM_INLINE uint32_t slab_live_age(uint64_t age_ns) {
  const uint64_t second = UINT64_C(1000000000);
  if (age_ns < 60 * second) return 0;
  if (age_ns < 600 * second) return 1;
  return age_ns < 3600 * second ? 2 : 3;
}

/* Whether the pointers with this hash are followed: those of an object all or none. */
KMEM_INLINE uint64_t slab_live_most_hash(uint32_t sample_one_in) {
  return (UINT64_C(1) << 32) / sample_one_in - 1;
}

/* The place of a pointer: its own, or else one that it may take. NULL: there is none. */
KMEM_INLINE struct slab_live_object* slab_live_place(struct slab_live* live, uint64_t ptr,
                                                     uint32_t home) {
  struct slab_live_object* found = 0;
  for (uint32_t i = 0; i < SLAB_LIVE_PROBES; ++i) {
    struct slab_live_object* const object = &live->objects[(home + i) & (live->places - 1)];
    if (object->ptr == ptr) return object;
    if (object->ptr == 0) {
      if (!found) {
        live->used++;
        found = object;
      }
      break;
    }
    if (!found && object->site == 0 && object->time_ns < live->settled_ns) found = object;
  }
  return found;
}

/* What is known of a pointer once all events up to its latest have been handled. */
KMEM_INLINE void slab_live_settle(struct slab_live* live, struct slab_live_object* object) {
  if (object->balance > 0 && object->balance_site != 0) {
    live->dropped[SLAB_LIVE_POINTER_REUSED] += (uint32_t)object->balance;
    live->sites[object->balance_site - 1].reused += (uint32_t)object->balance;
  }
  object->balance = 0;
}

/* Its place, made ready for an event. NULL: there is none. */
KMEM_INLINE struct slab_live_object* slab_live_touch(struct slab_live* live, uint64_t ptr,
                                                     uint32_t hash) {
  struct slab_live_object* const object = slab_live_place(live, ptr, hash);
  if (!object) return 0;
  if (object->balance != 0 && object->time_ns < live->settled_ns) slab_live_settle(live, object);
  if (object->ptr != ptr) {
    object->ptr = ptr;
    object->time_ns = 0;
    object->site = 0;
  }
  return object;
}

KMEM_INLINE void slab_live_end(struct slab_live* live, struct slab_live_object* object) {
  struct slab_live_site* const site = &live->sites[object->site - 1];
  site->objects--;
  site->bytes[object->age] -= object->bytes;
  object->site = 0;
}

/* The number of a call site, from 1. */
KMEM_INLINE uint32_t slab_live_site_of(struct slab_live* live, uint64_t call_site) {
  const uint32_t home = kmem_hash(call_site);
  uint32_t place = SLAB_LIVE_SITES;
  for (uint32_t i = 0; i < SLAB_LIVE_SITE_PROBES; ++i) {
    const uint32_t at = (home + i) & (SLAB_LIVE_SITES - 1);
    const struct slab_live_site* const site = &live->sites[at];
    if (site->call_site == call_site) return at + 1;
    if (site->objects == 0 && site->left_out == SLAB_LIVE_SHOWN &&
        (place == SLAB_LIVE_SITES || (site->call_site == 0 && live->sites[place].call_site != 0))) {
      place = at;
    }
  }
  if (place == SLAB_LIVE_SITES || call_site == 0) return SLAB_LIVE_SITES + 1;
  struct slab_live_site* const site = &live->sites[place];
  site->call_site = call_site;
  site->generation++;
  site->freed = 0;
  site->reused = 0;
  return place + 1;
}

/* Applies an allocation that did not fail. */
KMEM_INLINE void slab_live_alloc(struct slab_live* live, const struct slab_live_event* event) {
  const uint32_t number = slab_live_site_of(live, event->call_site);
  struct slab_live_site* const site = &live->sites[number - 1];
  struct slab_live_object* const object = slab_live_touch(live, event->ptr, kmem_hash(event->ptr));
  if (!object) {
    if (site->left_out == SLAB_LIVE_SHOWN) live->dropped[SLAB_LIVE_TABLE_FULL]++;
    return;
  }
  if (event->time_ns < object->time_ns) { /* it has been freed, or allocated again, since */
    object->balance++;
    object->balance_site = (uint16_t)number;
    return;
  }
  if (object->site != 0) {
    object->balance++;
    object->balance_site = object->site;
    slab_live_end(live, object);
  }
  object->time_ns = event->time_ns;
  if (site->left_out != SLAB_LIVE_SHOWN) {
    if (site->left_out == SLAB_LIVE_SILENT) live->dropped[SLAB_LIVE_FREE_UNSEEN]++;
    return;
  }
  object->site = (uint16_t)number;
  object->bytes = event->bytes;
  object->age = 0;
  object->era = (uint8_t)live->era;
  object->cpu = event->cpu;
  site->objects++;
  site->bytes[0] += object->bytes;
}

/* Applies a free of something, in any order. */
KMEM_INLINE void slab_live_free(struct slab_live* live, const struct slab_live_event* event) {
  struct slab_live_object* const object = slab_live_touch(live, event->ptr, kmem_hash(event->ptr));
  if (!object) { /* its allocation may be yet to come */
    live->dropped[SLAB_LIVE_TABLE_FULL]++;
    return;
  }
  if (event->time_ns >= object->time_ns) {
    object->time_ns = event->time_ns;
    if (object->site != 0) {
      live->sites[object->site - 1].freed++;
      slab_live_end(live, object);
      return;
    }
  }
  object->balance--;
}

/* Applies a free, every event before which has been applied. The number + 1 of the CPU that
 * allocated the object; 0: not known. */
KMEM_INLINE uint32_t slab_live_free_in_order(struct slab_live* live,
                                             const struct slab_live_event* event) {
  const uint32_t home = kmem_hash(event->ptr);
  struct slab_live_object* object = 0;
  for (uint32_t i = 0; i < SLAB_LIVE_PROBES && !object; ++i) {
    struct slab_live_object* const at = &live->objects[(home + i) & (live->places - 1)];
    if (at->ptr == 0) return 0; /* of what was never seen: nothing that comes can belong to it */
    if (at->ptr == event->ptr) object = at;
  }
  if (!object) return 0;
  if (object->balance != 0 && object->time_ns < live->settled_ns) slab_live_settle(live, object);
  if (object->site == 0 || event->time_ns < object->time_ns) {
    object->balance--;
    if (event->time_ns > object->time_ns) object->time_ns = event->time_ns;
    return 0;
  }
  object->time_ns = event->time_ns;
  live->sites[object->site - 1].freed++;
  slab_live_end(live, object);
  return object->era == (uint8_t)live->era ? object->cpu + 1u : 0;
}

/* An event has happened; those of one CPU come in the order of their times. */
KMEM_INLINE void slab_live_note(struct slab_live* live, const struct slab_live_event* event) {
  if (kmem_hash(event->ptr) > live->most_hash) return;
  if (live->queued < live->room) {
    live->queue[live->queued++] = *event;
  } else if (event->kind == SLAB_LIVE_ALLOC) {
    slab_live_alloc(live, event);
  } else {
    slab_live_free(live, event);
  }
}

/* Counts a free of what was allocated by CPU `from`, of the first node. */
KMEM_INLINE void slab_live_count_free(struct slab_live_frees* frees, uint32_t from, uint32_t to,
                                      uint64_t from_node, uint64_t to_node) {
  if (from == to) {
    frees->same_cpu++;
    return;
  }
  frees->cross_cpu++;
  if (kmem_nodes_differ(from_node, to_node)) frees->cross_node++;
}

/* Frees a place. Whoever looks for a pointer ends at a free place, so what follows moves up if it
 * belongs to this side of the hole (Knuth, TAOCP 6.4, algorithm R). */
KMEM_INLINE void slab_live_vacate(struct slab_live* live, uint64_t at) {
  const uint64_t mask = live->places - 1;
  uint64_t moves = SLAB_LIVE_PROBES;
  for (uint64_t distance = 1; distance < SLAB_LIVE_PROBES && moves > 0; ++distance) {
    const uint64_t next = (at + distance) & mask;
    const uint64_t ptr = live->objects[next].ptr;
    if (ptr == 0) break;
    if (ptr == SLAB_LIVE_HOLE || ((next - kmem_hash(ptr)) & mask) < distance) continue;
    live->objects[at] = live->objects[next];
    at = next;
    distance = 0;
    --moves;
  }
  struct slab_live_object* const hole = &live->objects[at];
  hole->site = 0;
  hole->time_ns = 0;
  hole->balance = 0;
  hole->ptr = moves > 0 ? 0 : SLAB_LIVE_HOLE;
  if (moves > 0) live->used--;
}

/* Looks after one place: its object's age, whether it is still wanted, whether it can be free. */
KMEM_INLINE void slab_live_look(struct slab_live* live, uint64_t at, uint64_t now_ns) {
  struct slab_live_object* const object = &live->objects[at];
  if (object->ptr == 0) return;
  const int settled = object->time_ns < live->settled_ns;
  if (settled && object->balance != 0) slab_live_settle(live, object);
  if (object->site != 0) {
    struct slab_live_site* const site = &live->sites[object->site - 1];
    if (site->left_out != SLAB_LIVE_SHOWN) {
      if (site->left_out == SLAB_LIVE_SILENT) live->dropped[SLAB_LIVE_FREE_UNSEEN]++;
      slab_live_end(live, object);
      return;
    }
    const uint32_t age = now_ns > object->time_ns ? slab_live_age(now_ns - object->time_ns) : 0;
    if (age <= object->age) return;
    site->bytes[object->age] -= object->bytes;
    site->bytes[age] += object->bytes;
    object->age = (uint8_t)age;
    return;
  }
  if (settled) slab_live_vacate(live, at);
}

/* At the end of a lap: which call sites free without an event? */
KMEM_INLINE void slab_live_judge_sites(struct slab_live* live) {
  for (uint32_t i = 0; i < SLAB_LIVE_SITES; ++i) {
    struct slab_live_site* const site = &live->sites[i];
    if (site->left_out == SLAB_LIVE_SHOWN && site->reused >= SLAB_LIVE_SILENT_REUSES &&
        site->reused * SLAB_LIVE_SILENT_ONE_IN >= site->reused + site->freed) {
      site->left_out = SLAB_LIVE_SILENT;
    }
    if (site->freed + site->reused >= 16 * SLAB_LIVE_SILENT_REUSES) {
      site->freed /= 2;
      site->reused /= 2;
    }
  }
}

/* The objects of a call site that has a place are no longer wanted. */
KMEM_INLINE void slab_live_exclude(struct slab_live* live, uint64_t call_site) {
  const uint32_t home = kmem_hash(call_site);
  for (uint32_t i = 0; i < SLAB_LIVE_SITE_PROBES; ++i) {
    struct slab_live_site* const site = &live->sites[(home + i) & (SLAB_LIVE_SITES - 1)];
    if (site->call_site == call_site) site->left_out = SLAB_LIVE_EXCLUDED;
  }
}

/* Does what is due by now: every event before `settled_ns` has been handled (UINT64_MAX: all there
 * will ever be, and then all is done). The work is a share of the table, by the time that has
 * passed, and four times that while the table is more than half full. */
KMEM_INLINE void slab_live_tend(struct slab_live* live, uint64_t settled_ns, uint64_t now_ns) {
  live->settled_ns = settled_ns;
  uint64_t elapsed_ns = now_ns > live->hand_ns ? now_ns - live->hand_ns : 0;
  if (elapsed_ns > SLAB_LIVE_LAP_NS) elapsed_ns = SLAB_LIVE_LAP_NS;
  live->hand_ns = now_ns;
  if (live->used > live->places / 2) elapsed_ns *= 4;
  elapsed_ns += live->hand_left_ns;
  const uint64_t ns_per_place = SLAB_LIVE_LAP_NS / live->places;
  uint64_t steps = elapsed_ns / ns_per_place;
  live->hand_left_ns = elapsed_ns % ns_per_place;
  if (steps > live->places || settled_ns == UINT64_MAX) steps = live->places;
  for (; steps > 0; --steps) {
    live->hand = (live->hand ? live->hand : live->places) - 1;
    slab_live_look(live, live->hand, now_ns);
    if (live->hand == 0) slab_live_judge_sites(live);
  }
}
