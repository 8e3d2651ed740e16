#include "exporter/tracefs/page_walker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "exporter/tracefs/cpu_reader.h"
#include "page_builder.h"
#include "recorded_data.h"

extern "C" {
#include <traceevent/kbuffer.h>
}

namespace kmem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct WalkedEvent {
  std::uint64_t time;
  std::size_t offset;  // of the record in the page
  std::size_t length;
  bool operator==(const WalkedEvent&) const = default;
};

std::ostream& operator<<(std::ostream& out, const WalkedEvent& event) {
  return out << "{time " << event.time << ", " << event.length << " bytes at " << event.offset
             << "}";
}

struct Walked {
  PageResult result;
  std::vector<WalkedEvent> events;
  unsigned byte_sum = 0;  // of all records and the slack behind them
};

// Every byte of every record is read, and the slack behind it, as the dispatcher may.
Walked Walk(std::span<const std::byte> page, const PageLayout& layout = {}) {
  Walked walked;
  walked.result = WalkPage(
      page, layout, [&](std::uint64_t time, const std::byte* record, std::uint32_t length) {
        for (std::size_t i = 0; i < length + kRecordSlack; ++i) {
          walked.byte_sum += static_cast<unsigned>(record[i]);
        }
        walked.events.push_back({time, static_cast<std::size_t>(record - page.data()), length});
      });
  return walked;
}
Walked Walk(const HeapPage& page, const PageLayout& layout = {}) {
  return Walk(page.bytes(), layout);
}

// What holds for any bytes whatsoever.
void ExpectSane(const Walked& walked, std::size_t page_size) {
  ASSERT_EQ(walked.result.records, walked.events.size());
  ASSERT_LE(walked.events.size(), page_size / 4);
  for (const WalkedEvent& event : walked.events) {
    ASSERT_LE(event.offset + event.length, page_size);
  }
}

TEST(PageWalkerTest, ShortDataOfEachLengthIsHandedOnWithItsTime) {
  for (std::size_t type_len = 1; type_len <= 28; ++type_len) {
    const Walked walked = Walk(PageBuilder(1000).Data(5, type_len * 4).Data(7, 4).Build());
    EXPECT_EQ(walked.result.error, PageError::kNone);
    EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1005, 20, type_len * 4},
                                           WalkedEvent{1012, 16 + 4 + type_len * 4 + 4, 4}));
  }
}

TEST(PageWalkerTest, LongDataTellsItsLengthInAWordOfItsOwn) {
  for (const std::size_t length : {0UL, 4UL, 112UL, 116UL, 4000UL}) {
    const Walked walked = Walk(PageBuilder(0).LongData(9, length).Data(1, 8).Build());
    EXPECT_EQ(walked.result.error, PageError::kNone);
    EXPECT_THAT(walked.events,
                ElementsAre(WalkedEvent{9, 24, length}, WalkedEvent{10, 24 + length + 4, 8}));
  }
}

TEST(PageWalkerTest, AFullPageIsWalkedToItsLastByte) {
  PageBuilder builder(0);
  for (int i = 0; i < 510; ++i) builder.Data(1, 4);
  ASSERT_EQ(builder.data_size(), 4080U);
  const Walked walked = Walk(builder.Build());
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_EQ(walked.result.data_length, 4080U);
  ASSERT_EQ(walked.events.size(), 510U);
  EXPECT_EQ(walked.events.back(), (WalkedEvent{510, 4092, 4}));
}

TEST(PageWalkerTest, PaddingWithoutTimeEndsThePage) {
  const Walked walked =
      Walk(PageBuilder(0).Data(1, 4).PaddingToEnd().Data(1, 4).Data(1, 4).Build());
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 4}));
}

