#include "exporter/bpf/prototypes.h"

#include <bpf/btf.h>

namespace kmem {
namespace {

std::string_view Name(const btf& kernel, std::uint32_t offset) {
  const char* name = btf__name_by_offset(&kernel, offset);
  return name == nullptr ? std::string_view() : name;
}

// The type behind typedefs and qualifiers; nullptr for void.
const btf_type* Strip(const btf& kernel, std::uint32_t id) {
  for (;;) {
    const btf_type* type = btf__type_by_id(&kernel, id);
    if (type == nullptr || id == 0) return nullptr;
    if (!btf_is_mod(type) && !btf_is_typedef(type)) return type;
    id = type->type;
  }
}

char Letter(const btf& kernel, std::uint32_t id) {
  const btf_type* type = Strip(kernel, id);
  if (type == nullptr) return '?';
  if (btf_is_ptr(type)) {
    const btf_type* target = Strip(kernel, type->type);
    const bool cache = target != nullptr && (btf_is_struct(target) || btf_is_fwd(target)) &&
                       Name(kernel, target->name_off) == "kmem_cache";
    return cache ? 'c' : 'p';
  }
  if (btf_is_int(type) || btf_is_any_enum(type)) {
    if (type->size == 8) return 'w';
    if (type->size == 4) return 'i';
    if (type->size < 4) return 'b';
  }
  return '?';
}

}  // namespace

std::optional<std::string> TracepointPrototype(const btf& kernel, std::string_view tracepoint) {
  const std::string name = "btf_trace_" + std::string(tracepoint);
  const std::int32_t id = btf__find_by_name_kind(&kernel, name.c_str(), BTF_KIND_TYPEDEF);
  if (id < 0) return std::nullopt;
  const btf_type* pointer = Strip(kernel, static_cast<std::uint32_t>(id));
  if (pointer == nullptr || !btf_is_ptr(pointer)) return "?";
  const btf_type* function = Strip(kernel, pointer->type);
  if (function == nullptr || !btf_is_func_proto(function)) return "?";
  std::string letters;
  const btf_param* parameters = btf_params(function);
  for (int i = 1; i < btf_vlen(function); ++i) letters += Letter(kernel, parameters[i].type);
  return letters;
}

std::uint64_t GfpBitInBtf(const btf& kernel, std::string_view name) {
  const std::string wanted = "_" + std::string(name) + "_BIT";
  for (std::uint32_t id = 1; id < btf__type_cnt(&kernel); ++id) {
    const btf_type* type = btf__type_by_id(&kernel, id);
    if (!btf_is_enum(type)) continue;
    const struct btf_enum* values = btf_enum(type);  // a type and a function
    for (int i = 0; i < btf_vlen(type); ++i) {
      if (Name(kernel, values[i].name_off) != wanted) continue;
      const std::int32_t bit = values[i].val;
      return bit >= 0 && bit < 32 ? UINT64_C(1) << bit : 0;
    }
  }
  return 0;
}

}  // namespace kmem
