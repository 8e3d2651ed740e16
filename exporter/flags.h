// The command line. Flags beat the configuration file.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "exporter/config.h"

namespace kmem {

struct CommandLine {
  enum class Action { kServe, kCheckConfig, kCleanup, kReport };
  Action action = Action::kServe;
  Config config;
  std::string config_file;   // empty: none was given; never empty for kCheckConfig
  std::string replay_file;   // empty: the live kernel
  bool replay_exit = false;  // print the metrics at the end of the file and exit
  int report_seconds = 10;   // how long kReport watches the live kernel
  bool report_json = false;
};

// Text to print to standard output as it stands before exiting with status 0 (--help, --version).
struct PrintAndExit {
  std::string text;
};

// A first argument `report` is that command; all others are flags. A report logs warnings and
// errors only, unless the file or a flag says otherwise.
//
// Reads the flags, then the file that --config.file names, then lays the flags over it.
// `arguments` are those behind the program's name; `version` is what --version prints. No variable
// of the environment is read. Throws ConfigError.
std::variant<CommandLine, PrintAndExit> ParseCommandLine(const std::vector<std::string>& arguments,
                                                         const std::string& version);

}  // namespace kmem
