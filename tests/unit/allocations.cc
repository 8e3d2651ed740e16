// That the reader allocates nothing per event. A program of its own, because it replaces operator
// new.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "tests/bench/reader_rig.h"

namespace {

std::uint64_t allocations = 0;  // of one thread: there is no other

void* Allocate(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  void* const memory =
      std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Not inlined: g++ 12 would see memory of aligned_alloc() or for free() in places of new and
// delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  return Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/,
                                       std::align_val_t /*alignment*/) noexcept {
  std::free(memory);
}

namespace kmem {
namespace {

TEST(Allocations, AreSeen) {
  const std::uint64_t before = allocations;
  ::operator delete(::operator new(1));
  const std::vector<int> numbers(1000, 1);
  EXPECT_EQ(allocations - before, 2) << numbers.size();
}

TEST(Allocations, AreNoneWhereEventsAreReadTalliedAndPaired) {
  CollectorsConfig config = BenchConfig("", true);
  config.slab_options.live.enabled = true;
  ReaderRig rig(config);
  const std::uint64_t before = allocations;
  std::uint64_t events = 0;
  for (int i = 0; i < 3; ++i) events += rig.Read();
  EXPECT_GT(events, 1000);
  EXPECT_EQ(allocations - before, 0);
  EXPECT_EQ(rig.rig().AllErrors(), 0);
}

// Once it has been given its place, what a scrape is given of it takes none either.
TEST(Allocations, AreNoneWhereTheTablesAreReadForAScrape) {
  ReaderRig rig(BenchConfig("", true));
  rig.Read();
  rig.rig().ReadCommon(1);
  const std::uint64_t before = allocations;
  rig.Read();
  rig.rig().ReadCommon(2);
  EXPECT_EQ(allocations - before, 0);
}

}  // namespace
}  // namespace kmem
