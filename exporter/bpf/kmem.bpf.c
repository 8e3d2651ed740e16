/*
 * The in-kernel engine's programs: one per tracepoint, which hands the tracepoint's arguments to
 * the collectors' own arithmetic (collectors/xxx_tally.h). State and its rules: cpu_tally.h.
 *
 * Raw tracepoints: their arguments are those of the TP_PROTO in include/trace/events/kmem.h, as
 * numbers that nobody checks. So the loader compares the prototypes in the running kernel's BTF
 * with those that these programs were written for (programs.cc) and loads only what fits.
 *
 * They run with preemption or at least migration disabled (bpf_trace_run in
 * kernel/trace/bpf_trace.c, 5.10 to 6.18), so the CPU stays the same. An interrupt may run the
 * program of another tracepoint in between: each writes words of its own. It may also fire the same
 * tracepoint: then the kernel skips the program and counts that (recursion_misses, from 6.1 for raw
 * tracepoints), or, where it does not, the mark shows it.
 */
#include <linux/bpf.h> /* first */
/**/
#include <asm-generic/errno-base.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "exporter/bpf/cpu_tally.h"

/* Tests run recorded events, which have a time of their own. */
#ifndef KMEM_BPF_NOW_NS
#define KMEM_BPF_NOW_NS(args) bpf_ktime_get_ns()
#endif

char LICENSE[] SEC("license") = "GPL";

/* Which collectors are on: written before loading, so that the kernel drops the others' code. */
const volatile unsigned char kmem_wanted[KMEM_BPF_COLLECTOR_COUNT] = {}; /* not bool: for C++ */

/* Parts of the slab collector, in the same way. */
const volatile unsigned char kmem_wanted_sites = 0;
const volatile unsigned char kmem_wanted_caches = 0;

/* Which pages are followed from allocation to free (page_cross_tally.h): one in so many, 0 for
 * none; the highest hash of these; and the sets of the table. */
const volatile uint32_t kmem_cross_one_in = 0;
const volatile uint64_t kmem_cross_threshold = 0;
const volatile uint32_t kmem_cross_sets = 0;
const volatile unsigned char kmem_wanted_live = 0;
const volatile uint32_t kmem_live_most_hash = 0; /* of the pointers that are followed */

/* The reader's: how many call sites are in kmem_left_out. */
uint64_t kmem_left_out_sites = 0;

/* The reader's: a new number makes the programs read the caches' names again. */
uint64_t kmem_round = 1;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1); /* the loader: one per possible CPU */
  __type(key, uint32_t);
  __type(value, struct kmem_bpf_cpu);
} kmem_cpus SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags,
         BPF_F_MMAPABLE); /* then sets begin with a cache line, and all can be cleared at once */
  __uint(max_entries, 1); /* the loader: kmem_cross_sets */
  __type(key, uint32_t);
  __type(value, struct page_cross_set);
} kmem_pages SEC(".maps");
/* Allocated as a whole at the start, since nothing can be allocated where the programs run. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1); /* the loader: as configured */
  __type(key, uint64_t);
  __type(value, struct kmem_bpf_live);
} kmem_live SEC(".maps");

/* Call sites whose objects are not followed. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, KMEM_BPF_LEFT_OUT_SITES);
  __type(key, uint64_t);
  __type(value, uint64_t);
} kmem_left_out SEC(".maps");

/* What is read of it, found by CO-RE; mm/slab.h and include/linux/slub_def.h, 5.10 to 6.18. */
struct kmem_cache {
  unsigned int size;
  unsigned int object_size;
  const char* name;
} __attribute__((preserve_access_index));

#define WANTED(collector) (kmem_wanted[KMEM_BPF_COLLECTOR_##collector])

/* A program: PROGRAM(NAME, SECTION, MARK) { ... } whose body has `args` and this CPU's state,
 * `cpu`, and returns a verdict. */
#define BODY(name)                                       \
  static __always_inline enum kmem_verdict name##_count( \
      const uint64_t* args __attribute__((unused)),      \
      struct kmem_bpf_cpu* cpu __attribute__((unused)))
