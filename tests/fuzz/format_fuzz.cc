// Any text as the fields of an event's format, as header_page and as a stats file. The print fmt
// is left to libtraceevent, which trusts it, as we trust the kernel whose code it is.

#include "exporter/tracefs/cpu_reader.h"
#include "exporter/tracefs/format.h"

namespace kmem {
namespace {

void Parse(const std::string& text) {
  constexpr FieldSpec kFields[] = {{"ptr", true, 0}, {"percpu_refill", false, 1}};
  try {
    Formats formats;
    formats.Add("mm_page_alloc",
                text.substr(0, text.find("print fmt")) + "print fmt: \"order=%d\", REC->order\n");
    static_cast<void>(formats.Bind("mm_page_alloc", kFields));
    static_cast<void>(formats.Id("mm_page_alloc"));
    static_cast<void>(formats.GfpBit("__GFP_NOWARN"));
  } catch (const FormatError&) {  // one of the ways to end
  }
  try {
    static_cast<void>(ParseHeaderPage(text));
  } catch (const FormatError&) {
  }
  static_cast<void>(ParseCpuStats(text));
}

}  // namespace
}  // namespace kmem

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kmem::Parse({reinterpret_cast<const char*>(data), size});
  return 0;
}
