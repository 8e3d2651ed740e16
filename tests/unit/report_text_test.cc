#include "exporter/report/report_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "exporter/report/table.h"

namespace kmem {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(ReportNumbersTest, CountsHaveSeparators) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1000), "1,000");
  EXPECT_EQ(CountText(1234567.4), "1,234,567");
  EXPECT_EQ(CountText(-6128), "-6,128");
  EXPECT_EQ(CountText(-0.2), "0");
  EXPECT_EQ(CountText(1e15), "1,000,000,000,000,000");
}

TEST(ReportNumbersTest, RatesHaveOneDigitWhileSmall) {
  EXPECT_EQ(RateText(0), "0.0");
  EXPECT_EQ(RateText(0.44), "0.4");
  EXPECT_EQ(RateText(99.9), "99.9");
  EXPECT_EQ(RateText(12345), "12,345");
}

TEST(ReportNumbersTest, BytesHaveTheUnitThatFits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024), "1.0 KiB");
  EXPECT_EQ(BytesText(1048575), "1.0 MiB");
  EXPECT_EQ(BytesText(-1536), "-1.5 KiB");
  EXPECT_EQ(BytesText(5e18), "4440.9 PiB");
}

TEST(ReportNumbersTest, AShareOfNothingIsADash) {
  EXPECT_EQ(ShareText(1, 8), "12.5%");
  EXPECT_EQ(ShareText(0, 0), "-");
}

TEST(ReportNumbersTest, NamesAreEscapedAndCut) {
  EXPECT_EQ(NameText("do_a\x1b[31m\n"), "do_a\\u001b[31m\\n");
  EXPECT_EQ(NameText("a\xff"), "a\xEF\xBF\xBD");
  EXPECT_EQ(NameText(std::string(48, 'x')), std::string(48, 'x'));
  EXPECT_EQ(NameText(std::string(49, 'x')), std::string(45, 'x') + "...");
}

TEST(ReportTableTest, ColumnsAreAsWideAsTheirWidestCell) {
  Table table({"<name", "count", "<note"});
  EXPECT_TRUE(table.empty());
  table.Add({"a", "1,000", ""});
  table.Add({"größer", "2", "x"});
  EXPECT_EQ(table.Text(),
            "  name    count  note\n"
            "  a       1,000\n"
            "  größer      2  x\n");
}

Report Live() {
  Report report;
  report.seconds = 10;
  report.engine = "bpf";
  report.reason = "auto";
  return report;
}

TEST(ReportTextTest, WhatWasNotCountedIsSaidInALine) {
  const std::string text = ReportText(Live());
  EXPECT_THAT(text, HasSubstr("  Slab: not counted (needs the collector slab).\n"));
  EXPECT_THAT(text, HasSubstr("  Pages: not counted (needs the collector page).\n"));
  EXPECT_THAT(text, HasSubstr("  zone->lock: not counted (needs the collector page).\n"));
  EXPECT_THAT(text, HasSubstr("  Refills and drains: not counted (needs the collector pcp).\n"));
  EXPECT_THAT(text, HasSubstr("  Fallbacks to other migratetypes: not counted (needs the collector "
                              "extfrag).\n"));
  EXPECT_THAT(text, HasSubstr("What to set vm.min_free_kbytes to is not known"));
}

TEST(ReportTextTest, PartsOfSlabThatWereNotCountedNameTheirKey) {
  Report report = Live();
  report.slab.emplace();
  const std::string text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("Call sites: not counted (needs collectors.slab.callsites)."));
  EXPECT_THAT(text, HasSubstr("Caches: not counted (needs collectors.slab.caches"));
  EXPECT_THAT(text, HasSubstr("leaks: not looked for (needs collectors.slab.live)."));
  EXPECT_THAT(PerCpuText(report), HasSubstr("needs collectors.page.cross_cpu"));
}

TEST(ReportTextTest, TheTitleSaysWhatWasWatchedAndByWhat) {
  Report report = Live();
  EXPECT_THAT(ReportText(report),
              ::testing::StartsWith("kmem_exporter report of 10.0 s of the live kernel, counted "
                                    "by engine bpf (auto)\n"));
  report.trace_file = "a.dat";
  EXPECT_THAT(ReportText(report),
              ::testing::StartsWith("kmem_exporter report of the recorded trace a.dat\n"));
}

TEST(ReportTextTest, WholeNumbersAreSaidToBeWhole) {
  Report report = Live();
  report.trust.events_read = 1234;
  EXPECT_THAT(ReportText(report),
              HasSubstr("1,234 events read, none lost: the numbers are whole."));
}

