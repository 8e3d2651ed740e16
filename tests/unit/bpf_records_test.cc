// The collectors' arithmetic in the kernel and here gives the same state: recorded events are run
// through the BPF programs (BPF_PROG_TEST_RUN) and through the dispatcher, and every word compared.
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "bpf_programs.h"
#include "collectors/slab_tables.h"
#include "dispatch_rig.h"

namespace kmem {
namespace {

// Of a tracepoint: the record's fields in the order of its arguments; "" is one that no program
// reads. And the program.
struct Source {
  const char* program;
  std::vector<const char*> fields;
};

std::map<std::string, Source> SourcesOf(bool has_refill) {
  const std::vector<const char*> allocation{"call_site", "ptr", "bytes_req", "bytes_alloc"};
  const std::vector<const char*> extfrag{"pfn", "alloc_order", "fallback_order",
                                         "alloc_migratetype", "fallback_migratetype"};
  std::vector<const char*> zone_locked{"pfn", "order", "migratetype"};
  if (has_refill) zone_locked.push_back("percpu_refill");
  return {
      {"kmalloc", {"kmalloc", allocation}},
      {"kmalloc_node", {"kmalloc_node", allocation}},
      {"kmem_cache_alloc", {"kmem_cache_alloc_bytes", allocation}},
      {"kmem_cache_alloc_node", {"kmem_cache_alloc_node", allocation}},
      {"kfree", {"kfree", {"", "ptr"}}},
      {"kmem_cache_free", {"kmem_cache_free_nameless", {"", "ptr"}}},
      {"mm_page_alloc", {"mm_page_alloc", {"pfn", "order", "gfp_flags", "migratetype"}}},
      {"mm_page_alloc_zone_locked",
       {has_refill ? "mm_page_alloc_zone_locked" : "mm_page_alloc_zone_locked_no_refill",
        zone_locked}},
      {"mm_page_free", {"mm_page_free", {"pfn", "order"}}},
      {"mm_page_free_batched", {"mm_page_free_batched", {"pfn"}}},
      {"mm_page_pcpu_drain", {"mm_page_pcpu_drain", {"pfn", "order", "migratetype"}}},
      {"mm_page_alloc_extfrag", {"mm_page_alloc_extfrag", extfrag}},
  };
}

class BpfRecordsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() { libbpf_set_print(nullptr); }
};

// Runs every record of the page through the program of its tracepoint.
class Replay {
 public:
  Replay(const std::string& kernel, const Formats& formats, BpfPrograms& programs)
      : programs_(programs) {
    const bool has_refill =
        FormatText(kernel, "mm_page_alloc_zone_locked").find("int percpu_refill;") !=
        std::string::npos;
    for (const auto& [event, source] : SourcesOf(has_refill)) {
      if (!formats.Has(event)) continue;
      Bound bound{source, {}};
      for (const char* field : source.fields) {
        const FieldSpec spec{field, true, 0};
        bound.fields.push_back(*field == '\0' ? BoundField{}
                                              : formats.Bind(event, std::span(&spec, 1)).fields[0]);
      }
      events_[formats.Id(event)] = std::move(bound);
    }
  }

  void OnRecord(std::uint64_t time, const std::byte* record) {
    std::uint16_t id = 0;
    std::memcpy(&id, record, sizeof id);
    const auto found = events_.find(id);
    if (found == events_.end()) return;
    const Bound& event = found->second;
    BpfArguments arguments{};
    arguments[kBpfTime] = time;
    for (std::size_t i = 0; i < event.fields.size(); ++i) {
      arguments[i] = LoadField(record, event.fields[i]);
    }
    // The argument is a struct page, of 64 bytes: NULL where the allocation failed. pfn 0 is one.
    if (event.source.fields[0] == std::string_view("pfn")) {
      arguments[0] = arguments[0] == PAGE_NO_PFN ? 0 : arguments[0] << 6 | 1;
    }
    programs_.Run(event.source.program, arguments);
    ++events;
  }

  std::uint64_t events = 0;

