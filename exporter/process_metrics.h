// process_*: the exporter's own use of the machine, from /proc/self, with the names and meanings of
// the Prometheus client libraries.
#pragma once

#include "collectors/families.h"

namespace kmem {

// Appends process_cpu_seconds_total, process_open_fds, process_max_fds,
// process_virtual_memory_bytes, process_resident_memory_bytes, process_start_time_seconds and
// process_threads. What can't be read is left out. Any thread.
void AppendProcessMetrics(Families& out);

}  // namespace kmem
