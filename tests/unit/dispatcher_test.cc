#include "exporter/tracefs/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "dispatch_rig.h"
#include "metric_lookup.h"
#include "page_builder.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The bytes of a collector's tally, to see whether it changed.
std::vector<std::byte> TallyBytes(DispatchRig& rig, std::size_t collector, std::uint32_t cpu) {
  Tallies& tallies = rig.state().tallies.at(collector);
  return {tallies.At(cpu), tallies.At(cpu) + tallies.stride()};
}

bool Wants(const TraceCollector& collector, const std::string& event) {
  return std::ranges::any_of(collector.events(),
                             [&](const EventSpec& spec) { return spec.name == event; });
}

class DispatcherTest : public ::testing::TestWithParam<std::string> {
 protected:
  // What one record changes: the names of the collectors, on `cpu`; elsewhere nothing may.
  std::vector<std::string> ChangedBy(const HeapPage& record, std::uint32_t cpu) {
    std::vector<std::vector<std::byte>> before;
    for (std::size_t i = 0; i < rig_.collectors().size(); ++i) {
      for (std::uint32_t c = 0; c < 2; ++c) before.push_back(TallyBytes(rig_, i, c));
    }
    rig_.OnRecord(record, cpu);
    std::vector<std::string> changed;
    for (std::size_t i = 0; i < rig_.collectors().size(); ++i) {
      if (TallyBytes(rig_, i, cpu) != before[2 * i + cpu]) {
        changed.emplace_back(rig_.collectors()[i]->name());
      }
      EXPECT_EQ(TallyBytes(rig_, i, 1 - cpu), before[2 * i + 1 - cpu]) << "the other CPU's tally";
    }
    return changed;
  }

  DispatchRig rig_{GetParam(), 2, {"rss_stat"}};
};
INSTANTIATE_TEST_SUITE_P(Kernels, DispatcherTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(DispatcherTest, EachEventReachesEveryCollectorThatWantsItAndNoOther) {
  for (const std::string& event : rig_.wanted()) {
    std::vector<std::string> wanting;
    for (const auto& collector : rig_.collectors()) {
      if (Wants(*collector, event)) wanting.emplace_back(collector->name());
    }
    for (const std::uint32_t cpu : {0U, 1U}) {
      EXPECT_EQ(ChangedBy(rig_.MakeRecord(event), cpu), wanting) << event;
    }
    EXPECT_EQ(rig_.EventsRead(event), 2U) << event;
  }
  EXPECT_EQ(rig_.AllEventsRead(), 2 * rig_.wanted().size());
  EXPECT_EQ(rig_.AllErrors(), 0U);
}

TEST_P(DispatcherTest, AnExtraEventIsCountedAndNothingElse) {
  EXPECT_THAT(ChangedBy(rig_.MakeRecord("rss_stat"), 1), IsEmpty());
  EXPECT_EQ(rig_.EventsRead("rss_stat"), 1U);
  EXPECT_EQ(Value(rig_.Export(), "kmem_tracepoint_events_total", {{"tracepoint", "rss_stat"}}), 1);
  EXPECT_EQ(rig_.AllErrors(), 0U);
}

TEST_P(DispatcherTest, ARecordOfAnUnknownEventIsAnError) {
  for (const std::uint16_t id : {std::uint16_t{0}, std::uint16_t{1}, std::uint16_t{65535}}) {
    HeapPage record(std::vector<std::byte>(64));
    std::memcpy(record.data(), &id, sizeof id);
    const std::uint64_t before = rig_.Errors(RecordError::kUnknownEventId);
    EXPECT_THAT(ChangedBy(record, 0), IsEmpty());
    EXPECT_EQ(rig_.Errors(RecordError::kUnknownEventId), before + 1);
  }
  EXPECT_EQ(rig_.AllEventsRead(), 0U);
}

TEST_P(DispatcherTest, ARecordOfAnIgnoredEventIsNeitherCountedNorAnError) {
  DispatchRig rig(GetParam());
  const HeapPage record = rig.MakeRecord("rss_stat");
  rig.OnRecord(record);
  EXPECT_EQ(rig.Errors(RecordError::kUnknownEventId), 1U);
  rig.dispatcher().Ignore(rig.formats().AllIds());
  rig.OnRecord(record);
  EXPECT_EQ(rig.AllErrors(), 1U);
  EXPECT_EQ(rig.AllEventsRead(), 0U);
}

TEST_P(DispatcherTest, EventsThatAreBoundStayBoundWhenIgnored) {
  rig_.dispatcher().Ignore(rig_.formats().AllIds());
  for (const std::string& event : rig_.wanted()) rig_.OnRecord(rig_.MakeRecord(event));
  EXPECT_EQ(rig_.AllEventsRead(), rig_.wanted().size());
}

TEST_P(DispatcherTest, ARecordOfEachLengthBelowTheNeededOneIsShort) {
  for (const std::string& event : rig_.wanted()) {
    const HeapPage whole = rig_.MakeRecord(event);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::uint64_t before = rig_.Errors(RecordError::kShortPayload);
      EXPECT_THAT(ChangedBy(HeapPage(whole.bytes().first(length)), 0), IsEmpty())
          << event << " of " << length;
      EXPECT_EQ(rig_.Errors(RecordError::kShortPayload), before + 1) << event << " of " << length;
    }
    EXPECT_EQ(rig_.EventsRead(event), 0U) << event;
    rig_.OnRecord(whole);
    EXPECT_EQ(rig_.EventsRead(event), 1U) << event;
  }
  EXPECT_EQ(rig_.Errors(RecordError::kShortPayload), rig_.AllErrors());
}

