// Why a source of events can't be started.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kmem {

enum class TracingProblem : std::uint8_t {
  kAbsent,        // no tracefs at the path, no BPF in the kernel
  kNotPermitted,  // we may not use it
  kLockedDown,    // nobody may: kernel lockdown, confidentiality
  kInUse,         // somebody holds our instance
  kNoBtf,         // the kernel does not describe its types, so BPF programs can't be fitted to it
  kFailed,        // anything else
};

// what() is one line: what, where, what to do.
class TracingError : public std::runtime_error {
 public:
  TracingError(TracingProblem problem, const std::string& what)
      : std::runtime_error(what), problem_(problem) {}

  [[nodiscard]] TracingProblem problem() const { return problem_; }

  // One word for kmem_exporter_tracing_up's reason.
  [[nodiscard]] std::string_view reason() const {
    switch (problem_) {
      case TracingProblem::kAbsent:
        return "absent";
      case TracingProblem::kNotPermitted:
        return "not_permitted";
      case TracingProblem::kLockedDown:
        return "locked_down";
      case TracingProblem::kInUse:
        return "in_use";
      case TracingProblem::kNoBtf:
        return "no_btf";
      case TracingProblem::kFailed:
        break;
    }
    return "failed";
  }

 private:
  TracingProblem problem_;
};

}  // namespace kmem