TEST(ReportTextTest, DoubtsStandAtTheTop) {
  Report report = Live();
  report.trust = {.events_read = 5,
                  .lost = {{"dropped", 1000}, {"overrun", 2}},
                  .record_errors = {{"short_payload", 3}},
                  .interference = {{"disabled", 1}},
                  .traced_share = {{"slab", 0.15}},
                  .missing_tracepoints = {"mm_page_free"},
                  .failed_tracepoints = {"kfree"}};
  const std::string text = ReportText(report);
  const std::string top = text.substr(0, text.find("\n1. "));
  EXPECT_THAT(top, Not(HasSubstr("none lost")));
  EXPECT_THAT(top, HasSubstr("! 1,002 of 1,007 events were lost (dropped 1,000, overrun 2)"));
  EXPECT_THAT(top, HasSubstr("! 3 records could not be read (short_payload 3)"));
  EXPECT_THAT(top, HasSubstr("! Somebody else changed this tracing (disabled 1)"));
  EXPECT_THAT(top, HasSubstr("! slab was traced 15.0% of the time: its numbers are estimates."));
  EXPECT_THAT(top, HasSubstr("! Tracepoints that could not be used: kfree."));
  EXPECT_THAT(top, HasSubstr("Tracepoints that this kernel lacks: mm_page_free.\n"));
}

CallSite Wasteful(std::string name, double waste) {
  CallSite row;
  row.site.call_site = std::move(name);
  row.allocations = 1;
  row.requested_bytes = 100;
  row.allocated_bytes = 100 + waste;
  return row;
}

TEST(ReportTextTest, TenCallSitesAreShownAndTheRestIsSummedUp) {
  Report report = Live();
  auto& sites = report.slab.emplace().call_sites.emplace();
  for (int i = 0; i < 11; ++i) sites.push_back(Wasteful("site" + std::to_string(i), 100));
  sites.push_back(Wasteful("other", 500));
  const std::string text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("site9 "));
  EXPECT_THAT(text, Not(HasSubstr("site10")));
  EXPECT_THAT(text, HasSubstr("(all others)                    2      200 B      800 B  600 B"));
}

TEST(ReportTextTest, CallSitesThatWasteNothingAreAmongTheRest) {
  Report report = Live();
  report.slab.emplace().call_sites = {Wasteful("wastes", 1), Wasteful("fits", 0)};
  const std::string text = SlabText(report);
  EXPECT_THAT(text, AllOf(HasSubstr("wastes"), HasSubstr("(all others)"), Not(HasSubstr("fits "))));
}

TEST(ReportTextTest, CandidatesForACacheAreNamed) {
  Report report = Live();
  auto& sites = report.slab.emplace().call_sites.emplace();
  sites.push_back(Wasteful("alloc_pipe_info", 28));
  sites.front().size_classes = 2;
  EXPECT_THAT(SlabText(report),
              AllOf(HasSubstr("No dedicated cache is justified"), HasSubstr(" 2 classes\n")));
  sites.front().size_classes = 1;
  EXPECT_THAT(SlabText(report), AllOf(HasSubstr("if there is none, for alloc_pipe_info.\n"),
                                      HasSubstr(" 1 class\n")));
  sites.front().fixed_size_bytes = 1100;
  EXPECT_THAT(SlabText(report), HasSubstr(" 1,100 B\n"));
}

TEST(ReportTextTest, HiddenNamesAreSaidToBeHidden) {
  Report report = Live();
  report.slab.emplace().call_sites = {Wasteful("other", 28)};
  report.slab->symbols_hidden = true;
  const std::string text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("! The kernel hides their names"));
  EXPECT_THAT(text, Not(HasSubstr("edicated cache")));
}

TEST(ReportTextTest, SuspectsAreShownWithTheirAgesAndTheirDoubts) {
  Report report = Live();
  report.seconds = 10;
  LiveSite row;
  row.site.call_site = "leaks";
  row.bytes = row.grown_bytes = 4096;
  row.objects = 4;
  row.lasting_bytes = 2048;
  row.lasting_objects = 2;
  row.aged_bytes = {{60, 1024}, {3600, 0}};
  LiveSite young;
  young.site.call_site = "young";
  young.bytes = young.grown_bytes = 512;
  young.objects = 1;
  auto& live = report.slab.emplace().live.emplace();
  EXPECT_THAT(SlabText(report), HasSubstr("None: all of it was freed."));
  live.sites = {young};
  EXPECT_THAT(SlabText(report), HasSubstr("None: all of it was freed."));
  live.sites = {row, young};
  live.dropped = {{"pointer_reused", 7}};
  std::string text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("allocated in the first 5.0 s and alive at the end"));
  EXPECT_THAT(text, HasSubstr("all alive  their bytes  older than 60 s\n"));
  EXPECT_THAT(text,
              HasSubstr("leaks                       2  2.0 KiB          4      4.0 KiB          "
                        "1.0 KiB\n"));
  EXPECT_THAT(text, HasSubstr("(all others)                0      0 B          1        512 B"));
  EXPECT_THAT(text, Not(HasSubstr("doubtful"))) << "what is freed in silence is no loss";
  EXPECT_THAT(text, Not(HasSubstr("Estimated")));
  live.complete = false;
  text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("! Allocations or frees were missed: these numbers"));
  live.dropped["table_full"] = 7;
  live.one_in = 16;
  text = SlabText(report);
  EXPECT_THAT(text, HasSubstr("! Allocations or frees were missed (table_full 7)"));
  EXPECT_THAT(text, HasSubstr("Estimated by one object in 16."));
  report.seconds.reset();
  EXPECT_THAT(SlabText(report), HasSubstr("allocated in the trace's first half"));
}

