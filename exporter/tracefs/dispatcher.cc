#include "exporter/tracefs/dispatcher.h"

#include <algorithm>
#include <cstring>

namespace kmem {

RecordError ToRecordError(PageError error) {
  switch (error) {
    case PageError::kCommitBeyondPage:
      return RecordError::kCommitBeyondPage;
    case PageError::kRecordBeyondData:
      return RecordError::kRecordBeyondData;
    case PageError::kRecordLengthTooSmall:
      return RecordError::kRecordLengthTooSmall;
    case PageError::kNone:
    case PageError::kPageTooShort:
      break;
  }
  return RecordError::kPageTooShort;
}

namespace {

kmem_verdict DoNothing(std::byte* /*tally*/, const std::byte* /*record*/,
                       const BoundField* /*fields*/, const kmem_context& /*context*/) {
  return KMEM_COUNTED;
}

Handler ChooseHandler(const EventSpec& spec, const BoundEvent& bound) {
  for (std::size_t i = 0; i < spec.fields.size(); ++i) {
    if (!FillsExactly(bound.fields[i], spec.fields[i].width)) return spec.handler;
  }
  return spec.exact_handler != nullptr ? spec.exact_handler : spec.handler;
}

}  // namespace

Dispatcher::Dispatcher(const TraceCollectors& collectors, const KernelFacts& facts,
                       std::uint32_t cpus, EventState& state)
    : collectors_(collectors), state_(state) {
  state_ = EventState(collectors.size(), cpus);
  for (std::size_t i = 0; i < collectors.size(); ++i) {
    state_.tallies[i] = Tallies(collectors[i]->tally_bytes(), cpus);
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
      collectors[i]->Init(state_.tallies[i].At(cpu), facts, cpu);
    }
    const std::size_t common_bytes = collectors[i]->common_bytes();
    commons_.emplace_back((common_bytes + sizeof(Line) - 1) / sizeof(Line));
    if (common_bytes != 0) collectors[i]->InitCommon(CommonOf(i));
    state_.tallies[i].common.reserve(collectors[i]->read_bytes());
  }
}

std::byte* Dispatcher::CommonOf(std::size_t collector) {
  std::vector<Line>& common = commons_[collector];
  return common.empty() ? nullptr : reinterpret_cast<std::byte*>(common.data());
}

void Dispatcher::SettleCommon(std::uint64_t settled_ns, std::uint64_t now_ns) noexcept {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    std::byte* const common = CommonOf(i);
    if (common == nullptr) continue;
    collectors_[i]->SettleCommon(common, state_.tallies[i], settled_ns, now_ns);
  }
}

void Dispatcher::Forget() {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    std::byte* const common = CommonOf(i);
    if (common != nullptr) collectors_[i]->Forget(common);
  }
}

void Dispatcher::Resume(std::size_t tracepoint) {
  const std::string& name = state_.tracepoints[tracepoint].name;
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    if (std::ranges::count(collectors_[i]->events(), name, &EventSpec::name) == 0) continue;
    std::byte* const common = CommonOf(i);
    if (common != nullptr) collectors_[i]->Forget(common);
  }
}

void Dispatcher::ReadCommon(std::uint64_t now_ns) {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    const std::byte* const common = CommonOf(i);
    if (common == nullptr) continue;
    state_.tallies[i].common.clear();
    collectors_[i]->ReadCommon(common, state_.tallies[i].common);
    state_.tallies[i].taken_at_ns = now_ns;
  }
}

