#include "exporter/tracefs/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "collectors/proc_tables.h"
#include "recorded_data.h"

namespace kmem {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// What `action` says when it throws FormatError; "" if it does not throw.
template <class Action>
std::string ErrorOf(Action action) {
  try {
    action();
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

// The text of a format file with these field lines.
std::string MadeFormat(const std::string& name, const std::string& fields,
                       const std::string& print = "\"%d\", 1") {
  return "name: " + name +
         "\nID: 77\nformat:\n"
         "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
         "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
         "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
         "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n" +
         fields + "\nprint fmt: " + print + "\n";
}

constexpr FieldSpec kMandatory{"wanted", true, 0};

BoundEvent BindOne(const std::string& field_line, FieldSpec spec = kMandatory) {
  Formats formats;
  formats.Add("made", MadeFormat("made", field_line));
  return formats.Bind("made", std::span(&spec, 1));
}

// A record of 64 bytes 0x11 with `value` at `offset`, read through the bound field.
template <class Value>
std::uint64_t ReadThrough(const BoundEvent& bound, std::size_t offset, Value value) {
  std::array<std::byte, 64> record;
  record.fill(std::byte{0x11});
  std::memcpy(record.data() + offset, &value, sizeof value);
  return LoadField(record.data(), bound.fields.at(0));
}

TEST(FormatTest, AnUnsignedFieldOfEachWidthIsReadAndNothingBesideIt) {
  EXPECT_EQ(ReadThrough(BindOne("\tfield:u8 wanted;\toffset:9;\tsize:1;\tsigned:0;\n"), 9,
                        std::uint8_t{0xfe}),
            0xfeU);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:u16 wanted;\toffset:10;\tsize:2;\tsigned:0;\n"), 10,
                        std::uint16_t{0xfedc}),
            0xfedcU);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:u32 wanted;\toffset:12;\tsize:4;\tsigned:0;\n"), 12,
                        std::uint32_t{0xfedcba98}),
            0xfedcba98U);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:u64 wanted;\toffset:16;\tsize:8;\tsigned:0;\n"), 16,
                        UINT64_C(0xfedcba9876543210)),
            UINT64_C(0xfedcba9876543210));
}

TEST(FormatTest, ASignedFieldOfEachWidthIsExtended) {
  const auto minus_two = static_cast<std::uint64_t>(-2);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:s8 wanted;\toffset:9;\tsize:1;\tsigned:1;\n"), 9,
                        std::int8_t{-2}),
            minus_two);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:short wanted;\toffset:10;\tsize:2;\tsigned:1;\n"), 10,
                        std::int16_t{-2}),
            minus_two);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:int wanted;\toffset:12;\tsize:4;\tsigned:1;\n"), 12,
                        std::int32_t{-2}),
            minus_two);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:long wanted;\toffset:16;\tsize:8;\tsigned:1;\n"), 16,
                        std::int64_t{-2}),
            minus_two);
  EXPECT_EQ(ReadThrough(BindOne("\tfield:int wanted;\toffset:12;\tsize:4;\tsigned:1;\n"), 12,
                        std::int32_t{INT32_MAX}),
            std::uint64_t{INT32_MAX});
}

TEST(FormatTest, ARecordMustReachToTheEndOfItsLastWantedField) {
  EXPECT_EQ(BindOne("\tfield:int wanted;\toffset:12;\tsize:4;\tsigned:1;\n").record_length, 16U);
  EXPECT_EQ(BindOne("\tfield:u64 other;\toffset:16;\tsize:8;\tsigned:0;\n"
                    "\tfield:u8 wanted;\toffset:8;\tsize:1;\tsigned:0;\n")
                .record_length,
            9U);
}

TEST(FormatTest, AnEventWithoutWantedFieldsNeedsItsIdOnly) {
  Formats formats;
  formats.Add("made", MadeFormat("made", ""));
  const BoundEvent bound = formats.Bind("made", {});
  EXPECT_EQ(bound.record_length, 2U);
  EXPECT_THAT(bound.fields, SizeIs(0));
  EXPECT_EQ(formats.Id("made"), 77);
}

TEST(FormatTest, AMissingOptionalFieldTakesTheValueThatSaysSo) {
  const FieldSpec spec{"wanted", false, static_cast<std::uint64_t>(-1)};
  const BoundEvent bound = BindOne("\tfield:int other;\toffset:8;\tsize:4;\tsigned:1;\n", spec);
  EXPECT_EQ(ReadThrough(bound, 8, std::int32_t{5}), static_cast<std::uint64_t>(-1));
  EXPECT_EQ(bound.record_length, 2U);
}

