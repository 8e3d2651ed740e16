// The in-kernel engine's fit to a kernel: prototypes in BTF, and the programs that they call for.
#include <bpf/btf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "exporter/bpf/programs.h"
#include "exporter/bpf/prototypes.h"
#include "exporter/collector_list.h"

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// BTF as a kernel has it, made by hand.
class Btf {
 public:
  Btf() {
    char_ = btf__add_int(btf_.get(), "char", 1, BTF_INT_CHAR);
    int_ = btf__add_int(btf_.get(), "int", 4, BTF_INT_SIGNED);
    long_ = btf__add_int(btf_.get(), "unsigned long", 8, 0);
    gfp_ = btf__add_typedef(btf_.get(), "gfp_t", int_);
    void_pointer_ = btf__add_ptr(btf_.get(), btf__add_const(btf_.get(), 0));
    const int cache = btf__add_struct(btf_.get(), "kmem_cache", 8);
    cache_ = btf__add_ptr(btf_.get(), cache);
    const_cache_ = btf__add_ptr(btf_.get(), btf__add_const(btf_.get(), cache));
    page_ = btf__add_ptr(btf_.get(), btf__add_struct(btf_.get(), "page", 64));
  }

  [[nodiscard]] const btf& get() const { return *btf_; }
  [[nodiscard]] btf* raw() { return btf_.get(); }

  void AddTracepoint(const std::string& name, const std::vector<int>& arguments) {
    const int function = btf__add_func_proto(btf_.get(), 0);
    btf__add_func_param(btf_.get(), nullptr, void_pointer_);
    for (const int type : arguments) btf__add_func_param(btf_.get(), nullptr, type);
    btf__add_typedef(btf_.get(), ("btf_trace_" + name).c_str(), btf__add_ptr(btf_.get(), function));
  }

  int char_ = 0;
  int int_ = 0;
  int long_ = 0;
  int gfp_ = 0;
  int void_pointer_ = 0;
  int cache_ = 0;
  int const_cache_ = 0;
  int page_ = 0;

 private:
  std::unique_ptr<btf, void (*)(btf*)> btf_{btf__new_empty(), &btf__free};
};

TEST(BpfPrototypeTest, EachArgumentHasALetterAndTheHiddenOneHasNone) {
  Btf kernel;
  kernel.AddTracepoint("all", {kernel.long_, kernel.void_pointer_, kernel.cache_,
                               kernel.const_cache_, kernel.gfp_, kernel.char_, kernel.page_});
  EXPECT_EQ(TracepointPrototype(kernel.get(), "all"), "wpccibp");
  kernel.AddTracepoint("none", {});
  EXPECT_EQ(TracepointPrototype(kernel.get(), "none"), "");
}

TEST(BpfPrototypeTest, ATracepointThatTheKernelLacksIsNone) {
  Btf kernel;
  kernel.AddTracepoint("kmalloc_node", {kernel.long_});
  EXPECT_EQ(TracepointPrototype(kernel.get(), "kmalloc"), std::nullopt);
  EXPECT_EQ(TracepointPrototype(kernel.get(), ""), std::nullopt);
}

TEST(BpfPrototypeTest, WhatIsNoPrototypeIsToldFromAbsence) {
  Btf kernel;
  btf__add_typedef(kernel.raw(), "btf_trace_number", kernel.int_);
  EXPECT_EQ(TracepointPrototype(kernel.get(), "number"), "?");
  btf__add_typedef(kernel.raw(), "btf_trace_data", kernel.page_);
  EXPECT_EQ(TracepointPrototype(kernel.get(), "data"), "?");
  const int whole = btf__add_struct(kernel.raw(), "whole", 16);
  kernel.AddTracepoint("by_value", {whole, 0});
  EXPECT_EQ(TracepointPrototype(kernel.get(), "by_value"), "??");
}

TEST(BpfPrototypeTest, ABitOfGfpFlagsIsAnEnumsValue) {
  Btf kernel;
  EXPECT_EQ(GfpBitInBtf(kernel.get(), "__GFP_NOWARN"), 0U);
  btf__add_enum(kernel.raw(), nullptr, 4);
  btf__add_enum_value(kernel.raw(), "___GFP_IO_BIT", 6);
  btf__add_enum_value(kernel.raw(), "___GFP_NOWARN_BIT", 13);
  btf__add_enum_value(kernel.raw(), "___GFP_WRONG_BIT", 64);
  EXPECT_EQ(GfpBitInBtf(kernel.get(), "__GFP_NOWARN"), 1U << 13);
  EXPECT_EQ(GfpBitInBtf(kernel.get(), "__GFP_IO"), 1U << 6);
  EXPECT_EQ(GfpBitInBtf(kernel.get(), "__GFP_WRONG"), 0U);
}

