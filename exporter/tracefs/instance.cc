#include "exporter/tracefs/instance.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "exporter/read_file.h"
#include "exporter/tracefs/libtracefs.h"

namespace kmem {
namespace {

constexpr const char* kSystem = "kmem";
constexpr std::size_t kMaxTextBytes = 64 << 10;  // the longest text read here has some 300

std::string Lockdown() {
  const UniqueFd file(open("/sys/kernel/security/lockdown", O_RDONLY | O_CLOEXEC));
  return ReadAll(file, kMaxTextBytes).value_or("");
}

// What AppArmor holds this process to, as "name (enforce)"; other security modules write otherwise.
std::string SecurityLabel() {
  const UniqueFd file(open("/proc/self/attr/current", O_RDONLY | O_CLOEXEC));
  std::string label = ReadAll(file, kMaxTextBytes).value_or("");
  label.erase(std::min(label.find_first_of(std::string_view("\n\0", 2)), label.size()));
  return label;
}

[[noreturn]] void Fail(int error, const std::string& path) {
  throw DescribeTracefsFailure(error, path, Lockdown(), SecurityLabel());
}

TracingError LockedDown(const std::string& path) {
  return {TracingProblem::kLockedDown,
          fmt::format("tracefs: {}: the kernel's lockdown (confidentiality) forbids tracing; boot "
                      "with lockdown=integrity or none",
                      path)};
}

void CheckTracingDir(const std::string& dir) {
  struct statfs fs {};
  if (statfs(dir.c_str(), &fs) != 0) Fail(errno, dir);
  if (fs.f_type != TRACEFS_MAGIC) Fail(ENOENT, dir);
  const std::string instances = dir + "/instances";
  struct stat st {};
  if (stat(instances.c_str(), &st) == 0) return;
  const int error = errno;
  // A kernel that was booted locked down puts nothing into it (tracing_init_dentry(),
  // kernel/trace/trace.c, 5.10 to 6.18). A container does not see what securityfs says of that.
  std::error_code unreadable;
  if (error == ENOENT && std::filesystem::is_empty(dir, unreadable)) throw LockedDown(dir);
  Fail(error, instances);
}

std::string EventFile(const std::string& event, const char* file) {
  return std::string("events/") + kSystem + "/" + event + "/" + file;
}

}  // namespace

TracingError DescribeTracefsFailure(int error, const std::string& path, std::string_view lockdown,
                                    std::string_view label) {
  const bool confidential = lockdown.find("[confidentiality]") != std::string_view::npos;
  if (confidential && (error == EPERM || error == ENOENT)) return LockedDown(path);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return {TracingProblem::kAbsent,
              fmt::format("tracefs: {}: no tracefs there; mount it (mount -t tracefs nodev "
                          "/sys/kernel/tracing) or name its place with --path.tracefs",
                          path)};
    case EACCES:
    case EPERM:
    case EROFS:
      return {
          TracingProblem::kNotPermitted,
          fmt::format("tracefs: {}: {}; run as uid 0 with tracefs writable (no capability is "
                      "needed){}{}",
                      path, std::strerror(error),
                      error == EPERM && lockdown.empty()
                          ? ", and check that kernel lockdown is not in confidentiality mode"
                          : "",
                      error == EACCES && label.ends_with(" (enforce)")
                          ? fmt::format("; it is under AppArmor's profile {}: those of container "
                                        "runtimes forbid it below /sys, so mount tracefs "
                                        "elsewhere and name its place with --path.tracefs",
                                        label)
                          : "")};
    case EBUSY:
    case EEXIST:
      return {TracingProblem::kInUse,
              fmt::format("tracefs: {}: in use by another process, such as a second kmem_exporter; "
                          "stop that one or choose another tracefs.instance",
                          path)};
    default:
      return {TracingProblem::kFailed, fmt::format("tracefs: {}: {}", path, std::strerror(error))};
  }
}

