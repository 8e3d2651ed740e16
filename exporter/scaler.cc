#include "exporter/scaler.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kmem {
namespace {

using Wide = unsigned __int128;

constexpr std::uint64_t kOne = UINT64_C(1) << Spread::kBits;
// Windows last milliseconds, and the time between two of them seconds.
constexpr double kMostFactor = 1e6;
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

std::uint64_t Spread::PartAt(std::uint64_t now_ns) const {
  const std::uint64_t gone_ns = now_ns - std::min(now_ns, begin_ns);
  if (gone_ns >= length_ns) return kOne;
  return static_cast<std::uint64_t>((Wide{gone_ns} << kBits) / length_ns);
}

std::uint64_t ScaledCounter::Shown(std::uint64_t part) const {
  return from + static_cast<std::uint64_t>(Wide{known - from} * part >> Spread::kBits);
}

void ScaledCounter::Start(std::uint64_t count, std::uint64_t part) {
  from = Shown(part) + count - begin;
  known += count - begin;
  begin = count;
}

void ScaledCounter::EndWindow(std::uint64_t count, std::uint64_t factor, std::uint64_t part) {
  from = Shown(part);
  const Wide estimate = Wide{count - begin} * factor + fraction;
  fraction = static_cast<std::uint32_t>(estimate);
  known += static_cast<std::uint64_t>(estimate >> Spread::kBits);
  begin = count;
}

std::uint64_t ScaledCounter::Show(std::uint64_t count, bool exact, std::uint64_t part) {
  most = std::max(most, Shown(part) + (exact && count > begin ? count - begin : 0));
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

void Scaler::Expect(std::size_t group) {
  const std::scoped_lock lock(mutex_);
  state_[group].expected = true;
}

void Scaler::Start(std::size_t group, EventState& state) {
  const std::scoped_lock lock(mutex_);
  Group& known = state_[group];
  known.expected = true;
  known.exact = false;
  known.counters.resize(CountersOf(group, state));
  known.fired.resize(groups_[group].tracepoints.size());
  const std::uint64_t part = known.spread.PartAt(state.taken_at_ns);
  Record(group, state,
         [part](ScaledCounter& counter, std::uint64_t count) { counter.Start(count, part); });
  known.spread.begin_ns = state.taken_at_ns;
}

void Scaler::BeginWindow(std::size_t group, EventState& state) {
  const std::scoped_lock lock(mutex_);
  Record(group, state, [](ScaledCounter& counter, std::uint64_t count) { counter.begin = count; });
}

void Scaler::EndWindow(std::size_t group, EventState& state, double factor, bool exact,
                       double spread_seconds) {
  const std::scoped_lock lock(mutex_);
  Group& known = state_[group];
  known.exact = exact;
  const auto fixed = static_cast<std::uint64_t>(
      std::llround(std::ldexp(std::clamp(factor, 1.0, kMostFactor), Spread::kBits)));
  const std::uint64_t part = known.spread.PartAt(state.taken_at_ns);
  Record(group, state, [=](ScaledCounter& counter, std::uint64_t count) {
    counter.EndWindow(count, fixed, part);
  });
  known.spread = {.begin_ns = state.taken_at_ns,
                  .length_ns = static_cast<std::uint64_t>(spread_seconds * 1e9)};
}

void Scaler::Apply(EventState& state) {
  const std::scoped_lock lock(mutex_);
  for (std::size_t group = 0; group < groups_.size(); ++group) {
    Group& known = state_[group];
    if (!known.expected) continue;
    known.counters.resize(CountersOf(group, state));
    known.fired.resize(groups_[group].tracepoints.size());
    const std::uint64_t part = known.spread.PartAt(state.taken_at_ns);
    const auto show = [&known, part](std::byte* word, ScaledCounter& counter) {
      const std::uint64_t sum = counter.Show(LoadCount(word), known.exact, part);
      std::memcpy(word, &sum, sizeof sum);
    };
    ForEachWord(group, state, show);
    for (std::size_t i = 0; i < known.fired.size(); ++i) {
      const std::size_t tracepoint = groups_[group].tracepoints[i];
      const std::uint64_t fired = Fired(state, tracepoint);
      // It wraps around where more was counted than is to be shown, and so does the sum.
      state.tracepoints[tracepoint].untraced =
          known.fired[i].Show(fired, known.exact, part) - fired;
    }
    for (std::size_t i = 0; i < known.common.size(); ++i) {
      const std::size_t collector = groups_[group].collectors[i];
      collectors_[collector]->VisitCounters(
          state.tallies[collector].common, [&](const CommonCounters& found) {
            // Who is not known yet came since: of a window, between two, or before the first.
            CommonCounter unknown{.owner = found.owner, .counters = {}};
            const auto at = known.common[i].find(found.place);
            const bool is_known = at != known.common[i].end() && at->second.owner == found.owner;
            CommonCounter& counter = is_known ? at->second : unknown;
            for (std::size_t value = 0; value < kCommonValues; ++value) {
              show(found.values.data() + value * kWordBytes, counter.counters.at(value));
            }
            if (!is_known && known.exact) known.common[i][found.place] = unknown;
          });
    }
  }
}

}  // namespace kmem
