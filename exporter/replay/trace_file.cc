#include "exporter/replay/trace_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "exporter/kernel_facts.h"
#include "exporter/replay/libtracecmd.h"
#include "exporter/replay/result_pipe.h"
#include "exporter/symbols.h"
#include "exporter/tracefs/dispatcher.h"
#include "exporter/tracefs/format.h"
#include "exporter/tracefs/page_walker.h"
#include "exporter/unique_fd.h"

namespace kmem {
namespace {

struct TraceHeader {
  bool big_endian = false;
  int long_size = 0;
  std::uint32_t page_size = 0;
  std::uint64_t sections_offset = 0;  // 0: a version without sections
};

// trace-cmd.dat(5): a magic, the version as a string, a byte each for endianness and the size of a
// long, four bytes for the page size.
TraceHeader ReadHeader(const std::string& path, const UniqueFd& file) {
  static constexpr std::string_view kMagic{"\x17\x08\x44tracing", 10};
  std::array<char, 256> bytes{};
  const ssize_t got = pread(file.get(), bytes.data(), bytes.size(), 0);
  if (got < 0) throw ReplayError(fmt::format("{}: {}", path, std::strerror(errno)));
  const std::string_view text(bytes.data(), static_cast<std::size_t>(got));
  if (text.empty()) throw ReplayError(fmt::format("{}: the file is empty", path));
  if (!text.starts_with(kMagic)) {
    throw ReplayError(
        fmt::format("{}: not a trace.dat; record one with trace-cmd record -e kmem", path));
  }
  const std::size_t version_end = text.find('\0', kMagic.size());
  if (version_end == std::string_view::npos || version_end + 7 > text.size()) {
    throw ReplayError(fmt::format("{}: truncated: its header is cut off", path));
  }
  TraceHeader header;
  header.big_endian = text[version_end + 1] != 0;
  header.long_size = static_cast<unsigned char>(text[version_end + 2]);
  std::memcpy(&header.page_size, text.data() + version_end + 3, sizeof header.page_size);
  if (text.substr(kMagic.size(), version_end - kMagic.size()) == "7") {
    // Two more strings, the compression and its version, and the offset of the options.
    const std::size_t name_end = text.find('\0', version_end + 7);
    const std::size_t all_end =
        name_end == std::string_view::npos ? name_end : text.find('\0', name_end + 1);
    if (all_end == std::string_view::npos) {
      throw ReplayError(fmt::format("{}: truncated: its header is cut off", path));
    }
    header.sections_offset = all_end + 1 + sizeof(std::uint64_t);
  }
  return header;
}

// A file of version 7 is a row of sections, each with its length, and the last one holds strings
// (trace-cmd.dat.v7(5)). libtracecmd does without that one, so its loss must be found here.
void CheckSections(const std::string& path, const UniqueFd& file, const TraceHeader& header) {
  static constexpr std::uint16_t kStrings = 15;
  if (header.sections_offset == 0) return;
  struct stat st {};
  fstat(file.get(), &st);
  const auto size = static_cast<std::uint64_t>(st.st_size);
  struct {
    std::uint16_t id;
    std::uint16_t flags;
    std::uint32_t description;
    std::uint64_t size;
  } section{};
  for (std::uint64_t at = header.sections_offset; at < size; at += sizeof section + section.size) {
    const ssize_t got = pread(file.get(), &section, sizeof section, static_cast<off_t>(at));
    if (got != sizeof section || section.size > size - at - sizeof section) {
      throw ReplayError(fmt::format("{}: truncated: its last section is cut off", path));
    }
  }
  if (section.id != kStrings) {
    throw ReplayError(fmt::format("{}: truncated: its last section is missing", path));
  }
}

void CheckArchitecture(const std::string& path, const TraceHeader& header) {
  if (header.big_endian || header.long_size != sizeof(long)) {
    throw ReplayError(fmt::format(
        "{}: recorded on a {}-bit {}-endian machine; only 64-bit little-endian traces are read",
        path, header.long_size * 8, header.big_endian ? "big" : "little"));
  }
  if (!std::has_single_bit(header.page_size) || header.page_size < 1024 ||
      header.page_size > (1U << 20)) {
    throw ReplayError(fmt::format("{}: corrupt: its page size is {}", path, header.page_size));
  }
}

// libtraceevent keeps a function's module to itself. On x86-64 the kernel's own lie here, wherever
// it was put, and the modules' above (Documentation/arch/x86/x86_64/mm.rst). On arm64 they lie
// anywhere below.
constexpr std::uint64_t kKernel = 0xFFFFFFFF80000000;
constexpr std::uint64_t kModules = 0xFFFFFFFFC0000000;

// Where one CPU's pages have been read to.
class Cursor {
 public:
  // On the CPU's first page. The file must outlive it.
  Cursor(tracecmd_input& file, int cpu, std::uint32_t page_size)
      : file_(file), cpu_(cpu), page_size_(page_size) {
    Next();
  }
  Cursor(const Cursor&) = delete;
  Cursor& operator=(const Cursor&) = delete;
  ~Cursor() {
    if (place_ != nullptr) kmem_trace_leave(place_);
  }