TEST(PageWalkerTest, ADiscardedRecordIsSkippedAndItsTimeKept) {
  const Walked walked = Walk(PageBuilder(0).Data(1, 4).Padding(100, 24).Data(1, 4).Build());
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_THAT(walked.events,
              ElementsAre(WalkedEvent{1, 20, 4}, WalkedEvent{102, 24 + 8 + 24 + 4, 4}));
}

TEST(PageWalkerTest, ATimeExtendAddsItsUpperAndLowerBits) {
  const std::uint64_t extend = (UINT64_C(0x12345) << 27) + 77;
  const Walked walked = Walk(PageBuilder(1000).TimeExtend(extend).Data(3, 4).Build());
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1000 + extend + 3, 28, 4}));
}

TEST(PageWalkerTest, TheLargestDeltaIsNotCutOff) {
  const std::uint32_t delta = (1U << 27) - 1;
  const Walked walked = Walk(PageBuilder(0).Data(delta, 4).Data(delta, 4).Build());
  EXPECT_THAT(walked.events,
              ElementsAre(WalkedEvent{delta, 20, 4}, WalkedEvent{2 * std::uint64_t{delta}, 28, 4}));
}

TEST(PageWalkerTest, AnAbsoluteTimeReplacesTheTime) {
  const Walked walked =
      Walk(PageBuilder(1000).Data(1, 4).AbsoluteTime(5'000'000'000).Data(2, 4).Build());
  EXPECT_THAT(walked.events,
              ElementsAre(WalkedEvent{1001, 20, 4}, WalkedEvent{5'000'000'002, 36, 4}));
}

constexpr std::uint64_t kTopBit = UINT64_C(1) << 59;  // the first that an absolute time lacks

TEST(PageWalkerTest, AnAbsoluteTimeKeepsTheTopBitsOfTheTimeBefore) {
  const std::uint64_t before = 21 * kTopBit + 1000;
  const Walked walked = Walk(PageBuilder(before).AbsoluteTime(before + 500).Data(0, 4).Build());
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{before + 500, 28, 4}));
}

TEST(PageWalkerTest, AnAbsoluteTimeThatWrappedCarriesIntoTheTopBits) {
  const std::uint64_t before = 22 * kTopBit - 10;
  const Walked walked = Walk(PageBuilder(before).AbsoluteTime(before + 30).Data(0, 4).Build());
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{22 * kTopBit + 20, 28, 4}));
}

TEST(PageWalkerTest, AnEmptyPageHasNoEvents) {
  const Walked walked = Walk(PageBuilder(1000).Build());
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_EQ(walked.result.data_length, 0U);
  EXPECT_FALSE(walked.result.events_lost);
  EXPECT_THAT(walked.events, IsEmpty());
}

TEST(PageWalkerTest, LossWithItsCountIsReported) {
  const Walked walked = Walk(PageBuilder(0).Data(1, 8).Lost(UINT64_C(0x123456789)).Build());
  EXPECT_TRUE(walked.result.events_lost);
  EXPECT_EQ(walked.result.lost_count, UINT64_C(0x123456789));
  EXPECT_EQ(walked.result.data_length, 12U);
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 8}));
}

TEST(PageWalkerTest, LossWithoutACountIsReportedAsUncounted) {
  const Walked walked = Walk(PageBuilder(0).Data(1, 8).Lost().Build());
  EXPECT_TRUE(walked.result.events_lost);
  EXPECT_EQ(walked.result.lost_count, 0U);
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 8}));
}

TEST(PageWalkerTest, ALossCountFitsToTheLastByteAndNoFurther) {
  const auto lost_behind = [](std::size_t data) {
    return Walk(PageBuilder(0).LongData(1, data - 8).Lost(7).Build()).result;
  };
  const PageResult fits = lost_behind(4080 - 8);
  EXPECT_TRUE(fits.events_lost);
  EXPECT_EQ(fits.lost_count, 7U);
  for (const std::size_t data : {4076UL, 4080UL}) {
    const PageResult does_not = lost_behind(data);
    EXPECT_TRUE(does_not.events_lost);
    EXPECT_EQ(does_not.lost_count, 0U);
    EXPECT_EQ(does_not.records, 1U);
  }
}

