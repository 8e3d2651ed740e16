// Pins what a report looks like: of every recorded trace as text, of one as JSON. Where a change is
// meant, write the files anew and read their diff:
// KMEM_UPDATE_GOLDEN=1 unit_tests --gtest_filter='*Golden*'
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "exporter/proc_files.h"
#include "exporter/replay/replay_source.h"
#include "exporter/report/report.h"
#include "exporter/report/report_json.h"
#include "exporter/report/report_text.h"
#include "exporter/report/run_report.h"
#include "exporter/scraper.h"
#include "recorded_data.h"

namespace kmem {
namespace {

Report ReportOf(const std::string& kernel) {
  Config config;
  config.paths.procfs = TestData("proc/" + kernel);
  config.collectors = CollectorsOfReport(config.collectors, 1);
  const ProcFiles proc(config.paths.procfs);
  const TraceCollectors trace_collectors = MakeTraceCollectors(config.collectors);
  const ProcCollectors proc_collectors = MakeProcCollectors(config.collectors);
  const std::string file = "kmem-" + kernel + ".dat";
  Tracing tracing([&] {
    return std::make_unique<ReplaySource>(TestData("traces/" + file), config, trace_collectors);
  });
  tracing.Start();
  Observation observation;
  observation.trace_file = file;
  observation.end = Scraper(config, trace_collectors, proc_collectors, proc, tracing).Scrape({});
  observation.wanted_tracepoints = WantedEvents(trace_collectors, {});
  observation.memory_bytes = 384 << 20;  // of the machine that they were recorded on
  return MakeReport(observation);
}

void ExpectGolden(const std::string& text, const std::string& name) {
  const std::string path = std::string(KMEM_TEST_GOLDEN) + "/" + name;
  if (std::getenv("KMEM_UPDATE_GOLDEN") != nullptr) {
    std::ofstream file(path, std::ios::trunc);
    ASSERT_TRUE(file << text) << path;
  }
  EXPECT_EQ(text, ReadWhole(path))
      << "where the change is meant: KMEM_UPDATE_GOLDEN=1 unit_tests "
         "--gtest_filter='*Golden*', and read the diff of tests/golden";
}

class ReportGoldenTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, ReportGoldenTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(ReportGoldenTest, TheTextIsTheGoldenOne) {
  ExpectGolden(ReportText(ReportOf(GetParam())), "report-" + GetParam() + ".txt");
}

TEST(ReportGoldenJsonTest, TheJsonIsTheGoldenOne) {
  ExpectGolden(ReportJson(ReportOf("6.18")), "report-6.18.json");
}

}  // namespace
}  // namespace kmem
