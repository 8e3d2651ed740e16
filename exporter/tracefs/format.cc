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

// Takes a line, or all up to `end`, off the front of the text.
std::string_view TakeUntil(std::string_view& text, char end) {
  const std::size_t at = std::min(text.find(end), text.size());
  const std::string_view taken = text.substr(0, at);
  text.remove_prefix(std::min(at + 1, text.size()));
  return taken;
}

// "\tfield:unsigned long pfn;\toffset:8;\tsize:8;\tsigned:0;"
bool IsFieldLine(std::string_view line) {
  const auto number = [&line](std::string_view key) {
    std::string_view part = TakeUntil(line, ';');
    if (!part.starts_with(key)) return false;
    part.remove_prefix(key.size());
    return !part.empty() && part.size() <= 6 &&
           part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  const std::string_view declaration = TakeUntil(line, ';');
  return declaration.starts_with("\tfield:") && declaration.find(' ') != std::string_view::npos &&
         number("\toffset:") && number("\tsize:") && number("\tsigned:") && line.empty();
}

// Whether the text has the lines that f_show() in kernel/trace/trace_events.c writes (5.10 to
// 6.18), up to its print fmt. libtraceevent 1.7.1 crashes on many a text that has not.
bool HasFormatShape(std::string_view text) {
  const bool printable = std::ranges::all_of(
      text, [](char c) { return (c >= ' ' && c < 127) || c == '\t' || c == '\n'; });
  if (!printable || !text.ends_with('\n') || !TakeUntil(text, '\n').starts_with("name: ")) {
    return false;
  }
  if (!TakeUntil(text, '\n').starts_with("ID: ") || TakeUntil(text, '\n') != "format:") {
    return false;
  }
  while (!text.empty()) {
    const std::string_view line = TakeUntil(text, '\n');
    if (line.starts_with("print fmt: \"")) return text.empty();
    if (!line.empty() && !IsFieldLine(line)) return false;
  }
  return false;
}

// The text with 0 for those arguments of its print fmt that have a sizeof in them, such as the
// address of a page on arm64: libtraceevent (1.7.1, 1.8.4) does not know types, and for one
// argument that it can't parse it leaves out all of them.
std::string WithoutSizes(const std::string& text) {
  std::size_t begin = std::min(text.rfind("\nprint fmt: "), text.size());
  std::string result = text.substr(0, begin);
  int depth = 0;
  bool quoted = false;
  for (std::size_t at = begin; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"' && text[at - 1] != '\\') quoted = !quoted;
    if (!quoted && (c == '(' || c == '{')) ++depth;
    if (!quoted && (c == ')' || c == '}')) --depth;
    const bool last = at + 1 == text.size();
    if (!last && (quoted || depth != 0 || c != ',')) continue;
    const std::string_view argument(text.data() + begin, at - begin);
    result += argument.find("sizeof") == std::string_view::npos ? argument : " 0";
    result += c;
    begin = at + 1;
  }
  return result;
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
    for (const tep_format_field* field = event.format.fields; field != nullptr;
         field = field->next) {
      fits_ &= Fits(*field);
    }
  }

  void Set(const char* name, std::uint64_t value) {
    const tep_format_field* field = FindField(event_, name);
    if (field == nullptr || !Fits(*field) || field->size > 8) return;
    std::memcpy(bytes_.data() + field->offset, &value, static_cast<std::size_t>(field->size));
  }

  // Nothing, if it does not fit the bytes here.
  std::string Print() {
    if (!fits_) return "";
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
  [[nodiscard]] bool Fits(const tep_format_field& field) const {
    return field.offset >= 0 && field.size >= 0 &&
           static_cast<std::size_t>(field.offset) + static_cast<std::size_t>(field.size) <=
               bytes_.size();
  }

  tep_handle& tep_;
  tep_event& event_;
  bool fits_ = true;
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
                         layout.commit_offset <= 64 && layout.data_offset <= 64 &&
                         layout.commit_offset + layout.commit_size <= layout.data_offset &&
                         layout.data_size >= 64 && layout.data_size <= (1U << 20);
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
  if (!HasFormatShape(text)) {
    throw FormatError(fmt::format("{}: its format is cut off or not one", event_name));
  }
  // The print fmt may be beyond its parser: the fields stand all the same, so only they decide.
  const std::string parsable = WithoutSizes(text);
  tep_parse_event(tep_, parsable.c_str(), parsable.size(), kSystem);
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

void Formats::CompleteFacts(KernelFacts& facts) const {
  facts.gfp_nowarn = GfpBit("__GFP_NOWARN");
  facts.pageblock_order = PageblockOrder().value_or(facts.pageblock_order);
  const auto has_name = [this](std::string_view event_name) {
    const tep_event* event = Find(event_name);
    return event != nullptr && FindField(*event, "name") != nullptr;
  };
  facts.cache_allocs_named = has_name("kmem_cache_alloc");
  facts.cache_frees_named = has_name("kmem_cache_free");
}

std::string Formats::Function(std::uint64_t return_address) const {
  // The call stands before it, and may be the function's last instruction.
  const std::uint64_t address = return_address - 1;
  const char* name = tep_find_function(tep_, address);
  const bool near = address - tep_find_function_address(tep_, address) < kLongestFunction;
  return name == nullptr || !near ? "" : name;
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
