#include "collectors/collector.h"

namespace kmem {

std::string KernelFacts::MigratetypeName(std::size_t number) const {
  return number < migratetypes.size() ? migratetypes[number] : std::to_string(number);
}

Tallies::Tallies(std::size_t bytes, std::uint32_t cpus)
    : stride_((bytes + sizeof(Line) - 1) / sizeof(Line) * sizeof(Line)), cpus_(cpus) {
  lines_.resize(stride_ / sizeof(Line) * cpus);
}

}  // namespace kmem