TEST(PageWalkerTest, ALossCountHasTheSizeOfTheKernelsLong) {
  PageLayout layout;
  layout.commit_size = 4;
  const HeapPage page = PageBuilder(0).Data(1, 8).Lost(UINT64_C(0x500000007)).Build();
  EXPECT_EQ(Walk(page, layout).result.lost_count, 7U);
}

TEST(PageWalkerTest, AStoredCountWithoutTheFlagOfLossIsIgnored) {
  HeapPage page = PageBuilder(0).Data(1, 8).Lost(7).Build();
  page.data()[11] &= std::byte{0x7f};
  const Walked walked = Walk(page);
  EXPECT_FALSE(walked.result.events_lost);
  EXPECT_EQ(walked.result.lost_count, 0U);
  EXPECT_EQ(walked.result.records, 1U);
}

TEST(PageWalkerTest, ACommitBeyondThePageIsAnError) {
  for (const std::uint32_t commit : {4081U, 8192U, (1U << 30) - 1}) {
    const Walked walked = Walk(PageBuilder(0).Data(1, 4).Commit(commit).Build());
    EXPECT_EQ(walked.result.error, PageError::kCommitBeyondPage);
    EXPECT_EQ(walked.result.data_length, 0U);
    EXPECT_THAT(walked.events, IsEmpty());
  }
}

TEST(PageWalkerTest, APageShorterThanItsHeaderIsAnError) {
  const HeapPage whole = PageBuilder(0).Build();
  for (std::size_t size = 0; size < 16; ++size) {
    const HeapPage page(whole.bytes().first(size));
    EXPECT_EQ(Walk(page).result.error, PageError::kPageTooShort);
  }
  EXPECT_EQ(Walk(HeapPage(whole.bytes().first(16))).result.error, PageError::kNone);
}

TEST(PageWalkerTest, ARecordBeyondTheDataEndsTheWalkBehindTheGoodOnes) {
  const auto expect_first_only = [](const PageBuilder& builder, const char* what) {
    const Walked walked = Walk(builder.Build());
    EXPECT_EQ(walked.result.error, PageError::kRecordBeyondData) << what;
    EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 4})) << what;
  };
  const auto begun = [] { return PageBuilder(0).Data(1, 4); };
  expect_first_only(begun().Header(28, 1), "short data");
  expect_first_only(begun().Header(2, 1).Word(0), "short data, half of it there");
  expect_first_only(begun().Header(0, 1), "long data without its length");
  expect_first_only(begun().Header(0, 1).Word(8), "long data");
  expect_first_only(begun().Header(0, 1).Word(UINT32_MAX), "long data of 4 GiB");
  expect_first_only(begun().Header(29, 1), "padding without its length");
  expect_first_only(begun().Header(29, 1).Word(8), "padding");
  expect_first_only(begun().Header(29, 1).Word(UINT32_MAX), "padding of 4 GiB");
  expect_first_only(begun().Header(30, 1), "time extend");
  expect_first_only(begun().Header(31, 1), "time stamp");
}

TEST(PageWalkerTest, ALengthThatDoesNotCoverItselfIsAnError) {
  for (const std::uint32_t type_len : {0U, 29U}) {
    for (std::uint32_t length = 0; length < 4; ++length) {
      const Walked walked =
          Walk(PageBuilder(0).Data(1, 4).Header(type_len, 1).Word(length).Data(1, 4).Build());
      EXPECT_EQ(walked.result.error, PageError::kRecordLengthTooSmall);
      EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 4}));
    }
  }
}

