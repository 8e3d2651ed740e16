// A collector with tallies of its own, to be fed by its plain functions.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "collectors/collector.h"

namespace kmem {

template <class Collector, class Tally>
class TallyRig {
 public:
  explicit TallyRig(KernelFacts facts = {}, std::uint32_t cpus = 2)
      : facts_(std::move(facts)), tallies_(collector_.tally_bytes(), cpus) {
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) collector_.Init(tallies_.At(cpu), facts_, cpu);
  }

  Tally* On(std::uint32_t cpu) { return reinterpret_cast<Tally*>(tallies_.At(cpu)); }
  void Settle(std::uint64_t now_ns) {
    for (std::uint32_t cpu = 0; cpu < tallies_.cpus(); ++cpu) {
      collector_.Settle(tallies_.At(cpu), now_ns);
    }
  }
  [[nodiscard]] Families Export() const {
    Families out;
    collector_.Export(tallies_, facts_, out);
    return out;
  }

 private:
  Collector collector_;
  KernelFacts facts_;
  Tallies tallies_;
};

}  // namespace kmem
