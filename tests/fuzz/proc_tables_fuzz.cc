// Any text as the tables below /proc.

#include "collectors/compaction.h"
#include "collectors/fragmentation.h"
#include "collectors/pcp_lists.h"
#include "collectors/proc_tables.h"
#include "exporter/kernel_facts.h"

namespace kmem {
namespace {

// Every table has the same text.
class OneText : public ProcReader {
 public:
  explicit OneText(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] std::string Read(std::string_view /*path*/) const override { return text_; }

 private:
  std::string text_;
};

void Collect(const ProcCollector& collector, const ProcReader& proc) {
  Families out;
  try {
    collector.Collect(proc, ReadKernelFacts(proc), out);
  } catch (const ProcError&) {  // one of the ways to end
  }
}

}  // namespace
}  // namespace kmem

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const kmem::OneText proc({reinterpret_cast<const char*>(data), size});
  kmem::Collect(kmem::FragmentationCollector(), proc);
  kmem::Collect(kmem::CompactionCollector(), proc);
  kmem::Collect(kmem::PcpListsCollector(), proc);
  return 0;
}
