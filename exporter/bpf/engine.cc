#include "exporter/bpf/engine.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "collectors/slab_tables.h"
#include "exporter/bpf/prototypes.h"
#include "exporter/bpf/state_reader.h"
#include "exporter/clocks.h"
#include "exporter/kernel_facts.h"
#include "exporter/read_file.h"
#include "exporter/symbols.h"
#include "exporter/tracefs/format.h"
#include "exporter/tracefs/instance.h"
#include "kmem_bpf.skel.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxTextBytes = 64 << 10;
// An event whose time was taken before a scrape's is in the state by so much later.
constexpr std::uint64_t kInFlightNs = 20'000;

// A reading that is to be of one time, and for which we lost the CPU.
constexpr int kEdgeAttempts = 10;

// For a copy between two events, where any other is good too and where none is.
constexpr int kNiceAttempts = 4;
constexpr int kNeededAttempts = 64;
// And for one with the tables, which takes tens of microseconds.
constexpr int kScrapeAttempts = 2;

std::string ReadText(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return ReadAll(file, kMaxTextBytes).value_or("");
}

std::uint32_t PossibleCpus() {
  const std::string text = ReadText("/sys/devices/system/cpu/possible");  // 0-3,8-11
  const std::size_t last = text.find_last_of("-,");
  const char* begin = text.data() + (last == std::string::npos ? 0 : last + 1);
  std::uint32_t cpu = 0;
  if (std::from_chars(begin, text.data() + text.size(), cpu).ec == std::errc{}) return cpu + 1;
  return static_cast<std::uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_CONF)));
}

// Events for which the kernel did not run the program, because they interrupted it.
std::optional<std::uint64_t> SkippedByKernel(int program_fd) {
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(program_fd, &info, &length) != 0) return std::nullopt;
  return info.recursion_misses;
}

std::unique_ptr<btf, void (*)(btf*)> LoadKernelBtf() {
  btf* kernel = btf__load_vmlinux_btf();
  if (kernel == nullptr) {
    throw TracingError(TracingProblem::kNoBtf,
                       fmt::format("bpf: the kernel tells nothing of its types "
                                   "(/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF): {}",
                                   std::strerror(errno)));
  }
  return {kernel, &btf__free};
}

}  // namespace

BpfEngine::BpfEngine(const Config& config, const TraceCollectors& collectors,
                     const ProcReader& proc, std::string reason)
    : collectors_(collectors),
      reason_(std::move(reason)),
      cpus_(PossibleCpus()),
      slab_(config.collectors.slab_options),
      cross_cpu_(config.collectors.page_options.cross_cpu),
      skeleton_(nullptr, &kmem_bpf__destroy) {
  LibbpfLog log;
  const auto kernel = LoadKernelBtf();
  for (const auto& collector : collectors) {
    const auto part = std::ranges::find(kBpfTallies, collector->name(), &BpfTally::collector);
    layout_.push_back(part == kBpfTallies.end() ? nullptr : &*part);
  }
  StartCompanion(config, proc, *kernel);
  ChoosePrograms(*kernel, WantedEvents(collectors, config.extra_events));
  cross_cpu_.enabled = cross_cpu_.enabled && config.collectors.page;
  if (!config.collectors.slab) {
    slab_.callsites.enabled = slab_.caches.enabled = slab_.live.enabled = false;
  }
  SizeStates();
  Load(log);
  // Dear: not before it is known that programs can be loaded.
  ReadFacts(proc, *kernel, config.paths.tracefs);
  facts_.symbols = ReadSymbols(collectors, proc);
  MapStates(log);
  if (slab_.live.enabled) {
    live_ = std::make_unique<LiveReader>(bpf_map__fd(skeleton_->maps.kmem_live),
                                         bpf_map__fd(skeleton_->maps.kmem_left_out), slab_.live,
                                         facts_.symbols.get());
  }
  Attach(log);
}

