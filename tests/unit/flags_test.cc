#include "exporter/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using Arguments = std::vector<std::string>;

CommandLine Parsed(const Arguments& arguments) {
  return std::get<CommandLine>(ParseCommandLine(arguments, "1.2.3"));
}

std::string Printed(const Arguments& arguments) {
  return std::get<PrintAndExit>(ParseCommandLine(arguments, "1.2.3")).text;
}

// The error's line, or "OK".
std::string ErrorOf(const Arguments& arguments) {
  try {
    (void)ParseCommandLine(arguments, "1.2.3");
    return "OK";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

class FlagsFileTest : public ::testing::Test {
 protected:
  FlagsFileTest() : path_(::testing::TempDir() + "kmem_flags_XXXXXX") {
    const int fd = mkstemp(path_.data());
    if (fd >= 0) close(fd);
  }
  ~FlagsFileTest() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  // The flag that names a file of this text.
  [[nodiscard]] std::string File(const std::string& text) const {
    std::ofstream(path_) << text;
    return "--config.file=" + path_;
  }
  std::string path_;
};

TEST(FlagsTest, WithoutFlagsServesWithTheDefaults) {
  const CommandLine line = Parsed({});
  EXPECT_EQ(line.action, CommandLine::Action::kServe);
  EXPECT_EQ(line.config, Config{});
  EXPECT_EQ(line.config_file, "");
  EXPECT_EQ(line.replay_file, "");
  EXPECT_FALSE(line.replay_exit);
}

TEST(FlagsTest, EveryFlagOfAKeyHasItsEffect) {
  Config expected;
  expected.web.listen_addresses = {":1", "[::1]:2"};
  expected.web.telemetry_path = "/m";
  expected.web.max_requests = 3;
  expected.log = {LogLevel::kError, LogFormat::kJson};
  expected.paths = {.procfs = "/p", .procfs_given = true, .tracefs = "/t"};
  const CommandLine line =
      Parsed({"--web.listen-address=:1", "--web.telemetry-path", "/m", "--web.max-requests=3",
              "--log.level=error", "--log.format", "json", "--path.procfs=/p", "--path.tracefs=/t",
              "--web.listen-address", "[::1]:2"});
  EXPECT_EQ(line.config, expected);
}

TEST(FlagsTest, CollectorsAreSwitchedByName) {
  const struct {
    const char* name;
    bool CollectorsConfig::*member;
  } collectors[] = {
      {"slab", &CollectorsConfig::slab},
      {"page", &CollectorsConfig::page},
      {"pcp", &CollectorsConfig::pcp},
      {"extfrag", &CollectorsConfig::extfrag},
      {"fragmentation", &CollectorsConfig::fragmentation},
      {"compaction", &CollectorsConfig::compaction},
  };
  for (const auto& collector : collectors) {
    Config expected;
    EXPECT_EQ(Parsed({std::string("--collector.") + collector.name}).config, expected);
    expected.collectors.*collector.member = false;
    EXPECT_EQ(Parsed({std::string("--no-collector.") + collector.name}).config, expected);
  }
}

TEST_F(FlagsFileTest, FlagsBeatTheFileWhichBeatsTheDefaults) {
  const std::string file = File(
      "web: {listen_addresses: [\":1\", \":2\"], max_requests: 3, telemetry_path: /file}\n"
      "log: {level: warn}\n"
      "collectors: {slab: {enabled: false}, page: {enabled: false}}\n");
  const CommandLine line = Parsed({"--web.listen-address=:9", "--web.max-requests=4",
                                   "--collector.slab", file, "--no-collector.pcp"});
  EXPECT_EQ(line.config_file, path_);
  EXPECT_THAT(line.config.web.listen_addresses, ElementsAre(":9"));
  EXPECT_EQ(line.config.web.max_requests, 4);
  EXPECT_EQ(line.config.web.telemetry_path, "/file");
  EXPECT_EQ(line.config.log.level, LogLevel::kWarn);
  EXPECT_EQ(line.config.log.format, LogFormat::kLogfmt);
  EXPECT_TRUE(line.config.collectors.slab);
  EXPECT_FALSE(line.config.collectors.page);
  EXPECT_FALSE(line.config.collectors.pcp);
}

TEST_F(FlagsFileTest, ProcfsOfTheFileDoesNotCountAsGiven) {
  const CommandLine line = Parsed({File("paths: {procfs: /p}"), "--replay=trace.dat"});
  EXPECT_EQ(line.config.paths.procfs, "/p");
  EXPECT_FALSE(line.config.paths.procfs_given);
}

TEST_F(FlagsFileTest, ReportsTheFilesErrorsWithTheirPosition) {
  EXPECT_THAT(ErrorOf({File("web: {max_requests: 0}")}),
              StartsWith(path_ + ":1:21: web.max_requests: \"0\" is out of range"));
  EXPECT_THAT(ErrorOf({File(""), "--config.file=x"}), StartsWith("--config.file: is given twice"));
  EXPECT_THAT(ErrorOf({"--config.file=/no/such/file"}),
              StartsWith("/no/such/file: cannot be opened"));
}

TEST_F(FlagsFileTest, ConfigCheckReadsTheFileAndTheFlags) {
  const CommandLine line = Parsed({"--config.check", File("log: {level: warn}")});
  EXPECT_EQ(line.action, CommandLine::Action::kCheckConfig);
  EXPECT_EQ(line.config_file, path_);
  EXPECT_THAT(ErrorOf({"--config.check", File("nope: 1")}), HasSubstr("nope: is an unknown key"));
  EXPECT_THAT(ErrorOf({"--config.check", File(""), "--log.level=x"}), StartsWith("--log.level: "));
}

TEST(FlagsTest, ReplayAndCleanupAreActions) {
  const CommandLine replay = Parsed({"--replay=trace.dat", "--replay.exit"});
  EXPECT_EQ(replay.action, CommandLine::Action::kServe);
  EXPECT_EQ(replay.replay_file, "trace.dat");
  EXPECT_TRUE(replay.replay_exit);
  EXPECT_FALSE(Parsed({"--replay", "trace.dat"}).replay_exit);
  EXPECT_EQ(Parsed({"--cleanup"}).action, CommandLine::Action::kCleanup);
}

TEST(FlagsTest, WrongUsageIsOneLineThatPointsToTheHelp) {
  const struct {
    Arguments arguments;
    const char* error;
  } cases[] = {
      {{"--bogus"}, "--bogus: is an unknown flag"},
      {{"--bogus=3"}, "--bogus: is an unknown flag"},
      {{"--engines=auto"}, "--engines: is an unknown flag"},
      {{"--web.max-request=3"}, "--web.max-request: is an unknown flag"},
      {{"--no-collector.numa"}, "--no-collector.numa: is an unknown flag"},
      {{"-x"}, "-x: is an unknown flag"},
      {{"-web.max-requests=3"}, "-web.max-requests: is an unknown flag"},
      {{"--"}, "--: is an unknown flag"},
      {{"--a\nb"}, "--a\\nb: is an unknown flag"},
      {{"serve"}, "\"serve\": is not a flag, and only flags are allowed"},
      {{""}, "\"\": is not a flag, and only flags are allowed"},
      {{"--cleanup", "now"}, "\"now\": is not a flag, and only flags are allowed"},
      {{"--config.file"}, "--config.file: has no value"},
      {{"--config.file="}, "--config.file: has no value"},
      {{"--config.file", ""}, "--config.file: has no value"},
      {{"--config.file=", "--cleanup"}, "--config.file: has no value"},
      {{"--config.file", "--cleanup"}, "--config.file: has no value"},
      {{"--cleanup", "--replay"}, "--replay: has no value"},
      {{"--web.listen-address="}, "--web.listen-address: has no value"},
      {{"--cleanup=true"}, "--cleanup: takes no value"},
      {{"--collector.slab=false"}, "--collector.slab: takes no value"},
      {{"--log.level=info", "--log.level=warn"}, "--log.level: is given twice"},
      {{"--replay=a", "--cleanup"}, "--replay: cannot go with --cleanup"},
      {{"--config.check", "--config.file=a", "--cleanup"},
       "--cleanup: cannot go with --config.check"},
      {{"--config.check", "--config.file=a", "--replay=b"},
       "--replay: cannot go with --config.check"},
      {{"--replay.exit"}, "--replay.exit: needs --replay"},
      {{"--config.check"}, "--config.check: needs --config.file"},
      {{"--collector.slab", "--no-collector.slab"},
       "--no-collector.slab: cannot go with --collector.slab"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ErrorOf(c.arguments), std::string(c.error) + "; see --help") << c.error;
  }
}

TEST(FlagsTest, ReportIsACommandWithFlagsOfItsOwn) {
  CommandLine line = Parsed({"report"});
  EXPECT_EQ(line.action, CommandLine::Action::kReport);
  EXPECT_EQ(line.report_seconds, 10);
  EXPECT_FALSE(line.report_json);
  EXPECT_EQ(line.config.log.level, LogLevel::kWarn);
  line = Parsed({"report", "--duration=86400", "--json", "--no-collector.slab", "--engine=tracefs",
                 "--path.procfs=/p", "--log.level=info"});
  EXPECT_EQ(line.report_seconds, 86400);
  EXPECT_TRUE(line.report_json);
  EXPECT_FALSE(line.config.collectors.slab);
  EXPECT_EQ(line.config.engine, EngineChoice::kTracefs);
  EXPECT_EQ(line.config.paths.procfs, "/p");
  EXPECT_EQ(line.config.log.level, LogLevel::kInfo);
  EXPECT_EQ(Parsed({"report", "--replay=trace.dat"}).replay_file, "trace.dat");
}

TEST_F(FlagsFileTest, AReportTakesItsLogLevelFromTheFile) {
  EXPECT_EQ(Parsed({"report", File("log: {level: debug}")}).config.log.level, LogLevel::kDebug);
}

TEST(FlagsTest, AReportRefusesWhatIsNotItsOwn) {
  const struct {
    Arguments arguments;
    const char* error;
  } cases[] = {
      {{"--json"}, "--json: needs the command report; see --help"},
      {{"--duration=3"}, "--duration: needs the command report; see --help"},
      {{"--json", "report"}, "\"report\": is not a flag, and only flags are allowed; see --help"},
      {{"report", "report"}, "\"report\": is not a flag, and only flags are allowed; see --help"},
      {{"report", "--cleanup"}, "--cleanup: cannot go with the command report; see --help"},
      {{"report", "--replay=a", "--replay.exit"},
       "--replay.exit: cannot go with the command report; see --help"},
      {{"report", "--web.max-requests=2"},
       "--web.max-requests: cannot go with the command report; see --help"},
      {{"report", "--web.listen-address=:1"},
       "--web.listen-address: cannot go with the command report; see --help"},
      {{"report", "--replay=a", "--duration=2"}, "--duration: cannot go with --replay; see --help"},
      {{"report", "--duration"}, "--duration: has no value; see --help"},
  };
  for (const auto& c : cases) EXPECT_EQ(ErrorOf(c.arguments), c.error);
  for (const std::string value : {"0", "86401", "-1", "1.5", "x", "1s", "99999999999"}) {
    EXPECT_EQ(
        ErrorOf({"report", "--duration=" + value}),
        "--duration: \"" + value + "\" is out of range, allowed is a whole number from 1 to 86400");
  }
}

TEST(FlagsTest, ValuesObeyTheRangesOfTheFile) {
  EXPECT_EQ(ErrorOf({"--web.max-requests=0"}),
            "--web.max-requests: \"0\" is out of range, allowed is a whole number from 1 to 256");
  EXPECT_EQ(ErrorOf({"--web.max-requests", "-5"}),
            "--web.max-requests: \"-5\" is out of range, allowed is a whole number from 1 to 256");
  EXPECT_EQ(ErrorOf({"--log.format=text"}),
            "--log.format: \"text\" is unknown, allowed is logfmt or json");
  EXPECT_THAT(ErrorOf({"--log.level=WARN"}), StartsWith("--log.level: "));
  EXPECT_THAT(ErrorOf({"--path.tracefs=here"}), StartsWith("--path.tracefs: "));
  EXPECT_THAT(ErrorOf({"--web.telemetry-path=/-/ready"}), StartsWith("--web.telemetry-path: "));
  EXPECT_THAT(ErrorOf({"--web.listen-address=:1", "--web.listen-address=:1"}),
              StartsWith("--web.listen-address: \":1\" stands twice"));
}

TEST(FlagsTest, TheEnvironmentChangesNothing) {
  setenv("WEB_MAX_REQUESTS", "3", 1);
  setenv("KMEM_EXPORTER_WEB_MAX_REQUESTS", "3", 1);
  EXPECT_EQ(Parsed({}).config, Config{});
  unsetenv("WEB_MAX_REQUESTS");
  unsetenv("KMEM_EXPORTER_WEB_MAX_REQUESTS");
}

TEST(FlagsTest, HelpShowsEachFlagWithItsDefault) {
  const std::string help = Printed({"--help"});
  EXPECT_EQ(Printed({"-h"}), help);
  EXPECT_EQ(Printed({"--help", "--bogus", "--replay.exit"}), help);
  for (const char* flag : {"  -h, --help ",
                           "--config.file=FILE ",
                           "--config.check ",
                           "--replay=FILE ",
                           "--replay.exit ",
                           "--cleanup ",
                           "--duration=SECONDS ",
                           "--json ",
                           "--version ",
                           "--web.listen-address=:15636 ...\n",
                           "--web.telemetry-path=/metrics\n",
                           "--web.max-requests=40 ",
                           "--log.level=info ",
                           "--log.format=logfmt ",
                           "--path.procfs=/proc ",
                           "--path.tracefs=/sys/kernel/tracing\n",
                           "--[no-]collector.slab ",
                           "--[no-]collector.page ",
                           "--[no-]collector.pcp ",
                           "--[no-]collector.extfrag ",
                           "--[no-]collector.fragmentation\n",
                           "--[no-]collector.compaction "}) {
    EXPECT_THAT(help, HasSubstr(flag));
  }
  EXPECT_THAT(help, StartsWith("usage: kmem_exporter [<flags>]\n"));
  EXPECT_EQ(help.back(), '\n');
}

TEST(FlagsTest, VersionIsPrintedAsALine) {
  EXPECT_EQ(Printed({"--version"}), "1.2.3\n");
  EXPECT_EQ(std::get<PrintAndExit>(ParseCommandLine({"--version"}, "a\nb\n")).text, "a\nb\n");
}

}  // namespace
}  // namespace kmem
