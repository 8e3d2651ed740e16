// Reads a trace.dat of trace-cmd through the same walker, dispatcher and collectors as the live
// kernel's buffers: libtracecmd for the container, our own for the pages.
#pragma once

#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "exporter/collector_list.h"
#include "exporter/event_state.h"

namespace kmem {

// The file can't be replayed; what() is one line: which file, why, what to do.
class ReplayError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TraceFileResult {
  KernelFacts facts;
  EventState state;
  std::vector<std::string> missing_events;
  std::map<std::uint64_t, Symbol> symbols;  // by the addresses that the collectors ask for
};

// Reads the whole file. Throws ReplayError.
//
// libtracecmd trusts the file: a truncated or corrupt one can crash it (3.1.6). So the reading is
// done by a child process, whose death is one more way for a file to be unreadable. Call it before
// other threads are started.
TraceFileResult ReadTraceFile(const std::string& path, const TraceCollectors& collectors,
                              std::span<const std::string> extra_events);

}  // namespace kmem