void BpfEngine::StartCompanion(const Config& config, const ProcReader& proc, const btf& kernel) {
  const auto at = std::ranges::find(collectors_, Companion::kCollector,
                                    [](const auto& collector) { return collector->name(); });
  const bool wanted =
      at != collectors_.end() && std::ranges::any_of((*at)->events(), [&](const EventSpec& event) {
        return TracepointPrototype(kernel, event.name).has_value();
      });
  try {
    if (!wanted) {  // but what a killed exporter left is to go
      Instance::RemoveStale(config.paths.tracefs, config.tracefs.instance);
      return;
    }
    companion_ = std::make_unique<Companion>(config, proc, reason_);
    companion_collector_ = static_cast<std::size_t>(at - collectors_.begin());
    layout_[companion_collector_] = nullptr;
  } catch (const TracingError& error) {
    if (!wanted) return;
    change_ownership_told_ = false;
    spdlog::info("{}: change_ownership is unknown, because it needs tracefs: {}",
                 Companion::kCollector, error.what());
  }
}

void BpfEngine::ChoosePrograms(const btf& kernel, const std::vector<std::string>& wanted) {
  std::size_t extras = 0;
  for (const std::string& tracepoint : wanted) {
    const auto prototype = TracepointPrototype(kernel, tracepoint);
    if (!prototype) {
      missing_events_.push_back(tracepoint);
      continue;
    }
    Route route;
    route.tracepoint = tracepoint;
    const auto known = std::ranges::find(kBpfTracepoints, tracepoint);
    if (companion_ != nullptr && companion_->Counts(tracepoint)) {
      // It needs no program.
    } else if (known != kBpfTracepoints.end()) {
      route.mark = static_cast<std::size_t>(known - kBpfTracepoints.begin());
      route.programs = ProgramsFor(tracepoint, *prototype);
      if (route.programs.empty()) {
        spdlog::error(
            "tracepoint not used: {}: this kernel passes other arguments than are known: {}",
            tracepoint, *prototype);
      }
    } else if (extras < KMEM_BPF_EXTRAS) {
      route.mark = KMEM_BPF_EXTRA + extras;
      route.programs.push_back(fmt::format("kmem_extra_{}", extras++));
    } else {
      spdlog::error("tracepoint not used: {}: the bpf engine counts at most {} extra events",
                    tracepoint, +KMEM_BPF_EXTRAS);
    }
    state_.tracepoints.push_back({.name = tracepoint, .enabled = !route.programs.empty()});
    routes_.push_back(std::move(route));
  }
}

void BpfEngine::ReadFacts(const ProcReader& proc, const btf& kernel, const std::string& tracefs) {
  facts_ = ReadKernelFacts(proc);
  facts_.cpu_nodes = ReadCpuNodes(kNodeDirectory);
  facts_.change_ownership_told = change_ownership_told_;
  for (const Route& route : routes_) {
    if (route.program == nullptr) continue;
    const std::string_view name = bpf_program__name(route.program);
    facts_.cache_allocs_named |= name == "kmem_cache_alloc_load" || name == "kmem_cache_alloc_read";
    facts_.cache_frees_named |= name == "kmem_cache_free";
  }
  facts_.gfp_nowarn = GfpBitInBtf(kernel, "__GFP_NOWARN");
  if (facts_.gfp_nowarn != 0) return;
  const std::string text = ReadText(tracefs + "/events/kmem/mm_page_alloc/format");
  if (text.empty()) return;
  try {
    Formats formats;
    formats.Add("mm_page_alloc", text);
    facts_.gfp_nowarn = formats.GfpBit("__GFP_NOWARN");
  } catch (const FormatError&) {  // it stays unknown
  }
}