TEST(PageWalkerTest, FewerThanFourBytesAtTheEndAreNoRecord) {
  for (std::uint32_t extra = 1; extra < 4; ++extra) {
    const Walked walked =
        Walk(PageBuilder(0).Data(1, 4).Word(0xffffffff).Commit(8 + extra).Build());
    EXPECT_EQ(walked.result.error, PageError::kNone);
    EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 20, 4}));
  }
}

TEST(PageWalkerTest, AnOddLengthIsTakenAsItIs) {
  const Walked walked = Walk(PageBuilder(0).LongData(1, 5).Data(1, 4).Build());
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_THAT(walked.events, ElementsAre(WalkedEvent{1, 24, 5}, WalkedEvent{2, 33, 4}));
}

TEST(PageWalkerTest, ASubBufferOf64KiBIsWalked) {
  PageLayout layout;
  layout.data_size = 65536 - layout.data_offset;
  const HeapPage page = PageBuilder(0, 65536).LongData(1, 60000).Data(1, 8).Lost(3).Build();
  const Walked walked = Walk(page, layout);
  EXPECT_EQ(walked.result.error, PageError::kNone);
  EXPECT_EQ(walked.result.lost_count, 3U);
  EXPECT_THAT(walked.events,
              ElementsAre(WalkedEvent{1, 24, 60000}, WalkedEvent{2, 24 + 60000 + 4, 8}));
}

TEST(PageWalkerTest, RandomBytesAreSafe) {
  std::mt19937 random(1);  // NOLINT(*-msc51-cpp): the same pages in each run
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes(random() % 600);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    // A commit that fits, or hardly any page is walked at all.
    if (bytes.size() >= 16) {
      const std::uint64_t commit = random() % (bytes.size() - 15) | (random() % 4) << 30;
      std::memcpy(bytes.data() + 8, &commit, sizeof commit);
    }
    const HeapPage page(bytes);
    ExpectSane(Walk(page), page.size());
  }
}

// Every .raw file of a kernel, with its layout.
struct RawFile {
  std::string name;
  PageLayout layout;
};
std::vector<RawFile> RawFilesOf(const std::string& kernel) {
  std::vector<RawFile> files;
  for (const char* name : {"cpu0.raw", "cpu1.raw", "cpu0-lost.raw"}) {
    files.push_back({name, LayoutOf(kernel)});
  }
  if (HasPages(kernel, "cpu0-64k.raw")) {
    files.push_back({"cpu0-64k.raw", LayoutOf(kernel, "header_page-64k")});
  }
  return files;
}

class RecordedPagesTest : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] CpuStats Stats(const std::string& file) const {
    const auto stats = ParseCpuStats(ReadWhole(PagesOf(GetParam(), file)));
    EXPECT_TRUE(stats.has_value()) << file;
    return stats.value_or(CpuStats{});
  }
};
INSTANTIATE_TEST_SUITE_P(Kernels, RecordedPagesTest, ::testing::ValuesIn(RecordedKernels()),
                         KernelTestName);

TEST_P(RecordedPagesTest, HoldAsManyEventsAsTheKernelSaysWereRead) {
  for (const std::string cpu : {"cpu0", "cpu1", "cpu0-lost"}) {
    std::uint64_t records = 0;
    for (const HeapPage& page : ReadPages(GetParam(), cpu + ".raw")) {
      const Walked walked = Walk(page);
      EXPECT_EQ(walked.result.error, PageError::kNone);
      records += walked.result.records;
    }
    EXPECT_EQ(records, Stats(cpu + ".stats").read) << cpu;
    EXPECT_GT(records, 100U) << cpu;
  }
}

TEST_P(RecordedPagesTest, TimesNeverDecrease) {
  for (const RawFile& file : RawFilesOf(GetParam())) {
    std::uint64_t last = 0;
    for (const HeapPage& page : ReadPages(GetParam(), file.name, file.layout)) {
      for (const WalkedEvent& event : Walk(page, file.layout).events) {
        ASSERT_GE(event.time, last) << file.name;
        last = event.time;
      }
    }
  }
}