  [[nodiscard]] std::uint32_t cpu() const { return static_cast<std::uint32_t>(cpu_); }
  [[nodiscard]] const void* page() const { return page_; }  // nullptr behind the last
  // No event on this page or later ones is before it, by the trace's clock.
  [[nodiscard]] std::uint64_t time() const {
    std::uint64_t stamp = UINT64_MAX;
    if (page_ != nullptr) std::memcpy(&stamp, page_, sizeof stamp);
    return stamp;
  }
  void Next() { page_ = kmem_trace_next_page(&file_, cpu_, page_size_, &place_); }

 private:
  tracecmd_input& file_;
  int cpu_;
  std::uint32_t page_size_;
  tep_record* place_ = nullptr;
  const void* page_ = nullptr;
};

// What the walk over all pages needs.
struct Replay {
  Dispatcher& dispatcher;
  EventState& state;
  PageLayout layout;
  std::vector<std::byte> page;  // a copy, with kRecordSlack behind it
  std::uint64_t last_ns;        // the latest event's
};

void ReplayPage(Replay& replay, std::uint32_t cpu, const void* data) {
  const std::size_t size = replay.layout.subbuffer_size();
  std::memcpy(replay.page.data(), data, size);
  const PageResult result =
      replay.dispatcher.OnPage(cpu, std::span(replay.page).first(size), replay.layout);
  if (result.error == PageError::kNone) {
    replay.last_ns = std::max(replay.last_ns, result.end_ns);
  }
  if (result.events_lost) {
    replay.state.AddLoss(cpu, LossReason::kOverrun, std::max<std::uint64_t>(result.lost_count, 1));
    if (result.lost_count == 0) replay.state.Count(RecordError::kLossUncounted);
  }
}

// The oldest page first, so that little has to wait for the events of other CPUs.
void ReplayPages(Replay& replay, tracecmd_input& file, int cpus) {
  const auto page_size = static_cast<std::uint32_t>(replay.layout.subbuffer_size());
  std::vector<std::unique_ptr<Cursor>> cursors;
  cursors.reserve(static_cast<std::size_t>(cpus));
  for (int cpu = 0; cpu < cpus; ++cpu) {
    cursors.push_back(std::make_unique<Cursor>(file, cpu, page_size));
  }
  const auto oldest = [&]() -> Cursor& {
    return **std::ranges::min_element(
        cursors, {}, [](const auto& at) { return std::pair(at->page() == nullptr, at->time()); });
  };
  for (Cursor* at = &oldest(); at->page() != nullptr; at = &oldest()) {
    ReplayPage(replay, at->cpu(), at->page());
    at->Next();
    replay.dispatcher.SettleCommon(oldest().time(), replay.last_ns);
  }
  replay.dispatcher.SettleCommon(UINT64_MAX, replay.last_ns);
}

KernelFacts FactsOf(const Formats& formats, const TraceHeader& header, std::uint32_t cpus) {
  KernelFacts facts;
  facts.page_size = header.page_size;
  facts.migratetypes = CommonMigratetypes();
  formats.CompleteFacts(facts);
  for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) facts.online_cpus.push_back(cpu);
  return facts;
}

// Of those that are wanted.
bool HasEvents(const CpuCounts& cpu) {
  return std::ranges::any_of(cpu.events, [](std::uint64_t events) { return events != 0; });
}

// In the child.
TraceFileResult ReadPages(const std::string& path, const TraceHeader& header,
                          const TraceCollectors& collectors,
                          std::span<const std::string> extra_events) {
  const std::unique_ptr<tracecmd_input, void (*)(tracecmd_input*)> file(
      kmem_trace_open(path.c_str()), &kmem_trace_close);
  if (file == nullptr) {
    throw ReplayError(fmt::format("{}: truncated or corrupt: libtracecmd can't open it", path));
  }
  const Formats formats(*kmem_trace_formats(file.get()));
  const int cpus = kmem_trace_cpus(file.get());
  if (cpus <= 0 || cpus > 65536) {
    throw ReplayError(fmt::format("{}: corrupt: it tells of {} CPUs", path, cpus));
  }
  TraceFileResult result;
  result.facts = FactsOf(formats, header, static_cast<std::uint32_t>(cpus));
  Dispatcher dispatcher(collectors, result.facts, static_cast<std::uint32_t>(cpus), result.state);
  for (const std::string& event : WantedEvents(collectors, extra_events)) {
    if (!formats.Has(event)) {
      result.missing_events.push_back(event);
      continue;
    }
    try {
      dispatcher.Bind(event, formats);
    } catch (const FormatError& error) {
      throw ReplayError(fmt::format("{}: {}", path, error.what()));
    }
  }
  dispatcher.Ignore(formats.AllIds());

  PageLayout layout;
  layout.data_size = header.page_size - layout.data_offset;
  Replay replay{.dispatcher = dispatcher,
                .state = result.state,
                .layout = layout,
                .page = std::vector<std::byte>(header.page_size + kRecordSlack),
                .last_ns = 0};
  ReplayPages(replay, *file, cpus);
  if (!std::ranges::any_of(result.state.cpus, &HasEvents)) {
    throw ReplayError(
        fmt::format("{}: no events in it; record some with trace-cmd record -e kmem", path));
  }
  for (std::size_t i = 0; i < collectors.size(); ++i) {
    for (std::uint32_t cpu = 0; cpu < replay.state.cpus.size(); ++cpu) {
      collectors[i]->Settle(result.state.tallies[i].At(cpu), UINT64_MAX);
    }
  }
  dispatcher.ReadCommon(0);
  for (std::size_t i = 0; i < collectors.size(); ++i) {
    for (const std::uint64_t address : collectors[i]->Addresses(result.state.tallies[i].common)) {
      std::string function = formats.Function(address);
      if (function.empty()) continue;
      const bool in_kernel = address >= kKernel && address < kModules;
      result.symbols[address] = {std::move(function), in_kernel ? "kernel" : "unknown"};
    }
  }
  return result;
}

// A file that makes libtracecmd loop is ended by the kernel; an honest one takes a second a GiB.
void LimitCpuTime(const UniqueFd& file) {
  struct stat st {};
  fstat(file.get(), &st);
  const rlim_t seconds = 5 + static_cast<rlim_t>(st.st_size >> 27);
  const rlimit limit{.rlim_cur = seconds, .rlim_max = seconds};
  setrlimit(RLIMIT_CPU, &limit);
  const rlimit no_core{.rlim_cur = 0, .rlim_max = 0};
  setrlimit(RLIMIT_CORE, &no_core);
}

// What libtracecmd prints on its way is not wanted: the parent says it in one line.
void SilenceStandardError() {
  const UniqueFd null(open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (null.valid()) dup2(null.get(), STDERR_FILENO);
}

UniqueFd OpenTrace(const std::string& path) {
  // Not to wait for a writer if it is a FIFO.
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) throw ReplayError(fmt::format("{}: {}", path, std::strerror(errno)));
  struct stat st {};
  if (fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
    throw ReplayError(fmt::format("{}: not a regular file", path));
  }
  return file;
}

}  // namespace