void BpfEngine::SizeStates() {
  const bool node_tracepoints = std::ranges::any_of(routes_, [](const Route& route) {
    return route.mark == KMEM_BPF_kmalloc_node && !route.programs.empty();
  });
  if (slab_.live.enabled) {
    cpu_bytes_ = sizeof(kmem_bpf_cpu);  // whose end it is
  } else if (!slab_.callsites.enabled) {
    cpu_bytes_ = slab_.caches.enabled ? offsetof(kmem_bpf_cpu, kmalloc_sites)
                                      : offsetof(kmem_bpf_cpu, caches_allocated);
  } else {
    cpu_bytes_ = node_tracepoints ? offsetof(kmem_bpf_cpu, kmalloc_live)
                                  : offsetof(kmem_bpf_cpu, kmalloc_node_sites);
  }
  constexpr std::size_t kLine = alignof(kmem_bpf_cpu);
  cpu_bytes_ = (cpu_bytes_ + kLine - 1) / kLine * kLine;
}

void BpfEngine::Load(LibbpfLog& log) {
  std::size_t choices = 1;
  for (const Route& route : routes_) choices = std::max(choices, route.programs.size());
  int error = 0;
  for (std::size_t choice = 0; choice < choices; ++choice) {
    log.Clear();
    error = TryToLoad(choice);
    if (error == 0) break;
  }
  if (error != 0) log.Fail(error, "loading the programs");
}

int BpfEngine::TryToLoad(std::size_t choice) {
  skeleton_.reset(kmem_bpf__open());
  if (skeleton_ == nullptr) return errno;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton_->obj) bpf_program__set_autoload(program, false);
  for (Route& route : routes_) {
    if (route.programs.empty()) continue;
    const std::string& name = route.programs[std::min(choice, route.programs.size() - 1)];
    route.program = bpf_object__find_program_by_name(skeleton_->obj, name.c_str());
    bpf_program__set_autoload(route.program, true);
  }
  for (const BpfTally* part : layout_) {
    if (part != nullptr) skeleton_->rodata->kmem_wanted[part->wanted] = 1;
  }
  skeleton_->rodata->kmem_wanted_sites = slab_.callsites.enabled ? 1 : 0;
  skeleton_->rodata->kmem_wanted_caches = slab_.caches.enabled ? 1 : 0;
  if (cross_cpu_.enabled) {
    skeleton_->rodata->kmem_cross_one_in = cross_cpu_.sample_one_in;
    skeleton_->rodata->kmem_cross_threshold = page_cross_threshold(cross_cpu_.sample_one_in);
    skeleton_->rodata->kmem_cross_sets = cross_cpu_.sets();
    bpf_map__set_max_entries(skeleton_->maps.kmem_pages, cross_cpu_.sets());
  }
  skeleton_->rodata->kmem_wanted_live = slab_.live.enabled ? 1 : 0;
  skeleton_->rodata->kmem_live_most_hash =
      static_cast<std::uint32_t>(slab_live_most_hash(slab_.live.sample_one_in));
  if (slab_.live.enabled) {
    bpf_map__set_max_entries(skeleton_->maps.kmem_live, slab_.live.max_objects);
  }
  bpf_map__set_max_entries(skeleton_->maps.kmem_cpus, cpus_);
  bpf_map__set_value_size(skeleton_->maps.kmem_cpus, static_cast<std::uint32_t>(cpu_bytes_));
  return -kmem_bpf__load(skeleton_.get());
}