TEST(FormatTest, AnOptionalFieldThatIsThereIsReadWithoutTheAbsentValue) {
  const FieldSpec spec{"wanted", false, static_cast<std::uint64_t>(-1)};
  const BoundEvent bound = BindOne("\tfield:int wanted;\toffset:8;\tsize:4;\tsigned:1;\n", spec);
  EXPECT_EQ(ReadThrough(bound, 8, std::int32_t{5}), 5U);
}

TEST(FormatTest, AMissingRequiredFieldIsNamedWithItsEvent) {
  EXPECT_THAT(ErrorOf([] { BindOne("\tfield:int other;\toffset:8;\tsize:4;\tsigned:1;\n"); }),
              AllOf(HasSubstr("made"), HasSubstr("wanted"), Not(HasSubstr("\n"))));
}

TEST(FormatTest, AFieldOfAWidthThatNoIntegerHasIsNamedWithItsEvent) {
  for (const std::string size : {"0", "3", "5", "6", "7", "16"}) {
    EXPECT_THAT(ErrorOf([&] {
                  BindOne("\tfield:int wanted;\toffset:8;\tsize:" + size + ";\tsigned:1;\n");
                }),
                AllOf(HasSubstr("made"), HasSubstr("wanted"), HasSubstr(size)));
  }
}

TEST(FormatTest, AFieldAtAnAbsurdOffsetIsRefused) {
  for (const std::string offset : {"4097", "65536", "2147483640", "-8"}) {
    EXPECT_THAT(ErrorOf([&] {
                  BindOne("\tfield:int wanted;\toffset:" + offset + ";\tsize:4;\tsigned:1;\n");
                }),
                HasSubstr("made"))
        << offset;
  }
}

TEST(FormatTest, AnEventThatIsNotThereIsNamed) {
  const Formats formats;
  EXPECT_FALSE(formats.Has("mm_page_alloc"));
  EXPECT_THAT(ErrorOf([&] { (void)formats.Bind("mm_page_alloc", {}); }),
              HasSubstr("mm_page_alloc"));
  EXPECT_THAT(ErrorOf([&] { (void)formats.Id("mm_page_alloc"); }), HasSubstr("mm_page_alloc"));
}

TEST(FormatTest, AnIdThatRecordsCannotHoldIsRefused) {
  std::string text = MadeFormat("made", "");
  text.replace(text.find("ID: 77"), 6, "ID: 65536");
  Formats formats;
  formats.Add("made", text);
  EXPECT_THAT(ErrorOf([&] { (void)formats.Id("made"); }), HasSubstr("made"));
}

TEST(FormatTest, RecordsThatDoNotBeginWithTheirIdAreRefused) {
  std::string text = MadeFormat("made", "");
  text.replace(text.find("common_type"), 11, "common_kind");
  Formats formats;
  formats.Add("made", text);
  EXPECT_THAT(ErrorOf([&] { (void)formats.Bind("made", {}); }),
              AllOf(HasSubstr("made"), HasSubstr("common_type")));
}

TEST(FormatTest, APrintFmtThatCannotBeParsedLeavesTheFieldsUsable) {
  Formats formats;
  formats.Add("made", MadeFormat("made", "\tfield:int wanted;\toffset:8;\tsize:4;\tsigned:1;\n",
                                 "\"%d\", mystery(REC->wanted, ({ 1; }))"));
  EXPECT_EQ(formats.Bind("made", std::span(&kMandatory, 1)).fields.at(0).offset, 8U);
}

TEST(FormatTest, ATextOfAnotherEventIsRefusedByTheNameAskedFor) {
  Formats formats;
  EXPECT_THAT(ErrorOf([&] { formats.Add("wanted_event", MadeFormat("made", "")); }),
              HasSubstr("wanted_event"));
}

TEST(FormatTest, NonsenseIsRefused) {
  for (const std::string text :
       {"", "\n", "name: made", "not a format at all", "name: made\nID: x\n"}) {
    Formats formats;
    EXPECT_THAT(ErrorOf([&] {
                  formats.Add("made", text);
                  (void)formats.Bind("made", {});
                }),
                HasSubstr("made"))
        << text;
  }
}

