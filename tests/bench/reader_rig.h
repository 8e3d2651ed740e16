// The reader as the drain thread runs it, over sub-buffers of a real kernel that lie in memory:
// what the benchmarks time and whose instructions are counted.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "dispatch_rig.h"

namespace kmem {

inline constexpr const char* kBenchKernel = "6.18";

// `only` is the name of a collector, or empty for all of them; `by_name`: slab's tables by call
// site and by cache.
inline CollectorsConfig BenchConfig(const std::string& only, bool by_name) {
  CollectorsConfig config;
  config.slab = only.empty() || only == "slab";
  config.page = only.empty() || only == "page";
  config.pcp = only.empty() || only == "pcp";
  config.extfrag = only.empty() || only == "extfrag";
  config.slab_options.callsites.enabled = by_name;
  config.slab_options.caches.enabled = by_name;
  return config;
}

class ReaderRig {
 public:
  explicit ReaderRig(const CollectorsConfig& config)
      : rig_(kBenchKernel, 2, {}, config),
        layout_(LayoutOf(kBenchKernel, "header_page-64k")),
        pages_(ReadPages(kBenchKernel, "cpu0-64k.raw", layout_)) {}

  // Reads all sub-buffers once, as a drain does; the events in them.
  std::uint64_t Read() {
    std::uint64_t events = 0;
    for (const HeapPage& page : pages_) events += rig_.OnPage(0, page, layout_).records;
    rig_.SettleCommon(UINT64_MAX);
    return events;
  }

  // Leaves one sub-buffer, full of those of its events that somebody wants; of events that were not
  // recorded, made ones.
  void KeepWanted() {
    std::vector<std::string> records;
    for (const HeapPage& page : pages_) {
      WalkPage(page.bytes(), layout_,
               [&](std::uint64_t /*time*/, const std::byte* record, std::uint32_t length) {
                 std::uint16_t id = 0;
                 std::memcpy(&id, record, sizeof id);
                 for (const std::string& event : rig_.wanted()) {
                   if (rig_.formats().Id(event) != id) continue;
                   records.emplace_back(reinterpret_cast<const char*>(record), length);
                 }
               });
    }
    for (const std::string& event : rig_.wanted()) {
      if (!records.empty()) break;
      const HeapPage record = rig_.MakeRecord(event);
      records.emplace_back(reinterpret_cast<const char*>(record.data()), record.size());
    }
    pages_.clear();
    pages_.push_back(FullOf(records));
  }

  DispatchRig& rig() { return rig_; }
  [[nodiscard]] const std::vector<HeapPage>& pages() const { return pages_; }
  [[nodiscard]] const PageLayout& layout() const { return layout_; }

 private:
  [[nodiscard]] HeapPage FullOf(const std::vector<std::string>& records) const {
    constexpr std::uint32_t kDelta = 100 << 5;  // ns since the record before
    std::string data;
    for (std::size_t i = 0;; ++i) {
      const std::string& record = records[i % records.size()];
      const auto words = static_cast<std::uint32_t>((record.size() + 3) / 4);
      if (data.size() + 4 + 4 * std::size_t{words} > layout_.data_size) break;
      const std::uint32_t header = kDelta | words;
      data.append(reinterpret_cast<const char*>(&header), sizeof header);
      data += record;
      data.resize((data.size() + 3) / 4 * 4);
    }
    std::vector<std::byte> page(layout_.subbuffer_size());
    const std::uint64_t commit = data.size();
    std::memcpy(page.data() + layout_.commit_offset, &commit, sizeof commit);
    std::memcpy(page.data() + layout_.data_offset, data.data(), data.size());
    return HeapPage(page);
  }

  DispatchRig rig_;
  PageLayout layout_;
  std::vector<HeapPage> pages_;
};

}  // namespace kmem
