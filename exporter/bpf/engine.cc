#include "exporter/bpf/engine.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "exporter/bpf/prototypes.h"
#include "exporter/bpf/state_reader.h"
#include "exporter/kernel_facts.h"
#include "exporter/read_file.h"
#include "exporter/tracefs/engine.h"
#include "exporter/tracefs/format.h"
#include "kmem_bpf.skel.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxTextBytes = 64 << 10;
constexpr std::size_t kMaxComplaintBytes = 1 << 20;
// The programs of this collector's tracepoint do not see all of it: change_ownership is computed
// when the record is written, and no argument.
constexpr std::string_view kCompanionCollector = "extfrag";
// Its events are rare.
constexpr std::uint32_t kCompanionBufferKb = 128;
constexpr std::uint32_t kCompanionSleepMs = 1000;
// An event whose time was taken before a scrape's is in the state by so much later.
constexpr std::uint64_t kInFlightNs = 20'000;

// For a copy between two events, where any other is good too and where none is.
constexpr int kNiceAttempts = 4;
constexpr int kNeededAttempts = 64;

std::uint64_t MonotonicNs() {  // the clock of bpf_ktime_get_ns()
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

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

// What libbpf says while something is done; it has one printer for the whole process, and only the
// main thread loads.
class Complaints {
 public:
  Complaints() { libbpf_set_print(&Print); }
  Complaints(const Complaints&) = delete;
  Complaints& operator=(const Complaints&) = delete;
  ~Complaints() {
    libbpf_set_print(nullptr);
    Forget();
  }

  static void Forget() { Text().clear(); }

  // The verifier's verdict, or libbpf's first word on it.
  [[nodiscard]] static std::string Essence() {
    std::string_view verdict;
    std::string_view first;
    for (std::string_view rest = Text(); !rest.empty();) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (line.starts_with("processed ") && !verdict.empty()) return std::string(verdict);
      if (line.starts_with("libbpf: ") && first.empty()) first = line.substr(8);
      if (!line.empty()) verdict = line;
    }
    return std::string(first);
  }

 private:
  static std::string& Text() {
    static std::string text;
    return text;
  }
  // NOLINTNEXTLINE(cert-dcl50-cpp): libbpf's type
  static int Print(libbpf_print_level level, const char* format, va_list arguments) {
    if (level == LIBBPF_DEBUG || Text().size() > kMaxComplaintBytes) return 0;
    char* line = nullptr;
    const int length = vasprintf(&line, format, arguments);
    if (length > 0) Text().append(line, static_cast<std::size_t>(length));
    if (length >= 0) free(line);  // NOLINT(cppcoreguidelines-no-malloc): vasprintf's
    return length;
  }
};

// Events for which the kernel did not run the program, because they interrupted it.
std::optional<std::uint64_t> SkippedByKernel(int program_fd) {
  bpf_prog_info info{};
  std::uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(program_fd, &info, &length) != 0) return std::nullopt;
  return info.recursion_misses;
}

