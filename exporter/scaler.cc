#include "exporter/scaler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kmem {
namespace {

constexpr int kFractionBits = 32;
constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

std::uint64_t LoadCount(const std::byte* at) {
  std::uint64_t count = 0;
  std::memcpy(&count, at, sizeof count);
  return count;
}

// Times that the tracepoint fired while it was traced.
std::uint64_t Fired(const EventState& state, std::size_t tracepoint) {
  std::uint64_t sum = state.tracepoints[tracepoint].skipped;
  for (const CpuCounts& cpu : state.cpus) sum += cpu.events[tracepoint];
  return sum;
}

}  // namespace

void ScaledCounter::EndWindow(std::uint64_t count, std::uint64_t factor) {
  using Wide = unsigned __int128;
  const Wide estimate = Wide{count - begin} * factor + fraction;
  fraction = static_cast<std::uint32_t>(estimate);
  due += static_cast<std::int64_t>(estimate >> kFractionBits) -
         static_cast<std::int64_t>(count - last);
  if (due > 0) extra = std::max(extra, static_cast<std::uint64_t>(due));
  last = count;
}

Scaler::Scaler(const TraceCollectors& collectors, const std::vector<SampleGroup>& groups)
    : collectors_(collectors), groups_(groups), state_(groups.size()) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    state_[i].common.resize(groups[i].collectors.size());
  }
}

std::size_t Scaler::CountersOf(std::size_t group, const EventState& state) const {
  std::size_t sum = 0;
  for (const std::size_t collector : groups_[group].collectors) {
    for (const WordRange& range : collectors_[collector]->counters()) {
      sum += range.count * state.tallies[collector].cpus();
    }
  }
  return sum;
}

template <class Visit>
void Scaler::ForEachWord(std::size_t group, EventState& state, Visit visit) {
  ScaledCounter* counter = state_[group].counters.data();
  for (const std::size_t collector : groups_[group].collectors) {
    Tallies& tallies = state.tallies[collector];
    for (const WordRange& range : collectors_[collector]->counters()) {
      for (std::uint32_t cpu = 0; cpu < tallies.cpus(); ++cpu) {
        std::byte* const words = tallies.At(cpu) + range.first * kWordBytes;
        for (std::size_t i = 0; i < range.count; ++i) visit(words + i * kWordBytes, *counter++);
      }
    }
  }
}

template <class Visit>
void Scaler::Record(std::size_t group, EventState& state, Visit visit) {
  Group& known = state_[group];
  ForEachWord(group, state, [&](const std::byte* word, ScaledCounter& counter) {
    visit(counter, LoadCount(word));
  });
  for (std::size_t i = 0; i < known.fired.size(); ++i) {
    visit(known.fired[i], Fired(state, groups_[group].tracepoints[i]));
  }
  for (std::size_t i = 0; i < known.common.size(); ++i) {
    const std::size_t collector = groups_[group].collectors[i];
    collectors_[collector]->VisitCounters(
        state.tallies[collector].common, [&](const CommonCounters& found) {
          CommonCounter& at = known.common[i][found.place];
          if (at.owner != found.owner) at = {.owner = found.owner, .counters = {}};
          for (std::size_t value = 0; value < kCommonValues; ++value) {
            visit(at.counters.at(value), LoadCount(found.values.data() + value * kWordBytes));
          }
        });
  }
}

void Scaler::Start(std::size_t group, EventState& state) {
  const std::scoped_lock lock(mutex_);
  state_[group].counters.resize(CountersOf(group, state));
  state_[group].fired.resize(groups_[group].tracepoints.size());
  Record(group, state, [](ScaledCounter& counter, std::uint64_t count) { counter.last = count; });
}

void Scaler::BeginWindow(std::size_t group, EventState& state) {
  const std::scoped_lock lock(mutex_);
  Record(group, state, [](ScaledCounter& counter, std::uint64_t count) { counter.begin = count; });
}

void Scaler::EndWindow(std::size_t group, EventState& state, double factor) {
  const std::scoped_lock lock(mutex_);
  const auto fixed =
      static_cast<std::uint64_t>(std::llround(std::ldexp(std::max(factor, 1.0), kFractionBits)));
  Record(group, state,
         [fixed](ScaledCounter& counter, std::uint64_t count) { counter.EndWindow(count, fixed); });
}

void Scaler::AddTo(EventState& state) {
  const std::scoped_lock lock(mutex_);
  const auto add = [](std::byte* word, const ScaledCounter& counter) {
    const std::uint64_t sum = LoadCount(word) + counter.extra;
    std::memcpy(word, &sum, sizeof sum);
  };
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    const Group& known = state_[group];
    if (known.fired.empty()) continue;
    ForEachWord(group, state, add);
    for (std::size_t i = 0; i < known.fired.size(); ++i) {
      state.tracepoints[groups_[group].tracepoints[i]].untraced = known.fired[i].extra;
    }
    for (std::size_t i = 0; i < known.common.size(); ++i) {
      const std::size_t collector = groups_[group].collectors[i];
      collectors_[collector]->VisitCounters(
          state.tallies[collector].common, [&](const CommonCounters& found) {
            const auto at = known.common[i].find(found.place);
            if (at == known.common[i].end() || at->second.owner != found.owner) return;
            for (std::size_t value = 0; value < kCommonValues; ++value) {
              add(found.values.data() + value * kWordBytes, at->second.counters.at(value));
            }
          });
    }
  }
}

}  // namespace kmem
