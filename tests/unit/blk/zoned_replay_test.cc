// SPDX-License-Identifier: Apache-2.0
// Writes to zones that somebody may have carried out before he died.
#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/blk/zoned_image_fixture.h"

namespace outrigger::blk {
namespace {

class ZonedReplay : public ZonedImageTest {};

/// More than is compared at a time.
class LargeZonedReplay : public ZonedImageTest {
  protected:
    static constexpr uint64_t kLargeZone = 1 << 20;

    LargeZonedReplay() : ZonedImageTest({.zone_bytes = kLargeZone, .capacity_bytes = kLargeZone}) {}
};

TEST_F(ZonedReplay, WriteThatReachedTheDiskIsDone) {
    EXPECT_EQ(write(kZone, 2 * kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone, 2 * kBlock, 1), kOk);
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 2 * kBlock) << "nothing more was written";
}

TEST_F(ZonedReplay, WriteThatReachedTheDiskBeforeOthersIsDone) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    EXPECT_EQ(write(kZone + kBlock, 3 * kBlock, 2), kOk);
    EXPECT_EQ(replay(kZone, kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone + kBlock, 3 * kBlock, 2), kOk);
    EXPECT_EQ(replay(kZone + 4 * kBlock, kBlock, 3), kOk) << "this one did not";
    EXPECT_TRUE(holds(kZone + 4 * kBlock, kBlock, 3));
}

TEST_F(ZonedReplay, WriteThatReachedTheDiskInPartIsWrittenToItsEnd) {
    EXPECT_EQ(write(kZone, 2 * kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone, 5 * kBlock, 1), kOk);
    EXPECT_TRUE(holds(kZone, 5 * kBlock, 1));
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 5 * kBlock);
    EXPECT_EQ(write(kZone + 5 * kBlock, kBlock, 2), kOk) << "the write pointer is known";
}

TEST_F(LargeZonedReplay, PiecesOfALongWriteAreComparedAndWritten) {
    EXPECT_EQ(write(kLargeZone, 200 * 1024, 1), kOk);
    EXPECT_EQ(replay(kLargeZone, 600 * 1024, 1), kOk);
    EXPECT_TRUE(holds(kLargeZone, 600 * 1024, 1));
    EXPECT_TRUE(holds(kLargeZone + 600 * 1024, 1024, 0));
}

TEST_F(LargeZonedReplay, OtherBytesInTheLastPieceAreNotTheWrite) {
    EXPECT_EQ(write(kLargeZone, 128 * 1024, 1), kOk);
    EXPECT_EQ(write(kLargeZone + 128 * 1024, kBlock, 2), kOk);
    EXPECT_EQ(replay(kLargeZone, 128 * 1024 + kBlock, 1), kUnaligned);
}

TEST_F(ZonedReplay, WriteThatFilledTheZoneIsDone) {
    EXPECT_EQ(write(kZone, kCapacity, 1), kOk);
    EXPECT_EQ(disk_.zone(1).state, ZoneState::kFull);
    EXPECT_EQ(replay(kZone + kCapacity - kBlock, kBlock, 1), kOk);
}

TEST_F(ZonedReplay, WriteToAZoneThatWasFinishedIsInvalid) {
    EXPECT_EQ(change(ZoneCommand::kFinish, kZone), kOk);
    EXPECT_EQ(replay(kZone, kBlock, 1), kInvalid);
}

TEST_F(ZonedReplay, OtherBytesAreNotTheWrite) {
    EXPECT_EQ(write(kZone, 2 * kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone, 2 * kBlock, 2), kUnaligned);
    EXPECT_TRUE(holds(kZone, 2 * kBlock, 1));
}

TEST_F(ZonedReplay, WriteThatBeganNowhereIsMade) {
    EXPECT_EQ(replay(kZone, kBlock, 1), kOk);
    EXPECT_TRUE(holds(kZone, kBlock, 1));
}

TEST_F(ZonedReplay, WriteBeyondTheWritePointerIsUnaligned) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone + 2 * kBlock, kBlock, 1), kUnaligned);
}

TEST_F(ZonedReplay, WriteThatOthersMadeMeanwhileIsFound) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);  // so that the zone is known
    // What the process before had begun ends only now: zeroes, as they are there.
    disk_.move_write_pointer(1, 3 * kBlock);
    EXPECT_EQ(replay(kZone + kBlock, 2 * kBlock, 0), kOk);
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 3 * kBlock);
}

TEST_F(ZonedReplay, OneThatFillsTheZoneMeanwhileIsFound) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    disk_.move_write_pointer(1, kCapacity);
    disk_.set_state(1, ZoneState::kFull);
    EXPECT_EQ(replay(kZone + kBlock, kCapacity - kBlock, 0), kOk);
}

TEST_F(ZonedReplay, StableWriteThatIsThereIsFlushed) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone, kBlock, 1, true), kOk);
    EXPECT_EQ(disk_.flushes(), 1U);
}

TEST_F(ZonedReplay, OtherWriteIsNotFlushed) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    EXPECT_EQ(replay(kZone, kBlock, 1), kOk);
    EXPECT_EQ(disk_.flushes(), 0U);
}

TEST_F(ZonedReplay, RestThatTheHostFailsIsItsFault) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    disk_.fail_next_write(EIO, 0);
    EXPECT_EQ(replay(kZone, 3 * kBlock, 1), (Outcome{EIO, ZoneFault::kNone}));
    EXPECT_EQ(replay(kZone, 3 * kBlock, 1), kOk) << "and may be tried again";
    EXPECT_TRUE(holds(kZone, 3 * kBlock, 1));
}

