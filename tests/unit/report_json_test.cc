#include "exporter/report/report_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "recorded_data.h"

namespace kmem {
namespace {

using nlohmann::json;

json Parsed(const Report& report) { return json::parse(ReportJson(report)); }

TEST(ReportJsonTest, WhatWasNotCountedIsNullAndNotMissing) {
  Report report;
  report.seconds = 2.5;
  const json whole = Parsed(report);
  EXPECT_EQ(whole.at("version"), 1);
  EXPECT_EQ(whole.at("source").at("kind"), "live");
  EXPECT_EQ(whole.at("source").at("seconds"), 2.5);
  EXPECT_TRUE(whole.at("source").at("file").is_null());
  for (const char* part : {"slab", "pages", "zone_lock", "per_cpu_lists", "cross_cpu"}) {
    EXPECT_TRUE(whole.at(part).is_null()) << part;
  }
  for (const auto& [name, value] : whole.at("fragmentation").items()) {
    EXPECT_TRUE(value.is_null()) << name;
  }
  report.slab.emplace();
  for (const char* part : {"call_sites", "size_classes", "caches", "live"}) {
    EXPECT_TRUE(Parsed(report).at("slab").at(part).is_null()) << part;
  }
}

TEST(ReportJsonTest, ATraceNamesItsFileAndHasNoTime) {
  Report report;
  report.trace_file = "a.dat";
  const json source = Parsed(report).at("source");
  EXPECT_EQ(source.at("kind"), "trace");
  EXPECT_EQ(source.at("file"), "a.dat");
  EXPECT_TRUE(source.at("seconds").is_null());
}

TEST(ReportJsonTest, WholeNumbersHaveNoFraction) {
  Report report;
  report.trust.events_read = 12345678901;
  report.trust.traced_share = {{"slab", 0.25}};
  const std::string text = ReportJson(report);
  EXPECT_THAT(text, ::testing::HasSubstr("\"events_read\": 12345678901,"));
  EXPECT_THAT(text, ::testing::HasSubstr("\"slab\": 0.25"));
}

TEST(ReportJsonTest, AllRowsAreThereAlsoThoseThatTheTextSumsUp) {
  Report report;
  auto& sites = report.slab.emplace().call_sites.emplace();
  for (int i = 0; i < 50; ++i) {
    CallSite& row = sites.emplace_back();
    row.site = {"site" + std::to_string(i), "ext4"};
    row.allocated_bytes = 128;
    row.requested_bytes = 100;
  }
  const json rows = Parsed(report).at("slab").at("call_sites");
  ASSERT_EQ(rows.size(), 50U);
  EXPECT_EQ(rows[49].at("call_site"), "site49");
  EXPECT_EQ(rows[49].at("module"), "ext4");
  EXPECT_EQ(rows[49].at("waste_bytes"), 28);
  EXPECT_TRUE(rows[49].at("size_classes").is_null());
}

TEST(ReportJsonTest, LiveMemoryIsKeyedByAge) {
  Report report;
  LiveSite row;
  row.site.call_site = "f";
  row.grown_bytes = -64;
  row.aged_bytes = {{60, 128}};
  row.lasting_objects = 2;
  row.lasting_bytes = 96;
  report.slab.emplace().live = {
      .sites = {row}, .complete = false, .dropped = {{"table_full", 1}}, .one_in = 4};
  const json live = Parsed(report).at("slab").at("live");
  EXPECT_EQ(live.at("complete"), false);
  EXPECT_EQ(live.at("dropped").at("table_full"), 1);
  EXPECT_EQ(live.at("sites")[0].at("aged_bytes").at("60"), 128);
  EXPECT_EQ(live.at("sites")[0].at("grown_bytes"), -64);
  EXPECT_EQ(live.at("sites")[0].at("lasting_objects"), 2);
  EXPECT_EQ(live.at("sites")[0].at("lasting_bytes"), 96);
  EXPECT_EQ(live.at("one_in"), 4);
}

TEST(ReportJsonTest, NamesOfOddBytesStayJson) {
  Report report;
  report.slab.emplace().caches.emplace().emplace_back().cache = "a\"\xff\n";
  EXPECT_EQ(Parsed(report).at("slab").at("caches")[0].at("cache"), "a\"\xEF\xBF\xBD\n");
}

// The names of all members, but of objects that are keyed by labels' values.
void CollectNames(const json& value, std::set<std::string>& names) {
  for (const auto& [name, member] : value.items()) {
    if (value.is_object()) names.insert(name);
    if (member.is_structured()) CollectNames(member, names);
  }
}

TEST(ReportJsonTest, EveryMemberIsDocumented) {
  Report report;
  Slab& slab = report.slab.emplace();
  slab.call_sites.emplace().emplace_back();
  slab.size_classes.emplace().emplace_back();
  slab.caches.emplace().emplace_back();
  slab.live.emplace().sites.emplace_back();
  report.pages.emplace().orders[0] = {};
  report.zone_lock.emplace();
  report.per_cpu_lists.emplace().cpus[0] = {};
  report.per_cpu_lists->limits.emplace_back();
  report.cross_cpu.emplace();
  report.fragmentation.fallbacks.emplace().emplace_back();
  report.fragmentation.free_memory.emplace().emplace_back();
  report.fragmentation.min_free.emplace();
  report.fragmentation.compaction.emplace();
  std::set<std::string> names;
  CollectNames(Parsed(report), names);
  EXPECT_GT(names.size(), 60U);
  const std::string docs = ReadWhole(TestData("../../docs/report.md"));
  for (const std::string& name : names) {
    EXPECT_TRUE(docs.find("`" + name + "`") != std::string::npos ||
                docs.find("." + name + "`") != std::string::npos ||
                docs.find("`" + name + ".") != std::string::npos)
        << name << " is not in docs/report.md";
  }
}

TEST(ReportJsonTest, TheValueToSetIsNullWhereItWouldBeTooMuch) {
  Report report;
  report.fragmentation.min_free = {.bytes = 10, .step_bytes = 20, .memory_bytes = 600};
  EXPECT_EQ(Parsed(report).at("fragmentation").at("min_free").at("next_bytes"), 30);
  report.fragmentation.min_free->memory_bytes = 599;
  EXPECT_TRUE(Parsed(report).at("fragmentation").at("min_free").at("next_bytes").is_null());
}

}  // namespace
}  // namespace kmem
