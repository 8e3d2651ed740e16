// The tracefs instances of reports: each has one of its own beside the exporter's, named for its
// process, so that any number of them can run at once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kmem {

// The name for this process's instance; `instance` is the exporter's.
std::string ReportInstanceName(std::string_view instance);

// Removes the idle instances that killed reports left, and returns their names. Those of running
// processes stay, and so does what can't be removed.
std::vector<std::string> RemoveStaleReportInstances(const std::string& tracing_dir,
                                                    std::string_view instance);

}  // namespace kmem