 private:
  struct Bound {
    Source source;
    std::vector<BoundField> fields;
  };
  BpfPrograms& programs_;
  std::map<std::uint16_t, Bound> events_;
};

// The programs are not told whether the pageblock changed its owner.
void ForgetOwnership(extfrag_tally& tally) {
  for (auto& alloc : tally.counts.events) {
    for (auto& fallback : alloc) {
      for (auto& fragmenting : fallback) {
        fragmenting[EXTFRAG_OWNERSHIP_UNKNOWN] += fragmenting[0] + fragmenting[1];
        fragmenting[0] = fragmenting[1] = 0;
      }
    }
  }
}

// What the tables hold, by call site, whichever of them it is in.
struct SiteCounts {
  std::array<std::uint64_t, SLAB_SITE_SIZES> sums{};
  std::uint64_t classes = 0;          // a bit for each bucket of sizes
  std::set<std::uint64_t> one_sizes;  // of each table that has seen one size only
  bool several = false;               // a table has seen several
  [[nodiscard]] std::uint64_t FixedSize() const {
    return several || one_sizes.size() != 1 ? 0 : *one_sizes.begin();
  }
  bool operator==(const SiteCounts& other) const {
    return sums == other.sums && classes == other.classes && FixedSize() == other.FixedSize();
  }
};
using Sites = std::map<std::uint64_t, SiteCounts>;
void AddSites(std::span<const kmem_slot> slots, Sites& sites) {
  for (const kmem_slot& slot : slots) {
    if (slot.key == 0) continue;
    EXPECT_EQ(slot.generation % 2, 0U);
    SiteCounts& site = sites[slot.key];
    for (std::size_t i = 0; i < site.sums.size(); ++i) site.sums.at(i) += slot.values[i];
    const std::uint64_t sizes = slot.values[SLAB_SITE_SIZES];
    const std::uint64_t varies = UINT64_C(1) << SLAB_SIZES_VARY_SHIFT;
    site.classes |= (sizes & ~varies) >> SLAB_SIZES_CLASSES_SHIFT;
    site.several |= (sizes & varies) != 0;
    if ((sizes & varies) == 0) site.one_sizes.insert(static_cast<std::uint32_t>(sizes));
  }
}
void PrintTo(const SiteCounts& site, std::ostream* out) {
  *out << "sums " << ::testing::PrintToString(site.sums) << ", classes " << std::hex << site.classes
       << std::dec << ", fixed size " << site.FixedSize();
}
Sites SitesOf(const kmem_bpf_cpu& cpu) {
  Sites sites;
#define ADD(name) AddSites(cpu.name##_sites, sites);
  KMEM_BPF_SITE_TABLES(ADD)
#undef ADD
  return sites;
}
Sites SitesOf(const Tallies& tallies) {
  Sites sites;
  for (const TableEntry& site : ParseSlabTables(tallies.common).sites) {
    AddSites(std::span(&site.slot, 1), sites);
  }
  return sites;
}

TEST_P(BpfRecordsTest, TheProgramsAndTheDispatcherGiveTheSameState) {
  for (const char* file : {"cpu0.raw", "cpu1.raw"}) {
    SCOPED_TRACE(file);
    DispatchRig rig(GetParam(), 1);
    BpfPrograms programs(rig.collectors(), rig.facts());
    if (const char* why = programs.WhyNotHere()) GTEST_SKIP() << why;
    ASSERT_EQ(programs.error(), 0) << std::strerror(-programs.error());
    Replay replay(GetParam(), rig.formats(), programs);
    for (const HeapPage& page : ReadPages(GetParam(), file)) {
      rig.OnPage(0, page);
      WalkPage(page.bytes(), {},
               [&](std::uint64_t time, const std::byte* record, std::uint32_t /*length*/) {
                 replay.OnRecord(time, record);
               });
    }
    EXPECT_EQ(replay.events, rig.AllEventsRead());
    EXPECT_GE(replay.events, 100U);
    rig.dispatcher().SettleCommon(UINT64_MAX, UINT64_MAX);
    for (std::size_t i = 0; i < rig.collectors().size(); ++i) {
      const TraceCollector& collector = *rig.collectors()[i];
      std::byte* const here = rig.state().tallies[i].At(0);
      std::byte* const kernel = programs.Tally(collector);
      if (collector.name() == "extfrag") ForgetOwnership(*reinterpret_cast<extfrag_tally*>(here));
      EXPECT_EQ(std::memcmp(here, kernel, collector.tally_bytes()), 0) << collector.name();
    }
    rig.dispatcher().ReadCommon(0);
    const Sites sites = SitesOf(programs.cpu());
    EXPECT_GE(sites.size(), 10U);
    EXPECT_EQ(sites, SitesOf(rig.state().tallies.at(0)));
    const auto fixed = [](const auto& site) { return site.second.FixedSize() != 0; };
    EXPECT_TRUE(std::ranges::any_of(sites, fixed));
    EXPECT_FALSE(std::ranges::all_of(sites, fixed));
    for (std::size_t mark = 0; mark < kBpfTracepoints.size(); ++mark) {
      const kmem_bpf_mark& is = programs.cpu().marks[mark];
      EXPECT_EQ(is.sequence, 2 * rig.EventsRead(std::string(kBpfTracepoints[mark])))
          << kBpfTracepoints[mark];
      EXPECT_EQ(is.skipped, 0U);
      EXPECT_EQ(is.implausible, 0U);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, BpfRecordsTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

class BpfProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    libbpf_set_print(nullptr);
    programs_ = std::make_unique<BpfPrograms>(collectors_, KernelFacts{});
    if (const char* why = programs_->WhyNotHere()) GTEST_SKIP() << why;
    ASSERT_EQ(programs_->error(), 0);
  }
  TraceCollectors collectors_ = MakeTraceCollectors({});
  std::unique_ptr<BpfPrograms> programs_;
};

TEST_F(BpfProgramTest, AnEventThatComesWhileItsProgramIsAtWorkIsCountedAsSkipped) {
  kmem_bpf_mark& mark = programs_->cpu().marks[KMEM_BPF_kfree];
  mark.sequence = 5;
  programs_->Run("kfree", {0, 0x1000});
  programs_->Run("kfree", {0, 0x1000});
  EXPECT_EQ(mark.skipped, 2U);
  EXPECT_EQ(mark.sequence, 5U);
  EXPECT_EQ(programs_->cpu().slab.counts.kfree, 0U);
  // Another tracepoint's program interrupts it and counts.
  programs_->Run("kmem_cache_free_nameless", {0, 0x1000});
  EXPECT_EQ(programs_->cpu().slab.counts.kmem_cache_free, 1U);
  mark.sequence = 6;
  programs_->Run("kfree", {0, 0x1000});
  EXPECT_EQ(mark.sequence, 8U);
  EXPECT_EQ(programs_->cpu().slab.counts.kfree, 1U);
}

TEST_F(BpfProgramTest, TheKernelThatPassesACacheBeforeTheBytesCountsTheSame) {
  for (const std::string program : {"kmalloc", "kmalloc_node", "kmem_cache_alloc_node"}) {
    programs_->Run(program.c_str(), {0, 0x1000, 60, 64}, 0);
    programs_->Run((program + "_with_cache").c_str(), {0, 0x1000, 0x2000, 60, 64}, 1);
  }
  const slab_tally& before = programs_->cpu(0).slab;
  const slab_tally& with_cache = programs_->cpu(1).slab;
  EXPECT_EQ(before.counts.kmalloc.alloc.unrequested_bytes, 4U);
  EXPECT_EQ(std::memcmp(&before.counts, &with_cache.counts, sizeof before.counts), 0);
}

TEST_F(BpfProgramTest, WhatNoKernelPassesIsCountedAsImplausibleAndChangesNothing) {
  const kmem_bpf_cpu before = programs_->cpu();
  const std::uint64_t wild = 0xFFFF'FFFF'FFFF'FFFF;
  programs_->Run("kmalloc", {0, 0x1000, 64, 32});
  programs_->Run("mm_page_alloc", {1, 16, 0, 0});
  programs_->Run("mm_page_alloc", {1, 0, 0, 8});
  programs_->Run("mm_page_alloc", {1, 0, 0, wild});
  programs_->Run("mm_page_alloc_zone_locked", {1, wild, 0, 1});
  programs_->Run("mm_page_free", {1, wild});
  programs_->Run("mm_page_pcpu_drain", {1, 16, 0});
  for (std::size_t at = 1; at < 5; ++at) {
    BpfArguments arguments{1, 0, 0, 0, 1};
    arguments[at] = wild;
    programs_->Run("mm_page_alloc_extfrag", arguments);
  }
  const kmem_bpf_cpu& after = programs_->cpu();
  EXPECT_EQ(after.marks[KMEM_BPF_kmalloc].implausible, 1U);
  EXPECT_EQ(after.marks[KMEM_BPF_mm_page_alloc].implausible, 3U);
  EXPECT_EQ(after.marks[KMEM_BPF_mm_page_alloc_zone_locked].implausible, 1U);
  EXPECT_EQ(after.marks[KMEM_BPF_mm_page_free].implausible, 1U);
  EXPECT_EQ(after.marks[KMEM_BPF_mm_page_pcpu_drain].implausible, 1U);
  EXPECT_EQ(after.marks[KMEM_BPF_mm_page_alloc_extfrag].implausible, 4U);
  EXPECT_EQ(std::memcmp(&before.slab, &after.slab, sizeof before.slab), 0);
  EXPECT_EQ(std::memcmp(&before.page, &after.page, sizeof before.page), 0);
  EXPECT_EQ(std::memcmp(&before.extfrag, &after.extfrag, sizeof before.extfrag), 0);
}

// Sizes whose buckets come from the table and from the logarithm, on both sides of each bound.
TEST_F(BpfProgramTest, EverySizeFallsIntoTheBucketThatItFallsIntoHere) {
  slab_tally here{};
  std::vector<std::uint64_t> sizes{0, UINT64_C(1) << 40};
  for (std::uint64_t bound = 1; bound <= 8 << 20; bound *= 2) {
    for (const std::uint64_t size : {bound - 1, bound, bound + 1, bound + bound / 2}) {
      sizes.push_back(size);
    }
  }
  for (std::uint64_t size = 0; size <= 1100; size += 4) sizes.push_back(size);
  for (const std::uint64_t size : sizes) {
    slab_alloc_event event{};
    event.ptr = 0x1000;
    event.bytes_req = size;
    event.bytes_alloc = 3 * size;
    slab_count_kmalloc(&here, &event, nullptr);
    slab_count_class(&here.counts.kmalloc_classes, &event);
    programs_->Run("kmalloc", {0, event.ptr, event.bytes_req, event.bytes_alloc});
  }
  EXPECT_EQ(std::memcmp(&here.counts, &programs_->cpu().slab.counts, sizeof here.counts), 0);
}

}  // namespace
}  // namespace kmem
