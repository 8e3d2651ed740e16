// Any bytes as a sub-buffer: walked, dispatched and tallied with the formats of a real kernel.

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "exporter/tracefs/dispatcher.h"

namespace kmem {
namespace {

class Target {
 public:
  Target() : collectors_(MakeTraceCollectors(CollectorsConfig{})) {
    for (const std::string& event : WantedEvents(collectors_, {})) {
      std::ifstream file(KMEM_TEST_DATA "/pages/5.10/format/" + event);
      formats_.Add(event, {std::istreambuf_iterator<char>(file), {}});
    }
  }

  void Walk(std::span<const std::byte> page) {
    EventState state;
    Dispatcher dispatcher(collectors_, KernelFacts{}, 2, state);
    for (const std::string& event : WantedEvents(collectors_, {})) dispatcher.Bind(event, formats_);
    // Exactly as large as promised, so that reading beyond it is seen.
    std::vector<std::byte> copy(page.size() + kRecordSlack);
    std::copy(page.begin(), page.end(), copy.begin());
    const PageResult result =
        dispatcher.OnPage(1, std::span(copy).first(page.size()), PageLayout{});
    if (std::size_t{result.records} * 4 > page.size()) std::abort();
    dispatcher.SettleCommon(UINT64_MAX, UINT64_MAX);
    Families out;
    for (std::size_t i = 0; i < collectors_.size(); ++i) {
      collectors_[i]->Settle(state.tallies[i].At(1), UINT64_MAX);
      collectors_[i]->Export(state.tallies[i], KernelFacts{}, out);
    }
  }

 private:
  TraceCollectors collectors_;
  Formats formats_;
};

}  // namespace
}  // namespace kmem

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static kmem::Target target;
  target.Walk({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
