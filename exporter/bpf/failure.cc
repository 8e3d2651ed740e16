#include "exporter/bpf/failure.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "exporter/read_file.h"

namespace kmem {
namespace {

constexpr std::size_t kMaxLogBytes = 1 << 20;

std::string& LogText() {
  static std::string text;
  return text;
}

int Append(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG || LogText().size() > kMaxLogBytes) return 0;
  char* line = nullptr;
  const int length = vasprintf(&line, format, arguments);
  if (length < 0) return length;
  LogText().append(line, static_cast<std::size_t>(length));
  std::free(line);
  return length;
}

}  // namespace

LibbpfLog::LibbpfLog() { libbpf_set_print(&Append); }

LibbpfLog::~LibbpfLog() {
  libbpf_set_print(nullptr);
  Clear();
}

void LibbpfLog::Clear() { LogText().clear(); }

void LibbpfLog::Fail(int error, std::string_view operation) const {
  const UniqueFd file(open("/sys/kernel/security/lockdown", O_RDONLY | O_CLOEXEC));
  const std::string lockdown = ReadAll(file, 256).value_or("");
  throw DescribeBpfFailure(error, operation, lockdown, EssenceOfLibbpfLog(LogText()));
}

std::string EssenceOfLibbpfLog(std::string_view text) {
  constexpr std::string_view kLibbpf = "libbpf: ";
  std::string_view first;
  std::string_view last;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    // The verifier's last line; what stands before it is why.
    if (line.starts_with("processed ") && !last.empty()) return std::string(last);
    if (line.starts_with(kLibbpf) && first.empty()) first = line.substr(kLibbpf.size());
    if (!line.empty()) last = line;
  }
  return std::string(first);
}

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
  // So says the verifier before 5.12.
  if (detail.find("BPF_STX uses reserved fields") != std::string_view::npos) {
    return {TracingProblem::kAbsent,
            what +
                "; this kernel's BPF lacks the atomic exchange that takes care of the order of "
                "stores where the processor does not: Linux 5.18 has it on arm64"};
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

}  // namespace kmem
