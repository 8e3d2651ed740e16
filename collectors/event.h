// How a collector says which tracepoints it wants, which of their fields, and what is to be done
// with each event. Everything is fixed at compile time; a source of events (exporter/) binds the
// fields to offsets once, from the `format` of the kernel that wrote the events, and then calls the
// handlers. Nothing here allocates or locks.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "collectors/tally.h"

namespace kmem {

// One field as a source has to find it in the `format` of a tracepoint.
struct FieldSpec {
  std::string_view name;
  bool required;          // without it the tracepoint can't be used
  std::uint64_t absent;   // the value to take where an optional field is missing
  std::size_t width = 0;  // bytes of the member that takes it; 0: not told
};

// Where a field stands in the records of the running kernel. Reading it needs no branch:
// ((eight bytes at `offset`) & mask, sign-extended by `sign`) + absent.
// A field that is absent has mask 0.
struct BoundField {
  std::uint32_t offset = 0;
  std::uint64_t mask = 0;
  std::uint64_t sign = 0;  // the sign bit of a signed field, 0 of an unsigned one
  std::uint64_t absent = 0;
};

// Bytes that must be readable behind a record's last field, because fields are read eight bytes at
// a time whatever their width.
inline constexpr std::size_t kRecordSlack = 8;

// Fields are little-endian like every machine this is built for; sources refuse others.
inline std::uint64_t LoadField(const std::byte* record, const BoundField& field) {
  std::uint64_t value = 0;
  std::memcpy(&value, record + field.offset, sizeof value);
  return (((value & field.mask) ^ field.sign) - field.sign) + field.absent;
}

// Whether the field has all the bits that a member of `width` bytes has, so that these bytes are
// its value. A field that is absent has not.
inline bool FillsExactly(const BoundField& field, std::size_t width) {
  const std::uint64_t all = ~std::uint64_t{0};
  return width != 0 && field.mask == (width >= sizeof all ? all : ~(all << (8 * width)));
}

// Decodes one record into the collector's event struct and tallies it.
using Handler = kmem_verdict (*)(std::byte* tally, const std::byte* record,
                                 const BoundField* fields, const kmem_context& context);

// One tracepoint as one collector wants it.
struct EventSpec {
  std::string_view name;  // of the tracepoint, in the kmem system
  std::span<const FieldSpec> fields;
  Handler handler;
  // The same for records whose fields all are as wide as their members (FillsExactly), as most are:
  // it copies them. NULL: there is none.
  Handler exact_handler = nullptr;
};

// A string that can be a template argument.
template <std::size_t kSize>
struct FixedString {
  // Implicit, so that a literal can stand for it.
  // NOLINTNEXTLINE(modernize-avoid-c-arrays): a literal is one
  consteval FixedString(const char (&text)[kSize]) { std::copy_n(text, kSize, value.data()); }
  [[nodiscard]] constexpr std::string_view view() const { return {value.data(), kSize - 1}; }