TEST_P(DispatcherTest, AnImplausibleValueIsOneErrorHoweverManyCollectorsRefuseIt) {
  EXPECT_THAT(ChangedBy(rig_.MakeRecord("mm_page_alloc_zone_locked", {{"order", 16}}), 0),
              IsEmpty());
  EXPECT_EQ(rig_.Errors(RecordError::kImplausibleValue), 1U);
  EXPECT_EQ(rig_.EventsRead("mm_page_alloc_zone_locked"), 1U) << "it has been read all the same";
}

TEST_P(DispatcherTest, ACollectorThatDoesNotMindAValueCountsTheEvent) {
  // The pcp collector asks for no field of it.
  EXPECT_THAT(ChangedBy(rig_.MakeRecord("mm_page_alloc", {{"order", 16}}), 0), ElementsAre("pcp"));
  EXPECT_EQ(rig_.Errors(RecordError::kImplausibleValue), 1U);
}

TEST_P(DispatcherTest, ImplausibleValuesOfEachEventAreErrors) {
  const std::vector<std::pair<std::string, std::map<std::string, std::uint64_t>>> records{
      {"kmalloc", {{"bytes_req", 129}, {"bytes_alloc", 128}}},
      {"kmem_cache_alloc", {{"bytes_req", UINT64_MAX}, {"bytes_alloc", 128}}},
      {"mm_page_alloc", {{"migratetype", static_cast<std::uint64_t>(-1)}}},
      {"mm_page_alloc", {{"migratetype", 8}}},
      {"mm_page_alloc_zone_locked", {{"migratetype", 8}}},
      {"mm_page_free", {{"order", UINT32_MAX}}},
      {"mm_page_pcpu_drain", {{"order", 16}}},
      {"mm_page_alloc_extfrag", {{"alloc_order", static_cast<std::uint64_t>(-1)}}},
      {"mm_page_alloc_extfrag", {{"fallback_order", 16}}},
      {"mm_page_alloc_extfrag", {{"alloc_migratetype", 8}}},
      {"mm_page_alloc_extfrag", {{"fallback_migratetype", static_cast<std::uint64_t>(-1)}}},
      {"mm_page_alloc_extfrag", {{"change_ownership", 3}}},
  };
  std::uint64_t errors = 0;
  for (const auto& [event, values] : records) {
    rig_.OnRecord(rig_.MakeRecord(event, values));
    EXPECT_EQ(rig_.Errors(RecordError::kImplausibleValue), ++errors) << event;
  }
  EXPECT_EQ(rig_.AllErrors(), errors);
}