TEST(ReportTextTest, OfManyCpusTheBusiestAreShownByNumber) {
  Report report = Live();
  auto& lists = report.per_cpu_lists.emplace();
  for (int cpu = 0; cpu < 64; ++cpu) {
    lists.cpus[cpu] = {.refills = 1, .refill_pages = cpu == 5 ? 1000.0 : cpu};
  }
  const std::string text = PerCpuText(report);
  EXPECT_THAT(text, HasSubstr("These are the 10 busiest of 64 CPUs."));
  EXPECT_THAT(text, HasSubstr("on CPU 5; 1.6% if all were even"));
  EXPECT_LT(text.find("\n    5 "), text.find("\n   55 "));
  EXPECT_EQ(text.find("\n   54 "), std::string::npos);
}

Report Fragmenting() {
  constexpr double kMiB = 1 << 20;
  Report report = Live();
  report.fragmentation.fallbacks = {{.alloc_migratetype = "unmovable",
                                     .fallback_migratetype = "movable",
                                     .events = 9,
                                     .fragmenting = 9,
                                     .change_ownership = {{"false", 9}}}};
  report.fragmentation.min_free = {
      .bytes = 64 * kMiB, .step_bytes = 6 * kMiB, .memory_bytes = 4096 * kMiB};
  return report;
}

TEST(ReportTextTest, WhereMemoryFragmentsTheValueToSetIsGiven) {
  EXPECT_THAT(FragmentationText(Fragmenting()),
              AllOf(HasSubstr("9 events fragmented memory for good"),
                    HasSubstr("\n      sysctl -w vm.min_free_kbytes=71680\n"),
                    HasSubstr("Stop at 5% of memory (204.8 MiB)")));
}

TEST(ReportTextTest, MinFreeIsNotRaisedBeyondItsShareNorWithoutAReason) {
  Report report = Fragmenting();
  report.fragmentation.min_free->memory_bytes = 1 << 30;
  std::string text = FragmentationText(report);
  EXPECT_THAT(text, AllOf(HasSubstr("would exceed 5% of memory (51.2 MiB): leave it."),
                          Not(HasSubstr("sysctl"))));
  report.fragmentation.min_free->memory_bytes.reset();
  text = FragmentationText(report);
  EXPECT_THAT(text,
              AllOf(HasSubstr("how much memory there is is not known"), Not(HasSubstr("sysctl"))));
  report = Fragmenting();
  report.fragmentation.fallbacks->front().fragmenting = 0;
  text = FragmentationText(report);
  EXPECT_THAT(text, AllOf(HasSubstr("vm.min_free_kbytes is 65536: no reason here to raise it."),
                          Not(HasSubstr("sysctl"))));
}

TEST(ReportTextTest, ATraceWithoutProcNamesTheFlag) {
  Report report = Live();
  report.trace_file = "a.dat";
  EXPECT_THAT(FragmentationText(report), HasSubstr("--path.procfs"));
}

TEST(ReportTextTest, FailuresAreToldApart) {
  Report report = Live();
  auto& order = report.pages.emplace().orders[3];
  order.allocations["movable"] = 1;
  EXPECT_THAT(PagesText(report), HasSubstr("No allocation failed."));
  order.failures = {{"false", 1}};
  EXPECT_THAT(PagesText(report), HasSubstr("dmesg shows it"));
  order.failures = {{"true", 4}};
  EXPECT_THAT(PagesText(report), AllOf(HasSubstr("failed quietly"), Not(HasSubstr("dmesg"))));
  order.failures = {{"unknown", 4}};
  EXPECT_THAT(PagesText(report), HasSubstr("failed, either way"));
}

}  // namespace
}  // namespace kmem
