#include "exporter/tracefs/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

extern "C" {
#include <event-parse.h>
#include <trace-seq.h>
}

namespace kmem {
namespace {

constexpr const char* kSystem = "kmem";

// One line of header_page: "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;".
bool HeaderField(std::string_view text, std::string_view declaration, std::uint32_t& offset,
                 std::uint32_t& size) {
  const std::size_t at = text.find(declaration);
  if (at == std::string_view::npos) return false;
  const std::string_view line = text.substr(at, text.find('\n', at) - at);
  const auto number = [&](std::string_view key, std::uint32_t& value) {
    const std::size_t begin = line.find(key);
    if (begin == std::string_view::npos) return false;
    const char* first = line.data() + begin + key.size();
    return std::from_chars(first, line.data() + line.size(), value).ec == std::errc{};
  };
  return number("offset:", offset) && number("size:", size);
}

const tep_format_field* FindField(const tep_event& event, std::string_view name) {
  for (const tep_format_field* field = event.format.fields; field != nullptr; field = field->next) {
    if (name == field->name) return field;
  }
  return nullptr;
}

BoundField BindField(const tep_event& event, const tep_format_field& field) {
  const auto size = static_cast<std::uint32_t>(field.size);
  if ((size != 1 && size != 2 && size != 4 && size != 8) || field.offset < 0 ||
      field.offset > 4096) {
    throw FormatError(fmt::format("{}: field {} has size {} at offset {}, which is no integer",
                                  event.name, field.name, field.size, field.offset));
  }
  BoundField bound;
  bound.offset = static_cast<std::uint32_t>(field.offset);
  bound.mask = size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (8 * size)) - 1;
  // Eight bytes need no extension.
  if ((field.flags & TEP_FIELD_IS_SIGNED) != 0 && size < 8) {
    bound.sign = UINT64_C(1) << (8 * size - 1);
  }
  return bound;
}

// A made-up record of one event, for asking libtraceevent how the kernel would print it.
class SampleRecord {
 public:
  SampleRecord(tep_handle& tep, tep_event& event) : tep_(tep), event_(event) {
    const auto id = static_cast<std::uint16_t>(event.id);
    std::memcpy(bytes_.data(), &id, sizeof id);
  }

  void Set(const char* name, std::uint64_t value) {
    const tep_format_field* field = FindField(event_, name);
    if (field == nullptr || field->offset < 0 || field->size <= 0 || field->size > 8 ||
        static_cast<std::size_t>(field->offset + field->size) > bytes_.size()) {
      return;
    }
    std::memcpy(bytes_.data() + field->offset, &value, static_cast<std::size_t>(field->size));
  }

  std::string Print() {
    tep_record record{};
    record.data = bytes_.data();
    record.size = static_cast<int>(bytes_.size());
    trace_seq seq{};
    trace_seq_init(&seq);
    tep_print_event(&tep_, &seq, &record, "%s", TEP_PRINT_INFO);
    trace_seq_terminate(&seq);
    std::string text(seq.buffer == nullptr ? "" : seq.buffer);
    trace_seq_destroy(&seq);
    return text;
  }