TEST_F(ZonedReplay, RestThatIsCutOffIsContinued) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    disk_.fail_next_write(EIO, kBlock);
    EXPECT_EQ(replay(kZone, 4 * kBlock, 1), kOk);
    EXPECT_TRUE(holds(kZone, 4 * kBlock, 1));
}

TEST_F(ZonedReplay, ComparisonOfAnOfflineZoneIsInvalid) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    disk_.set_state(1, ZoneState::kOffline);
    EXPECT_EQ(replay(kZone, kBlock, 1), (Outcome{EIO, ZoneFault::kNone}));
}

TEST_F(ZonedReplay, ManyAtOnceTakeTurns) {
    EXPECT_EQ(write(kZone, kCapacity, 1), kOk);
    EXPECT_EQ(write(2 * kZone, kCapacity, 1), kOk);
    std::vector<std::unique_ptr<ZoneRequest>> requests;
    std::vector<ZoneRequest*> pointers;
    for (uint64_t i = 0; i < 2 * kCapacity / kBlock; ++i) {
        requests.push_back(std::make_unique<ZoneRequest>(kBlock, 1));
        requests.back()->command = ImageCommand::kWrite;
        requests.back()->offset_bytes = (1 + i % 2) * kZone + i / 2 * kBlock;
        requests.back()->replayed = true;
        pointers.push_back(requests.back().get());
    }
    run(pointers);
    for (const auto& request : requests) {
        EXPECT_EQ(outcome_of(*request), kOk) << request->offset_bytes;
    }
}

TEST_F(ZonedReplay, AppendThatReachedTheDiskIsThereOnce) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(append(kZone, 2 * kBlock, 2).offset, kZone + kBlock);
    const Appended first = replay_append(kZone, kBlock, kZone, 1);
    EXPECT_EQ(first.outcome, kOk);
    EXPECT_EQ(first.offset, kZone);
    const Appended second = replay_append(kZone, 2 * kBlock, kZone + kBlock, 2);
    EXPECT_EQ(second.outcome, kOk);
    EXPECT_EQ(second.offset, kZone + kBlock);
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 3 * kBlock);
}

TEST_F(ZonedReplay, AppendThatReachedTheDiskInPartIsContinuedInItsPlace) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(append(kZone, kBlock, 2).offset, kZone + kBlock);
    const Appended whole = replay_append(kZone, 4 * kBlock, kZone + kBlock, 2);
    EXPECT_EQ(whole.outcome, kOk);
    EXPECT_EQ(whole.offset, kZone + kBlock);
    EXPECT_TRUE(holds(kZone + kBlock, 4 * kBlock, 2));
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 5 * kBlock);
}

TEST_F(ZonedReplay, AppendThatDidNotReachTheDiskIsMade) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(replay_append(kZone, kBlock, kZone + kBlock, 2).offset, kZone + kBlock);
    EXPECT_TRUE(holds(kZone + kBlock, kBlock, 2));
}

TEST_F(ZonedReplay, AppendOfWhichNothingIsKnownIsMade) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(replay_append(kZone, kBlock, std::nullopt, 1).offset, kZone + kBlock);
}

TEST_F(ZonedReplay, AppendIntoAZoneThatWasResetSinceIsMade) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(change(ZoneCommand::kReset, kZone), kOk);
    EXPECT_EQ(append(kZone, 2 * kBlock, 2).offset, kZone);
    const Appended again = replay_append(kZone, kBlock, kZone, 1);
    EXPECT_EQ(again.outcome, kOk);
    EXPECT_EQ(again.offset, kZone + 2 * kBlock);
    EXPECT_TRUE(holds(kZone, 2 * kBlock, 2));
}

TEST_F(ZonedReplay, PlaceOutsideOfItsZoneIsNone) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    for (const uint64_t place :
         {uint64_t{0}, kZone + 1, 2 * kZone, kZone + kCapacity, ~uint64_t{0}}) {
        const Appended made = replay_append(kZone, kBlock, place, 1);
        EXPECT_EQ(made.outcome, kOk);
        EXPECT_GT(made.offset, kZone);
        EXPECT_LT(made.offset, kZone + kCapacity);
    }
}

TEST_F(ZonedReplay, AppendThatFilledTheZoneIsDone) {
    EXPECT_EQ(append(kZone, kCapacity, 1).offset, kZone);
    const Appended again = replay_append(kZone, kCapacity, kZone, 1);
    EXPECT_EQ(again.outcome, kOk);
    EXPECT_EQ(again.offset, kZone);
}

TEST_F(ZonedReplay, AppendTellsItsPlaceBeforeEachTry) {
    ZoneRequest request(2 * kBlock, 9);
    set_up_append(request, kZone);
    disk_.fail_next_write(EIO, kBlock);
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
    EXPECT_EQ(request.places, (std::vector<uint64_t>{kZone, kZone + kBlock}));
}

TEST_F(ZonedReplay, ChangeThatWasMadeIsDone) {
    EXPECT_EQ(change(ZoneCommand::kOpen, kZone), kOk);
    EXPECT_EQ(change(ZoneCommand::kClose, kZone), kOk);  // without data: empty
    EXPECT_EQ(change(ZoneCommand::kClose, kZone), kInvalid);
    EXPECT_EQ(replay_change(ZoneCommand::kClose, kZone), kOk);
    disk_.set_state(1, ZoneState::kFull);
    EXPECT_EQ(replay_change(ZoneCommand::kOpen, kZone), kInvalid);
}

}  // namespace
}  // namespace outrigger::blk
