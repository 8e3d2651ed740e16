/*
 * What the in-kernel programs (kmem.bpf.c) and the program that loads them share: the state of one
 * CPU and the list of tracepoints. Plain C for both.
 *
 * The states lie in one array map that both sides have in their memory (BPF_F_MMAPABLE). Only the
 * CPU's own programs write it; user space reads it while they do. Each word is a machine word, so
 * it is never read half written; a collector whose words only make sense together (pcp) is read
 * between two looks at the marks of the tracepoints that write it.
 */
#pragma once

#include "collectors/extfrag_tally.h"
#include "collectors/page_tally.h"
#include "collectors/pcp_tally.h"
#include "collectors/slab_tally.h"

/* Every tracepoint that has a program, by the kernel's name. */
#define KMEM_BPF_TRACEPOINTS(X) \
  X(kmalloc)                    \
  X(kmalloc_node)               \
  X(kfree)                      \
  X(kmem_cache_alloc)           \
  X(kmem_cache_alloc_node)      \
  X(kmem_cache_free)            \
  X(mm_page_alloc)              \
  X(mm_page_alloc_zone_locked)  \
  X(mm_page_free)               \
  X(mm_page_free_batched)       \
  X(mm_page_pcpu_drain)         \
  X(mm_page_alloc_extfrag)

/* Every collector that has a part of the state: its name, which is also that of the member. */
#define KMEM_BPF_COLLECTORS(X) X(slab) X(page) X(pcp) X(extfrag)

enum {
#define KMEM_BPF_INDEX(name) KMEM_BPF_##name,
  KMEM_BPF_TRACEPOINTS(KMEM_BPF_INDEX)
#undef KMEM_BPF_INDEX
  /* Tracepoints that are only counted (extra_events). The kmem system has five of them in 6.18. */
  KMEM_BPF_EXTRA,
  KMEM_BPF_EXTRAS = 8,
  KMEM_BPF_MARKS = KMEM_BPF_EXTRA + KMEM_BPF_EXTRAS,
};

enum {
#define KMEM_BPF_INDEX(name) KMEM_BPF_COLLECTOR_##name,
  KMEM_BPF_COLLECTORS(KMEM_BPF_INDEX)
#undef KMEM_BPF_INDEX
      KMEM_BPF_COLLECTOR_COUNT,
};

/* What one tracepoint's program has done on one CPU. */
struct kmem_bpf_mark {
  uint64_t sequence; /* odd: it is at work. Twice the events that it has finished */
  uint64_t skipped;  /* events that came while it was at work: counted nowhere else */
  uint64_t implausible;
  uint64_t address; /* of the event's cache or object; nobody else's business */
  uint64_t live_dropped[SLAB_LIVE_REASONS];
};

/* Places of each program's tables: a machine under load has shown about a hundred call sites. */
enum { KMEM_BPF_SITE_SLOTS = 1024, KMEM_BPF_CACHE_SLOTS = 512 };

/* The slab programs' tables by call site. Each writes its own. */
#define KMEM_BPF_SITE_TABLES(X) \
  X(kmalloc) X(kmem_cache_alloc) X(kmalloc_node) X(kmem_cache_alloc_node)
enum {
#define KMEM_BPF_INDEX(name) KMEM_BPF_SITES_##name,
  KMEM_BPF_SITE_TABLES(KMEM_BPF_INDEX)
#undef KMEM_BPF_INDEX
      KMEM_BPF_SITES_COUNT,
};

/* By cache; the keys are their addresses. The value behind the counts is the round in which the
 * name was read last: the address may be another cache's by now. */
enum { KMEM_BPF_CACHE_ROUND = 3 };
struct kmem_bpf_caches {
  struct kmem_slot slots[KMEM_BPF_CACHE_SLOTS];
  char names[KMEM_BPF_CACHE_SLOTS][SLAB_CACHE_NAME_BYTES];
};

/* An object that is alive, in a hash map by pointer. The programs of one pointer never overlap: a
 * free's runs before the object is free, an allocation's before its caller has it. */
struct kmem_bpf_live {
  uint64_t call_site;
  uint64_t time_ns;
  uint32_t bytes; /* at most UINT32_MAX */
  uint32_t cpu;   /* that it was allocated on */
};

/* The slab programs' tables of the objects that are followed, by call site: how many were
 * allocated, and of how many the pointer was allocated anew. */
enum { KMEM_BPF_LIVE_SLOTS = 512 };
enum { KMEM_BPF_LIVE_ALLOCATED, KMEM_BPF_LIVE_REUSED };
enum { KMEM_BPF_LEFT_OUT_SITES = 1024 };

/* What stands last is left out of the map where it is not needed. */
struct kmem_bpf_cpu {
  struct kmem_bpf_mark marks[KMEM_BPF_MARKS];
  struct slab_tally slab;
  struct page_tally page;
  struct pcp_tally pcp;
  struct extfrag_tally extfrag;
  struct kmem_bpf_caches caches_allocated __attribute__((aligned(64)));
  struct kmem_bpf_caches caches_freed;
#define KMEM_BPF_SITES(name) struct kmem_slot name##_sites[KMEM_BPF_SITE_SLOTS];
  KMEM_BPF_SITE_TABLES(KMEM_BPF_SITES)
#undef KMEM_BPF_SITES
#define KMEM_BPF_LIVE(name) struct kmem_slot name##_live[KMEM_BPF_LIVE_SLOTS];
  KMEM_BPF_SITE_TABLES(KMEM_BPF_LIVE)
#undef KMEM_BPF_LIVE
} __attribute__((aligned(64))); /* no cache line belongs to two CPUs */