void BpfEngine::MapStates(const LibbpfLog& log) {
  // As the kernel rounds it: array_map_mmap() and bpf_array_alloc_size(), kernel/bpf/arraymap.c.
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t bytes = (cpus_ * cpu_bytes_ + page - 1) / page * page;
  void* const states = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                            bpf_map__fd(skeleton_->maps.kmem_cpus), 0);
  if (states == MAP_FAILED) log.Fail(errno, "mapping the programs' state");
  states_ = {static_cast<kmem_bpf_cpu*>(states),
             [bytes](kmem_bpf_cpu* old) { munmap(old, bytes); }};
  state_.buffer_bytes = bytes;
  if (cross_cpu_.enabled) state_.buffer_bytes += cross_cpu_.sets() * sizeof(page_cross_set);
  if (slab_.live.enabled) {
    // An element of a hash map has a head of 48 bytes (struct htab_elem, kernel/bpf/hashtab.c), and
    // there are as many buckets, of 16 bytes, as elements, rounded up to a power of two.
    const std::uint64_t most = slab_.live.max_objects;
    state_.buffer_bytes +=
        most * (48 + sizeof(std::uint64_t) + sizeof(kmem_bpf_live)) + std::bit_ceil(most) * 16;
  }
  state_.cpus.resize(cpus_);
  for (CpuCounts& cpu : state_.cpus) cpu.events.resize(routes_.size());
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    state_.tallies.emplace_back(collectors_[i]->tally_bytes(), cpus_);
    scratch_.resize(std::max(scratch_.size(), collectors_[i]->tally_bytes()));
    if (layout_[i] == nullptr) continue;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      std::byte* const tally = reinterpret_cast<std::byte*>(&Cpu(cpu)) + layout_[i]->offset;
      collectors_[i]->Init(tally, facts_, cpu);
    }
  }
  mprotect(states, bytes, PROT_READ);  // from now on the kernel's alone
}

void BpfEngine::DestroyLink(bpf_link* link) { bpf_link__destroy(link); }

int BpfEngine::AttachProgram(Route& route) {
  // By its type: a BTF tracepoint's program already knows its target.
  const bool raw = bpf_program__type(route.program) == BPF_PROG_TYPE_RAW_TRACEPOINT;
  route.link.reset(raw ? bpf_program__attach_raw_tracepoint(route.program, route.tracepoint.c_str())
                       : bpf_program__attach_trace(route.program));
  return route.link == nullptr ? errno : 0;
}

void BpfEngine::Attach(const LibbpfLog& log) {
  int error = 0;
  bool attached = false;
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    Route& route = routes_[i];
    if (route.program == nullptr) continue;
    if (const int failure = AttachProgram(route); failure != 0) {
      error = failure;
      state_.tracepoints[i].enabled = false;
      spdlog::error("tracepoint not used: {}: its program can't be attached: {}", route.tracepoint,
                    std::strerror(error));
      continue;
    }
    attached = true;
    route.program_fd = bpf_program__fd(route.program);
  }
  if (!attached && companion_ == nullptr && !routes_.empty()) {
    if (error != 0) log.Fail(error, "attaching the programs");
    throw TracingError(TracingProblem::kFailed, "bpf: no tracepoint can be used (see the log)");
  }
  for (const auto& collector : collectors_) {
    std::vector<std::size_t> marks;
    for (const Route& route : routes_) {
      const bool writes =
          std::ranges::count(collector->events(), route.tracepoint, &EventSpec::name) != 0;
      if (writes && route.program_fd >= 0) marks.push_back(route.mark);
    }
    marks_of_.push_back(std::move(marks));
  }
}

kmem_bpf_cpu& BpfEngine::Cpu(std::uint32_t cpu) const {
  return *reinterpret_cast<kmem_bpf_cpu*>(reinterpret_cast<std::byte*>(states_.get()) +
                                          cpu * cpu_bytes_);
}

EventState BpfEngine::Snapshot() {
  EventState out = ReadSettled(true);
  if (companion_ != nullptr) companion_->AddTo(out, companion_collector_);
  return out;
}

EventState BpfEngine::ReadSettled(bool for_scrape) {
  EventState out = ReadState(for_scrape);
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      collectors_[i]->Settle(out.tallies[i].At(cpu), out.taken_at_ns - kInFlightNs);
    }
  }
  return out;
}

EventState BpfEngine::ReadEdge() {
  EventState state;
  for (int i = 0; i < kEdgeAttempts; ++i) {
    state = ReadSettled(false);
    const std::uint64_t taken_ns = MonotonicNs() - state.taken_at_ns;
    // What there is to read may grow: what was once possible is forgotten, slowly.
    fastest_read_ns_ = std::min(taken_ns, fastest_read_ns_ + fastest_read_ns_ / 8);
    if (taken_ns <= 2 * fastest_read_ns_) break;
  }
  return state;
}

