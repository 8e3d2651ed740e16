// Times the pieces of which the exporter is made, each by itself and hot: tests/bench/run_pieces
// prints what comes of it.
// usage: bench_pieces [--benchmark_...]
//        bench_pieces --serve SERIES           serves so many series of call sites on a free port
//        of
//                                              127.0.0.1, which it prints, until its input ends
//        bench_pieces --read TIMES [SETTING]   reads so often and prints how many events that were,
//                                              for whoever counts instructions meanwhile
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectors/slab.h"
#include "exporter/exposition.h"
#include "exporter/http_server.h"
#include "exporter/snapshot_exchange.h"
#include "exporter/symbols.h"
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

// Drains of two CPUs that free and allocate objects, so many of which are alive: their events are
// noted, applied in the order of their times, and paired.
void Pair(benchmark::State& state, bool ever_new) {
  constexpr std::uint32_t kEventsOfACpu = 10'000;
  constexpr std::uint64_t kStepNs = 1000;
  SlabOptions options;
  options.live.enabled = true;
  const SlabCollector collector(options);
  Tallies tallies(collector.tally_bytes(), 2);
  std::vector<std::uint64_t> memory(collector.common_bytes() / sizeof(std::uint64_t));
  auto* const common = reinterpret_cast<std::byte*>(memory.data());
  collector.InitCommon(common);
  slab_live& live = *reinterpret_cast<slab_common*>(common)->live;

  std::uint64_t now = kStepNs;
  std::mt19937_64 random(41);  // NOLINT(*-msc51-cpp): the same objects in each run
  std::vector<std::uint64_t> alive(static_cast<std::size_t>(state.range(0)));
  const auto event_of = [](std::uint64_t ptr, std::uint16_t cpu, std::uint64_t time, bool frees) {
    return slab_live_event{
        .time_ns = time,
        .ptr = ptr,
        .call_site = 0xffffffff81000010 + 64 * ((ptr >> 6) % 100),
        .bytes = 64,
        .cpu = cpu,
        .kind = static_cast<std::uint16_t>(frees ? SLAB_LIVE_KFREE : SLAB_LIVE_ALLOC)};
  };
  const auto settle = [&] { collector.SettleCommon(common, tallies, now, now); };
  for (std::size_t i = 0; i < alive.size(); ++i) {
    alive[i] = 0xffff888000000000 + 64 * (random() % (1U << 24));
    const slab_live_event event = event_of(alive[i], 0, now += kStepNs, false);
    slab_live_note(&live, &event);
    if (i % kEventsOfACpu == 0) settle();
  }
  settle();
  // What was freed is soon allocated again, as slabs do; or never.
  std::array<std::array<std::uint64_t, 64>, 2> freed{};
  for (auto& of_cpu : freed) {
    for (std::uint64_t& ptr : of_cpu) ptr = 0xffff888000000000 + 64 * (random() % (1U << 24));
  }
  std::vector<slab_live_event> drain;
  std::uint64_t events = 0;
  for (auto _ : state) {
    state.PauseTiming();
    drain.clear();
    for (std::uint16_t cpu = 0; cpu < 2; ++cpu) {
      for (std::uint32_t i = 0; i < kEventsOfACpu; i += 2) {
        // One half each, and the other one in the next drain.
        const std::size_t half = (cpu + now / (kEventsOfACpu * kStepNs)) % 2;
        std::uint64_t& ptr = alive[random() % (alive.size() / 2) * 2 + half];
        const std::uint64_t time = now + i * kStepNs + cpu;
        drain.push_back(event_of(ptr, cpu, time, true));
        if (ever_new) {
          ptr = 0xffff888000000000 + 64 * (random() % (UINT64_C(1) << 32));
        } else {
          std::swap(ptr, freed.at(cpu).at(i / 2 % 64));
        }
        drain.push_back(event_of(ptr, cpu, time + kStepNs, false));
      }
    }
    now += kEventsOfACpu * kStepNs;
    state.ResumeTiming();
    for (const slab_live_event& event : drain) slab_live_note(&live, &event);
    settle();
    events += drain.size();
  }
  SetPerEvent(state, events);
}
BENCHMARK_CAPTURE(Pair, come_back, false)
    ->Name("pair slab objects, alive")
    ->Arg(20'000)
    ->Arg(200'000);
BENCHMARK_CAPTURE(Pair, ever_new, true)
    ->Name("pair slab objects of ever-new pointers, alive")
    ->Arg(20'000)
    ->Arg(200'000);

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
  std::string text;
  for (auto _ : state) {
    SerializeTo(text, families, format);
    benchmark::DoNotOptimize(text.data());
  }
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
  Gzip gzip;
  std::string packed;
  for (auto _ : state) {
    gzip.CompressTo(packed, text);
    benchmark::DoNotOptimize(packed.data());
  }
}
BENCHMARK(Compress)->Name("gzip")->Arg(100)->Arg(1000)->Arg(10000)->Unit(benchmark::kMicrosecond);

// Slab events of many call sites, behind the real collector, exposition and HTTP server.
class ManySites {
 public:
  explicit ManySites(std::uint32_t series)
      : sites_(series / kFamilies), rig_(kBenchKernel, 2, {}, Config()), facts_(rig_.facts()) {
    std::map<std::uint64_t, Symbol> symbols;
    for (std::uint32_t i = 0; i < sites_; ++i) {
      symbols[Site(i)] = {"some_function_of_the_kernel_" + std::to_string(i), "kernel"};
    }
    facts_.symbols = std::make_shared<SymbolList>(std::move(symbols));
    // A site gets its series in a window in which it has a thousandth of all bytes.
    constexpr std::uint32_t kAtOnce = 500;
    for (std::uint32_t i = 0; i < sites_; ++i) {
      CountOne(i);
      if (i % kAtOnce == kAtOnce - 1) Export();
    }
    Export();
  }

  // A scrape 15 s after the one before, of everybody's sites.
  Families Scrape() {
    const std::scoped_lock lock(mutex_);
    CountOne(0);
    return Export();
  }

 private:
  static constexpr std::uint32_t kFamilies = 5;  // that have a series for each call site
  static std::uint64_t Site(std::uint32_t number) { return 0xffffffff81000010 + 64 * number; }
  static CollectorsConfig Config() {
    CollectorsConfig config;
    config.slab_options.callsites.max_series = 10000;
    return config;
  }

  void CountOne(std::uint32_t site) {
    rig_.OnRecord(rig_.MakeRecord("kmalloc", {{"call_site", Site(site)},
                                              {"ptr", 0xffff888000001000},
                                              {"bytes_req", 100 + site % 7},
                                              {"bytes_alloc", 128}}));
  }
  Families Export() {
    rig_.dispatcher().ReadCommon(++exports_ * UINT64_C(15'000'000'000));
    const EventState state = rig_.state();  // as a scraping thread gets it
    Families out;
    for (std::size_t i = 0; i < rig_.collectors().size(); ++i) {
      rig_.collectors()[i]->Export(state.tallies[i], facts_, out);
    }
    return out;
  }

  std::uint32_t sites_;
  std::mutex mutex_;
  std::uint64_t exports_ = 0;
  DispatchRig rig_;
  KernelFacts facts_;
};

int Serve(std::string_view series) {
  std::uint32_t count = 0;
  std::from_chars(series.data(), series.data() + series.size(), count);
  mallopt(M_ARENA_MAX, 1);  // as the program does
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  ManySites sites(count);
  WebConfig config;
  config.listen_addresses = {"127.0.0.1:0"};
  const HttpServer server(config, {.scrape = [&] { return sites.Scrape(); },
                                   .landing_page = [] { return std::string(); },
                                   .ready = [] { return true; }});
  std::printf("%s\n", server.addresses().front().c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}

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
  if (argc == 3 && std::string_view(argv[1]) == "--serve") return kmem::Serve(argv[2]);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