TEST(FormatTest, WithoutTheEventsNothingIsKnownOfFlagsAndPageblocks) {
  const Formats formats;
  EXPECT_EQ(formats.GfpBit("__GFP_NOWARN"), 0U);
  EXPECT_EQ(formats.PageblockOrder(), std::nullopt);
}

// As in arm64's 6.12 with pages of 16 KiB, where libtraceevent can't parse a page's address.
TEST(FormatTest, AnArgumentWithASizeofLeavesTheOthersWhatTheyAre) {
  const std::string page =
      "(((struct page *)((-(0x40000000UL)) - (((1UL << 47) >> 14) * sizeof(struct page)))) + pfn)";
  const std::string flags = "\tfield:unsigned long gfp_flags;\toffset:8;\tsize:8;\tsigned:0;\n";
  Formats formats;
  formats.Add(
      "mm_page_alloc",
      MadeFormat("mm_page_alloc", flags,
                 "\"page=%p (a, b) gfp_flags=%s\", " + page +
                     ", (REC->gfp_flags) ? __print_flags(REC->gfp_flags, \"|\", "
                     "{(unsigned long)((gfp_t)0x2000u), \"__GFP_NOWARN\"}, {0x40, \"__GFP_IO\"}) "
                     ": \"none\""));
  formats.Add("mm_page_alloc_extfrag",
              MadeFormat("mm_page_alloc_extfrag", "",
                         "\"pageblock_order=%d page=%p\", (11 < 12 ? 11 : 12), " + page));
  EXPECT_EQ(formats.GfpBit("__GFP_NOWARN"), 0x2000U);
  EXPECT_EQ(formats.GfpBit("__GFP_IO"), 0x40U);
  EXPECT_EQ(formats.PageblockOrder(), 11);
}

TEST(FormatTest, APageblockOrderThatNoKernelHasIsNotTaken) {
  for (const std::string order : {"0", "16", "-1", "4000000000"}) {
    Formats formats;
    formats.Add("mm_page_alloc_extfrag",
                MadeFormat("mm_page_alloc_extfrag", "", "\"pageblock_order=%d\", " + order));
    EXPECT_EQ(formats.PageblockOrder(), std::nullopt) << order;
  }
}

// A field as it stands in the text of a format file, parsed here by other means.
struct TextField {
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  bool is_signed = false;
};
std::map<std::string, TextField> FieldsInText(const std::string& text) {
  std::map<std::string, TextField> fields;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t semicolon = line.find(';');
    if (!line.starts_with("\tfield:") || semicolon == std::string::npos) continue;
    const std::string declaration = line.substr(0, semicolon);
    const auto number = [&](const std::string& key) {
      return static_cast<std::uint32_t>(std::stoul(line.substr(line.find(key) + key.size())));
    };
    fields[declaration.substr(declaration.rfind(' ') + 1)] = {number("offset:"), number("size:"),
                                                              number("signed:") != 0};
  }
  return fields;
}

std::uint16_t IdInText(const std::string& text) {
  return static_cast<std::uint16_t>(std::stoul(text.substr(text.find("ID: ") + 4)));
}

class RecordedFormatsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { AddFormats(GetParam(), formats_); }
  [[nodiscard]] BoundField Bound(const std::string& event, std::string_view field) const {
    const FieldSpec spec{field, true, 0};
    return formats_.Bind(event, std::span(&spec, 1)).fields.at(0);
  }
  [[nodiscard]] bool Before61() const { return GetParam() == "5.10"; }

  Formats formats_;
};
INSTANTIATE_TEST_SUITE_P(Kernels, RecordedFormatsTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(RecordedFormatsTest, EveryIntegerOfEveryEventIsBoundAsItsTextSays) {
  int fields = 0;
  for (const std::string& event : EventsOf(GetParam())) {
    const std::string text = FormatText(GetParam(), event);
    EXPECT_EQ(formats_.Id(event), IdInText(text)) << event;
    for (const auto& [name, field] : FieldsInText(text)) {
      if (name.starts_with("common_") || name.ends_with("]")) continue;
      // `__data_loc char[] name` is a string elsewhere in the record.
      if (text.find("__data_loc char[] " + name) != std::string::npos) continue;
      const BoundField bound = Bound(event, name);
      EXPECT_EQ(bound.offset, field.offset) << event << "." << name;
      EXPECT_EQ(bound.mask, ~UINT64_C(0) >> (64 - 8 * field.size)) << event << "." << name;
      const std::uint64_t sign =
          field.is_signed && field.size < 8 ? UINT64_C(1) << (8 * field.size - 1) : 0;
      EXPECT_EQ(bound.sign, sign) << event << "." << name;
      EXPECT_EQ(bound.absent, 0U);
      ++fields;
    }
  }
  EXPECT_GT(fields, 30);
}

TEST_P(RecordedFormatsTest, EveryIdIsListedOnce) {
  std::vector<std::uint16_t> expected;
  for (const std::string& event : EventsOf(GetParam())) expected.push_back(formats_.Id(event));
  EXPECT_THAT(formats_.AllIds(), ::testing::UnorderedElementsAreArray(expected));
}

TEST_P(RecordedFormatsTest, GfpFlagsAreBoundInTheWidthOfTheirKernel) {
  EXPECT_EQ(Bound("mm_page_alloc", "gfp_flags").mask, Before61() ? 0xffffffff : ~UINT64_C(0));
}

TEST_P(RecordedFormatsTest, PercpuRefillIsUnknownOnlyBefore61) {
  const FieldSpec spec{"percpu_refill", false, static_cast<std::uint64_t>(-1)};
  const BoundEvent bound = formats_.Bind("mm_page_alloc_zone_locked", std::span(&spec, 1));
  std::array<std::byte, 64> record{};
  EXPECT_EQ(LoadField(record.data(), bound.fields.at(0)),
            Before61() ? static_cast<std::uint64_t>(-1) : 0U);
}

TEST_P(RecordedFormatsTest, AFieldThatNoKernelHasIsNamedWithItsEvent) {
  for (const std::string& event : EventsOf(GetParam())) {
    EXPECT_THAT(ErrorOf([&] { (void)Bound(event, "no_such_field"); }),
                AllOf(HasSubstr(event), HasSubstr("no_such_field")));
  }
}

// The bits from the kernels' include/linux/gfp.h (5.10) and gfp_types.h: they moved when
// ___GFP_ATOMIC went and when the enum came.
TEST_P(RecordedFormatsTest, TheBitOfNowarnIsTheOneInThePrintFmt) {
  const std::string text = FormatText(GetParam(), "mm_page_alloc");
  const std::size_t name = text.find("\"__GFP_NOWARN\"");
  ASSERT_NE(name, std::string::npos);
  // What stands before it: `{(unsigned long)(( gfp_t)0x2000u), ` or
  // `{( unsigned long)(( gfp_t)((((1UL))) << (13))), `.
  const std::string before = text.substr(0, name);
  const std::string entry = before.substr(before.rfind('{'));
  std::uint64_t expected = 0;
  if (const std::size_t hex = entry.find("0x"); hex != std::string::npos) {
    expected = std::stoull(entry.substr(hex), nullptr, 16);
  } else {
    const std::size_t shift = entry.find("<< (");
    ASSERT_NE(shift, std::string::npos) << entry;
    expected = UINT64_C(1) << std::stoul(entry.substr(shift + 4));
  }
  EXPECT_EQ(formats_.GfpBit("__GFP_NOWARN"), expected);
  EXPECT_NE(expected, 0U);
}

TEST_P(RecordedFormatsTest, ANameThatIsOnlyTheBeginningOfAFlagsNameIsNoFlag) {
  EXPECT_NE(formats_.GfpBit("__GFP_NORETRY"), 0U);
  EXPECT_EQ(formats_.GfpBit("__GFP_NO"), 0U);
  EXPECT_EQ(formats_.GfpBit("__GFP_NOSUCH"), 0U);
}

TEST_P(RecordedFormatsTest, ThePageblockOrderIsThatOfPagetypeinfo) {
  const Pagetypeinfo info =
      ParsePagetypeinfo(ReadWhole(TestData("proc/" + GetParam() + "/pagetypeinfo")));
  EXPECT_EQ(formats_.PageblockOrder(), info.pageblock_order);
}

// A text cut anywhere either is refused or gives no field that the whole text does not have.
TEST_P(RecordedFormatsTest, ATextCutAtAnyByteIsRefusedOrBindsWhatIsLeft) {
  for (const std::string& event : EventsOf(GetParam())) {
    const std::string text = FormatText(GetParam(), event);
    const std::map<std::string, TextField> fields = FieldsInText(text);
    for (std::size_t size = 0; size < text.size(); ++size) {
      Formats cut;
      const std::string error = ErrorOf([&] {
        cut.Add(event, text.substr(0, size));
        (void)cut.Id(event);
        for (const auto& [name, field] : fields) {
          const FieldSpec spec{name, false, 0};
          const BoundEvent bound = cut.Bind(event, std::span(&spec, 1));
          if (bound.fields.at(0).mask == 0) continue;  // absent
          EXPECT_LE(bound.fields.at(0).offset, field.offset) << event << " cut at " << size;
        }
        (void)cut.GfpBit("__GFP_NOWARN");
        (void)cut.PageblockOrder();
      });
      if (!error.empty()) {
        ASSERT_THAT(error, AllOf(HasSubstr(event), Not(HasSubstr("\n")))) << "cut at " << size;
      }
      if (size < text.find("format:")) {
        ASSERT_FALSE(error.empty()) << event << " cut at " << size;
      }
    }
  }
}

TEST_P(RecordedFormatsTest, TheHeaderOfAPageIsTheUsualOne) {
  const PageLayout layout = LayoutOf(GetParam());
  EXPECT_EQ(layout.commit_offset, 8U);
  EXPECT_EQ(layout.commit_size, 8U);
  EXPECT_EQ(layout.data_offset, 16U);
  EXPECT_EQ(layout.data_size, 4080U);
  EXPECT_EQ(layout.subbuffer_size(), 4096U);
}

TEST_P(RecordedFormatsTest, AHeaderPageCutAtAnyByteIsRefusedOrPlausible) {
  const std::string text = ReadWhole(PagesOf(GetParam(), "header_page"));
  const std::size_t whole_line_needed = text.rfind("size:");
  for (std::size_t length = 0; length < text.size(); ++length) {
    PageLayout layout;
    const std::string error = ErrorOf([&] { layout = ParseHeaderPage(text.substr(0, length)); });
    if (length < whole_line_needed) {
      EXPECT_THAT(error, HasSubstr("header_page")) << length;
    }
    EXPECT_THAT(error, Not(HasSubstr("\n")));
    EXPECT_LE(layout.data_size, 4080U) << length;
    EXPECT_EQ(layout.data_offset, 16U) << length;
  }
}

TEST(HeaderPageTest, A32BitKernelsLayoutIsUnderstood) {
  const PageLayout layout = ParseHeaderPage(
      "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
      "\tfield: local_t commit;\toffset:8;\tsize:4;\tsigned:1;\n"
      "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
      "\tfield: char data;\toffset:12;\tsize:4084;\tsigned:1;\n");
  EXPECT_EQ(layout.commit_size, 4U);
  EXPECT_EQ(layout.data_offset, 12U);
  EXPECT_EQ(layout.subbuffer_size(), 4096U);
}

TEST(HeaderPageTest, LayoutsThatNoKernelHasAreRefused) {
  const auto made = [](const std::string& commit, const std::string& data) {
    return "\tfield: local_t commit;\t" + commit + ";\tsigned:1;\n\tfield: char data;\t" + data +
           ";\tsigned:1;\n";
  };
  EXPECT_EQ(ErrorOf([&] { ParseHeaderPage(made("offset:8;\tsize:8", "offset:16;\tsize:4080")); }),
            "");
  for (const std::string& text : {std::string(), std::string("nonsense"), std::string(4096, '\0'),
                                  made("offset:8;\tsize:2", "offset:16;\tsize:4080"),
                                  made("offset:12;\tsize:8", "offset:16;\tsize:4080"),
                                  made("offset:4294967292;\tsize:8", "offset:16;\tsize:4080"),
                                  made("offset:8;\tsize:8", "offset:4096;\tsize:4080"),
                                  made("offset:8;\tsize:8", "offset:16;\tsize:0"),
                                  made("offset:8;\tsize:8", "offset:16;\tsize:63"),
                                  made("offset:8;\tsize:8", "offset:16;\tsize:1048577"),
                                  made("offset:8;\tsize:8", "offset:16;\tsize:99999999999"),
                                  made("offset:-8;\tsize:8", "offset:16;\tsize:4080")}) {
    const std::string error = ErrorOf([&] { ParseHeaderPage(text); });
    EXPECT_THAT(error, AllOf(HasSubstr("header_page"), Not(HasSubstr("\n")))) << text;
  }
}

}  // namespace
}  // namespace kmem
