// Carries a TraceFileResult from the child that reads a trace file to its parent, which is the same
// program: plain bytes, in the order of the members.
#pragma once

#include <optional>
#include <string>

#include "exporter/replay/trace_file.h"
#include "exporter/unique_fd.h"

namespace kmem {

class ResultPipe {
 public:
  // Throws ReplayError.
  ResultPipe();

  // The child, once.
  void Send(const TraceFileResult& result);
  void SendError(const std::string& what);

  // The parent, once: all that the child sends until it ends. Neither, if it died before.
  struct Received {
    std::optional<TraceFileResult> result;
    std::string error;
  };
  Received Receive();

 private:
  UniqueFd read_;
  UniqueFd write_;
};

}  // namespace kmem
