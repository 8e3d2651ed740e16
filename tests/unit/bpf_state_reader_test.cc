// Reading a state while it is written, with a thread in place of a CPU.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "exporter/bpf/state_reader.h"

namespace kmem {
namespace {

constexpr std::size_t kMark = KMEM_BPF_mm_page_pcpu_drain;
constexpr std::array<std::size_t, 2> kMarks{kMark, KMEM_BPF_mm_page_alloc_zone_locked};

std::span<std::byte> BytesOf(pcp_tally& tally) {
  return std::as_writable_bytes(std::span(&tally, 1));
}
const std::byte* PcpOf(const kmem_bpf_cpu& cpu) {
  return reinterpret_cast<const std::byte*>(&cpu.pcp);
}

TEST(BpfStateReaderTest, CopiesEveryWord) {
  auto cpu = std::make_unique<kmem_bpf_cpu>();
  std::memset(&cpu->pcp, 0x5A, sizeof cpu->pcp);
  pcp_tally words{};
  CopyWords(PcpOf(*cpu), BytesOf(words));
  EXPECT_EQ(std::memcmp(&words, &cpu->pcp, sizeof words), 0);
  pcp_tally between{};
  EXPECT_TRUE(CopyBetweenEvents(*cpu, kMarks, PcpOf(*cpu), BytesOf(between), 1));
  EXPECT_EQ(std::memcmp(&between, &cpu->pcp, sizeof between), 0);
}

TEST(BpfStateReaderTest, AProgramAtWorkLeavesNoMomentToCopy) {
  auto cpu = std::make_unique<kmem_bpf_cpu>();
  cpu->marks[kMark].sequence = 7;
  pcp_tally copy{};
  EXPECT_FALSE(CopyBetweenEvents(*cpu, kMarks, PcpOf(*cpu), BytesOf(copy), 64));
  cpu->marks[kMark].sequence = 8;
  EXPECT_TRUE(CopyBetweenEvents(*cpu, kMarks, PcpOf(*cpu), BytesOf(copy), 64));
}

TEST(BpfStateReaderTest, OtherProgramsAtWorkDoNotMatter) {
  auto cpu = std::make_unique<kmem_bpf_cpu>();
  cpu->marks[KMEM_BPF_kmalloc].sequence = 7;
  pcp_tally copy{};
  EXPECT_TRUE(CopyBetweenEvents(*cpu, kMarks, PcpOf(*cpu), BytesOf(copy), 1));
}

// A writer that keeps all words equal between two events, as fast as it can with a pause of about a
// microsecond now and then, as events come.
TEST(BpfStateReaderTest, WhatIsCopiedBetweenEventsBelongsTogether) {
  auto cpu = std::make_unique<kmem_bpf_cpu>();
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    auto* const words = reinterpret_cast<std::uint64_t*>(&cpu->pcp);
    kmem_bpf_mark& mark = cpu->marks[kMark];
    for (std::uint64_t n = 1; !stop; ++n) {
      __atomic_store_n(&mark.sequence, 2 * n - 1, __ATOMIC_RELEASE);
      for (std::size_t i = 0; i < sizeof(pcp_tally) / sizeof n; ++i) {
        __atomic_store_n(&words[i], n, __ATOMIC_RELEASE);  // after the mark
      }
      __atomic_store_n(&mark.sequence, 2 * n, __ATOMIC_RELEASE);
      for (int pause = 0; pause < 2000 && !stop; ++pause) {
      }
    }
  });
  int copied = 0;
  std::uint64_t last = 0;
  bool moved = false;
  for (int i = 0; i < 2'000'000 && (copied < 20'000 || !moved); ++i) {
    std::array<std::uint64_t, sizeof(pcp_tally) / sizeof(std::uint64_t)> words{};
    if (!CopyBetweenEvents(*cpu, kMarks, PcpOf(*cpu), std::as_writable_bytes(std::span(words)),
                           64)) {
      continue;
    }
    ++copied;
    for (const std::uint64_t word : words) ASSERT_EQ(word, words.front());
    ASSERT_GE(words.front(), last);
    moved |= last != 0 && words.front() > last;
    last = words.front();
  }
  stop = true;
  writer.join();
  EXPECT_GE(copied, 100);
  EXPECT_TRUE(moved);
}

}  // namespace
}  // namespace kmem
