// The in-kernel engine on the live kernel, whose pages this process allocates and frees.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "exporter/bpf/engine.h"
#include "exporter/collector_list.h"
#include "exporter/proc_files.h"
#include "exporter/tracing_error.h"
#include "metric_lookup.h"

namespace kmem {
namespace {

constexpr std::size_t kPages = 4096;

// Small pages that are there.
class Pages {
 public:
  Pages() : bytes_(kPages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    EXPECT_EQ(madvise(memory_, bytes_, MADV_NOHUGEPAGE), 0);
    EXPECT_EQ(madvise(memory_, bytes_, MADV_POPULATE_WRITE), 0);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { munmap(memory_, bytes_); }

 private:
  std::size_t bytes_;
  void* memory_;
};

class BpfEngineTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.collectors.slab = config_.collectors.pcp = config_.collectors.extfrag = false;
    config_.collectors.page_options.cross_cpu = {.sample_one_in = 1, .max_pages = 262144};
    config_.paths.tracefs = "/nowhere";
    collectors_ = MakeTraceCollectors(config_.collectors);
    try {
      engine_.emplace(config_, collectors_, proc_, "");
    } catch (const TracingError& error) {
      if (error.problem() == TracingProblem::kFailed) throw;
      GTEST_SKIP() << error.what();
    }
  }

  [[nodiscard]] double Paired() {
    Families families;
    collectors_[0]->Export(engine_->Snapshot().tallies[0], engine_->facts(), families);
    return Value(families, "kmem_page_same_cpu_frees_total") +
           Value(families, "kmem_page_cross_cpu_frees_total");
  }
  [[nodiscard]] std::vector<std::size_t> AllTracepoints() {
    std::vector<std::size_t> all(engine_->Snapshot().tracepoints.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    return all;
  }

  Config config_;
  TraceCollectors collectors_;
  ProcFiles proc_{"/proc"};
  std::optional<BpfEngine> engine_;
};

TEST_F(BpfEngineTest, PairsTheFreeOfAPageWithItsAllocation) {
  const double before = Paired();
  { const Pages pages; }
  EXPECT_GE(Paired() - before, 0.9 * kPages);
}

// They may have been freed meanwhile, and allocated by others.
TEST_F(BpfEngineTest, ForgetsThePagesOfBeforeItsTracepointsWereLeftOut) {
  double before = 0;
  {
    const Pages pages;
    const auto tracepoints = AllTracepoints();
    engine_->Close(tracepoints);
    engine_->Open(tracepoints);
    before = Paired();
  }
  EXPECT_LE(Paired() - before, 0.1 * kPages);
}

TEST_F(BpfEngineTest, CountsNothingOfWhatIsLeftOut) {
  const auto tracepoints = AllTracepoints();
  const double before = Paired();
  engine_->Close(tracepoints);
  { const Pages pages; }
  engine_->Open(tracepoints);
  EXPECT_LE(Paired() - before, 0.1 * kPages);
}

}  // namespace
}  // namespace kmem