TEST_P(DispatcherTest, FieldsArriveInTheCollectorsWithTheirValues) {
  rig_.OnRecord(rig_.MakeRecord("kmem_cache_alloc", {{"bytes_req", 1000}, {"bytes_alloc", 1024}}));
  rig_.OnRecord(rig_.MakeRecord("mm_page_alloc", {{"order", 4}, {"migratetype", 2}}));
  rig_.OnRecord(
      rig_.MakeRecord("mm_page_alloc",
                      {{"order", 9}, {"pfn", UINT64_MAX}, {"gfp_flags", rig_.facts().gfp_nowarn}}));
  rig_.OnRecord(rig_.MakeRecord("mm_page_alloc_extfrag", {{"alloc_order", 3},
                                                          {"fallback_order", 9},
                                                          {"alloc_migratetype", 2},
                                                          {"fallback_migratetype", 0},
                                                          {"change_ownership", 1}}));
  const Families families = rig_.Export();
  EXPECT_EQ(Value(families, "kmem_slab_requested_bytes_total", {{"allocator", "kmem_cache"}}),
            1000);
  EXPECT_EQ(Value(families, "kmem_slab_allocated_bytes_total", {{"allocator", "kmem_cache"}}),
            1024);
  EXPECT_EQ(Value(families, "kmem_page_allocations_total",
                  {{"order", "4"}, {"migratetype", "reclaimable"}}),
            1);
  EXPECT_EQ(
      Value(families, "kmem_page_allocation_failures_total", {{"order", "9"}, {"nowarn", "true"}}),
      1);
  EXPECT_EQ(Value(families, "kmem_extfrag_events_total",
                  {{"alloc_migratetype", "reclaimable"},
                   {"fallback_migratetype", "unmovable"},
                   {"fragmenting", "false"},
                   {"change_ownership", "true"}}),
            1);
  EXPECT_EQ(Histogram(families, "kmem_extfrag_alloc_order").OnlyBound(), 3);
  EXPECT_EQ(Histogram(families, "kmem_extfrag_fallback_order").OnlyBound(), 9);
}

std::size_t TracepointOf(DispatchRig& rig, const std::string& event) {
  const auto& tracepoints = rig.state().tracepoints;
  const auto at = std::ranges::find(tracepoints, event, &TracepointState::name);
  return static_cast<std::size_t>(at - tracepoints.begin());
}

Gate& GateOf(DispatchRig& rig, const std::string& event) {
  return rig.dispatcher().GateOf(TracepointOf(rig, event));
}

TEST_P(DispatcherTest, WhatMeetsAClosedGateIsCountedAsOutsideAndNowhereElse) {
  for (const std::string& event : rig_.wanted()) {
    GateOf(rig_, event) = {.from_ns = 2000, .until_ns = 3000};
    const HeapPage record = rig_.MakeRecord(event);
    std::uint64_t outside = rig_.dispatcher().outside();
    for (const std::uint64_t time_ns : {0U, 1999U, 3000U, 4000U}) {
      std::vector<std::vector<std::byte>> before;
      for (std::size_t i = 0; i < rig_.collectors().size(); ++i) {
        before.push_back(TallyBytes(rig_, i, 0));
      }
      rig_.OnRecord(record, 0, time_ns);
      EXPECT_EQ(rig_.dispatcher().outside(), ++outside) << event << " at " << time_ns;
      for (std::size_t i = 0; i < rig_.collectors().size(); ++i) {
        EXPECT_EQ(TallyBytes(rig_, i, 0), before[i]) << event << " at " << time_ns;
      }
    }
    EXPECT_EQ(rig_.EventsRead(event), 0U) << event;
    rig_.OnRecord(record, 0, 2000);
    rig_.OnRecord(record, 1, 2999);
    EXPECT_EQ(rig_.EventsRead(event), 2U) << event;
    EXPECT_EQ(rig_.dispatcher().outside(), outside) << event;
  }
  EXPECT_EQ(rig_.AllErrors(), 0U);
}