TEST_P(RecordedPagesTest, OverrunPagesTellOfNoMoreLossThanTheKernelCounted) {
  std::uint64_t counted = 0;
  int pages_after_loss = 0;
  int pages_with_count = 0;
  for (const HeapPage& page : ReadPages(GetParam(), "cpu0-lost.raw")) {
    const PageResult result = Walk(page).result;
    pages_after_loss += result.events_lost ? 1 : 0;
    pages_with_count += result.lost_count != 0 ? 1 : 0;
    counted += result.lost_count;
    EXPECT_TRUE(result.events_lost || result.lost_count == 0);
  }
  EXPECT_GE(pages_after_loss, 1);
  EXPECT_GE(pages_with_count, 1);
  const std::uint64_t overrun =
      Stats("cpu0-lost.stats").lost[static_cast<std::size_t>(LossReason::kOverrun)];
  EXPECT_GT(counted, 0U);
  EXPECT_LE(counted, overrun);
  // Each page after a loss tells of all that was lost since the page before, if it tells at all.
  if (pages_with_count == pages_after_loss) {
    EXPECT_EQ(counted, overrun);
  } else {
    EXPECT_LT(counted, overrun);
  }
}

TEST_P(RecordedPagesTest, NothingIsReportedLostWhereNothingWas) {
  for (const char* name : {"cpu0.raw", "cpu1.raw"}) {
    for (const HeapPage& page : ReadPages(GetParam(), name)) {
      EXPECT_FALSE(Walk(page).result.events_lost);
    }
  }
}

// libtraceevent's reader of sub-buffers as the oracle.
class Oracle {
 public:
  Oracle() : kbuffer_(kbuffer_alloc(KBUFFER_LSIZE_8, KBUFFER_ENDIAN_LITTLE)) {}
  Oracle(const Oracle&) = delete;
  Oracle& operator=(const Oracle&) = delete;
  ~Oracle() { kbuffer_free(kbuffer_); }

  std::vector<WalkedEvent> Walk(HeapPage& page) {
    std::vector<WalkedEvent> events;
    EXPECT_EQ(kbuffer_load_subbuffer(kbuffer_, page.data()), 0);
    lost_ = kbuffer_missed_events(kbuffer_);
    unsigned long long time = 0;
    const void* record = kbuffer_read_event(kbuffer_, &time);
    while (record != nullptr) {
      events.push_back(
          {time, static_cast<std::size_t>(static_cast<const std::byte*>(record) - page.data()),
           static_cast<std::size_t>(kbuffer_event_size(kbuffer_))});
      record = kbuffer_next_event(kbuffer_, &time);
    }
    return events;
  }
  // Of the last page: -1 where events were lost and it does not say how many.
  [[nodiscard]] int lost() const { return lost_; }

 private:
  kbuffer* kbuffer_;
  int lost_ = 0;
};

TEST_P(RecordedPagesTest, AreReadAsLibtraceeventReadsThem) {
  Oracle oracle;
  std::size_t events = 0;
  for (const RawFile& file : RawFilesOf(GetParam())) {
    for (HeapPage& page : ReadPages(GetParam(), file.name, file.layout)) {
      const std::vector<WalkedEvent> expected = oracle.Walk(page);
      const Walked walked = Walk(page, file.layout);
      ASSERT_EQ(walked.events, expected) << file.name;
      const int lost = !walked.result.events_lost      ? 0
                       : walked.result.lost_count == 0 ? -1
                                                       : static_cast<int>(walked.result.lost_count);
      EXPECT_EQ(lost, oracle.lost()) << file.name;
      events += expected.size();
    }
  }
  EXPECT_GT(events, 1000U);
}

// Kernels from 6.8 have sub-buffers larger than a page.
std::vector<std::string> KernelsWith64KiB() {
  std::vector<std::string> kernels = RecordedKernels();
  std::erase_if(kernels, [](const std::string& name) { return !HasPages(name, "cpu0-64k.raw"); });
  return kernels;
}

class LargeSubBufferTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, LargeSubBufferTest, ::testing::ValuesIn(KernelsWith64KiB()),
                         KernelTestName);

TEST_P(LargeSubBufferTest, IsWalkedToItsEnd) {
  const PageLayout layout = LayoutOf(GetParam(), "header_page-64k");
  EXPECT_EQ(layout.subbuffer_size(), 65536U);
  for (const HeapPage& page : ReadPages(GetParam(), "cpu0-64k.raw", layout)) {
    const Walked walked = Walk(page, layout);
    EXPECT_EQ(walked.result.error, PageError::kNone);
    EXPECT_GT(walked.result.data_length, 60000U);
    EXPECT_GT(walked.result.records, 1000U);
  }
}

// Each byte of a page, but of a long one only some.
std::vector<std::size_t> CutsOf(std::size_t size) {
  std::vector<std::size_t> cuts;
  for (std::size_t at = 0; at<size; at += size> 8192 && at > 64 && at + 64 < size ? 61 : 1) {
    cuts.push_back(at);
  }
  return cuts;
}

TEST_P(RecordedPagesTest, AreRefusedWholeWhenCutBeforeTheEndOfTheirData) {
  for (const RawFile& file : RawFilesOf(GetParam())) {
    for (const HeapPage& page : ReadPages(GetParam(), file.name, file.layout)) {
      const Walked whole = Walk(page, file.layout);
      for (const std::size_t size : CutsOf(page.size())) {
        const HeapPage cut(page.bytes().first(size));
        const Walked walked = Walk(cut, file.layout);
        ASSERT_NO_FATAL_FAILURE(ExpectSane(walked, size));
        if (size < 16) {
          ASSERT_EQ(walked.result.error, PageError::kPageTooShort) << file.name << " at " << size;
        } else if (size < 16 + whole.result.data_length) {
          ASSERT_EQ(walked.result.error, PageError::kCommitBeyondPage)
              << file.name << " at " << size;
        } else {
          ASSERT_EQ(walked.events, whole.events) << file.name << " at " << size;
        }
      }
    }
  }
}

TEST_P(RecordedPagesTest, GiveTheirFirstEventsWhenTheirDataEndsEarlier) {
  const HeapPage page = std::move(ReadPages(GetParam(), "cpu0.raw").front());
  const Walked whole = Walk(page);
  for (std::uint32_t length = 0; length < whole.result.data_length; ++length) {
    HeapPage cut(page.bytes().first(16 + length));
    std::memcpy(cut.data() + 8, &length, sizeof length);
    const Walked walked = Walk(cut);
    ASSERT_TRUE(walked.result.error == PageError::kNone ||
                walked.result.error == PageError::kRecordBeyondData)
        << length;
    ASSERT_LE(walked.events.size(), whole.events.size());
    ASSERT_TRUE(
        std::ranges::equal(walked.events, std::span(whole.events).first(walked.events.size())))
        << length;
  }
}

TEST_P(RecordedPagesTest, AreSafeWithAnyByteOverwritten) {
  for (const char* name : {"cpu0.raw", "cpu0-lost.raw"}) {
    HeapPage page = std::move(ReadPages(GetParam(), name).front());
    for (std::size_t at = 0; at < page.size(); ++at) {
      const std::byte original = page.data()[at];
      std::vector<std::byte> values{std::byte{0x00}, std::byte{0xff}};
      for (int bit = 0; bit < 8; ++bit) values.push_back(original ^ (std::byte{1} << bit));
      for (const std::byte value : values) {
        page.data()[at] = value;
        ASSERT_NO_FATAL_FAILURE(ExpectSane(Walk(page), page.size())) << name << " byte " << at;
      }
      page.data()[at] = original;
    }
  }
}

}  // namespace
}  // namespace kmem
