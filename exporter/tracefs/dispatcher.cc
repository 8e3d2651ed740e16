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

Dispatcher::Dispatcher(const TraceCollectors& collectors, const KernelFacts& facts,
                       std::uint32_t cpus, EventState& state)
    : collectors_(collectors), state_(state) {
  state_ = EventState(collectors.size(), cpus);
  for (std::size_t i = 0; i < collectors.size(); ++i) {
    state_.tallies[i] = Tallies(collectors[i]->tally_bytes(), cpus);
    for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) {
      collectors[i]->Init(state_.tallies[i].At(cpu), facts);
    }
    const std::size_t common_bytes = collectors[i]->common_bytes();
    commons_.emplace_back((common_bytes + sizeof(Line) - 1) / sizeof(Line));
    if (common_bytes != 0) collectors[i]->InitCommon(CommonOf(i));
    state_.tallies[i].common.reserve(common_bytes);
  }
}

std::byte* Dispatcher::CommonOf(std::size_t collector) {
  std::vector<Line>& common = commons_[collector];
  return common.empty() ? nullptr : reinterpret_cast<std::byte*>(common.data());
}

void Dispatcher::Resume(std::size_t tracepoint) {
  const std::string& name = state_.tracepoints[tracepoint].name;
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    if (std::ranges::count(collectors_[i]->events(), name, &EventSpec::name) == 0) continue;
    std::byte* const common = CommonOf(i);
    if (common != nullptr) collectors_[i]->ResumeCommon(common);
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

Dispatcher::Entry& Dispatcher::EntryOf(std::uint16_t id) {
  if (id >= entries_.size()) entries_.resize(id + std::size_t{1});
  return entries_[id];
}

void Dispatcher::Bind(const std::string& event_name, const Formats& formats) {
  const std::size_t tracepoint = state_.tracepoints.size();
  state_.tracepoints.push_back({event_name, false});
  gates_.push_back(std::make_unique<Gate>());
  for (CpuCounts& cpu : state_.cpus) cpu.events.push_back(0);

  Entry entry;
  entry.kind = Entry::Kind::kWanted;
  entry.tracepoint = static_cast<std::uint32_t>(tracepoint);
  entry.gate = gates_.back().get();
  entry.min_length = formats.Bind(event_name, {}).record_length;
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    for (const EventSpec& spec : collectors_[i]->events()) {
      if (spec.name != event_name) continue;
      bound_.push_back(std::make_unique<BoundEvent>(formats.Bind(event_name, spec.fields)));
      const BoundEvent& bound = *bound_.back();
      entry.min_length = std::max(entry.min_length, bound.record_length);
      entry.routes.push_back({spec.handler, bound.fields.data(), state_.tallies[i].At(0),
                              state_.tallies[i].stride(), CommonOf(i)});
    }
  }
  EntryOf(formats.Id(event_name)) = std::move(entry);
  state_.tracepoints[tracepoint].enabled = true;
}

void Dispatcher::Ignore(std::span<const std::uint16_t> ids) {
  for (const std::uint16_t id : ids) {
    Entry& entry = EntryOf(id);
    if (entry.kind == Entry::Kind::kUnknown) entry.kind = Entry::Kind::kIgnored;
  }
}

void Dispatcher::OnRecord(std::uint32_t cpu, std::uint64_t time_ns, const std::byte* record,
                          std::uint32_t length) noexcept {
  std::uint16_t id = 0;
  if (length < sizeof id) {
    state_.Count(RecordError::kShortPayload);
    return;
  }
  std::memcpy(&id, record, sizeof id);
  if (id >= entries_.size() || entries_[id].kind != Entry::Kind::kWanted) {
    const bool ignored = id < entries_.size() && entries_[id].kind == Entry::Kind::kIgnored;
    if (!ignored) state_.Count(RecordError::kUnknownEventId);
    return;
  }
  const Entry& entry = entries_[id];
  if (length < entry.min_length) {
    state_.Count(RecordError::kShortPayload);
    return;
  }
  if (!entry.gate->Has(time_ns)) {
    outside_++;
    return;
  }
  state_.cpus[cpu].events[entry.tracepoint]++;
  kmem_context context{.time_ns = time_ns, .cpu = cpu, .bytes = length, .common = nullptr};
  bool plausible = true;
  for (const Route& route : entry.routes) {
    context.common = route.common;
    plausible &= route.handler(route.tallies + cpu * route.stride, record, route.fields, context) ==
                 KMEM_COUNTED;
  }
  if (!plausible) state_.Count(RecordError::kImplausibleValue);
}

}  // namespace kmem
