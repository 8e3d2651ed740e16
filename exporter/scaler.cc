#include "exporter/scaler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kmem {
namespace {

constexpr int kFractionBits = 32;
constexpr std::uint64_t kOne = UINT64_C(1) << kFractionBits;
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
  shown += static_cast<std::uint64_t>(estimate >> kFractionBits);
  begin = count;
}

std::uint64_t ScaledCounter::Show(std::uint64_t count, bool traced) {
  most = std::max(most, shown + (traced && count > begin ? count - begin : 0));
  return most;
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
  state_[group].traced = false;
  state_[group].counters.resize(CountersOf(group, state));
  state_[group].fired.resize(groups_[group].tracepoints.size());
  Record(group, state,
         [](ScaledCounter& counter, std::uint64_t count) { counter.EndWindow(count, kOne); });
}

void Scaler::BeginWindow(std::size_t group, EventState& state) {
  const std::scoped_lock lock(mutex_);
  state_[group].traced = true;
  Record(group, state, [](ScaledCounter& counter, std::uint64_t count) { counter.begin = count; });
}

void Scaler::EndWindow(std::size_t group, EventState& state, double factor, bool exact) {
  const std::scoped_lock lock(mutex_);
  state_[group].traced = exact;
  const auto fixed =
      static_cast<std::uint64_t>(std::llround(std::ldexp(std::max(factor, 1.0), kFractionBits)));
  Record(group, state,
         [fixed](ScaledCounter& counter, std::uint64_t count) { counter.EndWindow(count, fixed); });
}

void Scaler::Apply(EventState& state) {
  const std::scoped_lock lock(mutex_);
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    Group& known = state_[group];
    if (known.fired.empty()) continue;
    const auto show = [&known](std::byte* word, ScaledCounter& counter) {
      const std::uint64_t sum = counter.Show(LoadCount(word), known.traced);
      std::memcpy(word, &sum, sizeof sum);
    };
    ForEachWord(group, state, show);
    for (std::size_t i = 0; i < known.fired.size(); ++i) {
      const std::size_t tracepoint = groups_[group].tracepoints[i];
      const std::uint64_t fired = Fired(state, tracepoint);
      // It wraps around where more was counted than is to be shown, and so does the sum.
      state.tracepoints[tracepoint].untraced = known.fired[i].Show(fired, known.traced) - fired;
    }
    for (std::size_t i = 0; i < known.common.size(); ++i) {
      const std::size_t collector = groups_[group].collectors[i];
      collectors_[collector]->VisitCounters(
          state.tallies[collector].common, [&](const CommonCounters& found) {
            // Who is not known yet came since: of a window, or between two.
            ScaledCounter unknown;
            const auto at = known.common[i].find(found.place);
            const bool is_known = at != known.common[i].end() && at->second.owner == found.owner;
            for (std::size_t value = 0; value < kCommonValues; ++value) {
              unknown = {};
              show(found.values.data() + value * kWordBytes,
                   is_known ? at->second.counters.at(value) : unknown);
            }
          });
    }
  }
}

}  // namespace kmem
