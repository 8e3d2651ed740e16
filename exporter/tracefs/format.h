// From the kernel's own description of its records (events/SYSTEM/EVENT/format, header_page) to
// offsets, once at start. Rests on libtraceevent's parser; needs no tracefs, so traces of other
// kernels bind in the same way.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/collector.h"

struct tep_event;
struct tep_handle;

namespace kmem {

// A format text that can't be understood or lacks what is needed; what() is one line.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How a sub-buffer begins (events/header_page).
struct PageLayout {
  std::uint32_t commit_offset = 8;
  std::uint32_t commit_size = 8;  // local_t: a long
  std::uint32_t data_offset = 16;
  std::uint32_t data_size = 4080;  // of a sub-buffer of the default size

  [[nodiscard]] std::uint32_t subbuffer_size() const { return data_offset + data_size; }
};

// Throws FormatError.
PageLayout ParseHeaderPage(std::string_view text);

// One tracepoint's fields as a collector wants them, found in its format.
struct BoundEvent {
  std::vector<BoundField> fields;   // in the order of the wanted ones
  std::uint32_t record_length = 0;  // the shortest record that holds them all
};

// The tracepoints of one kernel, by name. Not thread-safe; used at start only.
class Formats {
 public:
  // An empty set; formats are added as text.
  Formats();
  // Those that `tep` holds, which must outlive this.
  explicit Formats(tep_handle& tep) : tep_(&tep) {}
  Formats(const Formats&) = delete;
  Formats& operator=(const Formats&) = delete;
  ~Formats();

  // Adds the text of a kmem event's format file. Throws FormatError.
  void Add(std::string_view event_name, const std::string& text);

  [[nodiscard]] bool Has(std::string_view event_name) const { return Find(event_name) != nullptr; }

  // The event's number in the records' common_type. Throws FormatError.
  [[nodiscard]] std::uint16_t Id(std::string_view event_name) const;

  // Finds the fields. Throws FormatError: a required field is missing, or of a width that no
  // machine integer has.
  [[nodiscard]] BoundEvent Bind(std::string_view event_name,
                                std::span<const FieldSpec> wanted) const;

  // The bit of a name such as __GFP_NOWARN in mm_page_alloc's gfp_flags, as the event's print fmt
  // decodes it; 0 if it does not. The bits moved between 5.10 and 6.18, so no number is built in.
  [[nodiscard]] std::uint64_t GfpBit(const std::string& name) const;

  // pageblock_order as mm_page_alloc_extfrag's print fmt has it: the only place that needs no
  // privilege and is in every trace file.
  [[nodiscard]] std::optional<int> PageblockOrder() const;

  // Writes what the formats say of the kernel.
  void CompleteFacts(KernelFacts& facts) const;

  // The function that a call returns to at that address, where the source of the formats knows the
  // kernel's functions; else empty.
  [[nodiscard]] std::string Function(std::uint64_t return_address) const;

  // All event numbers that are described, whatever their system.
  [[nodiscard]] std::vector<std::uint16_t> AllIds() const;

 private:
  [[nodiscard]] tep_event* Find(std::string_view event_name) const;

  std::unique_ptr<tep_handle, void (*)(tep_handle*)> owned_{nullptr, nullptr};
  tep_handle* tep_;
};

}  // namespace kmem
