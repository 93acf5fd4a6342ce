// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zoned_image.h"

#include <cerrno>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/blk/zoned_image_fixture.h"

namespace outrigger::blk {
namespace {

// --- What it says of itself ----------------------------------------------------------------------

TEST_F(ZonedImageTest, HostManagedDiskOffersNothingThatWritesOutOfOrder) {
    const ImageProperties& properties = image_->properties();
    EXPECT_EQ(properties.zoning.model, ZoneModel::kHostManaged);
    EXPECT_EQ(properties.zoning.zone_bytes, kZone);
    EXPECT_EQ(properties.zoning.append_bytes_max, kZone);
    EXPECT_EQ(properties.zoning.write_granularity_bytes, kBlock);
    EXPECT_FALSE(properties.can_discard);
    EXPECT_FALSE(properties.can_unmap_zeroes);
    EXPECT_FALSE(properties.can_write_zeroes);
    EXPECT_FALSE(properties.can_secure_erase);
}

TEST_F(ZonedImageTest, CannotBeResized) {
    EXPECT_FALSE(image_->resize(std::nullopt));
}

// --- Writes: VIRTIO 1.3, 5.2.6 -------------------------------------------------------------------

TEST_F(ZonedImageTest, WritesFollowTheWritePointer) {
    EXPECT_EQ(write(kZone, kBlock, 1), kOk);
    EXPECT_EQ(write(kZone + kBlock, 2 * kBlock, 2), kOk);
    EXPECT_TRUE(holds(kZone, kBlock, 1));
    EXPECT_TRUE(holds(kZone + kBlock, 2 * kBlock, 2));
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone + 3 * kBlock);
}

TEST_F(ZonedImageTest, WriteBehindTheWritePointerIsUnaligned) {
    EXPECT_EQ(write(kZone + kBlock, kBlock, 1), kUnaligned);
    EXPECT_TRUE(holds(kZone + kBlock, kBlock, 0)) << "and goes nowhere";
}

TEST_F(ZonedImageTest, WriteBeforeTheWritePointerIsUnaligned) {
    EXPECT_EQ(write(kZone, 2 * kBlock), kOk);
    EXPECT_EQ(write(kZone, kBlock), kUnaligned);
}

TEST_F(ZonedImageTest, WriteUpToTheCapacityFillsTheZone) {
    EXPECT_EQ(write(kZone, kCapacity), kOk);
    EXPECT_EQ(disk_.zone(1).state, ZoneState::kFull);
    EXPECT_EQ(write(kZone + kCapacity, kBlock), kInvalid);
}

TEST_F(ZonedImageTest, WriteBeyondTheCapacityIsInvalid) {
    EXPECT_EQ(write(kZone, kCapacity + kBlock), kInvalid);
    EXPECT_EQ(disk_.zone(1).write_pointer_bytes, kZone);
}

TEST_F(ZonedImageTest, WriteOverTwoZonesIsInvalid) {
    EXPECT_EQ(write(2 * kZone - kBlock, 2 * kBlock), kInvalid);
    EXPECT_EQ(write(kZone - kBlock, 2 * kBlock), kInvalid) << "also from a conventional one";
}

TEST_F(ZonedImageTest, ConventionalZonesAreWrittenAnywhere) {
    EXPECT_EQ(write(3 * kBlock, kBlock, 3), kOk);
    EXPECT_EQ(write(kBlock, kBlock, 4), kOk);
    EXPECT_TRUE(holds(kBlock, kBlock, 4));
    EXPECT_TRUE(holds(3 * kBlock, kBlock, 3));
}

TEST_F(ZonedImageTest, WriteOfNothingIsDone) {
    EXPECT_EQ(write(kZone + kBlock, 0), kOk);
    EXPECT_EQ(write(8 * kZone, 0), kOk);
}

TEST_F(ZonedImageTest, WritesBegunTogetherGoInTheirOrder) {
    std::vector<std::unique_ptr<ZoneRequest>> requests;
    std::vector<ZoneRequest*> pointers;
    for (uint64_t i = 0; i < kCapacity / kBlock; ++i) {
        requests.push_back(std::make_unique<ZoneRequest>(kBlock, static_cast<int>(i)));
        requests.back()->command = ImageCommand::kWrite;
        requests.back()->offset_bytes = kZone + i * kBlock;
        pointers.push_back(requests.back().get());
    }
    run(pointers);
    for (uint64_t i = 0; i < kCapacity / kBlock; ++i) {
        EXPECT_EQ(outcome_of(*requests[i]), kOk) << i;
        EXPECT_TRUE(holds(kZone + i * kBlock, kBlock, static_cast<int>(i)));
    }
}

TEST_F(ZonedImageTest, StableWritesStayStable) {
    ZoneRequest request(kBlock);
    request.command = ImageCommand::kWrite;
    request.stable = true;
    request.offset_bytes = kZone;
    run(request);
    EXPECT_EQ(disk_.stable_writes(), 1U);
}

TEST_F(ZonedImageTest, ReadsMayGoAnywhereInAZone) {
    EXPECT_EQ(write(kZone, kBlock, 7), kOk);
    ZoneRequest request(2 * kBlock);
    request.command = ImageCommand::kRead;
    request.offset_bytes = kZone;
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
    EXPECT_EQ(request.memory()[kBlock - 1], std::byte{7});
    EXPECT_EQ(request.memory()[kBlock], std::byte{0});
}

TEST_F(ZonedImageTest, ReadOverTwoZonesIsInvalid) {
    EXPECT_EQ(read(2 * kZone - kBlock, 2 * kBlock), kInvalid);
}

TEST_F(ZonedImageTest, FlushGoesThrough) {
    ZoneRequest request;
    request.command = ImageCommand::kFlush;
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
}

// --- Zones that the host has taken out of use ----------------------------------------------------

TEST_F(ZonedImageTest, WriteToAZoneThatWentOfflineIsInvalid) {
    disk_.set_state(1, ZoneState::kOffline);
    EXPECT_EQ(write(kZone, kBlock), kInvalid) << "found out by the failure";
    EXPECT_EQ(write(kZone, kBlock), kInvalid) << "known by now";
}

TEST_F(ZonedImageTest, ReadOfAZoneThatWentOfflineIsInvalid) {
    disk_.set_state(1, ZoneState::kOffline);
    EXPECT_EQ(read(kZone, kBlock), kInvalid);
    EXPECT_EQ(read(2 * kZone, kBlock), kOk);
}

TEST_F(ZonedImageTest, ZoneThatWentReadOnlyIsReadAndNotWritten) {
    EXPECT_EQ(write(kZone, kBlock), kOk);
    disk_.set_state(1, ZoneState::kReadOnly);
    EXPECT_EQ(read(kZone, kBlock), kOk);
    EXPECT_EQ(write(kZone + kBlock, kBlock), kInvalid);
    EXPECT_EQ(append(kZone, kBlock).outcome, kInvalid);
}

// --- What goes wrong under way -------------------------------------------------------------------

TEST_F(ZonedImageTest, BadWriteIsTheHostsFaultAndLeavesTheWritePointer) {
    disk_.fail_next_write(EIO, 0);
    EXPECT_EQ(write(kZone, kBlock), (Outcome{EIO, ZoneFault::kNone}));
    EXPECT_EQ(write(kZone, kBlock), kOk);
}

TEST_F(ZonedImageTest, WriteThatWasCutOffMovesTheWritePointerAsFarAsItCame) {
    disk_.fail_next_write(EIO, 2 * kBlock);
    EXPECT_EQ(write(kZone, 4 * kBlock), (Outcome{EIO, ZoneFault::kNone}));
    EXPECT_EQ(write(kZone, kBlock), kUnaligned);
    EXPECT_EQ(write(kZone + 2 * kBlock, kBlock), kOk);
}

TEST_F(ZonedImageTest, OtherErrorsAreHandedOn) {
    disk_.fail_next_write(EFAULT, kBlock);
    EXPECT_EQ(append(kZone, 2 * kBlock).outcome, (Outcome{EFAULT, ZoneFault::kNone}));
    EXPECT_EQ(append(kZone, kBlock).offset, kZone + kBlock);
}

TEST_F(ZonedImageTest, WritePointerThatSomebodyElseMovedIsLearntFromTheFailure) {
    EXPECT_EQ(write(kZone, kBlock), kOk);
    disk_.move_write_pointer(1, 4 * kBlock);
    EXPECT_EQ(write(kZone + kBlock, kBlock), kUnaligned);
    EXPECT_EQ(write(kZone + 4 * kBlock, kBlock), kOk);
    disk_.move_write_pointer(1, 0);
    EXPECT_EQ(write(kZone + 5 * kBlock, kBlock), kUnaligned);
    EXPECT_EQ(write(kZone, kBlock), kOk);
}

TEST_F(ZonedImageTest, ZoneIsLookedAtBeforeAWriteWhenNothingIsKnownOfIt) {
    disk_.fail_next_write(EIO, kBlock);
    disk_.fail_reports(2);
    EXPECT_EQ(write(kZone, 2 * kBlock), (Outcome{EIO, ZoneFault::kNone}));
    EXPECT_EQ(write(kZone + kBlock, kBlock), (Outcome{EIO, ZoneFault::kNone})) << "no report";
    EXPECT_EQ(write(kZone + kBlock, kBlock), kOk);
}

// --- Appends -------------------------------------------------------------------------------------

TEST_F(ZonedImageTest, AppendSaysWhereItsDataIs) {
    EXPECT_EQ(append(kZone, kBlock, 1).offset, kZone);
    EXPECT_EQ(append(kZone, 2 * kBlock, 2).offset, kZone + kBlock);
    EXPECT_EQ(write(kZone + 3 * kBlock, kBlock, 3), kOk);
    EXPECT_EQ(append(kZone, kBlock, 4).offset, kZone + 4 * kBlock);
    EXPECT_TRUE(holds(kZone + kBlock, 2 * kBlock, 2));
    EXPECT_TRUE(holds(kZone + 4 * kBlock, kBlock, 4));
}

TEST_F(ZonedImageTest, AppendsBegunTogetherHaveAPlaceEach) {
    std::vector<std::unique_ptr<ZoneRequest>> requests;
    std::vector<ZoneRequest*> pointers;
    for (int i = 0; i < 12; ++i) {
        requests.push_back(std::make_unique<ZoneRequest>(kBlock, i + 1));
        set_up_append(*requests.back(), kZone);
        pointers.push_back(requests.back().get());
    }
    run(pointers);
    for (int i = 0; i < 12; ++i) {
        const ZoneRequest& request = *requests[static_cast<size_t>(i)];
        EXPECT_EQ(outcome_of(request), kOk);
        EXPECT_TRUE(holds(request.append_offset_bytes, kBlock, i + 1));
    }
    EXPECT_EQ(append(kZone, kBlock).outcome, kInvalid) << "it is full";
}

TEST_F(ZonedImageTest, AppendBeyondTheCapacityIsInvalid) {
    EXPECT_EQ(append(kZone, kCapacity - kBlock).outcome, kOk);
    EXPECT_EQ(append(kZone, 2 * kBlock).outcome, kInvalid);
    EXPECT_EQ(append(kZone, kBlock).outcome, kOk);
}

TEST_F(ZonedImageTest, AppendNeedsTheBeginOfASequentialZone) {
    EXPECT_EQ(append(kZone + kBlock, kBlock).outcome, kInvalid);
    EXPECT_EQ(append(0, kBlock).outcome, kInvalid) << "conventional";
}

TEST_F(ZonedImageTest, AppendFollowsAWritePointerThatSomebodyElseMoved) {
    EXPECT_EQ(append(kZone, kBlock).outcome, kOk);
    disk_.move_write_pointer(1, 3 * kBlock);
    const Appended appended = append(kZone, kBlock, 9);
    EXPECT_EQ(appended.outcome, kOk);
    EXPECT_EQ(appended.offset, kZone + 3 * kBlock);
    EXPECT_TRUE(holds(kZone + 3 * kBlock, kBlock, 9));
}

TEST_F(ZonedImageTest, AppendThatWasCutOffIsMadeAgainBehindItself) {
    disk_.fail_next_write(EIO, kBlock);
    const Appended appended = append(kZone, 2 * kBlock, 9);
    EXPECT_EQ(appended.outcome, kOk);
    EXPECT_EQ(appended.offset, kZone + kBlock);
    EXPECT_TRUE(holds(kZone + kBlock, 2 * kBlock, 9));
}

TEST_F(ZonedImageTest, AppendOnABadPlaceIsTheHostsFault) {
    disk_.fail_next_write(EIO, 0);
    EXPECT_EQ(append(kZone, kBlock).outcome, (Outcome{EIO, ZoneFault::kNone}));
    EXPECT_EQ(append(kZone, kBlock).offset, kZone);
}

// --- Changes -------------------------------------------------------------------------------------

TEST_F(ZonedImageTest, ZonesGoThroughTheirStates) {
    EXPECT_EQ(change(ZoneCommand::kOpen, kZone), kOk);
    EXPECT_EQ(disk_.zone(1).state, ZoneState::kExplicitlyOpen);
    EXPECT_EQ(write(kZone, kBlock), kOk);
    EXPECT_EQ(change(ZoneCommand::kClose, kZone), kOk);
    EXPECT_EQ(disk_.zone(1).state, ZoneState::kClosed);
    EXPECT_EQ(write(kZone + kBlock, kBlock), kOk);
    EXPECT_EQ(disk_.zone(1).state, ZoneState::kImplicitlyOpen);
    EXPECT_EQ(change(ZoneCommand::kFinish, kZone), kOk);
    EXPECT_EQ(write(kZone + 2 * kBlock, kBlock), kInvalid) << "it is full";
    EXPECT_EQ(change(ZoneCommand::kReset, kZone), kOk);
    EXPECT_EQ(write(kZone, kBlock), kOk);
}

TEST_F(ZonedImageTest, ChangeThatCannotBeMadeIsInvalid) {
    EXPECT_EQ(change(ZoneCommand::kClose, kZone), kInvalid) << "it is empty";
    EXPECT_EQ(change(ZoneCommand::kFinish, kZone), kOk);
    EXPECT_EQ(change(ZoneCommand::kOpen, kZone), kInvalid) << "it is full";
}

TEST_F(ZonedImageTest, ConventionalZonesAreNotChanged) {
    for (const ZoneCommand command :
         {ZoneCommand::kOpen, ZoneCommand::kClose, ZoneCommand::kFinish, ZoneCommand::kReset}) {
        EXPECT_EQ(change(command, 0), kInvalid);
    }
}

TEST_F(ZonedImageTest, ChangeNeedsTheBeginOfAZone) {
    EXPECT_EQ(change(ZoneCommand::kReset, kZone + kBlock), kInvalid);
}

TEST_F(ZonedImageTest, ResetAllEmptiesEveryZone) {
    for (uint64_t zone = 1; zone < 8; ++zone) {
        EXPECT_EQ(write(zone * kZone, kBlock), kOk);
    }
    EXPECT_EQ(write(0, kBlock, 6), kOk);
    EXPECT_EQ(change(ZoneCommand::kResetAll, 0), kOk);
    for (uint64_t zone = 1; zone < 8; ++zone) {
        EXPECT_EQ(disk_.zone(zone).state, ZoneState::kEmpty);
        EXPECT_EQ(write(zone * kZone, kBlock), kOk);
    }
    EXPECT_TRUE(holds(0, kBlock, 6));
}

// --- Reports -------------------------------------------------------------------------------------

TEST_F(ZonedImageTest, ReportBeginsWithTheZoneOfItsOffset) {
    EXPECT_EQ(write(2 * kZone, kBlock), kOk);
    ZoneRequest request;
    request.command = ImageCommand::kZone;
    request.zone_command = ZoneCommand::kReport;
    request.offset_bytes = 2 * kZone + 512;
    request.zones_max = 3;
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
    ASSERT_EQ(request.zones.size(), 3U);
    EXPECT_EQ(request.zones[0].start_bytes, 2 * kZone);
    EXPECT_EQ(request.zones[0].write_pointer_bytes, 2 * kZone + kBlock);
    EXPECT_EQ(request.zones[0].state, ZoneState::kImplicitlyOpen);
    EXPECT_EQ(request.zones[2].start_bytes, 4 * kZone);
}

TEST_F(ZonedImageTest, ReportEndsWithTheDisk) {
    ZoneRequest request;
    request.command = ImageCommand::kZone;
    request.offset_bytes = 6 * kZone;
    request.zones_max = UINT64_MAX;
    run(request);
    EXPECT_EQ(request.zones.size(), 2U);
}

TEST_F(ZonedImageTest, ReportOfNothingIsDone) {
    ZoneRequest request;
    request.command = ImageCommand::kZone;
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
    EXPECT_TRUE(request.zones.empty());
}

TEST_F(ZonedImageTest, ReportsBegunTogetherAllEnd) {
    std::vector<std::unique_ptr<ZoneRequest>> requests;
    std::vector<ZoneRequest*> pointers;
    for (uint64_t i = 0; i < 20; ++i) {
        requests.push_back(std::make_unique<ZoneRequest>());
        requests.back()->command = ImageCommand::kZone;
        requests.back()->zones_max = i % 10;
        pointers.push_back(requests.back().get());
    }
    run(pointers);
    for (uint64_t i = 0; i < 20; ++i) {
        EXPECT_EQ(outcome_of(*requests[i]), kOk);
        EXPECT_EQ(requests[i]->zones.size(), std::min<uint64_t>(i % 10, 8));
    }
}

TEST_F(ZonedImageTest, ReportThatTheHostFailsIsItsFault) {
    disk_.fail_reports(1);
    ZoneRequest request;
    request.command = ImageCommand::kZone;
    request.zones_max = 8;
    run(request);
    EXPECT_EQ(outcome_of(request), (Outcome{EIO, ZoneFault::kNone}));
}

class ManyZones : public ZonedImageTest {
  protected:
    ManyZones() : ZonedImageTest({.zones = 3000, .zone_bytes = kBlock, .capacity_bytes = kBlock}) {}
};

TEST_F(ManyZones, AreReportedInSeveralCalls) {
    ZoneRequest request;
    request.command = ImageCommand::kZone;
    request.zones_max = 2990;
    run(request);
    EXPECT_EQ(outcome_of(request), kOk);
    ASSERT_EQ(request.zones.size(), 2990U);
    EXPECT_EQ(request.zones.back().start_bytes, 2989U * kBlock);
}

// --- Limits of the device ------------------------------------------------------------------------

class LimitedZones : public ZonedImageTest {
  protected:
    LimitedZones() : ZonedImageTest({.open_zones_max = 2, .active_zones_max = 3}) {}
};

TEST_F(LimitedZones, TooManyOpenZonesAreRefused) {
    EXPECT_EQ(change(ZoneCommand::kOpen, kZone), kOk);
    EXPECT_EQ(change(ZoneCommand::kOpen, 2 * kZone), kOk);
    const Outcome refused{EIO, ZoneFault::kOpenResource};
    EXPECT_EQ(change(ZoneCommand::kOpen, 3 * kZone), refused);
    EXPECT_EQ(write(3 * kZone, kBlock), refused);
    EXPECT_EQ(append(3 * kZone, kBlock).outcome, refused);
    EXPECT_EQ(change(ZoneCommand::kFinish, kZone), kOk);
    EXPECT_EQ(write(3 * kZone, kBlock), kOk);
}

TEST_F(LimitedZones, TooManyActiveZonesAreRefused) {
    for (uint64_t zone = 1; zone <= 3; ++zone) {
        EXPECT_EQ(write(zone * kZone, kBlock), kOk) << "the device closes one by itself";
    }
    const Outcome refused{EIO, ZoneFault::kActiveResource};
    EXPECT_EQ(write(4 * kZone, kBlock), refused);
    EXPECT_EQ(change(ZoneCommand::kOpen, 4 * kZone), refused);
    EXPECT_EQ(change(ZoneCommand::kReset, kZone), kOk);
    EXPECT_EQ(write(4 * kZone, kBlock), kOk);
}

// --- Turns with another daemon -------------------------------------------------------------------

class TurnsWithOthers : public ZonedImageTest {
  protected:
    TurnsWithOthers() : ZonedImageTest({.takes_turns = true}) {}
};

TEST_F(TurnsWithOthers, WritePointersAreLearntAnewInEach) {
    EXPECT_EQ(write(kZone, kBlock), kOk);
    on_worker([this] { queue_ = nullptr; });
    image_->rest();
    disk_.move_write_pointer(1, 4 * kBlock);
    on_worker([this] { queue_ = image_->open_queue(*worker_, kRequestsMax).value(); });
    EXPECT_EQ(write(kZone + 4 * kBlock, kBlock), kOk) << "known without a failure";
}

TEST_F(TurnsWithOthers, ASecondQueueForgetsNothing) {
    EXPECT_EQ(write(kZone, kBlock), kOk);
    std::unique_ptr<ImageQueue> second;
    on_worker([&] { second = image_->open_queue(*worker_, kRequestsMax).value(); });
    disk_.fail_reports(1);
    EXPECT_EQ(write(kZone + kBlock, kBlock), kOk) << "without a look";
    on_worker([&] { second = nullptr; });
}

// --- Host-aware disks ----------------------------------------------------------------------------

class HostAwareZones : public ZonedImageTest {
  protected:
    HostAwareZones() : ZonedImageTest({.sequential = ZoneType::kSequentialPreferred}) {}
};

TEST_F(HostAwareZones, AreWrittenAnywhereAndChangedAsWell) {
    EXPECT_EQ(image_->properties().zoning.model, ZoneModel::kHostAware);
    EXPECT_TRUE(image_->properties().can_discard);
    EXPECT_TRUE(image_->properties().can_write_zeroes);
    EXPECT_EQ(write(kZone + kBlock, kBlock, 5), kOk);
    EXPECT_EQ(write(2 * kZone - kBlock, 2 * kBlock, 6), kOk) << "over two zones";
    EXPECT_EQ(change(ZoneCommand::kReset, kZone), kOk);
    EXPECT_EQ(image_->properties().zoning.append_bytes_max, 0U);
    EXPECT_EQ(append(kZone, kBlock).outcome, kInvalid);
}

}  // namespace
}  // namespace outrigger::blk
