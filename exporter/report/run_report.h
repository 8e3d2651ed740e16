// `kmem_exporter report`: watches the live kernel for a while, or reads a recorded trace, and
// prints what it saw.
#pragma once

#include <csignal>
#include <cstdint>
#include <string>

#include "exporter/config.h"

namespace kmem {

struct ReportOptions {
  std::string replay_file;  // empty: the live kernel
  int seconds = 10;
  bool json = false;
};

// What a report watches on a machine of so many CPUs: as configured, with all names that matter
// (nobody has to store a report's series), and what is alive, of which it tells what leaks. That is
// followed by one thread for all CPUs, so beyond eight of them it is a sample.
CollectorsConfig CollectorsOfReport(CollectorsConfig as_configured, std::uint32_t cpus);

// Prints to standard output; on a terminal, standard error shows a line that counts down. A signal
// of `stop_signals`, which must be blocked, ends the watching early: what there is is printed then.
// Nothing traces any more when the printing begins. Main thread, before there are others. Throws
// TracingError, ReplayError, ConfigError, and std::runtime_error where the output can't be written;
// a reader of it that went away is no error.
void RunReport(const ReportOptions& options, Config config, const sigset_t& stop_signals);

}  // namespace kmem