  std::array<char, kSize> value{};
};

namespace internal {

template <class Value>
constexpr std::size_t kFieldWidth = sizeof(Value);
template <>
inline constexpr std::size_t kFieldWidth<kmem_text> = sizeof(std::uint32_t);  // its __data_loc

template <class Event, class Value>
consteval std::size_t WidthOf(Value Event::* /*member*/) {
  return kFieldWidth<Value>;
}

}  // namespace internal

// A field that the tracepoint can't be used without, and the member that takes it.
template <FixedString kName, auto kMember>
struct Required {
  static constexpr FieldSpec kSpec{kName.view(), true, 0, internal::WidthOf(kMember)};
  static constexpr auto kTarget = kMember;
};

// A field that some kernels lack, and the value that says so.
template <FixedString kName, auto kMember, std::int64_t kAbsent>
struct Optional {
  static constexpr FieldSpec kSpec{kName.view(), false, static_cast<std::uint64_t>(kAbsent),
                                   internal::WidthOf(kMember)};
  static constexpr auto kTarget = kMember;
};

// The same for a text (`__data_loc char[]`), and a member of type kmem_text.
template <FixedString kName, auto kMember>
struct OptionalText {
  static constexpr FieldSpec kSpec{kName.view(), false, 0, internal::WidthOf(kMember)};
  static constexpr auto kTarget = kMember;
};

namespace internal {

// Where a record keeps a text: `where` is its __data_loc, the offset in the lower half and the
// length with the NUL in the upper one (include/trace/stages/stage4_event_cb.h). NULL if it does
// not lie within the record, or has no NUL.
inline kmem_text LoadText(const std::byte* record, std::uint32_t record_bytes,
                          std::uint64_t where) {
  const auto offset = static_cast<std::uint32_t>(where & 0xFFFF);
  const auto bytes = static_cast<std::uint32_t>(where >> 16 & 0xFFFF);
  if (bytes == 0 || offset + bytes > record_bytes) return {nullptr, 0};
  const char* text = reinterpret_cast<const char*>(record) + offset;
  if (text[bytes - 1] != '\0') return {nullptr, 0};
  return {text, bytes - 1};
}

template <class Function>
struct CountTraits;
template <class TallyT, class EventT>
struct CountTraits<kmem_verdict (*)(TallyT*, const EventT*, const kmem_context*)> {
  using Tally = TallyT;
  using Event = EventT;
};
// A tracepoint of which only the fact that it fired matters.
struct NoFields {};
template <class TallyT>
struct CountTraits<kmem_verdict (*)(TallyT*, const kmem_context*)> {
  using Tally = TallyT;
  using Event = NoFields;
};

template <class Event, class Value>
void Assign(Event& event, Value Event::*member, std::uint64_t raw, const std::byte* record,
            std::uint32_t record_bytes) {
  if constexpr (std::is_same_v<Value, kmem_text>) {
    event.*member = LoadText(record, record_bytes, raw);
  } else {
    event.*member = static_cast<Value>(raw);
  }
}

}  // namespace internal

// A tracepoint by name, the plain C function that tallies it, and the fields of its event struct:
//   Tracepoint<"kfree", slab_count_kfree, Required<"ptr", &slab_free_event::ptr>>::kSpec
template <FixedString kName, auto kCount, class... Fields>
struct Tracepoint {
 private:
  using Tally = typename internal::CountTraits<decltype(kCount)>::Tally;
  using Event = typename internal::CountTraits<decltype(kCount)>::Event;

 public:
  // `kExact`: see EventSpec::exact_handler.
  template <bool kExact>
  static kmem_verdict Handle(std::byte* tally, const std::byte* record, const BoundField* fields,
                             const kmem_context& context) {
    if constexpr (std::is_same_v<Event, internal::NoFields>) {
      return kCount(reinterpret_cast<Tally*>(tally), &context);
    } else {
      Event event{};
      Decode<kExact>(event, record, fields, context.bytes, std::index_sequence_for<Fields...>{});
      return kCount(reinterpret_cast<Tally*>(tally), &event, &context);
    }
  }

  static constexpr std::array<FieldSpec, sizeof...(Fields)> kFields{Fields::kSpec...};
  static constexpr EventSpec kSpec{kName.view(), kFields, &Handle<false>, &Handle<true>};

 private:
  template <bool kExact, std::size_t... kIndex>
  static void Decode(Event& event, const std::byte* record, const BoundField* fields,
                     std::uint32_t record_bytes, std::index_sequence<kIndex...> /*indices*/) {
    const auto load = [&]<std::size_t kWidth>(std::size_t index) {
      if constexpr (!kExact) return LoadField(record, fields[index]);
      std::uint64_t value = 0;
      std::memcpy(&value, record + fields[index].offset, kWidth);
      return value;
    };
    (internal::Assign(event, Fields::kTarget, load.template operator()<Fields::kSpec.width>(kIndex),
                      record, record_bytes),
     ...);
  }
};

}  // namespace kmem
