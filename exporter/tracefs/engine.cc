#include "exporter/tracefs/engine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <span>

#include "exporter/clocks.h"
#include "exporter/kernel_facts.h"
#include "exporter/symbols.h"

namespace kmem {
namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kLookIntervalNs = 1'000 * kNsPerMs;
constexpr std::chrono::milliseconds kSnapshotDeadline{5};
// For a state that must be of now: the drain thread may have to wait for a CPU.
constexpr std::chrono::milliseconds kPatientDeadline{500};
constexpr int kPatientAttempts = 60;
// The drain is to come before a CPU's buffer is fuller than this at the pace of the last one.
constexpr double kFillTarget = 0.25;
// After so many wake-ups in a row by buffers that held next to nothing, poll() is not trusted any
// more (before 6.9 its wake-ups are unreliable) and only the timer wakes the drain thread.
constexpr int kMaxSpuriousWakeups = 10;
constexpr std::uint32_t kSmallestBufferKb = 64;
// buffer_subbuf_size_write() in kernel/trace/trace.c, 6.8 to 6.18.
constexpr std::uint32_t kMostPagesOfASubbuffer = 128;
// An event whose time was taken before a drain began is in the buffer by so much later.
constexpr std::uint64_t kInFlightNs = 20'000;

// Two descriptors per possible CPU are held open.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

TracefsEngine::TracefsEngine(const Config& config, const TraceCollectors& collectors,
                             const ProcReader& proc, std::string reason)
    : collectors_(collectors),
      reason_(std::move(reason)),
      instance_(config.paths.tracefs, config.tracefs.instance),
      longest_sleep_ms_(static_cast<int>(config.tracefs.drain_interval_ms)),
      sleep_ms_(longest_sleep_ms_),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  RaiseDescriptorLimit();
  facts_ = ReadKernelFacts(proc);  // dear: not before it is known that there is an instance
  facts_.cpu_nodes = ReadCpuNodes(kNodeDirectory);
  try {
    layout_ = ParseHeaderPage(instance_.HeaderPage());
    // Losing the newest costs the traced CPU less than making room for it, and the kernel counts
    // what it drops.
    instance_.WriteSetting("options/overwrite", "0");
    instance_.WriteSetting("trace_clock", "mono");
    SizeBuffers(config.tracefs);

    Formats formats;
    const std::vector<std::string> wanted = WantedEvents(collectors, config.extra_events);
    AddFormats(formats, wanted);
    formats.CompleteFacts(facts_);
    facts_.symbols = ReadSymbols(collectors, proc);

    const std::vector<std::uint32_t> cpus = instance_.Cpus();
    dispatcher_.emplace(collectors, facts_, cpus.empty() ? 0 : cpus.back() + 1, state_);
    for (const std::string& event : wanted) {
      if (std::ranges::count(missing_events_, event) != 0) continue;
      try {
        dispatcher_->Bind(event, formats);
      } catch (const FormatError& error) {
        spdlog::error("tracepoint not used: {}", error.what());
      }
    }
    OpenReaders();
    instance_.WriteSetting("tracing_on", "1");
    watch_.emplace(instance_, EnableEvents());
    const std::size_t tracepoints = state_.tracepoints.size();
    read_events_ = std::vector<std::atomic<std::uint64_t>>(tracepoints);
    failed_ = std::vector<std::atomic<bool>>(tracepoints);
    stuck_.resize(tracepoints);
    for (std::size_t i = 0; i < tracepoints; ++i) {
      open_.push_back(state_.tracepoints[i].enabled);
      failed_[i] = !open_[i];
    }
    wishes_ = std::vector<std::atomic<Wish>>(tracepoints);
    state_.buffer_bytes = watch_->BufferBytes();
  } catch (const FormatError& error) {
    throw TracingError(TracingProblem::kFailed, fmt::format("tracefs: {}", error.what()));
  }
  // Once at its largest, so that publishing never has to allocate.
  for (Tallies& tallies : state_.tallies) tallies.common.resize(tallies.common.capacity());
  exchange_.Publish(state_, 0);
  for (Tallies& tallies : state_.tallies) tallies.common.clear();
  exchange_.Publish(state_, 0);
  thread_ = std::thread(&TracefsEngine::Run, this);
}

TracefsEngine::~TracefsEngine() {
  stopping_ = true;
  Wake();
  thread_.join();
}

