// BPF programs that do nothing, two for each kmem tracepoint: what being called costs, below which
// no BPF program that counts can get. They use no type of the kernel and call no helper.
#define PROGRAM(type, event)                                                           \
  __attribute__((section(#type "/" #event), used)) int type##_##event(void* context) { \
    (void)context;                                                                     \
    return 0;                                                                          \
  }
#define PROGRAMS(event)  \
  PROGRAM(tp_btf, event) \
  PROGRAM(raw_tp, event)

PROGRAMS(kmalloc)
PROGRAMS(kmalloc_node)
PROGRAMS(kfree)
PROGRAMS(kmem_cache_alloc)
PROGRAMS(kmem_cache_alloc_node)
PROGRAMS(kmem_cache_free)
PROGRAMS(mm_page_alloc)
PROGRAMS(mm_page_alloc_zone_locked)
PROGRAMS(mm_page_free)
PROGRAMS(mm_page_free_batched)
PROGRAMS(mm_page_pcpu_drain)
PROGRAMS(mm_page_alloc_extfrag)