[[noreturn]] void Fail(int error, std::string_view operation) {
  throw DescribeBpfFailure(error, operation, ReadText("/sys/kernel/security/lockdown"),
                           Complaints::Essence());
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

TracingError DescribeBpfFailure(int error, std::string_view operation, std::string_view lockdown,
                                std::string_view detail) {
  const std::string what = fmt::format("bpf: {}: {}{}{}", operation, std::strerror(error),
                                       detail.empty() ? "" : ": ", detail);
  if (lockdown.find("[confidentiality]") != std::string_view::npos) {
    return {TracingProblem::kLockedDown,
            what +
                "; the kernel's lockdown (confidentiality) forbids it; boot with "
                "lockdown=integrity or none"};
  }
  if (error == ENOSYS) {
    return {TracingProblem::kAbsent, what + "; this kernel was built without CONFIG_BPF_SYSCALL"};
  }
  if (error != EPERM) return {TracingProblem::kFailed, what};
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const std::string memlock =
      limit.rlim_cur == RLIM_INFINITY
          ? ""
          : fmt::format("; kernels before 5.11 also want RLIMIT_MEMLOCK raised, it is {} KiB",
                        limit.rlim_cur / 1024);
  return {TracingProblem::kNotPermitted,
          fmt::format("{}; needs CAP_BPF and CAP_PERFMON, and a seccomp profile that lets bpf(2) "
                      "pass{}",
                      what, memlock)};
}

BpfEngine::BpfEngine(const Config& config, const TraceCollectors& collectors,
                     const ProcReader& proc, std::string reason)
    : collectors_(collectors),
      reason_(std::move(reason)),
      facts_(ReadKernelFacts(proc)),
      cpus_(PossibleCpus()),
      skeleton_(nullptr, &kmem_bpf__destroy) {
  const Complaints complaints;
  const auto kernel = LoadKernelBtf();
  for (const auto& collector : collectors) {
    const auto part = std::ranges::find(kBpfTallies, collector->name(), &BpfTally::collector);
    layout_.push_back(part == kBpfTallies.end() ? nullptr : &*part);
  }
  StartCompanion(config, proc, *kernel);
  ChoosePrograms(*kernel, WantedEvents(collectors, config.extra_events));
  CompleteFacts(*kernel, config.paths.tracefs);
  Load();
  MapStates();
  Attach();
}

BpfEngine::~BpfEngine() {
  links_.clear();
  if (states_ != nullptr) munmap(states_, states_bytes_);
}

void BpfEngine::StartCompanion(const Config& config, const ProcReader& proc, const btf& kernel) {
  const auto at = std::ranges::find(collectors_, kCompanionCollector,
                                    [](const auto& collector) { return collector->name(); });
  if (at == collectors_.end()) return;
  const bool fires = std::ranges::any_of((*at)->events(), [&](const EventSpec& event) {
    return TracepointPrototype(kernel, event.name).has_value();
  });
  if (!fires) return;
  companion_collector_ = static_cast<std::size_t>(at - collectors_.begin());
  Config small = config;
  small.extra_events.clear();
  small.tracefs.buffer_size_kb = std::min(small.tracefs.buffer_size_kb, kCompanionBufferKb);
  small.tracefs.drain_interval_ms = std::max(small.tracefs.drain_interval_ms, kCompanionSleepMs);
  small.collectors = CollectorsConfig{
      .slab = false, .page = false, .pcp = false, .fragmentation = false, .compaction = false};
  companion_collectors_ = MakeTraceCollectors(small.collectors);
  try {
    companion_ = std::make_unique<TracefsEngine>(small, companion_collectors_, proc, reason_);
    layout_[companion_collector_] = nullptr;
  } catch (const TracingError& error) {
    facts_.change_ownership_told = false;
    spdlog::info("{}: change_ownership is unknown, because it needs tracefs: {}",
                 kCompanionCollector, error.what());
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
    const bool has_record =
        companion_ != nullptr && std::ranges::count(companion_collectors_.front()->events(),
                                                    tracepoint, &EventSpec::name) != 0;
    if (has_record) {
      // No program: it is counted where its record is read.
    } else if (known != kBpfTracepoints.end()) {
      route.mark = static_cast<std::size_t>(known - kBpfTracepoints.begin());
      route.programs = ProgramsFor(tracepoint, *prototype);
      if (route.programs.empty()) {
        spdlog::error(
            "tracepoint not used: {}: this kernel passes other arguments than are known: "
            "{}",
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

void BpfEngine::CompleteFacts(const btf& kernel, const std::string& tracefs) {
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

void BpfEngine::Load() {
  std::size_t choices = 1;
  for (const Route& route : routes_) choices = std::max(choices, route.programs.size());
  int error = 0;
  for (std::size_t choice = 0; choice < choices; ++choice) {
    if (TryToLoad(choice, error)) return;
  }
  Fail(error, "loading the programs");
}

bool BpfEngine::TryToLoad(std::size_t choice, int& error) {
  Complaints::Forget();
  skeleton_.reset(kmem_bpf__open());
  if (skeleton_ == nullptr) Fail(errno, "opening the programs");
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton_->obj) bpf_program__set_autoload(program, false);
  for (Route& route : routes_) {
    if (route.programs.empty()) continue;
    const std::string& name = route.programs[std::min(choice, route.programs.size() - 1)];
    route.program = bpf_object__find_program_by_name(skeleton_->obj, name.c_str());
    bpf_program__set_autoload(route.program, true);
  }
  for (const BpfTally* part : layout_) {
    if (part != nullptr) skeleton_->rodata->kmem_wanted[part->wanted] = true;
  }
  bpf_map__set_max_entries(skeleton_->maps.kmem_cpus, cpus_);
  error = -kmem_bpf__load(skeleton_.get());
  return error == 0;
}

void BpfEngine::MapStates() {
  // As the kernel rounds it: array_map_mmap() and bpf_array_alloc_size(), kernel/bpf/arraymap.c.
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  states_bytes_ = (cpus_ * sizeof(kmem_bpf_cpu) + page - 1) / page * page;
  void* const states = mmap(nullptr, states_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED,
                            bpf_map__fd(skeleton_->maps.kmem_cpus), 0);
  if (states == MAP_FAILED) Fail(errno, "mapping the programs' state");
  states_ = static_cast<std::byte*>(states);
  state_.buffer_bytes = states_bytes_;
  state_.cpus.resize(cpus_);
  for (CpuCounts& cpu : state_.cpus) cpu.events.resize(routes_.size());
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    state_.tallies.emplace_back(collectors_[i]->tally_bytes(), cpus_);
    scratch_.resize(std::max(scratch_.size(), collectors_[i]->tally_bytes()));
    if (layout_[i] == nullptr) continue;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      std::byte* const tally = reinterpret_cast<std::byte*>(&Cpu(cpu)) + layout_[i]->offset;
      collectors_[i]->Init(tally, facts_);
    }
  }
  mprotect(states_, states_bytes_, PROT_READ);  // from now on the kernel's alone
}

void BpfEngine::Attach() {
  int error = 0;
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    Route& route = routes_[i];
    if (route.program == nullptr) continue;
    // By its type: a BTF tracepoint's program already knows its target.
    const bool raw = bpf_program__type(route.program) == BPF_PROG_TYPE_RAW_TRACEPOINT;
    bpf_link* const link =
        raw ? bpf_program__attach_raw_tracepoint(route.program, route.tracepoint.c_str())
            : bpf_program__attach_trace(route.program);
    if (link == nullptr) {
      error = errno;
      state_.tracepoints[i].enabled = false;
      spdlog::error("tracepoint not used: {}: its program can't be attached: {}", route.tracepoint,
                    std::strerror(error));
      continue;
    }
    links_.emplace_back(link, [](bpf_link* old) { bpf_link__destroy(old); });
    route.program_fd = bpf_program__fd(route.program);
  }
  if (links_.empty() && companion_ == nullptr) {
    if (error != 0) Fail(error, "attaching the programs");
    throw TracingError(TracingProblem::kFailed, "bpf: no tracepoint can be used (see the log)");
  }
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    std::vector<std::size_t> marks;
    for (const Route& route : routes_) {
      const bool writes =
          std::ranges::count(collectors_[i]->events(), route.tracepoint, &EventSpec::name) != 0;
      if (writes && route.program_fd >= 0) marks.push_back(route.mark);
    }
    marks_of_.push_back(std::move(marks));
  }
}

kmem_bpf_cpu& BpfEngine::Cpu(std::uint32_t cpu) const {
  return reinterpret_cast<kmem_bpf_cpu*>(states_)[cpu];
}

EventState BpfEngine::Snapshot() {
  const std::scoped_lock lock(mutex_);
  const std::uint64_t begin = MonotonicNs();
  ReadTallies();
  ReadMarks();
  state_.taken_at_ns = begin;
  const double seconds = static_cast<double>(MonotonicNs() - begin) * 1e-9;
  const auto bucket = std::ranges::lower_bound(kDrainBounds, seconds) - kDrainBounds.begin();
  state_.drains[static_cast<std::size_t>(bucket)]++;
  state_.drain_seconds += seconds;

  EventState out = state_;
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      collectors_[i]->Settle(out.tallies[i].At(cpu), begin - kInFlightNs);
    }
  }
  if (companion_ != nullptr) AddCompanion(out);
  return out;
}