void TracefsEngine::SizeBuffers(const TracefsConfig& config) {
  const long online = std::max(1L, sysconf(_SC_NPROCESSORS_ONLN));
  std::uint32_t per_cpu_kb =
      std::clamp(config.buffer_total_max_kb / static_cast<std::uint32_t>(online), kSmallestBufferKb,
                 std::max(kSmallestBufferKb, config.buffer_size_kb));
  subbuffer_size_ = layout_.subbuffer_size();
  if (instance_.HasSetting("buffer_subbuf_size_kb")) {
    // At least eight sub-buffers, or one that is half read wastes too much of the buffer.
    const auto page_kb = static_cast<std::uint32_t>(sysconf(_SC_PAGESIZE) / 1024);
    const std::uint32_t kb = std::bit_floor(std::max(
        subbuffer_size_ / 1024,
        std::min({config.subbuffer_size_kb, per_cpu_kb / 8, kMostPagesOfASubbuffer * page_kb})));
    // Small first: changing the sub-buffers' size allocates a second buffer of the same size.
    instance_.WriteSetting("buffer_size_kb", std::to_string(kSmallestBufferKb));
    instance_.WriteSetting("buffer_subbuf_size_kb", std::to_string(kb));
    subbuffer_size_ = kb * 1024;
    layout_.data_size = subbuffer_size_ - layout_.data_offset;
  }
  for (;; per_cpu_kb /= 2) {
    try {
      instance_.WriteSetting("buffer_size_kb", std::to_string(per_cpu_kb));
      break;
    } catch (const TracingError& error) {
      if (per_cpu_kb / 2 < kSmallestBufferKb) throw;
      spdlog::warn("buffer of {} KiB per CPU refused, trying half: {}", per_cpu_kb, error.what());
    }
  }
  buffer_bytes_per_cpu_ = std::uint64_t{per_cpu_kb} * 1024;
  subbuffer_.resize(subbuffer_size_ + kRecordSlack);
  if (instance_.HasSetting("buffer_percent")) {
    instance_.WriteSetting("buffer_percent", std::to_string(static_cast<int>(kFillTarget * 100)));
  }
}

void TracefsEngine::AddFormats(Formats& formats, const std::vector<std::string>& wanted) {
  for (const std::string& event : wanted) {
    if (!instance_.HasEvent(event)) {
      missing_events_.push_back(event);
      continue;
    }
    try {
      formats.Add(event, instance_.EventFormat(event));
    } catch (const FormatError&) {  // binding it will say so
    }
  }
}

std::vector<std::string> TracefsEngine::EnableEvents() {
  std::vector<std::string> enabled;
  for (TracepointState& tracepoint : state_.tracepoints) {
    if (!tracepoint.enabled) continue;
    try {
      instance_.EnableEvent(tracepoint.name);
      enabled.push_back(tracepoint.name);
    } catch (const TracingError& error) {
      tracepoint.enabled = false;
      spdlog::error("tracepoint not used: {}", error.what());
    }
  }
  return enabled;
}

void TracefsEngine::OpenReaders() {
  poll_fds_.push_back({wake_.get(), POLLIN, 0});
  for (const std::uint32_t cpu : instance_.Cpus()) {
    try {
      readers_.emplace_back(instance_, cpu);
      poll_fds_.push_back({readers_.back().raw_fd(), POLLIN, 0});
    } catch (const TracingError& error) {
      spdlog::error("CPU {} is not traced: {}", cpu, error.what());
      state_.Count(RecordError::kReadFailed);
    }
  }
  if (readers_.empty()) {
    throw TracingError(TracingProblem::kFailed, "tracefs: no CPU's buffer can be read");
  }
}

EventState TracefsEngine::Snapshot() {
  return exchange_.Take(kSnapshotDeadline, [this] { Wake(); });
}

TraceLoad TracefsEngine::ReadLoad() {
  TraceLoad load;
  for (const auto& events : read_events_) load.events.push_back(events.load());
  load.outside = read_outside_;
  load.lost = known_lost_;
  clockid_t clock{};
  if (pthread_getcpuclockid(thread_.native_handle(), &clock) == 0) {
    load.reader_seconds = CpuSeconds(clock);
  }
  return load;
}

EventState TracefsEngine::Open(std::span<const std::size_t> tracepoints) {
  // Nothing of these tracepoints is counted from here on until the gates are moved.
  EventState state = StateOfNow();
  const std::uint64_t begin_ns = MonotonicNs();
  {
    const std::scoped_lock lock(watch_mutex_);
    for (const std::size_t tracepoint : tracepoints) {
      try {
        instance_.EnableEvent(state_.tracepoints[tracepoint].name);
        open_[tracepoint] = true;
        failed_[tracepoint] = false;
      } catch (const TracingError& error) {
        if (!failed_[tracepoint].exchange(true)) {
          spdlog::error("tracepoint not used: {}", error.what());
        }
      }
    }
    ExpectOpenEvents();
  }
  AwaitCatchUp(begin_ns);
  state.taken_at_ns = MoveGates(tracepoints, Wish::kOpen);
  return state;
}

