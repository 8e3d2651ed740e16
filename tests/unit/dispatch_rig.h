// All tracing collectors behind a dispatcher that is bound to the formats of a recorded kernel:
// what a source of events has, without a source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "exporter/collector_list.h"
#include "exporter/exporter_metrics.h"
#include "exporter/kernel_facts.h"
#include "exporter/tracefs/dispatcher.h"
#include "named_by_address.h"
#include "recorded_data.h"

namespace kmem {

class DispatchRig {
 public:
  explicit DispatchRig(const std::string& kernel, std::uint32_t cpus = 2,
                       const std::vector<std::string>& extra_events = {},
                       const CollectorsConfig& config = {})
      : collectors_(MakeTraceCollectors(config)),
        wanted_(WantedEvents(collectors_, extra_events)),
        facts_(Bind(kernel, formats_)),
        dispatcher_(collectors_, facts_, cpus, state_) {
    std::erase_if(wanted_, [&](const std::string& event) { return !formats_.Has(event); });
    for (const std::string& event : wanted_) dispatcher_.Bind(event, formats_);
  }

  [[nodiscard]] const TraceCollectors& collectors() const { return collectors_; }
  // The events that are wanted and that this kernel has.
  [[nodiscard]] const std::vector<std::string>& wanted() const { return wanted_; }
  [[nodiscard]] const Formats& formats() const { return formats_; }
  [[nodiscard]] const KernelFacts& facts() const { return facts_; }
  [[nodiscard]] EventState& state() { return state_; }
  [[nodiscard]] Dispatcher& dispatcher() { return dispatcher_; }

  // The facts as an engine completes them, and a name for every address.
  void NameEverything() {
    formats_.CompleteFacts(facts_);
    facts_.symbols = std::make_shared<NamedByAddress>();
  }

  PageResult OnPage(std::uint32_t cpu, const HeapPage& page, const PageLayout& layout = {}) {
    return dispatcher_.OnPage(cpu, page.bytes(), layout);
  }
  void OnRecord(const HeapPage& record, std::uint32_t cpu = 0, std::uint64_t time_ns = 1000) {
    dispatcher_.OnRecord(cpu, time_ns, record.data(), static_cast<std::uint32_t>(record.size()));
  }

  void Settle(std::uint32_t cpu, std::uint64_t now_ns) {
    for (std::size_t i = 0; i < collectors_.size(); ++i) {
      collectors_[i]->Settle(state_.tallies[i].At(cpu), now_ns);
    }
  }
  void SettleCommon(std::uint64_t now_ns) { dispatcher_.SettleCommon(now_ns, now_ns); }
  // Lets Export() show what is counted by name, as it is then.
  void ReadCommon(std::uint64_t now_ns) { dispatcher_.ReadCommon(now_ns); }
  // What the tracepoints and the tracing collectors show of what has been counted so far.
  [[nodiscard]] Families Export() const {
    Families out;
    AppendTracepointMetrics(state_, out);
    for (std::size_t i = 0; i < collectors_.size(); ++i) {
      collectors_[i]->Export(state_.tallies[i], facts_, out);
    }
    return out;
  }

  // The shortest record of the event that holds all its fields, with these values and zeros.
  [[nodiscard]] HeapPage MakeRecord(const std::string& event,
                                    const std::map<std::string, std::uint64_t>& values = {}) const {
    std::uint32_t length = formats_.Bind(event, {}).record_length;
    const std::map<std::string, std::uint64_t> plausible = PlausibleValues(event);
    for (const auto& [field, value] : plausible) {
      length = std::max(length, BindField(event, field).second);
    }
    HeapPage record{std::vector<std::byte>(length)};
    const std::uint16_t id = formats_.Id(event);
    std::memcpy(record.data(), &id, sizeof id);
    for (const auto& [field, value] : plausible) {
      const auto given = values.find(field);
      Put(record, BindField(event, field).first, given == values.end() ? value : given->second);
    }
    return record;
  }