 private:
  tep_handle& tep_;
  tep_event& event_;
  std::array<char, 256> bytes_{};
};

// The value of "key=NUMBER" in a printed event.
std::optional<int> PrintedNumber(const std::string& text, std::string_view key) {
  const std::size_t at = text.find(key);
  if (at == std::string::npos) return std::nullopt;
  int value = 0;
  const char* first = text.data() + at + key.size();
  if (std::from_chars(first, text.data() + text.size(), value).ec != std::errc{}) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

PageLayout ParseHeaderPage(std::string_view text) {
  PageLayout layout;
  if (!HeaderField(text, "commit;", layout.commit_offset, layout.commit_size) ||
      !HeaderField(text, "data;", layout.data_offset, layout.data_size)) {
    throw FormatError("header_page: no fields `commit` and `data` in it");
  }
  const bool plausible = (layout.commit_size == 4 || layout.commit_size == 8) &&
                         layout.commit_offset + layout.commit_size <= layout.data_offset &&
                         layout.data_offset <= 64 && layout.data_size >= 64 &&
                         layout.data_size <= (1U << 20);
  if (!plausible) {
    throw FormatError(fmt::format(
        "header_page: commit at {} of {} bytes, data at {} of {} bytes: no layout that is known",
        layout.commit_offset, layout.commit_size, layout.data_offset, layout.data_size));
  }
  return layout;
}

Formats::Formats() : owned_(tep_alloc(), &tep_free), tep_(owned_.get()) {
  if (tep_ == nullptr) throw std::bad_alloc();
  // What it can't parse of a print fmt it would print to standard error; we ask for the result.
  tep_set_loglevel(TEP_LOG_NONE);
  tep_set_long_size(tep_, sizeof(long));
  tep_set_file_bigendian(tep_, TEP_LITTLE_ENDIAN);
  tep_set_local_bigendian(tep_, TEP_LITTLE_ENDIAN);
}

Formats::~Formats() = default;

void Formats::Add(std::string_view event_name, const std::string& text) {
  // The print fmt may be beyond its parser: the fields stand all the same, so only they decide.
  tep_parse_event(tep_, text.c_str(), text.size(), kSystem);
  if (!Has(event_name)) {
    throw FormatError(fmt::format("{}: its format could not be parsed", event_name));
  }
}

tep_event* Formats::Find(std::string_view event_name) const {
  return tep_find_event_by_name(tep_, kSystem, std::string(event_name).c_str());
}

std::uint16_t Formats::Id(std::string_view event_name) const {
  const tep_event* event = Find(event_name);
  if (event == nullptr || event->id < 0 || event->id > UINT16_MAX) {
    throw FormatError(fmt::format("{}: no usable ID in its format", event_name));
  }
  return static_cast<std::uint16_t>(event->id);
}

BoundEvent Formats::Bind(std::string_view event_name, std::span<const FieldSpec> wanted) const {
  const tep_event* event = Find(event_name);
  if (event == nullptr) {
    throw FormatError(fmt::format("{}: no format of it that could be parsed", event_name));
  }
  const tep_format_field* id = event->format.common_fields;
  if (id == nullptr || std::string_view(id->name) != "common_type" || id->offset != 0 ||
      id->size != sizeof(std::uint16_t)) {
    throw FormatError(fmt::format("{}: its records do not begin with common_type", event_name));
  }
  BoundEvent bound;
  bound.record_length = sizeof(std::uint16_t);
  for (const FieldSpec& spec : wanted) {
    const tep_format_field* field = FindField(*event, spec.name);
    if (field == nullptr && spec.required) {
      throw FormatError(fmt::format("{}: its format has no field {}", event_name, spec.name));
    }
    if (field == nullptr) {
      bound.fields.push_back({.offset = 0, .mask = 0, .sign = 0, .absent = spec.absent});
      continue;
    }
    bound.fields.push_back(BindField(*event, *field));
    bound.record_length =
        std::max(bound.record_length, static_cast<std::uint32_t>(field->offset + field->size));
  }
  return bound;
}

std::uint64_t Formats::GfpBit(const std::string& name) const {
  tep_event* event = Find("mm_page_alloc");
  if (event == nullptr) return 0;
  for (int bit = 0; bit < 32; ++bit) {
    const std::uint64_t flag = UINT64_C(1) << bit;
    SampleRecord record(*tep_, *event);
    record.Set("gfp_flags", flag);
    const std::string text = record.Print();
    const std::size_t at = text.find("gfp_flags=" + name);
    const std::size_t end = at + std::strlen("gfp_flags=") + name.size();
    if (at != std::string::npos && (end == text.size() || text[end] == ' ')) return flag;
  }
  return 0;
}

std::optional<int> Formats::PageblockOrder() const {
  tep_event* event = Find("mm_page_alloc_extfrag");
  if (event == nullptr) return std::nullopt;
  const auto printed = PrintedNumber(SampleRecord(*tep_, *event).Print(), "pageblock_order=");
  if (!printed || *printed < 1 || *printed >= KMEM_ORDERS) return std::nullopt;
  return printed;
}

std::vector<std::uint16_t> Formats::AllIds() const {
  std::vector<std::uint16_t> ids;
  tep_event* const* events = tep_list_events(tep_, TEP_EVENT_SORT_ID);
  for (; events != nullptr && *events != nullptr; ++events) {
    if ((*events)->id >= 0 && (*events)->id <= UINT16_MAX) {
      ids.push_back(static_cast<std::uint16_t>((*events)->id));
    }
  }
  return ids;
}

}  // namespace kmem
