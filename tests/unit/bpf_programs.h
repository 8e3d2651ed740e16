// The in-kernel programs, loaded and attached to nothing: tests run them, event by event
// (BPF_PROG_TEST_RUN), on a CPU of their choice.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>

#include "collectors/page_cross.h"
#include "exporter/bpf/programs.h"
#include "exporter/collector_list.h"
// kmem.bpf.c with the time as its twelfth argument.
#include "kmem_bpf_timed.skel.h"

namespace kmem {

constexpr std::size_t kBpfArguments = 12;
constexpr std::size_t kBpfTime = kBpfArguments - 1;
using BpfArguments = std::array<std::uint64_t, kBpfArguments>;

class BpfPrograms {
 public:
  struct Options {
    PageCrossOptions cross_cpu;
    SlabLiveOptions live;
  };

  BpfPrograms(const TraceCollectors& collectors, const KernelFacts& facts)
      : BpfPrograms(collectors, facts, Options{}) {}
  BpfPrograms(const TraceCollectors& collectors, const KernelFacts& facts, const Options& options)
      : cpus_(static_cast<std::uint32_t>(libbpf_num_possible_cpus())) {
    if (skeleton_ == nullptr) throw std::runtime_error("the programs can't be opened");
    for (unsigned char& wanted : skeleton_->rodata->kmem_wanted) wanted = 1;
    skeleton_->rodata->kmem_wanted_sites = 1;
    skeleton_->rodata->kmem_wanted_caches = 1;
    skeleton_->rodata->kmem_cross_one_in = options.cross_cpu.sample_one_in;
    skeleton_->rodata->kmem_cross_threshold = page_cross_threshold(options.cross_cpu.sample_one_in);
    skeleton_->rodata->kmem_cross_sets = options.cross_cpu.sets();
    bpf_map__set_max_entries(skeleton_->maps.kmem_pages, options.cross_cpu.sets());
    if (options.live.enabled) {
      skeleton_->rodata->kmem_wanted_live = 1;
      skeleton_->rodata->kmem_live_most_hash =
          static_cast<std::uint32_t>(slab_live_most_hash(options.live.sample_one_in));
      bpf_map__set_max_entries(skeleton_->maps.kmem_live, options.live.max_objects);
    }
    bpf_map__set_max_entries(skeleton_->maps.kmem_cpus, cpus_);
    // These are for a live kernel's struct kmem_cache.
    bpf_program__set_autoload(skeleton_->progs.kmem_cache_alloc_load, false);
    bpf_program__set_autoload(skeleton_->progs.kmem_cache_alloc_nameless, false);
    bpf_program__set_autoload(skeleton_->progs.kmem_cache_alloc_read, false);
    bpf_program__set_autoload(skeleton_->progs.kmem_cache_free, false);
    error_ = kmem_bpf_timed__load(skeleton_.get());
    if (error_ != 0) return;
    void* const states = mmap(nullptr, cpus_ * sizeof(kmem_bpf_cpu), PROT_READ | PROT_WRITE,
                              MAP_SHARED, bpf_map__fd(skeleton_->maps.kmem_cpus), 0);
    if (states == MAP_FAILED) throw std::runtime_error("the state can't be mapped");
    states_ = static_cast<kmem_bpf_cpu*>(states);
    for (std::uint32_t cpu = 0; cpu < cpus_; ++cpu) {
      for (const auto& collector : collectors) collector->Init(Tally(*collector, cpu), facts, cpu);
    }
  }
  BpfPrograms(const BpfPrograms&) = delete;
  BpfPrograms& operator=(const BpfPrograms&) = delete;
  ~BpfPrograms() {
    if (states_ != nullptr) munmap(states_, cpus_ * sizeof *states_);
  }

  [[nodiscard]] int error() const { return error_; }
  // Why programs can't be loaded here, or nullptr.
  [[nodiscard]] const char* WhyNotHere() const {
    if (error_ == -EPERM) return "no permission to load BPF programs";
    if (error_ == -ENOSYS) return "no bpf(2): a kernel without it, or QEMU's emulation of one";
    // libbpf's way to say it, for programs that read the kernel's own structs.
    if (error_ == -ESRCH && access("/sys/kernel/btf/vmlinux", R_OK) != 0) {
      return "no /sys/kernel/btf/vmlinux: /sys is not mounted, or the kernel has no BTF";
    }
    return nullptr;
  }

  [[nodiscard]] std::span<kmem_bpf_cpu> cpus() { return {states_, cpus_}; }
  [[nodiscard]] kmem_bpf_cpu& cpu(std::uint32_t number = 0) { return states_[number]; }
  [[nodiscard]] std::byte* Tally(const TraceCollector& collector, std::uint32_t cpu = 0) {
    const auto part = std::ranges::find(kBpfTallies, collector.name(), &BpfTally::collector);
    return reinterpret_cast<std::byte*>(&states_[cpu]) + part->offset;
  }
  [[nodiscard]] kmem_bpf_timed& skeleton() { return *skeleton_; }

  void Run(const char* program, const BpfArguments& arguments, std::uint32_t cpu = 0) {
    const bpf_program* found = bpf_object__find_program_by_name(skeleton_->obj, program);
    ASSERT_NE(found, nullptr) << program;
    bpf_test_run_opts options{};
    options.sz = sizeof options;
    options.ctx_in = arguments.data();
    options.ctx_size_in = sizeof arguments;
    options.flags = BPF_F_TEST_RUN_ON_CPU;
    options.cpu = cpu;
    ASSERT_EQ(bpf_prog_test_run_opts(bpf_program__fd(found), &options), 0)
        << program << ": " << std::strerror(errno);
  }

 private:
  std::uint32_t cpus_;
  std::unique_ptr<kmem_bpf_timed, void (*)(kmem_bpf_timed*)> skeleton_{kmem_bpf_timed__open(),
                                                                       &kmem_bpf_timed__destroy};
  int error_ = 0;
  kmem_bpf_cpu* states_ = nullptr;
};

}  // namespace kmem