EventState TracefsEngine::Close(std::span<const std::size_t> tracepoints) {
  const std::uint64_t edge_ns = MoveGates(tracepoints, Wish::kClose);
  {
    const std::scoped_lock lock(watch_mutex_);
    for (const std::size_t tracepoint : tracepoints) {
      open_[tracepoint] = false;
      try {
        instance_.DisableEvent(state_.tracepoints[tracepoint].name);
      } catch (const TracingError& error) {
        if (!stuck_[tracepoint]) spdlog::error("tracepoint can't be left out: {}", error.what());
        stuck_[tracepoint] = true;
      }
    }
    ExpectOpenEvents();
  }
  EventState state = StateOfNow();
  state.taken_at_ns = edge_ns;
  return state;
}

std::uint64_t TracefsEngine::MoveGates(std::span<const std::size_t> tracepoints, Wish wish) {
  const std::uint64_t before_ns = edge_ns_;
  for (const std::size_t tracepoint : tracepoints) wishes_[tracepoint] = wish;
  any_wish_ = true;
  Wake();
  edge_ns_.wait(before_ns);
  return edge_ns_;
}

EventState TracefsEngine::StateOfNow() {
  const std::uint64_t asked_ns = MonotonicNs();
  EventState state;
  for (int i = 0; i < kPatientAttempts && state.taken_at_ns < asked_ns; ++i) {
    state = exchange_.Take(kPatientDeadline, [this] { Wake(); });
  }
  return state;
}

void TracefsEngine::ExpectOpenEvents() {
  std::vector<std::string> events;
  for (std::size_t i = 0; i < open_.size(); ++i) {
    if (open_[i]) events.push_back(state_.tracepoints[i].name);
  }
  watch_->Expect(std::move(events));
}

void TracefsEngine::Wake() const {
  const std::uint64_t one = 1;
  // Fails only where the counter is full: then a wake-up is pending anyway.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof one);
}

void TracefsEngine::Run() {
  last_drain_ns_ = last_look_ns_ = MonotonicNs();
  while (!stopping_) {
    Wait();
    Drain();
  }
  instance_.DisableAllEvents();
  Drain();
  readers_.clear();
  watch_.reset();
}

void TracefsEngine::Wait() {
  const bool trust_poll = spurious_wakeups_ < kMaxSpuriousWakeups;
  woken_by_buffer_ = false;
  const int woken = poll(poll_fds_.data(), trust_poll ? poll_fds_.size() : 1, sleep_ms_);
  if (woken <= 0) return;
  if ((poll_fds_[0].revents & POLLIN) != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
    return;
  }
  for (pollfd& buffer : std::span(poll_fds_).subspan(1)) {
    if ((buffer.revents & POLLIN) != 0) {
      woken_by_buffer_ = true;
    } else if (buffer.revents != 0) {
      // POLLERR: a CPU that has never been online has no buffer yet. Left out until the next look.
      buffer.fd = -1;
    }
  }
}

void TracefsEngine::Drain() {
  const std::uint64_t request = exchange_.NewestRequest();
  const std::uint64_t begin = MonotonicNs();
  fullest_bytes_ = 0;
  MoveGates(begin);
  for (CpuReader& reader : readers_) DrainCpu(reader);
  dispatcher_->SettleCommon(begin - kInFlightNs, begin);
  // Not once it is we who have disabled the events.
  const bool look = !stopping_ && begin - last_look_ns_ >= kLookIntervalNs;
  if (look) LookAfterInstance();
  if (look || request != served_request_ || stopping_) {
    CountLosses();
    Publish(request, begin);
  }
  const std::uint64_t end = MonotonicNs();
  PublishLoad();
  const double seconds = static_cast<double>(end - begin) * 1e-9;
  const auto bucket = std::ranges::lower_bound(kDrainBounds, seconds) - kDrainBounds.begin();
  state_.drains[static_cast<std::size_t>(bucket)]++;
  state_.drain_seconds += seconds;
  PlanNextDrain(end);
}

void TracefsEngine::DrainCpu(CpuReader& reader) {
  // What the buffer held when we came, and no more: a busy CPU must not keep us from the others.
  std::uint64_t rounds = buffer_bytes_per_cpu_ / subbuffer_size_ + 2;
  std::uint64_t bytes = 0;
  const std::span<std::byte> subbuffer(subbuffer_.data(), subbuffer_size_);
  for (; rounds > 0; --rounds) {
    const std::ptrdiff_t got = reader.Read(subbuffer);
    if (got == 0) break;
    if (got < 0) {
      if (state_.record_errors[static_cast<std::size_t>(RecordError::kReadFailed)] == 0) {
        spdlog::error("CPU {}: its buffer can't be read: {}", reader.cpu(), std::strerror(errno));
      }
      state_.Count(RecordError::kReadFailed);
      break;
    }
    const PageResult result =
        dispatcher_->OnPage(reader.cpu(), subbuffer.first(static_cast<std::size_t>(got)), layout_);
    reader.AddRecords(result.records);
    bytes += result.data_length;
  }
  fullest_bytes_ = std::max(fullest_bytes_, bytes);
}