TEST_P(DispatcherTest, AGateIsThatOfOneTracepoint) {
  GateOf(rig_, "kfree") = {.from_ns = 5000, .until_ns = 6000};
  for (const std::string& event : rig_.wanted()) rig_.OnRecord(rig_.MakeRecord(event), 0, 4000);
  EXPECT_EQ(rig_.EventsRead("kfree"), 0U);
  EXPECT_EQ(rig_.AllEventsRead(), rig_.wanted().size() - 1);
  EXPECT_EQ(rig_.dispatcher().outside(), 1U);
}

TEST_P(DispatcherTest, OfAPageTheRecordsCountWhoseTimeIsWithinTheirGate) {
  const HeapPage record = rig_.MakeRecord("kfree");
  PageBuilder page(1000);
  for (int i = 0; i < 4; ++i) page.Record(100, record.bytes());  // at 1100, 1200, 1300, 1400
  GateOf(rig_, "kfree") = {.from_ns = 1200, .until_ns = 1400};
  EXPECT_EQ(rig_.OnPage(0, page.Build()).error, PageError::kNone);
  EXPECT_EQ(rig_.EventsRead("kfree"), 2U);
  EXPECT_EQ(rig_.dispatcher().outside(), 2U);
}

TEST_P(DispatcherTest, AShortRecordIsAnErrorThoughItsGateIsClosed) {
  GateOf(rig_, "kfree") = {.from_ns = 5000, .until_ns = 6000};
  const HeapPage whole = rig_.MakeRecord("kfree");
  rig_.OnRecord(HeapPage(whole.bytes().first(whole.size() - 1)), 0, 1000);
  EXPECT_EQ(rig_.Errors(RecordError::kShortPayload), 1U);
  EXPECT_EQ(rig_.dispatcher().outside(), 0U);
}

TEST_P(DispatcherTest, WhatIsResumedForgetsThePagesOfBeforeAndNobodyElseDoes) {
  CollectorsConfig config;
  config.page_options.cross_cpu = {.enabled = true, .sample_one_in = 1, .max_pages = 1024};
  DispatchRig rig(GetParam(), 2, {}, config);
  const auto pairs = [&] {
    rig.SettleCommon(5000);
    const Families families = rig.Export();
    return Value(families, "kmem_page_same_cpu_frees_total") +
           Value(families, "kmem_page_cross_cpu_frees_total");
  };
  const HeapPage alloc = rig.MakeRecord("mm_page_alloc", {{"pfn", 77}});
  const HeapPage free = rig.MakeRecord("mm_page_free", {{"pfn", 77}});
  rig.OnRecord(alloc, 0, 1000);
  rig.dispatcher().Resume(TracepointOf(rig, "kfree"));
  rig.OnRecord(free, 0, 1001);
  EXPECT_EQ(pairs(), 1);
  for (const char* const resumed : {"mm_page_alloc", "mm_page_free"}) {
    rig.OnRecord(alloc, 0, 1002);
    EXPECT_EQ(pairs(), 1);
    rig.dispatcher().Resume(TracepointOf(rig, resumed));
    rig.OnRecord(free, 0, 1003);
    EXPECT_EQ(pairs(), 1) << resumed;
  }
}

TEST(DispatcherOf5_10Test, WithoutThePercpuRefillFieldOrderZeroIsARefill) {
  DispatchRig rig("5.10");
  rig.OnRecord(rig.MakeRecord("mm_page_alloc_zone_locked", {{"order", 0}}));
  rig.OnRecord(rig.MakeRecord("mm_page_alloc_zone_locked", {{"order", 3}}));
  EXPECT_EQ(Total(rig.Export(), "kmem_page_zone_locked_allocations_total",
                  {{"order", "0"}, {"percpu_refill", "true"}}),
            1);
  EXPECT_EQ(Total(rig.Export(), "kmem_page_zone_locked_allocations_total",
                  {{"order", "3"}, {"percpu_refill", "false"}}),
            1);
}

