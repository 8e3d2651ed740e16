// Whether a scrape says of a collector's values that nothing is missing in them: by the gauge of
// live memory, which depends on it.
#include "exporter/scraper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "exporter/proc_files.h"
#include "exporter/replay/replay_source.h"
#include "memory_proc.h"
#include "metric_lookup.h"
#include "recorded_data.h"

namespace kmem {
namespace {

using Change = std::function<void(EventState&)>;

// A recorded trace to which something has happened.
class Afflicted : public EventSource {
 public:
  Afflicted(const Config& config, const TraceCollectors& collectors, Change change)
      : trace_(TestData("traces/kmem-6.18.dat"), config, collectors), change_(std::move(change)) {}

  [[nodiscard]] std::string_view engine() const override { return trace_.engine(); }
  [[nodiscard]] std::string_view reason() const override { return trace_.reason(); }
  [[nodiscard]] const KernelFacts& facts() const override { return trace_.facts(); }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override {
    return trace_.missing_events();
  }
  [[nodiscard]] EventState Snapshot() override {
    EventState state = trace_.Snapshot();
    change_(state);
    return state;
  }

 private:
  ReplaySource trace_;
  Change change_;
};

double LiveComplete(Change change) {
  Config config;
  config.collectors.slab_options.live.enabled = true;
  const MapProc proc({});
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  const ProcCollectors proc_collectors;
  Tracing tracing(
      [&] { return std::make_unique<Afflicted>(config, trace_collectors, std::move(change)); });
  tracing.Start();
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  return Value(scraper.Scrape({}), "kmem_exporter_live_complete");
}

// Throws where the trace has no such tracepoint.
TracepointState& Find(EventState& state, std::string_view name) {
  const auto at = std::ranges::find(state.tracepoints, name, &TracepointState::name);
  if (at == state.tracepoints.end()) throw std::out_of_range(std::string(name));
  return *at;
}

// What a machine showed, and how often it was asked for.
class CountingProc : public ProcReader {
 public:
  [[nodiscard]] std::string Read(std::string_view path) const override {
    ++reads_[std::string(path)];
    return proc_.Read(path);
  }
  std::map<std::string, int> TakeReads() { return std::exchange(reads_, {}); }

 private:
  ProcFiles proc_{TestData("proc/6.18")};
  mutable std::map<std::string, int> reads_;
};

TEST(ScraperTest, ReadsATableOnceHoweverManyLookIntoIt) {
  const Config config;
  CountingProc proc;
  const TraceCollectors trace_collectors;
  const ProcCollectors proc_collectors = MakeProcCollectors(config.collectors);
  const Tracing tracing([] { return std::unique_ptr<EventSource>(); });
  const Scraper scraper(config, trace_collectors, proc_collectors, proc, tracing);
  for (int scrapes = 0; scrapes < 2; ++scrapes) {
    proc.TakeReads();
    EXPECT_FALSE(scraper.Scrape({}).empty());
    const std::map<std::string, int> reads = proc.TakeReads();
    EXPECT_TRUE(reads.contains("zoneinfo"));
    for (const auto& [path, times] : reads) EXPECT_EQ(times, 1) << path;
  }
}

TEST(ScraperTest, LiveMemoryIsCompleteWhereNothingWasLost) {
  EXPECT_EQ(LiveComplete([](EventState&) {}), 1);
}

TEST(ScraperTest, WhateverIsLostIsADoubtAboutLiveMemory) {
  for (std::size_t i = 0; i < kLossReasons.size(); ++i) {
    EXPECT_EQ(LiveComplete([&](EventState& state) { state.cpus.back().lost.at(i) = 1; }), 0)
        << kLossReasons.at(i);
  }
  for (std::size_t i = 0; i < kRecordErrors.size(); ++i) {
    EXPECT_EQ(LiveComplete([&](EventState& state) { state.record_errors.at(i) = 1; }), 0)
        << kRecordErrors.at(i);
  }
  for (std::size_t i = 0; i < kInterferences.size(); ++i) {
    EXPECT_EQ(LiveComplete([&](EventState& state) { state.interference.at(i) = 1; }), 0)
        << kInterferences.at(i);
  }
}

TEST(ScraperTest, WhatATracepointLostIsADoubtAboutThoseWhoWantIt) {
  for (const char* name : {"kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free"}) {
    EXPECT_EQ(LiveComplete([&](EventState& state) { Find(state, name).skipped = 1; }), 0) << name;
    EXPECT_EQ(LiveComplete([&](EventState& state) { Find(state, name).enabled = false; }), 0)
        << name;
  }
  for (const char* name : {"mm_page_alloc", "mm_page_free", "mm_page_pcpu_drain"}) {
    EXPECT_EQ(LiveComplete([&](EventState& state) { Find(state, name).skipped = 1; }), 1) << name;
    EXPECT_EQ(LiveComplete([&](EventState& state) { Find(state, name).enabled = false; }), 1)
        << name;
  }
}

}  // namespace
}  // namespace kmem