TEST(BpfProgramsTest, EveryTracepointOfTheCollectorsHasAMark) {
  std::set<std::string_view> wanted;
  for (const auto& collector : MakeTraceCollectors({})) {
    for (const EventSpec& event : collector->events()) wanted.insert(event.name);
  }
  EXPECT_EQ(std::set(kBpfTracepoints.begin(), kBpfTracepoints.end()), wanted);
}

TEST(BpfProgramsTest, EveryCollectorsTallyIsInTheStateWhole) {
  for (const auto& collector : MakeTraceCollectors({})) {
    const auto part = std::ranges::find(kBpfTallies, collector->name(), &BpfTally::collector);
    ASSERT_NE(part, kBpfTallies.end()) << collector->name();
    EXPECT_EQ(part->bytes, collector->tally_bytes()) << collector->name();
    EXPECT_EQ(part->offset % sizeof(std::uint64_t), 0U) << collector->name();
    EXPECT_LE(part->offset + part->bytes, sizeof(kmem_bpf_cpu)) << collector->name();
  }
}

// What bpftool shows of btf_trace_* in real kernels.
TEST(BpfProgramsTest, TheKnownKernelsHaveTheirPrograms) {
  // 5.10
  EXPECT_THAT(ProgramsFor("kmalloc", "wpwwi"), ElementsAre("kmalloc"));
  EXPECT_THAT(ProgramsFor("kmalloc_node", "wpwwii"), ElementsAre("kmalloc_node"));
  EXPECT_THAT(ProgramsFor("kmem_cache_alloc", "wpwwi"), ElementsAre("kmem_cache_alloc_bytes"));
  EXPECT_THAT(ProgramsFor("kmem_cache_alloc_node", "wpwwii"), ElementsAre("kmem_cache_alloc_node"));
  EXPECT_THAT(ProgramsFor("kmem_cache_free", "wp"), ElementsAre("kmem_cache_free_nameless"));
  EXPECT_THAT(ProgramsFor("mm_page_alloc_zone_locked", "pii"),
              ElementsAre("mm_page_alloc_zone_locked_no_refill"));
  // 6.0, of its sources
  EXPECT_THAT(ProgramsFor("kmalloc", "wpcwwi"), ElementsAre("kmalloc_with_cache"));
  EXPECT_THAT(ProgramsFor("kmalloc_node", "wpcwwii"), ElementsAre("kmalloc_node_with_cache"));
  EXPECT_THAT(ProgramsFor("kmem_cache_alloc_node", "wpcwwii"),
              ElementsAre("kmem_cache_alloc_node_with_cache"));
  // 6.1, 6.12 and 6.18
  EXPECT_THAT(ProgramsFor("kmalloc", "wpwwii"), ElementsAre("kmalloc"));
  EXPECT_THAT(
      ProgramsFor("kmem_cache_alloc", "wpcii"),
      ElementsAre("kmem_cache_alloc_load", "kmem_cache_alloc_read", "kmem_cache_alloc_nameless"));
  EXPECT_THAT(ProgramsFor("kmem_cache_free", "wpc"),
              ElementsAre("kmem_cache_free", "kmem_cache_free", "kmem_cache_free_nameless"));
  EXPECT_THAT(ProgramsFor("mm_page_alloc_zone_locked", "piii"),
              ElementsAre("mm_page_alloc_zone_locked"));
  // all of them
  EXPECT_THAT(ProgramsFor("kfree", "wp"), ElementsAre("kfree"));
  EXPECT_THAT(ProgramsFor("mm_page_alloc", "piii"), ElementsAre("mm_page_alloc"));
  EXPECT_THAT(ProgramsFor("mm_page_free", "pi"), ElementsAre("mm_page_free"));
  EXPECT_THAT(ProgramsFor("mm_page_free_batched", "p"), ElementsAre("mm_page_free_batched"));
  EXPECT_THAT(ProgramsFor("mm_page_pcpu_drain", "pii"), ElementsAre("mm_page_pcpu_drain"));
  EXPECT_THAT(ProgramsFor("mm_page_alloc_extfrag", "piiii"), ElementsAre("mm_page_alloc_extfrag"));
}

TEST(BpfProgramsTest, OtherArgumentsThanAreKnownHaveNone) {
  EXPECT_THAT(ProgramsFor("kmalloc", "wpw"), IsEmpty());
  EXPECT_THAT(ProgramsFor("kmalloc", "wpcii"), IsEmpty());
  EXPECT_THAT(ProgramsFor("kmem_cache_alloc", "wppii"), IsEmpty());
  EXPECT_THAT(ProgramsFor("mm_page_alloc_zone_locked", "piib"), IsEmpty());
  EXPECT_THAT(ProgramsFor("mm_page_alloc", "?"), IsEmpty());
  EXPECT_THAT(ProgramsFor("mm_page_alloc", ""), IsEmpty());
  EXPECT_THAT(ProgramsFor("rss_stat", "pi"), IsEmpty());
}

}  // namespace
}  // namespace kmem
