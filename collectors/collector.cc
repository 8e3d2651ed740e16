#include "collectors/collector.h"

#include <algorithm>

namespace kmem {

std::uint32_t KernelFacts::NodeOf(std::uint32_t cpu) const {
  return cpu < cpu_nodes.size() ? cpu_nodes[cpu] : kNoNode;
}

bool KernelFacts::HasSeveralNodes() const {
  std::uint32_t first = kNoNode;
  return std::ranges::any_of(cpu_nodes, [&](std::uint32_t node) {
    if (first == kNoNode) first = node;
    return node != first && node != kNoNode;
  });
}

std::string KernelFacts::MigratetypeName(std::size_t number) const {
  return number < migratetypes.size() ? migratetypes[number] : std::to_string(number);
}

Tallies::Tallies(std::size_t bytes, std::uint32_t cpus)
    : stride_((bytes + sizeof(Line) - 1) / sizeof(Line) * sizeof(Line)), cpus_(cpus) {
  lines_.resize(stride_ / sizeof(Line) * cpus);
}

}  // namespace kmem