  // The same with a cache's name behind it, where this kernel's event gives that; `shift` makes the
  // record say that it stands so much farther.
  [[nodiscard]] HeapPage MakeNamedRecord(const std::string& event,
                                         std::map<std::string, std::uint64_t> values,
                                         std::string_view name, std::uint32_t shift = 0) const {
    const std::uint64_t end = MakeRecord(event).size();
    values["name"] = (end + shift) | static_cast<std::uint64_t>(name.size() + 1) << 16;
    const HeapPage record = MakeRecord(event, values);
    std::vector<std::byte> bytes(record.data(), record.data() + record.size());
    if (!PlausibleValues(event).contains("name")) return HeapPage(bytes);
    for (const char c : name) bytes.push_back(static_cast<std::byte>(c));
    bytes.push_back(std::byte{0});
    return HeapPage(bytes);
  }

  // Sets a field of a record that MakeRecord() made of that event.
  void Set(HeapPage& record, const std::string& event, std::string_view field,
           std::uint64_t value) const {
    Put(record, BindField(event, field).first, value);
  }

  [[nodiscard]] std::uint64_t EventsRead(const std::string& event) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < state_.tracepoints.size(); ++i) {
      if (state_.tracepoints[i].name != event) continue;
      for (const CpuCounts& cpu : state_.cpus) sum += cpu.events[i];
    }
    return sum;
  }
  [[nodiscard]] std::uint64_t AllEventsRead() const {
    std::uint64_t sum = 0;
    for (const TracepointState& tracepoint : state_.tracepoints) sum += EventsRead(tracepoint.name);
    return sum;
  }
  [[nodiscard]] std::uint64_t Errors(RecordError error) const {
    return state_.record_errors[static_cast<std::size_t>(error)];
  }
  [[nodiscard]] std::uint64_t AllErrors() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : state_.record_errors) sum += count;
    return sum;
  }

 private:
  static KernelFacts Bind(const std::string& kernel, Formats& formats) {
    AddFormats(kernel, formats);
    KernelFacts facts;
    facts.migratetypes = CommonMigratetypes();
    facts.gfp_nowarn = formats.GfpBit("__GFP_NOWARN");
    facts.pageblock_order = formats.PageblockOrder().value_or(0);
    facts.online_cpus = {0, 1};
    return facts;
  }
  [[nodiscard]] std::pair<BoundField, std::uint32_t> BindField(const std::string& event,
                                                               std::string_view field) const {
    const FieldSpec spec{field, true, 0};
    const BoundEvent bound = formats_.Bind(event, std::span(&spec, 1));
    return {bound.fields.at(0), bound.record_length};
  }
  // For the fields that the collectors ask for and this kernel has: what makes the event count.
  [[nodiscard]] std::map<std::string, std::uint64_t> PlausibleValues(
      const std::string& event) const {
    std::map<std::string, std::uint64_t> values;
    for (const auto& collector : collectors_) {
      for (const EventSpec& spec : collector->events()) {
        if (spec.name != event) continue;
        for (const FieldSpec& field : spec.fields) {
          if (formats_.Bind(event, std::span(&field, 1)).fields.at(0).mask == 0) continue;
          values[std::string(field.name)] = field.name == "ptr" ? 0xffff888000001000 : 1;
        }
      }
    }
    return values;
  }
  static void Put(HeapPage& record, const BoundField& field, std::uint64_t value) {
    for (std::size_t byte = 0; byte < 8 && (field.mask >> (8 * byte) & 0xff) != 0; ++byte) {
      record.data()[field.offset + byte] = static_cast<std::byte>(value >> (8 * byte));
    }
  }

  TraceCollectors collectors_;
  std::vector<std::string> wanted_;
  Formats formats_;
  KernelFacts facts_;
  EventState state_;
  Dispatcher dispatcher_;
};

}  // namespace kmem