void TracefsEngine::MoveGates(std::uint64_t now_ns) {
  // All wishes at once, so that all gates have the same edge.
  if (!any_wish_.exchange(false)) return;
  for (std::size_t i = 0; i < wishes_.size(); ++i) {
    const Wish wish = wishes_[i].exchange(Wish::kNone);
    if (wish == Wish::kNone) continue;
    Gate& gate = dispatcher_->GateOf(i);
    if (wish == Wish::kClose) {
      gate.until_ns = now_ns;
    } else {
      gate = {.from_ns = now_ns, .until_ns = UINT64_MAX};
      dispatcher_->Resume(i);
    }
  }
  edge_ns_ = now_ns;
  edge_ns_.notify_all();
}

void TracefsEngine::PublishLoad() {
  for (std::size_t i = 0; i < read_events_.size(); ++i) {
    std::uint64_t sum = 0;
    for (const CpuCounts& cpu : state_.cpus) sum += cpu.events[i];
    read_events_[i].store(sum, std::memory_order_relaxed);
  }
  read_outside_.store(dispatcher_->outside(), std::memory_order_relaxed);
}

void TracefsEngine::LookAfterInstance() {
  last_look_ns_ = MonotonicNs();
  const std::unique_lock lock(watch_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;  // events are just being enabled; the next look comes soon
  for (std::size_t i = 0; i < readers_.size(); ++i) poll_fds_[i + 1].fd = readers_[i].raw_fd();
  const Watch::Finding finding = watch_->Look();
  for (std::size_t kind = 0; kind < finding.found.size(); ++kind) {
    if (finding.found[kind]) state_.Count(static_cast<Interference>(kind));
  }
  // Also what waits with the time of another clock, which may never come.
  if (std::ranges::find(finding.found, true) != finding.found.end()) dispatcher_->Forget();
  bool cleared = false;
  for (CpuReader& reader : readers_) {
    if (finding.buffer_reset) {
      reader.ForgetStats();
    } else {
      cleared |= reader.ForgetStatsIfReset();
    }
  }
  if (cleared) {
    state_.Count(Interference::kCleared);
    spdlog::warn(
        "somebody cleared our tracefs instance's buffer; the events in it were not counted");
  }
  state_.buffer_bytes = watch_->BufferBytes();
}

void TracefsEngine::CountLosses() {
  for (CpuReader& reader : readers_) {
    const auto lost = reader.NewLosses();
    for (std::size_t i = 0; i < lost.size(); ++i) {
      state_.AddLoss(reader.cpu(), static_cast<LossReason>(i), lost[i]);
      if (static_cast<LossReason>(i) != LossReason::kTaken) {
        known_lost_.fetch_add(lost[i], std::memory_order_relaxed);
      } else if (lost[i] != 0 && !std::exchange(told_of_taken_, true)) {  // tracing less saves none
        spdlog::warn(
            "somebody else reads events out of our tracefs instance: they are not counted");
      }
    }
  }
}

void TracefsEngine::Publish(std::uint64_t request, std::uint64_t drained_up_to_ns) {
  for (std::size_t i = 0; i < collectors_.size(); ++i) {
    for (std::uint32_t cpu = 0; cpu < state_.tallies[i].cpus(); ++cpu) {
      collectors_[i]->Settle(state_.tallies[i].At(cpu), drained_up_to_ns);
    }
  }
  for (std::size_t i = 0; i < failed_.size(); ++i) state_.tracepoints[i].enabled = !failed_[i];
  state_.taken_at_ns = drained_up_to_ns;
  dispatcher_->ReadCommon(drained_up_to_ns);
  if (exchange_.Publish(state_, request)) served_request_ = request;
}

void TracefsEngine::PlanNextDrain(std::uint64_t now_ns) {
  const double elapsed_ms =
      static_cast<double>(now_ns - std::exchange(last_drain_ns_, now_ns)) / kNsPerMs;
  const double fill =
      static_cast<double>(fullest_bytes_) / static_cast<double>(buffer_bytes_per_cpu_);
  if (woken_by_buffer_) {
    spurious_wakeups_ = fill > kFillTarget / 4 ? 0 : spurious_wakeups_ + 1;
  }
  double sleep_ms = longest_sleep_ms_;
  if (fill > 0) sleep_ms = std::min(sleep_ms, elapsed_ms * kFillTarget / fill);
  sleep_ms_ = std::max(1, static_cast<int>(sleep_ms));
  // Somebody was copying when we wanted to publish.
  if (exchange_.NewestRequest() != served_request_) sleep_ms_ = 1;
}

}  // namespace kmem
