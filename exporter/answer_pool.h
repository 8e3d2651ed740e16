// The memory that scrapes are answered from, handed from one to the next instead of being asked of
// the kernel, and given back to it, each time. What many scrapes at once took goes back to the
// kernel when the last of them has been answered. Any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "exporter/exposition.h"

namespace kmem {

struct Answer {
  std::string text;
  std::string packed;
  Gzip gzip;
};

class AnswerPool {
 public:
  // What an exporter keeps that nobody asks any more: so many answers, of so many bytes each.
  static constexpr std::size_t kMostKept = 1;
  static constexpr std::size_t kMostBytes = std::size_t{4} << 20;

  AnswerPool() { kept_.reserve(kMostKept); }  // so that keeping one never throws

  // Gives the answer back where it goes out of scope; the pool must outlive it.
  struct GiveBack {
    AnswerPool* pool = nullptr;
    void operator()(Answer* answer) const { pool->Keep(std::unique_ptr<Answer>(answer)); }
  };
  using Handle = std::unique_ptr<Answer, GiveBack>;

  // With whatever is in it.
  Handle Take();

 private:
  void Keep(std::unique_ptr<Answer> answer);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Answer>> kept_;
  std::size_t in_use_ = 0;
  std::size_t most_in_use_ = 0;  // since none was
};

}  // namespace kmem
