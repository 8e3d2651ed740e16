// Any text as the configuration file: a configuration or one line of error.

#include <cstdlib>
#include <string_view>

#include "exporter/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kmem::Config config;
  try {
    kmem::ApplyYaml({reinterpret_cast<const char*>(data), size}, "fuzz.yaml", config);
  } catch (const kmem::ConfigError& error) {
    const std::string_view line = error.what();
    if (line.empty() || line.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