void Dispatcher::Bind(const std::string& event_name, const Formats& formats) {
  const std::size_t tracepoint = state_.tracepoints.size();
  state_.tracepoints.push_back({event_name, false});
  gates_.push_back(std::make_unique<Gate>());
  for (CpuCounts& cpu : state_.cpus) cpu.events.push_back(0);

  Entry entry;
  entry.tracepoint = static_cast<std::uint32_t>(tracepoint);
  entry.gate = gates_.back().get();
  entry.min_length = formats.Bind(event_name, {}).record_length;
  entry.first.handler = &DoNothing;
  Route* last = nullptr;
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    for (const EventSpec& spec : collectors_[i]->events()) {
      if (spec.name != event_name) continue;
      bound_.push_back(std::make_unique<BoundEvent>(formats.Bind(event_name, spec.fields)));
      const BoundEvent& bound = *bound_.back();
      entry.min_length = std::max(entry.min_length, bound.record_length);
      Route route{.handler = ChooseHandler(spec, bound),
                  .fields = bound.fields.data(),
                  .tallies = state_.tallies[i].At(0),
                  .common = CommonOf(i),
                  .stride = static_cast<std::uint32_t>(state_.tallies[i].stride())};
      if (last == nullptr) {
        entry.first = route;
        last = &entry.first;
      } else {
        more_routes_.push_back(std::make_unique<Route>(route));
        last->next = more_routes_.back().get();
        last = more_routes_.back().get();
      }
    }
  }
  const std::uint16_t id = formats.Id(event_name);
  if (id >= entries_.size()) entries_.resize(id + std::size_t{1});
  entries_[id] = entry;
  state_.tracepoints[tracepoint].enabled = true;
}

void Dispatcher::Ignore(std::span<const std::uint16_t> ids) {
  for (const std::uint16_t id : ids) {
    if (id >= ignored_.size()) ignored_.resize(id + std::size_t{1});
    ignored_[id] = true;
  }
}

Dispatcher::Reading Dispatcher::BeginReading(std::uint32_t cpu) noexcept {
  return {.entries = entries_.data(),
          .entry_count = entries_.size(),
          .events = state_.cpus[cpu].events.data(),
          .context = {.time_ns = 0, .cpu = cpu, .bytes = 0, .common = nullptr}};
}

void Dispatcher::CountUnusable(const std::byte* record, std::uint32_t length) noexcept {
  std::uint16_t id = 0;
  if (length < sizeof id) return state_.Count(RecordError::kShortPayload);
  std::memcpy(&id, record, sizeof id);
  if (id < entries_.size() && entries_[id].min_length != kNoLength) {
    state_.Count(RecordError::kShortPayload);
  } else if (id >= ignored_.size() || !ignored_[id]) {
    state_.Count(RecordError::kUnknownEventId);
  }
}

// Inlined into the walk over a page: the walk, this look-up and the choice of a handler are one
// loop.
[[gnu::always_inline]] inline void Dispatcher::Tally(Reading& reading,
                                                     const std::byte* record) noexcept {
  kmem_context& context = reading.context;
  std::uint16_t id = 0;
  std::memcpy(&id, record, sizeof id);  // a shorter record has kRecordSlack behind it
  // No entry's records are shorter than an id: what is, is not mistaken for one.
  if (id >= reading.entry_count || context.bytes < reading.entries[id].min_length) [[unlikely]] {
    return CountUnusable(record, context.bytes);
  }
  const Entry& entry = reading.entries[id];
  if (!entry.gate->Has(context.time_ns)) [[unlikely]] {
    ++outside_;
    return;
  }
  reading.events[entry.tracepoint]++;
  const auto run = [&](const Route& route) -> int {
    context.common = route.common;
    return route.handler(route.tallies + std::size_t{context.cpu} * route.stride, record,
                         route.fields, context);
  };
  int verdict = run(entry.first);
  for (const Route* route = entry.first.next; route != nullptr; route = route->next) {
    verdict |= run(*route);
  }
  if (verdict != KMEM_COUNTED) [[unlikely]]
    state_.Count(RecordError::kImplausibleValue);
}

PageResult Dispatcher::OnPage(std::uint32_t cpu, std::span<const std::byte> page,
                              const PageLayout& layout) noexcept {
  Reading reading = BeginReading(cpu);
  const PageResult result = WalkPage(
      page, layout, [&](std::uint64_t time, const std::byte* record, std::uint32_t length) {
        reading.context.time_ns = time;
        reading.context.bytes = length;
        Tally(reading, record);
      });
  if (result.error != PageError::kNone) state_.Count(ToRecordError(result.error));
  return result;
}

void Dispatcher::OnRecord(std::uint32_t cpu, std::uint64_t time_ns, const std::byte* record,
                          std::uint32_t length) noexcept {
  Reading reading = BeginReading(cpu);
  reading.context.time_ns = time_ns;
  reading.context.bytes = length;
  Tally(reading, record);
}

}  // namespace kmem