// The collectors' events and these.
constexpr std::array<FieldSpec, 1> kMissing{FieldSpec{"no_such_field", true, 0}};
kmem_verdict CountNothing(std::byte* /*tally*/, const std::byte* /*record*/,
                          const BoundField* /*fields*/, const kmem_context& /*context*/) {
  return KMEM_COUNTED;
}
class DemandingCollector : public TraceCollector {
 public:
  [[nodiscard]] std::string_view name() const override { return "demanding"; }
  [[nodiscard]] std::span<const EventSpec> events() const override { return events_; }
  [[nodiscard]] std::size_t tally_bytes() const override { return 8; }
  void Export(const Tallies& /*tallies*/, const KernelFacts& /*facts*/,
              Families& /*out*/) const override {}

 private:
  std::array<EventSpec, 2> events_{EventSpec{"kfree", kMissing, &CountNothing},
                                   EventSpec{"mm_page_free", {}, &CountNothing}};
};

TEST_P(DispatcherTest, AnEventThatCannotBeBoundFailedVisiblyAndTheRestRuns) {
  TraceCollectors collectors;
  collectors.push_back(std::make_unique<DemandingCollector>());
  EventState state;
  Dispatcher dispatcher(collectors, {}, 1, state);
  EXPECT_THROW(dispatcher.Bind("kfree", rig_.formats()), FormatError);
  dispatcher.Bind("mm_page_free", rig_.formats());
  ASSERT_EQ(state.tracepoints.size(), 2U);
  EXPECT_EQ(state.tracepoints[0].name, "kfree");
  EXPECT_FALSE(state.tracepoints[0].enabled);
  EXPECT_TRUE(state.tracepoints[1].enabled);
  const auto on_record = [&](const std::string& event) {
    const HeapPage record = rig_.MakeRecord(event);
    dispatcher.OnRecord(0, 1, record.data(), static_cast<std::uint32_t>(record.size()));
  };
  on_record("kfree");
  on_record("mm_page_free");
  EXPECT_THAT(state.cpus.at(0).events, ElementsAre(0, 1));
  EXPECT_EQ(state.record_errors[static_cast<std::size_t>(RecordError::kUnknownEventId)], 1U);
}

TEST(WantedEventsTest, EachIsThereOnceTheExtraOnesLast) {
  const TraceCollectors collectors = MakeTraceCollectors({});
  const std::vector<std::string> extra{"rss_stat", "kfree", "rss_stat", "mm_alloc_other"};
  EXPECT_THAT(WantedEvents(collectors, extra),
              ElementsAre("kfree", "kmem_cache_free", "kmalloc", "kmalloc_node", "kmem_cache_alloc",
                          "kmem_cache_alloc_node", "mm_page_alloc", "mm_page_alloc_zone_locked",
                          "mm_page_free", "mm_page_free_batched", "mm_page_pcpu_drain",
                          "mm_page_alloc_extfrag", "rss_stat", "mm_alloc_other"));
}

TEST(WantedEventsTest, ACollectorThatIsOffAsksForNothing) {
  CollectorsConfig config;
  config.slab = config.page = config.pcp = false;
  EXPECT_THAT(WantedEvents(MakeTraceCollectors(config), {}), ElementsAre("mm_page_alloc_extfrag"));
}

TEST(RecordErrorTest, EachWayThatAPageIsCorruptHasACounterOfItsOwn) {
  std::vector<RecordError> errors;
  for (const PageError error : {PageError::kPageTooShort, PageError::kCommitBeyondPage,
                                PageError::kRecordBeyondData, PageError::kRecordLengthTooSmall}) {
    errors.push_back(ToRecordError(error));
  }
  EXPECT_THAT(errors,
              ElementsAre(RecordError::kPageTooShort, RecordError::kCommitBeyondPage,
                          RecordError::kRecordBeyondData, RecordError::kRecordLengthTooSmall));
}

}  // namespace
}  // namespace kmem