void BpfEngine::ReadTallies() {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    if (layout_[i] == nullptr) continue;
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      const std::byte* const from =
          reinterpret_cast<const std::byte*>(&Cpu(cpu)) + layout_[i]->offset;
      const std::span<std::byte> to(state_.tallies[i].At(cpu), layout_[i]->bytes);
      const std::span<std::byte> scratch = std::span(scratch_).first(to.size());
      const bool independent = collectors_[i]->independent_words();
      if (CopyBetweenEvents(Cpu(cpu), marks_of_[i], from, scratch,
                            independent ? kNiceAttempts : kNeededAttempts)) {
        std::ranges::copy(scratch, to.begin());
      } else if (independent) {
        CopyWords(from, to);
      }  // else what was read last stands
    }
  }
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

void BpfEngine::AddCompanion(EventState& out) {
  EventState other = companion_->Snapshot();
  out.tallies[companion_collector_] = std::move(other.tallies.front());
  out.cpus.resize(std::max(out.cpus.size(), other.cpus.size()),
                  {.events = std::vector<std::uint64_t>(routes_.size())});
  for (std::size_t i = 0; i < other.tracepoints.size(); ++i) {
    const auto mine =
        std::ranges::find(out.tracepoints, other.tracepoints[i].name, &TracepointState::name);
    if (mine == out.tracepoints.end()) continue;
    mine->enabled = other.tracepoints[i].enabled;
    for (std::uint32_t cpu = 0; cpu < other.cpus.size(); ++cpu) {
      out.cpus[cpu].events[static_cast<std::size_t>(mine - out.tracepoints.begin())] =
          other.cpus[cpu].events[i];
    }
  }
  for (std::uint32_t cpu = 0; cpu < other.cpus.size(); ++cpu)
    out.cpus[cpu].lost = other.cpus[cpu].lost;
  for (std::size_t i = 0; i < out.record_errors.size(); ++i)
    out.record_errors[i] += other.record_errors[i];
  out.interference = other.interference;
  out.buffer_bytes += other.buffer_bytes;
}

}  // namespace kmem