#define PROGRAM(name, section, mark_index)                                     \
  BODY(name);                                                                  \
  SEC(section) int name(const uint64_t* args) {                                \
    const uint32_t number = bpf_get_smp_processor_id();                        \
    struct kmem_bpf_cpu* const cpu = bpf_map_lookup_elem(&kmem_cpus, &number); \
    if (!cpu) return 0;                                                        \
    struct kmem_bpf_mark* const mark = &cpu->marks[mark_index];                \
    const uint64_t sequence = mark->sequence;                                  \
    if (sequence & 1) {                                                        \
      __sync_fetch_and_add(&mark->skipped, 1);                                 \
      return 0;                                                                \
    }                                                                          \
    KMEM_STORE_FIRST(mark->sequence, sequence + 1);                            \
    if (name##_count(args, cpu) != KMEM_COUNTED) mark->implausible++;          \
    KMEM_STORE_LAST(mark->sequence, sequence + 2);                             \
    return 0;                                                                  \
  }                                                                            \
  BODY(name)

static __always_inline struct kmem_context now(const uint64_t* args __attribute__((unused))) {
  const struct kmem_context context = {.time_ns = KMEM_BPF_NOW_NS(args),
                                       .cpu = bpf_get_smp_processor_id()};
  return context;
}

/* ---- slab: (call_site, ptr, bytes_req, bytes_alloc, ...), or from 6.1 for caches (call_site, ptr,
 * cache, ...) */

static __always_inline struct slab_alloc_event slab_alloc(const uint64_t* args) {
  const struct slab_alloc_event event = {
      .call_site = args[0], .ptr = args[1], .bytes_req = args[2], .bytes_alloc = args[3]};
  return event;
}

/* 6.0 alone: (call_site, ptr, cache, bytes_req, bytes_alloc, ...) */
static __always_inline struct slab_alloc_event slab_alloc_with_cache(const uint64_t* args) {
  const struct slab_alloc_event event = {
      .call_site = args[0], .ptr = args[1], .bytes_req = args[3], .bytes_alloc = args[4]};
  return event;
}

/* A pointer as a number: the verifier lets a BTF tracepoint not compute with its pointers. */
static __always_inline uint64_t as_number(struct kmem_bpf_mark* mark, uint64_t pointer) {
  *(volatile uint64_t*)&mark->address = pointer;
  return *(volatile uint64_t*)&mark->address;
}

static __always_inline void count_live(struct kmem_slot* slots, uint64_t call_site,
                                       uint32_t value) {
  struct kmem_place place;
  kmem_find_place(slots, KMEM_BPF_LIVE_SLOTS, call_site, &place);
  if (!place.slot) return;
  if (place.taken) kmem_slot_open(place.slot);
  place.slot->values[value]++;
}

static __always_inline void follow_alloc(struct kmem_bpf_mark* mark, struct kmem_slot* slots,
                                         const struct slab_alloc_event* event) {
  if (!kmem_wanted_live || event->ptr == 0) return;
  const uint64_t ptr = as_number(mark, event->ptr);
  if (kmem_hash(ptr) > kmem_live_most_hash) return;
  const struct kmem_bpf_live object = {
      .call_site = event->call_site,
      .time_ns = bpf_ktime_get_ns(),
      .bytes = event->bytes_alloc < UINT32_MAX ? (uint32_t)event->bytes_alloc : UINT32_MAX,
      .cpu = bpf_get_smp_processor_id()};
  const int left_out =
      kmem_left_out_sites && bpf_map_lookup_elem(&kmem_left_out, &object.call_site);
  /* One look at the map where, as almost always, there is nothing. An int: before 6.4 the kernel
   * leaves the upper half of what a map's functions return undefined (struct bpf_map_ops). */
  const int error =
      left_out ? -EEXIST : (int)bpf_map_update_elem(&kmem_live, &ptr, &object, BPF_NOEXIST);
  if (error == -EEXIST) {
    struct kmem_bpf_live* const known = bpf_map_lookup_elem(&kmem_live, &ptr);
    if (known) {
      mark->live_dropped[SLAB_LIVE_POINTER_REUSED]++;
      count_live(slots, known->call_site, KMEM_BPF_LIVE_REUSED);
      *known = object;
      if (left_out) bpf_map_delete_elem(&kmem_live, &ptr);
    }
  } else if (error) {
    mark->live_dropped[error == -EBUSY ? SLAB_LIVE_BUSY : SLAB_LIVE_TABLE_FULL]++;
    return;
  }
  if (left_out) {
    mark->live_dropped[SLAB_LIVE_FREE_UNSEEN]++;
  } else {
    count_live(slots, object.call_site, KMEM_BPF_LIVE_ALLOCATED);
  }
}

static __always_inline void follow_free(struct kmem_bpf_cpu* cpu, struct kmem_bpf_mark* mark,
                                        struct slab_live_frees* frees, uint64_t address) {
  if (!kmem_wanted_live || address <= SLAB_ZERO_SIZE_PTR) return;
  const uint64_t ptr = as_number(mark, address);
  if (kmem_hash(ptr) > kmem_live_most_hash) return;
  const struct kmem_bpf_live* const object = bpf_map_lookup_elem(&kmem_live, &ptr);
  if (!object) return;
  const uint32_t from = object->cpu;
  const int error = (int)bpf_map_delete_elem(&kmem_live, &ptr);
  if (error == -EBUSY) mark->live_dropped[SLAB_LIVE_BUSY]++;
  const uint32_t to = bpf_get_smp_processor_id();
  const struct kmem_bpf_cpu* const allocator =
      from == to ? cpu : bpf_map_lookup_elem(&kmem_cpus, &from);
  if (allocator) slab_live_count_free(frees, from, to, allocator->slab.node, cpu->slab.node);
}

#define FOLLOW_ALLOC(tracepoint, event) \
  follow_alloc(&cpu->marks[KMEM_BPF_##tracepoint], cpu->tracepoint##_live, event)
#define FOLLOW_FREE(tracepoint, event)                                                         \
  follow_free(cpu, &cpu->marks[KMEM_BPF_##tracepoint], &cpu->slab.counts.tracepoint##_of_live, \
              event.ptr)

#define COUNT_KMALLOC(tracepoint, alloc)                                                      \
  do {                                                                                        \
    const struct slab_alloc_event event = alloc(args);                                        \
    if (slab_count_##tracepoint(&cpu->slab, &event, NULL) != KMEM_COUNTED) {                  \
      return KMEM_IMPLAUSIBLE;                                                                \
    }                                                                                         \
    if (kmem_wanted_caches) slab_count_class(&cpu->slab.counts.tracepoint##_classes, &event); \
    if (kmem_wanted_sites) {                                                                  \
      slab_count_site(cpu->tracepoint##_sites, KMEM_BPF_SITE_SLOTS, &event);                  \
    }                                                                                         \
    FOLLOW_ALLOC(tracepoint, &event);                                                         \
    return KMEM_COUNTED;                                                                      \
  } while (0)

#define COUNT_CACHE_ALLOC(tracepoint, event)                                \
  do {                                                                      \
    if (slab_count_##tracepoint(&cpu->slab, event, NULL) != KMEM_COUNTED) { \
      return KMEM_IMPLAUSIBLE;                                              \
    }                                                                       \
    if (kmem_wanted_sites) {                                                \
      slab_count_site(cpu->tracepoint##_sites, KMEM_BPF_SITE_SLOTS, event); \
    }                                                                       \
    FOLLOW_ALLOC(tracepoint, event);                                        \
  } while (0)

PROGRAM(kmalloc, "raw_tp/kmalloc", KMEM_BPF_kmalloc) { COUNT_KMALLOC(kmalloc, slab_alloc); }

PROGRAM(kmalloc_node, "raw_tp/kmalloc_node", KMEM_BPF_kmalloc_node) {
  COUNT_KMALLOC(kmalloc_node, slab_alloc);
}

PROGRAM(kmalloc_with_cache, "raw_tp/kmalloc", KMEM_BPF_kmalloc) {
  COUNT_KMALLOC(kmalloc, slab_alloc_with_cache);
}

PROGRAM(kmalloc_node_with_cache, "raw_tp/kmalloc_node", KMEM_BPF_kmalloc_node) {
  COUNT_KMALLOC(kmalloc_node, slab_alloc_with_cache);
}

PROGRAM(kmem_cache_alloc_bytes, "raw_tp/kmem_cache_alloc", KMEM_BPF_kmem_cache_alloc) {
  const struct slab_alloc_event event = slab_alloc(args);
  COUNT_CACHE_ALLOC(kmem_cache_alloc, &event);
  return KMEM_COUNTED;
}

PROGRAM(kmem_cache_alloc_node, "raw_tp/kmem_cache_alloc_node", KMEM_BPF_kmem_cache_alloc_node) {
  const struct slab_alloc_event event = slab_alloc(args);
  COUNT_CACHE_ALLOC(kmem_cache_alloc_node, &event);
  return KMEM_COUNTED;
}

PROGRAM(kmem_cache_alloc_node_with_cache, "raw_tp/kmem_cache_alloc_node",
        KMEM_BPF_kmem_cache_alloc_node) {
  const struct slab_alloc_event event = slab_alloc_with_cache(args);
  COUNT_CACHE_ALLOC(kmem_cache_alloc_node, &event);
  return KMEM_COUNTED;
}

/* The slot of a cache, with its name as it has been since the reader's last round: the name is not
 * even looked for more often. */
static __always_inline struct kmem_slot* cache_slot(struct kmem_bpf_caches* caches,
                                                    uint64_t address) {
  struct kmem_place place;
  kmem_find_place(caches->slots, KMEM_BPF_CACHE_SLOTS, address, &place);
  struct kmem_slot* const slot = place.slot;
  if (!slot || slot->values[KMEM_BPF_CACHE_ROUND] == kmem_round) return slot;
  const char* name = NULL;
  bpf_core_read(&name, sizeof name, &((const struct kmem_cache*)address)->name);
  uint64_t text[SLAB_CACHE_NAME_BYTES / 8] = {};
  bpf_probe_read_kernel_str(text, sizeof text, name);
  uint64_t* const known = (uint64_t*)caches->names[kmem_index(place.number, KMEM_BPF_CACHE_SLOTS)];
  uint64_t differs = 0;
  for (uint32_t i = 0; i < SLAB_CACHE_NAME_BYTES / 8; ++i) differs |= known[i] ^ text[i];
  if (differs && !place.taken) kmem_slot_take(slot, address);
  if (differs) {
    for (uint32_t i = 0; i < SLAB_CACHE_NAME_BYTES / 8; ++i) known[i] = text[i];
  }
  slot->values[KMEM_BPF_CACHE_ROUND] = kmem_round;
  if (differs || place.taken) kmem_slot_open(slot);
  return slot;
}

static __always_inline void count_cache_alloc(struct kmem_bpf_cpu* cpu, uint64_t address,
                                              const struct slab_alloc_event* event) {
  if (event->ptr == 0) return;
  struct kmem_slot* const slot = cache_slot(&cpu->caches_allocated, address);
  if (!slot) return;
  slot->values[SLAB_CACHE_ALLOCATIONS]++;
  slot->values[SLAB_CACHE_ALLOCATED_BYTES] += event->bytes_alloc;
}

/* The cache's fields by a helper: from 6.1 on any kernel, save under lockdown's confidentiality. */
PROGRAM(kmem_cache_alloc_read, "raw_tp/kmem_cache_alloc", KMEM_BPF_kmem_cache_alloc) {
  const struct kmem_cache* const cache = (const struct kmem_cache*)args[2];
  struct {
    unsigned int size;
    unsigned int object_size;
  } sizes = {};
  /* They have always been neighbours: one read. */
  if (bpf_core_field_offset(struct kmem_cache, object_size) ==
      bpf_core_field_offset(struct kmem_cache, size) + sizeof sizes.size) {
    bpf_core_read(&sizes, sizeof sizes, &cache->size);
  } else {
    bpf_core_read(&sizes.size, sizeof sizes.size, &cache->size);
    bpf_core_read(&sizes.object_size, sizeof sizes.object_size, &cache->object_size);
  }
  const struct slab_alloc_event event = {.call_site = args[0],
                                         .ptr = args[1],
                                         .bytes_req = sizes.object_size,
                                         .bytes_alloc = sizes.size};
  COUNT_CACHE_ALLOC(kmem_cache_alloc, &event);
  if (kmem_wanted_caches) count_cache_alloc(cpu, args[2], &event);
  return KMEM_COUNTED;
}

/* The same by plain loads, where the verifier lets a BTF tracepoint read `ptr`: in 6.18 it does, in
 * 6.12 not yet. */
#define LOADED_EVENT(cache)                                                  \
  {                                                                          \
    .call_site = args[0], .ptr = args[1], .bytes_req = (cache)->object_size, \
    .bytes_alloc = (cache)->size                                             \
  }
PROGRAM(kmem_cache_alloc_load, "tp_btf/kmem_cache_alloc", KMEM_BPF_kmem_cache_alloc) {
  const struct kmem_cache* const cache = (const struct kmem_cache*)args[2];
  const struct slab_alloc_event event = LOADED_EVENT(cache);
  COUNT_CACHE_ALLOC(kmem_cache_alloc, &event);
  if (kmem_wanted_caches) {
    const uint64_t address = as_number(&cpu->marks[KMEM_BPF_kmem_cache_alloc], args[2]);
    count_cache_alloc(cpu, address, &event);
  }
  return KMEM_COUNTED;
}

/* And without the names, which can't be read without a helper. */
PROGRAM(kmem_cache_alloc_nameless, "tp_btf/kmem_cache_alloc", KMEM_BPF_kmem_cache_alloc) {
  const struct kmem_cache* const cache = (const struct kmem_cache*)args[2];
  const struct slab_alloc_event event = LOADED_EVENT(cache);
  COUNT_CACHE_ALLOC(kmem_cache_alloc, &event);
  return KMEM_COUNTED;
}

PROGRAM(kfree, "raw_tp/kfree", KMEM_BPF_kfree) { /* (call_site, ptr) */
  const struct slab_free_event event = {.ptr = args[1]};
  FOLLOW_FREE(kfree, event);
  return slab_count_kfree(&cpu->slab, &event, NULL);
}

/* (call_site, ptr), from 6.1 (..., cache) */
PROGRAM(kmem_cache_free, "raw_tp/kmem_cache_free", KMEM_BPF_kmem_cache_free) {
  const struct slab_free_event event = {.ptr = args[1]};
  FOLLOW_FREE(kmem_cache_free, event);
  slab_count_kmem_cache_free(&cpu->slab, &event, NULL);
  if (kmem_wanted_caches && event.ptr > SLAB_ZERO_SIZE_PTR) {
    struct kmem_slot* const slot = cache_slot(&cpu->caches_freed, args[2]);
    if (slot) slot->values[SLAB_CACHE_FREES]++;
  }
  return KMEM_COUNTED;
}

PROGRAM(kmem_cache_free_nameless, "raw_tp/kmem_cache_free", KMEM_BPF_kmem_cache_free) {
  const struct slab_free_event event = {.ptr = args[1]};
  FOLLOW_FREE(kmem_cache_free, event);
  return slab_count_kmem_cache_free(&cpu->slab, &event, NULL);
}

/* ---- page, pcp */

/* A struct page as a number, of which neighbours differ by 1 where it has 64 bytes, as it mostly
 * has.
 */
#define PAGE_NUMBER(page) ((page) >> 6)
/* One era for all time: a number that could change would have to be read, at every event, from a
 * cache line of its own. Whoever wants what is in the table forgotten clears the map. */
#define CROSS_ERA 0

static __always_inline struct page_cross_set* cross_set(uint64_t hash) {
  const uint32_t number = page_cross_set_of(hash, kmem_cross_one_in, kmem_cross_sets);
  return bpf_map_lookup_elem(&kmem_pages, &number);
}

static __always_inline void cross_alloc(struct kmem_bpf_cpu* cpu, uint64_t page) {
  const uint64_t hash = page_cross_hash(PAGE_NUMBER(page), CROSS_ERA);
  if (hash > kmem_cross_threshold) return;
  struct page_cross_set* const set = cross_set(hash);
  if (!set) return;
  cpu->page.counts.cross.evicted +=
      page_cross_put(set, hash, CROSS_ERA, bpf_get_smp_processor_id());
}

static __always_inline void cross_free(struct kmem_bpf_cpu* cpu, uint64_t page) {
  const uint64_t hash = page_cross_hash(PAGE_NUMBER(page), CROSS_ERA);
  if (hash > kmem_cross_threshold) return;
  struct page_cross_set* const set = cross_set(hash);
  if (!set) return;
  const uint32_t taken = page_cross_take(set, hash, CROSS_ERA);
  if (!taken) return;
  const uint32_t from = taken - 1;
  if (from == bpf_get_smp_processor_id()) {
    cpu->page.counts.cross.same_cpu++;
    return;
  }
  const struct kmem_bpf_cpu* const allocator = bpf_map_lookup_elem(&kmem_cpus, &from);
  if (allocator) page_cross_count(&cpu->page.counts.cross, allocator->page.node, cpu->page.node);
}

PROGRAM(mm_page_alloc, "raw_tp/mm_page_alloc",
        KMEM_BPF_mm_page_alloc) { /* (page, order, gfp, mt) */
  enum kmem_verdict verdict = KMEM_COUNTED;
  if (WANTED(page)) {
    const struct page_alloc_event event = {.pfn = args[0] ? 0 : PAGE_NO_PFN,
                                           .gfp_flags = (uint32_t)args[2],
                                           .order = (uint32_t)args[1],
                                           .migratetype = (int32_t)args[3]};
    verdict = page_count_alloc(&cpu->page, &event, NULL);
    if (kmem_cross_one_in && verdict == KMEM_COUNTED && args[0]) cross_alloc(cpu, args[0]);
  }
  if (WANTED(pcp)) pcp_count_page_alloc(&cpu->pcp, NULL);
  return verdict;
}

static __always_inline enum kmem_verdict zone_locked(const uint64_t* args, struct kmem_bpf_cpu* cpu,
                                                     int32_t percpu_refill) {
  const struct page_zone_locked_event event = {
      .order = (uint32_t)args[1], .migratetype = (int32_t)args[2], .percpu_refill = percpu_refill};
  enum kmem_verdict verdict = KMEM_COUNTED;
  if (WANTED(page)) verdict = page_count_zone_locked(&cpu->page, &event, NULL);
  if (WANTED(pcp)) {
    const struct kmem_context context = now(args);
    if (pcp_count_zone_locked(&cpu->pcp, &event, &context) != KMEM_COUNTED) {
      verdict = KMEM_IMPLAUSIBLE;
    }
  }
  return verdict;
}

/* (page, order, migratetype), from 6.1 (..., percpu_refill) */
PROGRAM(mm_page_alloc_zone_locked, "raw_tp/mm_page_alloc_zone_locked",
        KMEM_BPF_mm_page_alloc_zone_locked) {
  return zone_locked(args, cpu, (int32_t)args[3]);
}

PROGRAM(mm_page_alloc_zone_locked_no_refill, "raw_tp/mm_page_alloc_zone_locked",
        KMEM_BPF_mm_page_alloc_zone_locked) {
  return zone_locked(args, cpu, -1);
}

PROGRAM(mm_page_free, "raw_tp/mm_page_free", KMEM_BPF_mm_page_free) { /* (page, order) */
  enum kmem_verdict verdict = KMEM_COUNTED;
  if (WANTED(page)) {
    const struct page_free_event event = {.order = (uint32_t)args[1]};
    verdict = page_count_free(&cpu->page, &event, NULL);
    if (kmem_cross_one_in && verdict == KMEM_COUNTED) cross_free(cpu, args[0]);
  }
  if (WANTED(pcp)) pcp_count_page_free(&cpu->pcp, NULL);
  return verdict;
}

PROGRAM(mm_page_free_batched, "raw_tp/mm_page_free_batched", KMEM_BPF_mm_page_free_batched) {
  return page_count_free_batched(&cpu->page, NULL);
}

/* (page, order, migratetype) */
PROGRAM(mm_page_pcpu_drain, "raw_tp/mm_page_pcpu_drain", KMEM_BPF_mm_page_pcpu_drain) {
  const struct pcp_drain_event event = {.order = (uint32_t)args[1]};
  const struct kmem_context context = now(args);
  return pcp_count_drain(&cpu->pcp, &event, &context);
}

/* ---- extfrag: (page, alloc_order, fallback_order, alloc_migratetype, fallback_migratetype);
 * whether the pageblock changed its owner is computed for the record only
 * (include/trace/events/kmem.h). */

PROGRAM(mm_page_alloc_extfrag, "raw_tp/mm_page_alloc_extfrag", KMEM_BPF_mm_page_alloc_extfrag) {
  const struct extfrag_event event = {.alloc_order = (int32_t)args[1],
                                      .fallback_order = (int32_t)args[2],
                                      .alloc_migratetype = (int32_t)args[3],
                                      .fallback_migratetype = (int32_t)args[4],
                                      .change_ownership = EXTFRAG_OWNERSHIP_UNKNOWN};
  return extfrag_count(&cpu->extfrag, &event, NULL);
}

/* ---- tracepoints that are only counted */

#define EXTRA(number) \
  PROGRAM(kmem_extra_##number, "raw_tp", KMEM_BPF_EXTRA + (number)) { return KMEM_COUNTED; }
EXTRA(0)
EXTRA(1)
EXTRA(2)
EXTRA(3)
EXTRA(4)
EXTRA(5)
EXTRA(6)
EXTRA(7)