TraceLoad BpfEngine::ReadLoad() {
  TraceLoad load = companion_ == nullptr ? TraceLoad{} : companion_->ReadLoad();
  load.lost = 0;  // no fewer events of others would have saved those
  load.events.assign(routes_.size(), 0);
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    if (routes_[i].program_fd < 0) continue;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      load.events[i] += LoadWord(Cpu(cpu).marks[routes_[i].mark].sequence) / 2;
    }
  }
  load.reader_seconds += reader_seconds_;
  return load;
}

void BpfEngine::ForgetPages() const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t bytes = (cross_cpu_.sets() * sizeof(page_cross_set) + page - 1) / page * page;
  void* const sets = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                          bpf_map__fd(skeleton_->maps.kmem_pages), 0);
  if (sets == MAP_FAILED) return;  // pairs of two windows are then counted as of one
  std::memset(sets, 0, bytes);
  munmap(sets, bytes);
}

EventState BpfEngine::Open(std::span<const std::size_t> tracepoints) {
  // Of what happened to pages while either of their events was left out nothing is known.
  const auto pairs_pages = [&](std::size_t i) {
    return routes_[i].mark == KMEM_BPF_mm_page_alloc || routes_[i].mark == KMEM_BPF_mm_page_free;
  };
  if (cross_cpu_.enabled && std::ranges::any_of(tracepoints, pairs_pages)) ForgetPages();
  const std::uint64_t begin_ns = MonotonicNs();
  for (const std::size_t i : tracepoints) {
    const int error = AttachProgram(routes_[i]);
    const std::scoped_lock lock(mutex_);
    if (error != 0 && state_.tracepoints[i].enabled) {
      spdlog::error("tracepoint not used: {}: its program can't be attached: {}",
                    routes_[i].tracepoint, std::strerror(error));
    }
    state_.tracepoints[i].enabled = error == 0;
  }
  AwaitCatchUp(begin_ns);
  return ReadEdge();
}

EventState BpfEngine::Close(std::span<const std::size_t> tracepoints) {
  EventState state = ReadEdge();
  for (const std::size_t i : tracepoints) routes_[i].link.reset();
  return state;
}

EventState BpfEngine::ReadState(bool for_scrape) {
  const std::scoped_lock lock(mutex_);
  const double cpu_begin = ThreadSeconds();
  state_.taken_at_ns = MonotonicNs();
  ReadTallies(for_scrape);
  ReadMarks();
  const double seconds = static_cast<double>(MonotonicNs() - state_.taken_at_ns) * 1e-9;
  const auto bucket = std::ranges::lower_bound(kDrainBounds, seconds) - kDrainBounds.begin();
  state_.drains[static_cast<std::size_t>(bucket)]++;
  state_.drain_seconds += seconds;
  if (for_scrape) reader_seconds_ = reader_seconds_ + (ThreadSeconds() - cpu_begin);
  return state_;
}

void BpfEngine::ReadTallies(bool for_scrape) {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    if (layout_[i] == nullptr) continue;
    if (layout_[i]->wanted == KMEM_BPF_COLLECTOR_slab) {
      ReadSlab(i, for_scrape ? kScrapeAttempts : 1);
    } else {
      for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) ReadTally(i, cpu);
    }
  }
}

void BpfEngine::ReadTally(std::size_t collector, std::uint32_t cpu) {
  const std::byte* const from =
      reinterpret_cast<const std::byte*>(&Cpu(cpu)) + layout_[collector]->offset;
  const std::span<std::byte> to(state_.tallies[collector].At(cpu), layout_[collector]->bytes);
  const std::span<std::byte> scratch = std::span(scratch_).first(to.size());
  const bool independent = collectors_[collector]->independent_words();
  if (CopyBetweenEvents(Cpu(cpu), marks_of_[collector], from, scratch,
                        independent ? kNiceAttempts : kNeededAttempts)) {
    std::ranges::copy(scratch, to.begin());
  } else if (independent) {
    CopyWords(from, to);
  }  // else what was read last stands
}

