#include "exporter/bpf/programs.h"

namespace kmem {
namespace {

struct Program {
  std::string_view name;
  std::string_view tracepoint;
  std::string_view arguments;  // those that it reads, and all before them; more may follow, but
                               // for a full stop
};

// Read off the BTF of 5.10, 6.1, 6.12 and 6.18; of 6.0, the one with a cache before the bytes, off
// include/trace/events/kmem.h.
constexpr std::array kPrograms{
    Program{"kmalloc", "kmalloc", "wpww"},
    Program{"kmalloc_node", "kmalloc_node", "wpww"},
    Program{"kmalloc_with_cache", "kmalloc", "wpcww"},
    Program{"kmalloc_node_with_cache", "kmalloc_node", "wpcww"},
    Program{"kmem_cache_alloc_load", "kmem_cache_alloc", "wpc"},
    Program{"kmem_cache_alloc_read", "kmem_cache_alloc", "wpc"},
    Program{"kmem_cache_alloc_nameless", "kmem_cache_alloc", "wpc"},
    Program{"kmem_cache_alloc_bytes", "kmem_cache_alloc", "wpww"},
    Program{"kmem_cache_alloc_node", "kmem_cache_alloc_node", "wpww"},
    Program{"kmem_cache_alloc_node_with_cache", "kmem_cache_alloc_node", "wpcww"},
    Program{"kfree", "kfree", "wp"},
    Program{"kmem_cache_free", "kmem_cache_free", "wpc"},
    Program{"kmem_cache_free", "kmem_cache_free", "wpc"},  // as often as caches are read by name
    Program{"kmem_cache_free_nameless", "kmem_cache_free", "wp"},
    Program{"mm_page_alloc", "mm_page_alloc", "piii"},
    Program{"mm_page_alloc_zone_locked", "mm_page_alloc_zone_locked", "piii"},
    Program{"mm_page_alloc_zone_locked_no_refill", "mm_page_alloc_zone_locked", "pii."},
    Program{"mm_page_free", "mm_page_free", "pi"},
    Program{"mm_page_free_batched", "mm_page_free_batched", "p"},
    Program{"mm_page_pcpu_drain", "mm_page_pcpu_drain", "pi"},
    Program{"mm_page_alloc_extfrag", "mm_page_alloc_extfrag", "piiii"},
};

bool Fits(std::string_view prototype, std::string_view arguments) {
  return arguments.ends_with('.') ? prototype == arguments.substr(0, arguments.size() - 1)
                                  : prototype.starts_with(arguments);
}

}  // namespace

std::vector<std::string> ProgramsFor(std::string_view tracepoint, std::string_view prototype) {
  std::vector<std::string> names;
  for (const Program& program : kPrograms) {
    if (program.tracepoint == tracepoint && Fits(prototype, program.arguments)) {
      names.emplace_back(program.name);
    }
  }
  return names;
}

}  // namespace kmem