bool Instance::RemoveStale(const std::string& tracing_dir, const std::string& name) {
  CheckTracingDir(tracing_dir);
  const std::string dir = tracing_dir + "/instances/" + name;
  // rmdir disables the instance's events and frees its buffer; EBUSY if any file of it is open.
  if (rmdir(dir.c_str()) == 0) return true;
  if (errno == ENOENT) return false;
  Fail(errno, dir);
}

Instance::Instance(const std::string& tracing_dir, const std::string& name)
    : tracing_dir_(tracing_dir),
      dir_(tracing_dir + "/instances/" + name),
      instance_(nullptr, &kmem_instance_free) {
  RemoveStale(tracing_dir, name);
  instance_.reset(kmem_instance_create(tracing_dir.c_str(), name.c_str()));
  if (instance_ == nullptr) Fail(errno == 0 ? EINVAL : errno, dir_);
  try {
    free_buffer_ = Open("free_buffer", O_WRONLY);
    if (kmem_instance_disable_on_free(instance_.get()) != 0) {
      Fail(errno, dir_ + "/options/disable_on_free");
    }
  } catch (...) {
    free_buffer_ = UniqueFd();
    rmdir(dir_.c_str());
    throw;
  }
}

Instance::~Instance() {
  DisableAllEvents();
  free_buffer_ = UniqueFd();
  rmdir(dir_.c_str());
}

TracingError Instance::Failure(int error, const std::string& file) const {
  return DescribeTracefsFailure(error, dir_ + "/" + file, Lockdown(), SecurityLabel());
}

bool Instance::HasEvent(const std::string& event) const {
  return HasSetting(EventFile(event, "enable"));
}

std::string Instance::EventFormat(const std::string& event) const {
  return ReadSetting(EventFile(event, "format"));
}

std::string Instance::HeaderPage() const {
  // Not below an instance: it describes the default sub-buffer of all of them.
  const std::string path = tracing_dir_ + "/events/header_page";
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::optional<std::string> text = ReadAll(file, kMaxTextBytes);
  if (!text) Fail(errno, path);
  return *std::move(text);
}

void Instance::EnableEvent(const std::string& event) {
  if (kmem_event_enable(instance_.get(), kSystem, event.c_str()) != 0) {
    throw Failure(errno, EventFile(event, "enable"));
  }
}

void Instance::DisableEvent(const std::string& event) {
  WriteSetting(EventFile(event, "enable"), "0");
}

void Instance::DisableAllEvents() noexcept { kmem_events_disable(instance_.get()); }

bool Instance::HasSetting(const std::string& file) const {
  return kmem_file_exists(instance_.get(), file.c_str()) != 0;
}

void Instance::WriteSetting(const std::string& file, const std::string& value) {
  if (kmem_file_write(instance_.get(), file.c_str(), value.c_str()) != 0) {
    throw Failure(errno, file);
  }
}

std::string Instance::ReadSetting(const std::string& file) const {
  std::optional<std::string> text = ReadAll(Open(file, O_RDONLY), kMaxTextBytes);
  if (!text) throw Failure(errno, file);
  return *std::move(text);
}

UniqueFd Instance::Open(const std::string& file, int flags) const {
  UniqueFd fd(kmem_file_open(instance_.get(), file.c_str(), flags | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) throw Failure(errno, file);
  return fd;
}

std::vector<std::uint32_t> Instance::Cpus() const {
  std::vector<std::uint32_t> cpus;
  const std::string path = dir_ + "/per_cpu";
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(path.c_str()), &closedir);
  if (listing == nullptr) throw Failure(errno, "per_cpu");
  while (const dirent* entry = readdir(listing.get())) {
    const std::string_view name(entry->d_name);
    std::uint32_t cpu = 0;
    if (!name.starts_with("cpu")) continue;
    if (std::from_chars(name.data() + 3, name.data() + name.size(), cpu).ec == std::errc{}) {
      cpus.push_back(cpu);
    }
  }
  std::ranges::sort(cpus);
  return cpus;
}

}  // namespace kmem