TraceFileResult ReadTraceFile(const std::string& path, const TraceCollectors& collectors,
                              std::span<const std::string> extra_events) {
  const UniqueFd file = OpenTrace(path);
  const TraceHeader header = ReadHeader(path, file);
  CheckArchitecture(path, header);
  CheckSections(path, file, header);

  ResultPipe result_pipe;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) throw ReplayError(fmt::format("fork: {}", std::strerror(errno)));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // who waits for the result may be ended by a signal
    if (getppid() != parent) _exit(0);
    LimitCpuTime(file);
    SilenceStandardError();
    try {
      result_pipe.Send(ReadPages(path, header, collectors, extra_events));
    } catch (const std::exception& error) {
      result_pipe.SendError(error.what());
    }
    _exit(0);
  }
  ResultPipe::Received received = result_pipe.Receive();
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!received.error.empty()) throw ReplayError(received.error);
  if (!received.result || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw ReplayError(
        fmt::format("{}: truncated or corrupt: reading it failed{}", path,
                    WIFSIGNALED(status) ? fmt::format(" ({})", strsignal(WTERMSIG(status))) : ""));
  }
  received.result->facts.symbols = std::make_shared<SymbolList>(received.result->symbols);
  return std::move(*received.result);
}

}  // namespace kmem
