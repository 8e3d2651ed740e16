#include "exporter/answer_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace kmem {
namespace {

TEST(AnswerPool, HandsTheMemoryOfOneAnswerToTheNext) {
  AnswerPool pool;
  const char* memory = nullptr;
  {
    const AnswerPool::Handle first = pool.Take();
    first->text.assign(100000, 'x');
    memory = first->text.data();
  }
  const AnswerPool::Handle second = pool.Take();
  EXPECT_EQ(second->text.data(), memory);
  EXPECT_NE(pool.Take()->text.data(), memory) << "nobody else's while it is in use";
}

TEST(AnswerPool, KeepsOneHoweverManyThereWereAtOnce) {
  AnswerPool pool;
  {
    std::vector<AnswerPool::Handle> at_once;
    for (int i = 0; i < 40; ++i) {
      at_once.push_back(pool.Take());
      at_once.back()->text.reserve(100000);
    }
  }
  std::vector<AnswerPool::Handle> again;
  std::size_t kept = 0;
  for (int i = 0; i < 40; ++i) {
    again.push_back(pool.Take());
    if (again.back()->text.capacity() >= 100000) ++kept;
  }
  EXPECT_EQ(kept, 1U);
}

TEST(AnswerPool, KeepsNoneThatIsTooLarge) {
  AnswerPool pool;
  pool.Take()->text.reserve(AnswerPool::kMostBytes + 1);
  EXPECT_LT(pool.Take()->text.capacity(), AnswerPool::kMostBytes);
}

}  // namespace
}  // namespace kmem