// A CPU's totals and tables belong together if nothing happened while both were read. Where events
// come too fast for that, the totals are the older ones: what they leave for "other", which never
// falls again, is then too little until the next scrape, and never too much.
void BpfEngine::ReadSlab(std::size_t collector, int attempts) {
  Tallies& tallies = state_.tallies[collector];
  tallies.common.clear();
  tallies.taken_at_ns = state_.taken_at_ns;
  for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
    const std::size_t begin = tallies.common.size();
    for (int i = 0; i < attempts; ++i) {
      tallies.common.resize(begin);
      const auto before = FinishedEvents(Cpu(cpu), marks_of_[collector]);
      ReadTally(collector, cpu);
      AppendSlabTables(cpu, tallies.common);
      if (before && FinishedEvents(Cpu(cpu), marks_of_[collector]) == before) break;
    }
  }
  skeleton_->data->kmem_round++;
  if (live_ != nullptr) ReadLive(tallies);
}

void BpfEngine::AppendSlabTables(std::uint32_t number, std::vector<std::byte>& out) const {
  const kmem_bpf_cpu& cpu = Cpu(number);
  const auto is_there = [&](const auto& table) {
    return reinterpret_cast<const std::byte*>(&table) + sizeof table <=
           reinterpret_cast<const std::byte*>(&cpu) + cpu_bytes_;
  };
  const std::uint32_t first_table = number * KMEM_BPF_SITES_COUNT;
#define KMEM_BPF_READ(name)                                                                    \
  if (is_there(cpu.name##_sites)) {                                                            \
    AppendSites(cpu.name##_sites, (first_table + KMEM_BPF_SITES_##name) * KMEM_BPF_SITE_SLOTS, \
                out);                                                                          \
  }
  KMEM_BPF_SITE_TABLES(KMEM_BPF_READ)
#undef KMEM_BPF_READ
  const std::array caches{&cpu.caches_allocated, &cpu.caches_freed};
  auto cache_place = static_cast<std::uint32_t>(number * caches.size() * KMEM_BPF_CACHE_SLOTS);
  for (const kmem_bpf_caches* table : caches) {
    if (is_there(*table)) AppendCaches(table->slots, table->names, cache_place, out);
    cache_place += KMEM_BPF_CACHE_SLOTS;
  }
}

void BpfEngine::ReadLive(Tallies& tallies) {
  SlabLiveTotals dropped{};
  std::vector<std::span<const kmem_slot>> tables;
  for (std::uint32_t number = 0; number < cpus_; ++number) {
    const kmem_bpf_cpu& cpu = Cpu(number);
    for (const kmem_bpf_mark& mark : cpu.marks) {
      for (std::size_t i = 0; i < dropped.dropped.size(); ++i) {
        dropped.dropped.at(i) += LoadWord(mark.live_dropped[i]);
      }
    }
#define KMEM_BPF_ADD(name) tables.emplace_back(cpu.name##_live);
    KMEM_BPF_SITE_TABLES(KMEM_BPF_ADD)
#undef KMEM_BPF_ADD
  }
  live_->Read(state_.taken_at_ns, dropped, tables);
  live_->Append(tallies.common);
  skeleton_->bss->kmem_left_out_sites = live_->left_out();
}

void BpfEngine::ReadMarks() {
  std::uint64_t implausible = 0;
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    Route& route = routes_[i];
    if (route.program_fd < 0) continue;
    route.skipped = SkippedByKernel(route.program_fd).value_or(route.skipped);
    std::uint64_t skipped = route.skipped;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      const kmem_bpf_mark& mark = Cpu(cpu).marks[route.mark];
      state_.cpus[cpu].events[i] = LoadWord(mark.sequence) / 2;
      skipped += LoadWord(mark.skipped);
      implausible += LoadWord(mark.implausible);
    }
    state_.tracepoints[i].skipped = skipped;
  }
  state_.record_errors[static_cast<std::size_t>(RecordError::kImplausibleValue)] = implausible;
}

}  // namespace kmem
