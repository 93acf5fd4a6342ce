// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/outcome_journal.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/outcome_buffer.h"

namespace outrigger {
namespace {

using Key = OutcomeJournal::Key;

constexpr uint16_t kRingSize = 8;
constexpr uint16_t kRecordBytes = 12;

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

/// What a device of the process before noted, as the next one finds it.
class OutcomeJournalTest : public ::testing::Test {
  protected:
    [[nodiscard]] OutcomeJournal journal() const {
        return {buffer_->part(0), kRingSize, kRecordBytes};
    }

    [[nodiscard]] OutcomeJournal open(const std::vector<Key>& in_flight) const {
        OutcomeJournal opened = journal();
        opened.open(in_flight);
        return opened;
    }

    static void expect(const EarlierRun& run, EarlierProgress progress, std::string_view text) {
        EXPECT_EQ(run.progress, progress);
        EXPECT_TRUE(std::ranges::equal(run.bytes, bytes_of(text)));
    }

    std::shared_ptr<const OutcomeBuffer> buffer_ =
        OutcomeBuffer::create(
            {.queue_count = 2, .entries = kRingSize, .record_bytes = kRecordBytes})
            .value();
};

TEST_F(OutcomeJournalTest, GivesTheLastIntent) {
    OutcomeJournal first = open({});
    first.note_intent({3, 7}, bytes_of("rename a b"));
    first.note_intent({3, 7}, bytes_of("c"));
    expect(open({{3, 7}}).earlier({3, 7}), EarlierProgress::kIntent, "c");
}

TEST_F(OutcomeJournalTest, GivesTheOutcomeOnceThereIsOne) {
    OutcomeJournal first = open({});
    first.note_intent({3, 7}, bytes_of("rename"));
    first.note_outcome({3, 7}, bytes_of("twelve bytes"), 512);
    const EarlierRun run = open({{3, 7}}).earlier({3, 7});
    expect(run, EarlierProgress::kOutcome, "twelve bytes");
    EXPECT_EQ(run.written_bytes, 512U);
}

TEST_F(OutcomeJournalTest, ANoteMayBeEmpty) {
    open({}).note_intent({3, 7}, {});
    expect(open({{3, 7}}).earlier({3, 7}), EarlierProgress::kIntent, "");
}

TEST_F(OutcomeJournalTest, SaysThatNothingWasBegunOfWhatWasNotNoted) {
    open({}).note_intent({3, 7}, bytes_of("x"));
    EXPECT_EQ(open({{2, 6}, {3, 7}}).earlier({2, 6}).progress, EarlierProgress::kNothing);
}

TEST_F(OutcomeJournalTest, ForgetsWhatIsNotInFlightAnyMore) {
    open({}).note_intent({3, 7}, bytes_of("x"));
    (void)open({});
    EXPECT_EQ(open({{3, 7}}).earlier({3, 7}).progress, EarlierProgress::kNothing);
}

TEST_F(OutcomeJournalTest, ForgetsWhatWasOfAnotherRequestInTheSameEntry) {
    open({}).note_intent({3, 7}, bytes_of("x"));
    EXPECT_EQ(open({{3, 8}}).earlier({3, 8}).progress, EarlierProgress::kNothing);
}

TEST_F(OutcomeJournalTest, ForgetsWhatTheDriverHasSeen) {
    OutcomeJournal first = open({});
    first.note_outcome({3, 7}, bytes_of("x"), 1);
    first.note_used(3);
    EXPECT_EQ(first.earlier({3, 7}).progress, EarlierProgress::kOutcome);
    first.note_published();
    EXPECT_EQ(first.earlier({3, 7}).progress, EarlierProgress::kNothing);
}

TEST_F(OutcomeJournalTest, KnowsNothingOfRequestsThatWereTakenBeforeIt) {
    EXPECT_EQ(open({{3, 7}}).earlier({3, 7}).progress, EarlierProgress::kUnknown);
    EXPECT_EQ(open({{3, 7}, {4, 8}}).earlier({3, 7}).progress, EarlierProgress::kUnknown)
        << "nor does the next one";
    EXPECT_EQ(open({{3, 7}, {4, 8}}).earlier({4, 8}).progress, EarlierProgress::kNothing);
}

TEST_F(OutcomeJournalTest, OfAnotherLayoutKnowsNothing) {
    open({}).note_intent({3, 7}, bytes_of("x"));
    buffer_->part(0)[7] ^= std::byte{2};
    EXPECT_EQ(open({{3, 7}}).earlier({3, 7}).progress, EarlierProgress::kUnknown);
}

TEST_F(OutcomeJournalTest, QueuesHavePartsOfTheirOwn) {
    open({}).note_intent({kRingSize - 1, 7}, bytes_of("twelve bytes"));
    OutcomeJournal second(buffer_->part(1), kRingSize, kRecordBytes);
    second.open(std::vector<Key>{{0, 7}});
    EXPECT_EQ(second.earlier({0, 7}).progress, EarlierProgress::kUnknown);
    EXPECT_TRUE(buffer_->part(2).empty());
}

TEST_F(OutcomeJournalTest, AnyBytesGiveNoMoreThanARecordHolds) {
    uint32_t random = 1;
    (void)open({});
    for (uint64_t round = 0; round < 2000; ++round) {
        // Behind the header, so that it is taken for one of ours.
        for (std::byte& byte : buffer_->part(0).subspan(64)) {
            random = random * 1664525 + 1013904223;
            byte = static_cast<std::byte>(random >> 24);
        }
        const std::array<Key, 2> keys{{{1, random}, {2, 0}}};
        // A word that is of the request, whatever else is there.
        const uint64_t word = (round % 8) | keys[0].counter << 3;
        std::memcpy(buffer_->part(0).data() + 128, &word, sizeof word);
        OutcomeJournal found = journal();
        found.open(keys);
        for (const Key& key : keys) {
            EXPECT_LE(found.earlier(key).bytes.size(), kRecordBytes);
        }
        found.note_intent(keys[0], bytes_of("x"));
        expect(found.earlier(keys[0]), EarlierProgress::kIntent, "x");
    }
}

TEST(OutcomeBuffer, ThatIsTooSmallIsNotMapped) {
    const OutcomeBuffer::Shape shape{.queue_count = 2, .entries = 8, .record_bytes = 512};
    auto whole = OutcomeBuffer::create(shape);
    ASSERT_TRUE(whole);
    EXPECT_TRUE(OutcomeBuffer::map(UniqueFd(::dup((*whole)->fd())), shape));
    const OutcomeBuffer::Shape larger{.queue_count = 2, .entries = 16, .record_bytes = 512};
    EXPECT_FALSE(OutcomeBuffer::map(UniqueFd(::dup((*whole)->fd())), larger));
    EXPECT_FALSE(OutcomeBuffer::map(UniqueFd(), shape));
}

}  // namespace
}  // namespace outrigger
