// The in-kernel engine: the collectors' arithmetic runs in BPF programs on the tracepoints
// (kmem.bpf.c), and a scrape reads their state from memory shared with the kernel. Nothing runs
// here between scrapes, and nothing is pinned: when the process ends, in whatever way, the kernel
// detaches the programs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "exporter/bpf/companion.h"
#include "exporter/bpf/failure.h"
#include "exporter/bpf/live_reader.h"
#include "exporter/bpf/programs.h"
#include "exporter/collector_list.h"
#include "exporter/config.h"
#include "exporter/live_source.h"

struct bpf_link;
struct bpf_program;
struct btf;
struct kmem_bpf;  // the skeleton that bpftool makes of kmem.bpf.c

namespace kmem {

class BpfEngine : public LiveSource {
 public:
  // Loads and attaches. `reason` says why this engine. Throws TracingError.
  BpfEngine(const Config& config, const TraceCollectors& collectors, const ProcReader& proc,
            std::string reason);

  [[nodiscard]] std::string_view engine() const override { return "bpf"; }
  [[nodiscard]] std::string_view reason() const override { return reason_; }
  [[nodiscard]] const KernelFacts& facts() const override { return facts_; }
  [[nodiscard]] const std::vector<std::string>& missing_events() const override {
    return missing_events_;
  }
  [[nodiscard]] EventState Snapshot() override;
  [[nodiscard]] TraceLoad ReadLoad() override;
  // By this the estimates of a loop of pipes on all CPUs are right on the average.
  [[nodiscard]] double lone_cost_power() const override { return 0.86; }
  EventState Open(std::span<const std::size_t> tracepoints) override;
  EventState Close(std::span<const std::size_t> tracepoints) override;

 private:
  template <class Object>
  using Owned = std::unique_ptr<Object, void (*)(Object*)>;

  // One tracepoint in use, in the order of EventState::tracepoints.
  struct Route {
    std::string tracepoint;
    std::vector<std::string> programs;  // the best first
    std::size_t mark = 0;
    bpf_program* program = nullptr;
    int program_fd = -1;        // attached, or left out for a while
    std::uint64_t skipped = 0;  // by the kernel, as it said last
    Owned<bpf_link> link{nullptr, &DestroyLink};
  };

  void StartCompanion(const Config& config, const ProcReader& proc, const btf& kernel);
  void ChoosePrograms(const btf& kernel, const std::vector<std::string>& wanted);
  // Once the programs are loaded: some of it is which of them were.
  void ReadFacts(const ProcReader& proc, const btf& kernel, const std::string& tracefs);
  void Load(LibbpfLog& log);
  int TryToLoad(std::size_t choice);  // 0 or an errno
  void MapStates(const LibbpfLog& log);
  void Attach(const LibbpfLog& log);
  static void DestroyLink(bpf_link* link);
  // 0 or an errno. Only the start, and then the thread that opens and closes.
  static int AttachProgram(Route& route);

  [[nodiscard]] kmem_bpf_cpu& Cpu(std::uint32_t cpu) const;
  // A reading that is not for a scrape is paid by whoever wants it.
  EventState ReadState(bool for_scrape);
  EventState ReadSettled(bool for_scrape);
  // The same within about the shortest time that it takes: the state is of EventState::taken_at_ns.
  EventState ReadEdge();
  void ReadTallies(bool for_scrape);
  void ReadTally(std::size_t collector, std::uint32_t cpu);
  void ReadSlab(std::size_t collector, int attempts);
  void AppendSlabTables(std::uint32_t number, std::vector<std::byte>& out) const;
  void ReadLive(Tallies& tallies);
  // Of pages allocated before: their frees may have been missed.
  void ForgetPages() const;
  void SizeStates();
  void ReadMarks();

  const TraceCollectors& collectors_;
  std::string reason_;
  KernelFacts facts_;
  std::vector<std::string> missing_events_;
  std::uint32_t cpus_;                              // that are possible: numbers below this
  SlabOptions slab_;                                // with what is off disabled
  PageCrossOptions cross_cpu_;                      // the same
  std::size_t cpu_bytes_ = sizeof(kmem_bpf_cpu);    // of it in the map: what is used
  std::vector<const BpfTally*> layout_;             // by collector; nullptr: the companion's
  std::vector<std::vector<std::size_t>> marks_of_;  // by collector: those that write its tally

  Owned<kmem_bpf> skeleton_;
  // The map kmem_cpus, as long as it is mapped.
  std::unique_ptr<kmem_bpf_cpu, std::function<void(kmem_bpf_cpu*)>> states_;
  std::unique_ptr<LiveReader> live_;  // where it is wanted

  std::vector<Route> routes_;  // with links, which must not outlive the skeleton

  std::unique_ptr<Companion> companion_;  // where tracefs can be used
  bool change_ownership_told_ = true;
  std::size_t companion_collector_ = 0;  // its collector's index in collectors_
  std::uint64_t fastest_read_ns_ = UINT64_MAX / 2;

  std::atomic<double> reader_seconds_ = 0;  // CPU time of the readings for scrapes; under mutex_
  std::mutex mutex_;                        // of what follows
  EventState state_;                        // as read last; its tallies are not yet settled
  std::vector<std::byte> scratch_;
};

}  // namespace kmem
