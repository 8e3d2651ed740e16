#include "exporter/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

const char* const kDefaultFile = KMEM_TEST_DATA "/../../deploy/kmem_exporter.yaml";
const char* const kDocumentation = KMEM_TEST_DATA "/../../docs/configuration.md";

Config Parsed(const std::string& text) {
  Config config;
  ApplyYaml(text, "f.yaml", config);
  return config;
}

// The error's line, or "OK".
std::string ErrorOf(const std::string& text) {
  try {
    Parsed(text);
    return "OK";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

std::string FileErrorOf(const std::string& path) {
  try {
    Config config;
    ApplyYamlFile(path, config);
    return "OK";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

std::string Contents(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

// A directory for one test's files.
class ConfigFileTest : public ::testing::Test {
 protected:
  ConfigFileTest() {
    std::string name = ::testing::TempDir() + "kmem_config_XXXXXX";
    if (mkdtemp(name.data()) != nullptr) directory_ = name;
  }
  ~ConfigFileTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  [[nodiscard]] std::string Path(const char* name) const { return directory_ / name; }
  [[nodiscard]] std::string Write(const char* name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }
  std::filesystem::path directory_;
};

TEST(ConfigTest, FilesThatSetNothingLeaveTheDefaults) {
  for (const char* text :
       {"", "\n", "# only a comment\n", "---\n", "---\n...\n", "{}", "\xEF\xBB\xBF", "web:\nlog:\n",
        "collectors:\n  slab:\n", "web: {}\r\nlog: {}\r\n"}) {
    Config config;
    EXPECT_NO_THROW(ApplyYaml(text, "f.yaml", config)) << text;
    EXPECT_EQ(config, Config{}) << text;
  }
}

TEST(ConfigTest, EveryKeyHasItsEffect) {
  Config expected;
  const auto check = [&](const char* text) { EXPECT_EQ(Parsed(text), expected) << text; };
  const auto reset = [&]() -> Config& { return expected = Config{}; };
  reset().on_tracing_failure = OnTracingFailure::kRetry;
  check("on_tracing_failure: retry");
  reset().extra_events = {"rss_stat", "mm_x"};
  check("extra_events: [rss_stat, 'mm_x']");
  reset().web.listen_addresses = {"127.0.0.1:1", "[::1]:2"};
  check("web:\n  listen_addresses:\n    - 127.0.0.1:1\n    - \"[::1]:2\"\n");
  reset().web.telemetry_path = "/a/b-c.d_e~9";
  check("web: {telemetry_path: /a/b-c.d_e~9}");
  reset().web.max_requests = 256;
  check("web: {max_requests: 256}");
  reset().web.per_cpu_detail = true;
  check("web: {per_cpu_detail: true}");
  reset().web.disable_exporter_metrics = true;
  check("web: {disable_exporter_metrics: true}");
  reset().log = {LogLevel::kDebug, LogFormat::kJson};
  check("log: {level: debug, format: \"json\"}");
  reset().log.level = LogLevel::kWarn;
  check("log: {level: warn}");
  reset().log.level = LogLevel::kError;
  check("log: {level: error}");
  reset().paths.procfs = "/host/proc";  // by the file: a replay's /proc collectors stay off
  check("paths: {procfs: /host/proc}");
  reset().paths.tracefs = "/t";
  check("paths: {tracefs: /t}");
  reset().tracefs = {"a-B_9", 64, 16777216, 1024, 1};
  check(
      "tracefs: {instance: a-B_9, buffer_size_kb: 64, buffer_total_max_kb: 16777216,\n"
      "          subbuffer_size_kb: 1024, drain_interval_ms: 1}");
  reset().overhead = {.budget_percent = 0.25, .event_cost_ns = 100000};
  check("overhead: {budget_percent: 0.25, event_cost_ns: 100000}");
  reset().collectors = {.slab = false,
                        .slab_options = {},
                        .page = false,
                        .page_options = {},
                        .pcp = false,
                        .extfrag = false,
                        .fragmentation = false,
                        .compaction = false};
  check(
      "collectors: {slab: {enabled: false}, page: {enabled: false}, pcp: {enabled: false},\n"
      "  extfrag: {enabled: false}, fragmentation: {enabled: false}, compaction: {enabled: "
      "false}}");
  reset().collectors.page_options.cross_cpu = {
      .enabled = false, .sample_one_in = 1, .max_pages = 4194304};
  check("collectors: {page: {cross_cpu: {enabled: false, sample_one_in: 1, max_pages: 4194304}}}");
  reset().collectors.slab_options = {.callsites = {.enabled = false, .max_series = 7},
                                     .caches = {.enabled = false, .max_series = 10000},
                                     .live = {.enabled = true,
                                              .sample_one_in = 16,
                                              .max_objects = 1024,
                                              .exclude_call_sites = {"a.b", "c"}}};
  check(
      "collectors: {slab: {callsites: {enabled: false, max_series: 7}, caches: {enabled: false, "
      "max_series: 10000}, live: {enabled: true, sample_one_in: 16, max_objects: 1024, "
      "exclude_call_sites: [a.b, c]}}}");
  reset().collectors.pcp = false;
  check("collectors:\n  pcp:\n    enabled: false\n");
}

TEST(ConfigTest, LaysTheFileOverWhatIsThereAndReplacesLists) {
  Config config;
  config.web.max_requests = 7;
  config.web.listen_addresses = {":1", ":2"};
  ApplyYaml("web: {listen_addresses: [\":3\"]}", "f.yaml", config);
  EXPECT_EQ(config.web.max_requests, 7);
  EXPECT_THAT(config.web.listen_addresses, ElementsAre(":3"));
}

TEST(ConfigTest, LeavesTheConfigurationAsItWasOnAnError) {
  Config config;
  EXPECT_THROW(ApplyYaml("web: {max_requests: 3}\nnope: 1", "f.yaml", config), ConfigError);
  EXPECT_EQ(config, Config{});
}

struct Case {
  std::string text;
  std::string error;
};

TEST(ConfigTest, ErrorsSayPositionKeyProblemAndWhatIsAllowed) {
  const std::string events =
      "a list of 0 to 64 different names of kmem tracepoints (1 to 64 characters of a-z 0-9 _)";
  const std::string requests = "a whole number from 1 to 256";
  const Case cases[] = {
      {"web:\n  max_requests: 0\n",
       "f.yaml:2:17: web.max_requests: \"0\" is out of range, allowed is " + requests},
      {"\n\nweb: {max_requests: \"40\"}",
       "f.yaml:3:21: web.max_requests: \"40\" is quoted, which makes it text, allowed is " +
           requests},
      {"web:\n  max_requests:\n",
       "f.yaml:2:3: web.max_requests: has no value, allowed is " + requests},
      {"log:\n  colour: red\n",
       "f.yaml:2:3: log.colour: is an unknown key, allowed is level, format"},
      {"engines: auto",
       "f.yaml:1:1: engines: is an unknown key, allowed is engine, on_tracing_failure, "
       "extra_events, web, "
       "log, paths, tracefs, overhead, collectors"},
      {"log: {level: info}\n\"log\": {}",
       "f.yaml:2:1: log: stands twice (first in line 1), allowed is each key once"},
      {"log:\n  level: loud\n",
       "f.yaml:2:10: log.level: \"loud\" is unknown, allowed is debug or info or warn or error"},
      {"extra_events: [rss_stat, Foo]",
       "f.yaml:1:26: extra_events[1]: \"Foo\" is not allowed, allowed is " + events},
      {"log: {level: &a info}",
       "f.yaml:1:14: log.level: has an anchor, allowed is a value without one"},
      {"log: *a", "f.yaml:1:6: log: is an alias, allowed is the value itself"},
      {"log: {}\n---\n", "f.yaml:2:1: document: has a second document, allowed is one document"},
      {"- a", "f.yaml:1:1: document: is not a map, allowed is a YAML map of keys and values"},
      {"log: level: info",
       "f.yaml:1:11: log: is not valid YAML (illegal map value), allowed is a YAML map of keys and "
       "values"},
      {"# \xC3\xA4\n# \xFF", "f.yaml:2:3: document: is not UTF-8, allowed is UTF-8"},
  };
  for (const Case& c : cases) EXPECT_EQ(ErrorOf(c.text), c.error) << c.text;
}

TEST(ConfigTest, RefusesWhatIsNoPlainMapOfKnownKeys) {
  const Case cases[] = {
      {"text", ":1:1: document: is not a map"},
      {"web: 3", ":1:6: web: is not a map, allowed is a map of listen_addresses"},
      {"web: [a]", ":1:6: web: is not a map"},
      {"collectors: {slab: true}", ":1:20: collectors.slab: is not a map"},
      {"collectors: {slab: {sites: {}}}", "collectors.slab.sites: is an unknown key"},
      {"collectors: {numa: {enabled: true}}", "collectors.numa: is an unknown key"},
      {"overhead: {budget: 1}", "overhead.budget: is an unknown key"},
      {"<<: {log: {}}", "<<: is an unknown key"},
      {"'': 1", ": is an unknown key"},
      {"web.max_requests: 3", "web.max_requests: is written with a dot"},
      {"web: {max_requests: 1, max_requests: 1}", ":1:24: web.max_requests: stands twice"},
      {"? [a]\n: b", ":1:3: document: has a key that is not text"},
      {"web: {? {a: b} : c}", "web: has a key that is not text"},
      {": x", "document: has a key that is not text"},
      {"log: {a: &x [1], b: *x}", ":1:10: log.a: has an anchor"},
      {"&x log: {}", ":1:1: document: has an anchor"},
      {"web: &x\n", ":1:6: web: has an anchor"},
      {"!!map {}", "document: has a tag"},
      {"log: {level: !!str info}", ":1:14: log.level: has a tag"},
      {"log: {level: ! info}", ":1:14: log.level: has a tag"},
      {"!2", "document: has a tag"},
      {"{log: {}} more", "document: has a second document"},
      {"---\n---\n", ":2:1: document: has a second document"},
      {"log: {}\n...\n---\nlog: {}", "document: has a second document"},
      {"log: {level: 'info}\n", ":1:14: log.level: has no closing quote"},
      {"log: \"x\n\n", ":1:6: log: has no closing quote"},
      {"log: {", "is not valid YAML"},
      {"log: {}\n]", ":2:1: log: is not valid YAML"},
      {"%YAML 2.0\n---\n", "is not valid YAML"},
      {"log:\n\tlevel: info", "is not valid YAML"},
  };
  for (const Case& c : cases) EXPECT_THAT(ErrorOf(c.text), HasSubstr(c.error)) << c.text;
}

TEST(ConfigTest, RefusesBytesThatAreNotText) {
  const Case cases[] = {
      {std::string("log: {}\0", 8), ":1:8: document: has a control character"},
      {"log: {}\n\x04", ":2:1: document: has a control character"},  // yaml-cpp's mark of the end
      {"log: {}\rweb: {}", ":1:8: document: has a control character"},
      {"# \x7F", "has a control character"},
      {"\xFF\xFEl\0", ":1:1: document: is not UTF-8"},     // UTF-16
      {"# \xC0\x80", ":1:3: document: is not UTF-8"},      // overlong
      {"# \xED\xA0\x80", ":1:3: document: is not UTF-8"},  // a surrogate
      {"# \xF4\x90\x80\x80", "document: is not UTF-8"},    // beyond U+10FFFF
      {"# \xE2\x82", "document: is not UTF-8"},            // cut off
  };
  for (const Case& c : cases) EXPECT_THAT(ErrorOf(c.text), HasSubstr(c.error)) << c.text;
  EXPECT_EQ(ErrorOf("# \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x90\xA7\n"), "OK");
}

TEST(ConfigTest, RefusesValuesOfTheWrongKind) {
  const char* cases[] = {
      "on_tracing_failure: [exit]",
      "on_tracing_failure: {exit: 1}",
      "on_tracing_failure: ~",
      "extra_events: rss_stat",
      "extra_events: {a: b}",
      "extra_events:",
      "extra_events: [[a]]",
      "extra_events: [a, ~]",
      "extra_events: [123]",
      "web: {max_requests: [1]}",
      "web: {max_requests: many}",
      "web: {max_requests: 4.5}",
      "web: {max_requests: 0x10}",
      "web: {max_requests: 010}",
      "web: {max_requests: 1e2}",
      "web: {max_requests: +4}",
      "web: {max_requests: 4 0}",
      "web: {per_cpu_detail: yes}",
      "web: {per_cpu_detail: True}",
      "web: {per_cpu_detail: 1}",
      "web: {per_cpu_detail: \"true\"}",
      "web: {listen_addresses: \":1\"}",
      "web: {listen_addresses: [9100]}",
      "web: {telemetry_path: }",
      "tracefs: {instance: 123}",
      "tracefs: {instance: true}",
      "tracefs: {instance: 0x1f}",
      "tracefs: {instance: -4}",
      "tracefs: {instance: null}",
  };
  for (const char* text : cases) EXPECT_THAT(ErrorOf(text), StartsWith("f.yaml:1:")) << text;
  EXPECT_EQ(Parsed("tracefs: {instance: '123'}").tracefs.instance, "123");
}

TEST(ConfigTest, NumbersHaveInclusiveRanges) {
  const struct {
    const char* section;
    const char* key;
    std::uint64_t min;
    std::uint64_t max;
  } keys[] = {
      {"web", "max_requests", 1, 256},
      {"tracefs", "buffer_size_kb", 64, 1048576},
      {"tracefs", "buffer_total_max_kb", 256, 16777216},
      {"tracefs", "subbuffer_size_kb", 4, 1024},
      {"tracefs", "drain_interval_ms", 1, 1000},
  };
  for (const auto& key : keys) {
    const auto error = [&](const std::string& value) {
      return ErrorOf(std::string(key.section) + ":\n  " + key.key + ": " + value);
    };
    EXPECT_EQ(error(std::to_string(key.min)), "OK") << key.key;
    EXPECT_EQ(error(std::to_string(key.max)), "OK") << key.key;
    for (const std::string& bad :
         {std::to_string(key.min - 1), std::to_string(key.max + 1), std::string("-1"),
          std::string("4294967296"), std::string("99999999999999999999999")}) {
      EXPECT_THAT(error(bad), HasSubstr("is out of range, allowed is a whole number from ")) << bad;
    }
  }
  EXPECT_THAT(ErrorOf("tracefs: {subbuffer_size_kb: 48}"), HasSubstr("a power of two"));
}

TEST(ConfigTest, ABudgetMayHaveAFraction) {
  for (const char* good : {"0", "100", "0.05", "99.9"}) {
    EXPECT_EQ(ErrorOf(std::string("overhead: {budget_percent: ") + good + "}"), "OK") << good;
  }
  for (const char* bad : {"-0.1", "100.1", "99999999999999999999999"}) {
    EXPECT_THAT(ErrorOf(std::string("overhead: {budget_percent: ") + bad + "}"),
                HasSubstr("is out of range, allowed is a number from 0 to 100"))
        << bad;
  }
  for (const char* bad : {"1e1", "nan", "inf", ".", "1%", "0x1", "1.2.3", "'1'", "true"}) {
    EXPECT_THAT(ErrorOf(std::string("overhead: {budget_percent: ") + bad + "}"),
                HasSubstr("allowed is a number from 0 to 100"))
        << bad;
  }
  EXPECT_THAT(ErrorOf("overhead: {event_cost_ns: 100001}"), HasSubstr("is out of range"));
}

TEST(ConfigTest, TextsHaveRules) {
  const std::string long_name(65, 'a');
  const std::string bad[] = {
      "web: {telemetry_path: metrics}",
      "web: {telemetry_path: /}",
      "web: {telemetry_path: \"\"}",
      "web: {telemetry_path: /-/healthy}",
      "web: {telemetry_path: /-/ready}",
      "web: {telemetry_path: /a?b}",
      "web: {telemetry_path: /a b}",
      "web: {telemetry_path: //a}",
      "web: {telemetry_path: /a/../b}",
      "web: {telemetry_path: /a/}",
      "web: {telemetry_path: /%41}",
      "web: {telemetry_path: \"/a\\0\"}",
      "web: {listen_addresses: []}",
      "web: {listen_addresses: [\"\"]}",
      "web: {listen_addresses: [:1, :1]}",
      "paths: {procfs: proc}",
      "paths: {tracefs: \"\"}",
      "paths: {tracefs: \"/a\\nb\"}",
      "tracefs: {instance: \"\"}",
      "tracefs: {instance: a/b}",
      "tracefs: {instance: ..}",
      "tracefs: {instance: " + long_name + "}",
      "extra_events: [\"\"]",
      "extra_events: [kmem:rss_stat]",
      "extra_events: [a, b, a]",
      "extra_events: [" + long_name + "]",
      "log: {level: INFO}",
      "log: {format: text}",
      "on_tracing_failure: ignore",
  };
  for (const std::string& text : bad) EXPECT_THAT(ErrorOf(text), StartsWith("f.yaml:1:")) << text;
}

TEST(ConfigTest, RefusesDeepNestingWithoutExhaustingTheStack) {
  for (const char* text : {"[", "{a: ", "- ", "? ", "[a, ", "[\n", "{\n"}) {
    EXPECT_THAT(ErrorOf(Repeated(text, 100'000)), HasSubstr("document: is nested too deep"))
        << text;
    EXPECT_THAT(ErrorOf("log: " + Repeated(text, 900)), HasSubstr("f.yaml:")) << text;
  }
  std::string block;
  for (std::size_t level = 0; level < 300; ++level) block += std::string(level, ' ') + "a:\n";
  EXPECT_THAT(ErrorOf(block), HasSubstr(":17:17: document: is nested too deep"));
}

TEST(ConfigTest, RefusesAnAliasBombBeforeItExpands) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb +=
        "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last + ", " + last + "]\n";
  }
  EXPECT_EQ(ErrorOf(bomb), "f.yaml:1:5: a0: has an anchor, allowed is a value without one");
}

TEST(ConfigTest, ErrorsStayOneReadableLineWhateverTheInput) {
  const std::string inputs[] = {
      "\"a\\nb\\e[31m\": 1",
      std::string(100'000, 'k') + ": 1",
      "log: {level: " + std::string(100'000, 'v') + "}",
      "log: {level: \"\\u009b\\n\\0\"}",
      "log: {level: \"\\q\"}",
      Repeated("x, ", 300'000),
      "extra_events: [" + Repeated("x,", 300'000) + "]",
  };
  for (const std::string& input : inputs) {
    const std::string error = ErrorOf(input);
    EXPECT_THAT(error, StartsWith("f.yaml:1:"));
    EXPECT_LT(error.size(), 500U);
    for (const char c : error) EXPECT_FALSE(static_cast<unsigned char>(c) < ' ') << error;
  }
}

TEST(ConfigTest, TheDefaultFileGivesExactlyTheDefaults) {
  Config config;
  ApplyYamlFile(kDefaultFile, config);
  EXPECT_EQ(config, Config{});
}

// The dotted paths of a file in block style.
std::vector<std::string> KeysOf(const std::string& text) {
  std::vector<std::string> keys;
  std::vector<std::string> open;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t indent = line.find_first_not_of(' ');
    if (indent == std::string::npos || line[indent] == '#') continue;
    open.resize(indent / 2);
    const std::size_t colon = line.find(':');
    std::string path;
    for (const std::string& name : open) path += name + '.';
    if (colon + 1 < line.size()) keys.push_back(path + line.substr(indent, colon - indent));
    open.push_back(line.substr(indent, colon - indent));
  }
  return keys;
}

TEST(ConfigTest, TheDefaultFileHoldsEveryKey) {
  std::vector<std::string> names;
  for (const ConfigKey& key : ConfigKeys()) names.push_back(key.name);
  EXPECT_EQ(KeysOf(Contents(kDefaultFile)), names);
}

TEST(ConfigTest, TheDocumentationHoldsEveryKeyWithDefaultAndRange) {
  const std::string documentation = Contents(kDocumentation);
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string value = key.default_value.empty() ? "(none)" : '`' + key.default_value + '`';
    EXPECT_THAT(documentation, HasSubstr("\n| `" + key.name + "` | " + value + " | " + key.allowed +
                                         " | " + key.doc + " |\n"));
  }
}

TEST(ConfigTest, TheDefaultFileCutOffAnywhereIsReadOrRefusedInOneLine) {
  const std::string text = Contents(kDefaultFile);
  ASSERT_THAT(text, Not(IsEmpty()));
  for (std::size_t size = 0; size <= text.size(); ++size) {
    const std::string error = ErrorOf(text.substr(0, size));
    if (error == "OK") continue;
    EXPECT_THAT(error, StartsWith("f.yaml:")) << size;
    EXPECT_THAT(error, HasSubstr(", allowed is ")) << size;
    EXPECT_THAT(error, Not(HasSubstr("\n"))) << size;
  }
}

TEST_F(ConfigFileTest, ReadsAFileAndNamesItInErrors) {
  Config config;
  ApplyYamlFile(Write("good.yaml", "web: {max_requests: 3}"), config);
  EXPECT_EQ(config.web.max_requests, 3);
  const std::string bad = Write("bad.yaml", "web: {max_requests: 300}");
  EXPECT_THAT(FileErrorOf(bad),
              StartsWith(bad + ":1:21: web.max_requests: \"300\" is out of range"));
  EXPECT_EQ(FileErrorOf(Write("empty.yaml", "")), "OK");
}

TEST_F(ConfigFileTest, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const std::string allowed = ", allowed is a regular file of at most 1048576 bytes";
  EXPECT_EQ(FileErrorOf(Path("none")),
            Path("none") + ": cannot be opened (No such file or directory)" + allowed);
  EXPECT_EQ(FileErrorOf(""), ": cannot be opened (No such file or directory)" + allowed);
  EXPECT_EQ(FileErrorOf(directory_), directory_.string() + ": is a directory" + allowed);
  EXPECT_EQ(FileErrorOf("/dev/zero"), "/dev/zero: is not a regular file" + allowed);
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(FileErrorOf(Path("fifo")), Path("fifo") + ": is not a regular file" + allowed);
}

TEST_F(ConfigFileTest, RefusesAFileThatMayNotBeRead) {
  const std::string path = Write("secret.yaml", "");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  if (access(path.c_str(), R_OK) == 0) GTEST_SKIP() << "this user may read everything";
  EXPECT_THAT(FileErrorOf(path), StartsWith(path + ": cannot be opened (Permission denied)"));
}

TEST_F(ConfigFileTest, RefusesMoreThanOneMebibyte) {
  const std::string most = "#" + std::string((1 << 20) - 1, 'x');
  EXPECT_EQ(FileErrorOf(Write("most.yaml", most)), "OK");
  EXPECT_THAT(FileErrorOf(Write("more.yaml", most + "x")),
              HasSubstr(": is too large, allowed is "));
  EXPECT_EQ(ErrorOf(most + "x"),
            "f.yaml:1:1: document: is too large, allowed is at most 1048576 bytes");
}

TEST(ConfigTest, AFlagObeysTheRangeOfItsKey) {
  Config config;
  ApplyFlag("--web.max-requests", "web.max_requests", {"3"}, config);
  EXPECT_EQ(config.web.max_requests, 3);
  ApplyFlag("--web.listen-address", "web.listen_addresses", {":1", ":2"}, config);
  EXPECT_THAT(config.web.listen_addresses, ElementsAre(":1", ":2"));
  try {
    ApplyFlag("--web.max-requests", "web.max_requests", {"257"}, config);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "--web.max-requests: \"257\" is out of range, allowed is a whole number from 1 to "
                 "256");
  }
  EXPECT_THROW(ApplyFlag("--x", "no.such.key", {"1"}, config), std::logic_error);
}

}  // namespace
}  // namespace kmem
