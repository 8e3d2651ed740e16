#include "exporter/answer_pool.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

namespace kmem {

AnswerPool::Handle AnswerPool::Take() {
  const std::scoped_lock lock(mutex_);
  std::unique_ptr<Answer> answer;
  if (kept_.empty()) {
    answer = std::make_unique<Answer>();
  } else {
    answer = std::move(kept_.back());
    kept_.pop_back();
  }
  most_in_use_ = std::max(most_in_use_, ++in_use_);
  return {answer.release(), GiveBack{this}};
}

void AnswerPool::Keep(std::unique_ptr<Answer> answer) {
  const bool small = answer->text.capacity() + answer->packed.capacity() <= kMostBytes;
  bool several_ended = false;
  {
    const std::scoped_lock lock(mutex_);
    if (small && kept_.size() < kMostKept) kept_.push_back(std::move(answer));
    if (--in_use_ == 0) several_ended = std::exchange(most_in_use_, 0) > kMostKept;
  }
  answer.reset();
  // The families of each scrape, in small blocks, leave holes that the heap would keep.
  if (several_ended) malloc_trim(0);
}

}  // namespace kmem
