#include "exporter/report/report_instances.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <memory>
#include <optional>

#include "exporter/tracefs/instance.h"

namespace kmem {
namespace {

std::string Prefix(std::string_view instance) { return fmt::format("{}_report_", instance); }

// The process that an instance of this name belongs to.
std::optional<pid_t> OwnerOf(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (error != std::errc{} || end != name.data() + name.size() || pid <= 0) return std::nullopt;
  return pid;
}

bool Runs(pid_t pid) { return kill(pid, 0) == 0 || errno == EPERM; }

}  // namespace

std::string ReportInstanceName(std::string_view instance) {
  return Prefix(instance) + std::to_string(getpid());
}

std::vector<std::string> RemoveStaleReportInstances(const std::string& tracing_dir,
                                                    std::string_view instance) {
  std::vector<std::string> stale;
  const std::string path = tracing_dir + "/instances";
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(path.c_str()), &closedir);
  if (listing == nullptr) return stale;
  const std::string prefix = Prefix(instance);
  while (const dirent* entry = readdir(listing.get())) {
    const auto owner = OwnerOf(entry->d_name, prefix);
    if (owner && !Runs(*owner)) stale.emplace_back(entry->d_name);
  }
  std::erase_if(stale, [&](const std::string& name) {
    try {
      return !Instance::RemoveStale(tracing_dir, name);
    } catch (const TracingError&) {  // in use after all: by a process of another namespace
      return true;
    }
  });
  return stale;
}

}  // namespace kmem
