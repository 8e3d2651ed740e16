// Times the pieces of which the exporter is made, each by itself and hot: tests/bench/run_pieces
// prints what comes of it.
// usage: bench_pieces [--benchmark_...]
//        bench_pieces --read TIMES [SETTING]   reads so often and prints how many events that were,
//                                              for whoever counts instructions meanwhile
#include <benchmark/benchmark.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "exporter/exposition.h"
#include "exporter/snapshot_exchange.h"
#include "reader_rig.h"

namespace kmem {
namespace {

void SetPerEvent(benchmark::State& state, std::uint64_t events) {
  state.counters["per_event"] = benchmark::Counter(
      static_cast<double>(events), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// ---- The hot path ----

void Walk(benchmark::State& state) {
  const ReaderRig rig(BenchConfig("", true));
  std::uint64_t events = 0;
  for (auto _ : state) {
    for (const HeapPage& page : rig.pages()) {
      std::uint64_t sum = 0;
      events += WalkPage(page.bytes(), rig.layout(),
                         [&](std::uint64_t time, const std::byte* record, std::uint32_t length) {
                           sum += time ^ length ^ static_cast<std::uint64_t>(record[0]);
                         })
                    .records;
      benchmark::DoNotOptimize(sum);
    }
  }
  SetPerEvent(state, events);
}
BENCHMARK(Walk)->Name("walk");

// The walk, and an event counted that no collector wants anything of.
void Dispatch(benchmark::State& state) {
  ReaderRig rig(BenchConfig("none", false));
  for (const std::string& event : EventsOf(kBenchKernel)) {
    rig.rig().dispatcher().Bind(event, rig.rig().formats());
  }
  std::uint64_t events = 0;
  for (auto _ : state) events += rig.Read();
  SetPerEvent(state, events);
}
BENCHMARK(Dispatch)->Name("walk and dispatch");

void Read(benchmark::State& state, bool by_name) {
  ReaderRig rig(BenchConfig("", by_name));
  std::uint64_t events = 0;
  for (auto _ : state) events += rig.Read();
  SetPerEvent(state, events);
}
BENCHMARK_CAPTURE(Read, all, true)->Name("read, all collectors");
BENCHMARK_CAPTURE(Read, no_names, false)->Name("read, all collectors, nothing by name");

void Collector(benchmark::State& state, const char* name, bool by_name) {
  ReaderRig rig(BenchConfig(name, by_name));
  rig.KeepWanted();
  std::uint64_t events = 0;
  for (auto _ : state) events += rig.Read();
  SetPerEvent(state, events);
}
BENCHMARK_CAPTURE(Collector, slab, "slab", true)->Name("read, slab alone");
BENCHMARK_CAPTURE(Collector, slab_no_names, "slab", false)
    ->Name("read, slab alone, nothing by name");
BENCHMARK_CAPTURE(Collector, page, "page", true)->Name("read, page alone");
BENCHMARK_CAPTURE(Collector, pcp, "pcp", true)->Name("read, pcp alone");
BENCHMARK_CAPTURE(Collector, extfrag, "extfrag", true)->Name("read, extfrag alone");

// ---- The scrape ----

// What the drain thread and the scraping thread do to pass a state on.
void Snapshot(benchmark::State& state) {
  ReaderRig rig(BenchConfig("", true));
  rig.Read();
  SnapshotExchange exchange;
  std::uint64_t request = 0;
  for (auto _ : state) {
    rig.rig().dispatcher().ReadCommon(++request);
    exchange.Publish(rig.rig().state(), request);
    benchmark::DoNotOptimize(exchange.Take({}, [] {}));
  }
}
BENCHMARK(Snapshot)->Name("snapshot")->Unit(benchmark::kMicrosecond);

// So many series, five families of call sites.
Families ManySeries(std::int64_t count) {
  constexpr std::int64_t kFamilies = 5;
  Families out;
  for (std::int64_t family = 0; family < kFamilies; ++family) {
    FamilyBuilder builder(out, FamilyBuilder::Type::Counter,
                          "kmem_slab_callsite_requested_bytes_" + std::to_string(family) + "_total",
                          "Bytes that the function asked for in slab allocations.");
    for (std::int64_t i = 0; i < count / kFamilies; ++i) {
      builder.Add(
          {{"call_site", "some_function_of_the_kernel_" + std::to_string(i)}, {"module", "kernel"}},
          static_cast<double>(i * 7919 + family));
    }
  }
  return out;
}

void Serialise(benchmark::State& state, TextFormat format) {
  const Families families = ManySeries(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(Serialize(families, format));
}
BENCHMARK_CAPTURE(Serialise, text, TextFormat::kPrometheus)
    ->Name("serialise, text 0.0.4")
    ->Arg(100)
    ->Arg(1000)
    ->Arg(10000)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(Serialise, open, TextFormat::kOpenMetrics)
    ->Name("serialise, OpenMetrics")
    ->Arg(100)
    ->Arg(1000)
    ->Arg(10000)
    ->Unit(benchmark::kMicrosecond);

void Compress(benchmark::State& state) {
  const std::string text = Serialize(ManySeries(state.range(0)), TextFormat::kPrometheus);
  for (auto _ : state) benchmark::DoNotOptimize(Gzip(text));
}
BENCHMARK(Compress)->Name("gzip")->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);

int ReadOften(std::string_view times, std::string_view setting) {
  std::uint64_t rounds = 0;
  std::from_chars(times.data(), times.data() + times.size(), rounds);
  ReaderRig rig(BenchConfig("", setting != "nothing-by-name"));
  std::uint64_t events = 0;
  for (; rounds > 0; --rounds) events += rig.Read();
  std::printf("%llu\n", static_cast<unsigned long long>(events));
  return 0;
}

}  // namespace
}  // namespace kmem

int main(int argc, char** argv) {
  if (argc >= 3 && std::string_view(argv[1]) == "--read") {
    return kmem::ReadOften(argv[2], argc > 3 ? argv[3] : "");
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
