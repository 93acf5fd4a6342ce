// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/effective_messages.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

using wire::FrontendRequest;

template <class T>
std::vector<std::byte> bytes_of(const T& object) {
    const auto bytes = std::as_bytes(std::span(&object, 1));
    return {bytes.begin(), bytes.end()};
}

class EffectiveMessagesTest : public ::testing::Test {
  protected:
    template <class T>
    bool note(FrontendRequest request, const T& payload, std::vector<std::string> fds = {}) {
        return messages_.note(
            {.request = request, .payload = bytes_of(payload), .fds = fds, .reply = {}});
    }

    bool note_ring(FrontendRequest request, uint32_t index, uint32_t num) {
        return note(request, wire::VringState{.index = index, .num = num});
    }

    void note_fd(FrontendRequest request, uint64_t index, const std::string& fd) {
        EXPECT_TRUE(note(request, index, {fd}));
    }

    /// The ring is started.
    void start_ring(uint32_t index) {
        EXPECT_TRUE(note_ring(FrontendRequest::kSetVringNum, index, 256));
        EXPECT_TRUE(note_ring(FrontendRequest::kSetVringBase, index, 0));
        EXPECT_TRUE(note(FrontendRequest::kSetVringAddr, address_of(index)));
        note_fd(FrontendRequest::kSetVringCall, index, "call" + std::to_string(index));
        note_fd(FrontendRequest::kSetVringKick, index, "kick" + std::to_string(index));
        EXPECT_TRUE(note_ring(FrontendRequest::kSetVringEnable, index, 1));
    }

    [[nodiscard]] std::vector<FrontendRequest> requests() const {
        std::vector<FrontendRequest> list;
        for (const KeptMessage* const message : messages_.in_order()) {
            list.push_back(static_cast<FrontendRequest>(message->request));
        }
        return list;
    }

    [[nodiscard]] const KeptMessage* find(FrontendRequest request) const {
        for (const KeptMessage* const message : messages_.in_order()) {
            if (message->request == static_cast<uint32_t>(request)) {
                return message;
            }
        }
        return nullptr;
    }

    static wire::VringAddress address_of(uint32_t index) {
        wire::VringAddress address{};
        address.index = index;
        return address;
    }

    static wire::Inflight inflight(uint64_t bytes) {
        wire::Inflight description{};
        description.mmap_size = bytes;
        return description;
    }

    static wire::SingleMemoryRegion region(uint64_t address) {
        return {.padding = 0,
                .region = {.guest_address = address,
                           .size = 4096,
                           .user_address = address + 77,
                           .mmap_offset = 0}};
    }

    EffectiveMessages messages_;
};

TEST_F(EffectiveMessagesTest, TheLastWordCounts) {
    EXPECT_TRUE(note(FrontendRequest::kSetFeatures, uint64_t{1}));
    EXPECT_TRUE(note(FrontendRequest::kSetFeatures, uint64_t{2}));
    ASSERT_EQ(messages_.in_order().size(), 1U);
    EXPECT_EQ(messages_.in_order()[0]->payload, bytes_of(uint64_t{2}));
}

TEST_F(EffectiveMessagesTest, QuestionsChangeNothing) {
    EXPECT_FALSE(note(FrontendRequest::kGetFeatures, uint64_t{0}));
    EXPECT_FALSE(note(FrontendRequest::kSendRarp, uint64_t{0}));
    EXPECT_TRUE(messages_.in_order().empty());
}

TEST_F(EffectiveMessagesTest, ARingIsStartedBehindAllThatItIs) {
    start_ring(0);
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{15}));
    EXPECT_TRUE(note(FrontendRequest::kAddMemReg, region(0), {"memory"}));
    EXPECT_TRUE(note(FrontendRequest::kSetFeatures, uint64_t{1}));
    EXPECT_TRUE(note(FrontendRequest::kSetProtocolFeatures, uint64_t{1}));
    EXPECT_EQ(requests(),
              (std::vector{FrontendRequest::kSetProtocolFeatures,
                           FrontendRequest::kSetFeatures,
                           FrontendRequest::kAddMemReg,
                           FrontendRequest::kSetVringNum,
                           FrontendRequest::kSetVringBase,
                           FrontendRequest::kSetVringAddr,
                           FrontendRequest::kSetVringCall,
                           FrontendRequest::kSetVringEnable,
                           FrontendRequest::kSetVringKick,
                           FrontendRequest::kSetStatus}));
}

TEST_F(EffectiveMessagesTest, AStoppedRingHasTheBaseThatWasAnswered) {
    start_ring(1);
    const wire::VringState asked{.index = 1, .num = 0};
    const wire::VringState answered{.index = 1, .num = 42};
    EXPECT_TRUE(messages_.note({.request = FrontendRequest::kGetVringBase,
                                .payload = bytes_of(asked),
                                .fds = {},
                                .reply = bytes_of(answered)}));
    EXPECT_EQ(find(FrontendRequest::kSetVringKick), nullptr);
    ASSERT_NE(find(FrontendRequest::kSetVringBase), nullptr);
    EXPECT_EQ(find(FrontendRequest::kSetVringBase)->payload, bytes_of(answered));
    EXPECT_EQ(messages_.take_released(), std::vector<std::string>{"kick1"});
}

TEST_F(EffectiveMessagesTest, AResetLeavesWhatBelongsToTheConnection) {
    start_ring(0);
    EXPECT_TRUE(note(FrontendRequest::kAddMemReg, region(0), {"memory"}));
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{15}));
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{0}));
    EXPECT_EQ(requests(),
              (std::vector{FrontendRequest::kAddMemReg, FrontendRequest::kSetVringCall}));
}

TEST_F(EffectiveMessagesTest, ATableIsItsRegionsAndReplacesAll) {
    EXPECT_TRUE(note(FrontendRequest::kAddMemReg, region(1 << 20), {"old"}));

    struct {
        wire::MemoryTableHeader header{.region_count = 2, .padding = 0};
        wire::MemoryRegion regions[2] = {region(0).region, region(4096).region};
    } const table;

    EXPECT_TRUE(note(FrontendRequest::kSetMemTable, table, {"a", "b"}));
    EXPECT_TRUE(note(FrontendRequest::kRemMemReg, region(0)));
    ASSERT_EQ(messages_.in_order().size(), 1U);
    EXPECT_EQ(*messages_.in_order()[0],
              (KeptMessage{.request = static_cast<uint32_t>(FrontendRequest::kAddMemReg),
                           .payload = bytes_of(region(4096)),
                           .fds = {"b"}}));
    EXPECT_EQ(messages_.take_released(), (std::vector<std::string>{"old", "a"}));
}

// Who keeps them counts how often a name was given.
TEST_F(EffectiveMessagesTest, ANameIsReleasedAsOftenAsItWasMentioned) {
    note_fd(FrontendRequest::kSetVringCall, 0, "same");
    note_fd(FrontendRequest::kSetVringCall, 0, "same");
    EXPECT_EQ(messages_.take_released(), std::vector<std::string>{"same"});
    note_fd(FrontendRequest::kSetVringCall, 1, "same");
    note_fd(FrontendRequest::kSetVringCall, 0, "other");
    note_fd(FrontendRequest::kSetVringCall, 1, "other");
    EXPECT_EQ(messages_.take_released(), (std::vector<std::string>{"same", "same"}));
}

TEST_F(EffectiveMessagesTest, ANameThatNothingNeedsIsReleased) {
    EXPECT_FALSE(note(FrontendRequest::kSetDeviceStateFd, wire::DeviceStateTransfer{}, {"pipe"}));
    EXPECT_TRUE(note(FrontendRequest::kRemMemReg, region(0), {"file"}));
    EXPECT_EQ(messages_.take_released(), (std::vector<std::string>{"pipe", "file"}));
}

// Whatever it notes, no ring of the next driver may take it up.
TEST_F(EffectiveMessagesTest, ABufferOfOurOwnGoesWithAReset) {
    wire::Inflight ours = inflight(1);
    ours.padding = kOurInflightBuffer;
    messages_.keep_inflight(ours, "ours");
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{0}));
    EXPECT_EQ(find(FrontendRequest::kSetInflightFd), nullptr);
    EXPECT_EQ(messages_.take_released(), std::vector<std::string>{"ours"});
}

TEST_F(EffectiveMessagesTest, TheBufferOfAFrontEndDoesNotPassForOurs) {
    wire::Inflight theirs = inflight(1);
    theirs.padding = kOurInflightBuffer;
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, theirs, {"theirs"}));
    EXPECT_EQ(find(FrontendRequest::kSetInflightFd)->payload, bytes_of(inflight(1)));
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{0}));
    EXPECT_NE(find(FrontendRequest::kSetInflightFd), nullptr);
    // Nor does it stand beside another one of the front end's.
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, inflight(2), {"later"}));
    EXPECT_EQ(messages_.in_order().size(), 1U);
}

TEST_F(EffectiveMessagesTest, WhatTheDeviceSaysReplacesWhatTheDriverWrote) {
    const wire::ConfigHeader header{.offset = 4, .size = 0, .flags = 0};
    EXPECT_FALSE(messages_.knows_of_device());
    EXPECT_TRUE(note(FrontendRequest::kSetConfig, header));
    EXPECT_TRUE(messages_.knows_of_device());
    EXPECT_TRUE(messages_.keep_device({std::byte{1}}));
    EXPECT_FALSE(messages_.keep_device({std::byte{1}}));
    EXPECT_TRUE(note(FrontendRequest::kSetConfig, header));
    EXPECT_TRUE(messages_.keep_device({std::byte{1}}));
    EXPECT_EQ(messages_.in_order().size(), 1U);
}

TEST_F(EffectiveMessagesTest, ARingWithoutMemoryStandsWhereItIsSaid) {
    start_ring(3);
    messages_.set_ring_base(3, 77);
    EXPECT_EQ(find(FrontendRequest::kSetVringBase)->payload,
              bytes_of(wire::VringState{.index = 3, .num = 77}));
    EXPECT_NE(find(FrontendRequest::kSetVringKick), nullptr);
}

TEST_F(EffectiveMessagesTest, AKickThatWasRefusedStartsNothing) {
    start_ring(0);
    EXPECT_TRUE(messages_.set_ring_state(0, false, false));
    EXPECT_EQ(find(FrontendRequest::kSetVringKick), nullptr);
    EXPECT_EQ(find(FrontendRequest::kSetVringEnable), nullptr);
    EXPECT_FALSE(messages_.set_ring_state(0, false, false));
}

TEST_F(EffectiveMessagesTest, AKickInBandStartsARingAndLeavesOneThatRuns) {
    EXPECT_TRUE(note_ring(FrontendRequest::kVringKick, 0, 0));
    EXPECT_FALSE(note_ring(FrontendRequest::kVringKick, 0, 0));
    note_fd(FrontendRequest::kSetVringKick, 0, "kick");
    EXPECT_FALSE(note_ring(FrontendRequest::kVringKick, 0, 0));
    EXPECT_EQ(requests(), std::vector{FrontendRequest::kSetVringKick});
}

// The front end has it: what comes back on the next connection is the same buffer.
TEST_F(EffectiveMessagesTest, TheInflightBufferThatWasGivenIsKept) {
    const wire::Inflight made = inflight(8192);
    EXPECT_TRUE(messages_.note({.request = FrontendRequest::kGetInflightFd,
                                .payload = bytes_of(wire::Inflight{}),
                                .fds = {},
                                .reply = bytes_of(made),
                                .reply_fd = "theirs"}));
    ASSERT_NE(find(FrontendRequest::kSetInflightFd), nullptr);
    EXPECT_EQ(find(FrontendRequest::kSetInflightFd)->fds, std::vector<std::string>{"theirs"});
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, inflight(4096), {"later"}));
    EXPECT_EQ(find(FrontendRequest::kSetInflightFd)->fds, std::vector<std::string>{"later"});
    EXPECT_EQ(messages_.take_released(), std::vector<std::string>{"theirs"});
}

// It may have room for fewer rings than there are.
TEST_F(EffectiveMessagesTest, AnInflightBufferOfOurOwnStaysBesideIt) {
    wire::Inflight ours = inflight(1);
    ours.padding = kOurInflightBuffer;
    messages_.keep_inflight(ours, "ours");
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, inflight(8192), {"theirs"}));
    std::vector<KeptMessage> copy;
    for (const KeptMessage* const message : messages_.in_order()) {
        copy.push_back(*message);
    }
    ASSERT_EQ(copy.size(), 2U);
    EXPECT_EQ(copy[0].fds, std::vector<std::string>{"theirs"});
    EXPECT_EQ(copy[1].fds, std::vector<std::string>{"ours"});
    EffectiveMessages restored;
    restored.restore(copy);
    EXPECT_EQ(restored.in_order().size(), 2U);
    EXPECT_TRUE(restored.take_released().empty());
}

// What was noted is of the requests in one buffer, and of no other.
TEST_F(EffectiveMessagesTest, OutcomesAreKeptBesideTheirInflightBuffer) {
    messages_.keep_inflight(inflight(1), "first");
    messages_.keep_outcomes({}, "outcomes");
    const auto list = messages_.in_order();
    ASSERT_EQ(list.size(), 2U);
    EXPECT_EQ(list[1]->request, static_cast<uint32_t>(OwnRecord::kOutcomes))
        << "behind the buffer, which makes others void";
    std::vector<KeptMessage> written;
    for (const KeptMessage* const message : list) {
        written.push_back(*message);
    }
    EffectiveMessages next;
    next.restore(written);
    ASSERT_EQ(next.in_order().size(), 2U);
    EXPECT_EQ(*next.in_order()[1], written[1]);
    next.keep_inflight(inflight(2), "second");
    EXPECT_EQ(next.in_order().size(), 1U);
    EXPECT_EQ(next.take_released(), (std::vector<std::string>{"outcomes", "first"}));
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, inflight(3), {"third"}));
    EXPECT_EQ(messages_.in_order().size(), 1U);
}

TEST_F(EffectiveMessagesTest, NobodyElseCanGoOnWithPostcopy) {
    EXPECT_TRUE(note(FrontendRequest::kPostcopyAdvise, uint64_t{0}));
    EXPECT_FALSE(messages_.restorable());
    EXPECT_TRUE(note(FrontendRequest::kPostcopyEnd, uint64_t{0}));
    EXPECT_TRUE(messages_.restorable());
}

// Whatever comes afterwards must find the place of what was restored.
TEST_F(EffectiveMessagesTest, WhatWasRestoredIsReplacedLikeTheRest) {
    start_ring(0);
    EXPECT_TRUE(note(FrontendRequest::kSetStatus, uint64_t{11}));
    EXPECT_TRUE(note(FrontendRequest::kSetFeatures, uint64_t{1}));
    EXPECT_TRUE(note(FrontendRequest::kSetProtocolFeatures, uint64_t{1}));
    EXPECT_TRUE(note(FrontendRequest::kNetSetMtu, uint64_t{1}));
    EXPECT_TRUE(note(FrontendRequest::kSetLogFd, uint64_t{1}, {"log"}));
    EXPECT_TRUE(note(FrontendRequest::kSetLogBase, wire::Log{}, {"base"}));
    EXPECT_TRUE(note(FrontendRequest::kSetBackendReqFd, uint64_t{1}, {"channel"}));
    EXPECT_TRUE(note(FrontendRequest::kSetInflightFd, wire::Inflight{}, {"inflight"}));
    EXPECT_TRUE(
        note(FrontendRequest::kSetConfig, wire::ConfigHeader{.offset = 4, .size = 0, .flags = 0}));
    note_fd(FrontendRequest::kSetVringErr, 0, "err");
    std::vector<KeptMessage> copy;
    for (const KeptMessage* const message : messages_.in_order()) {
        copy.push_back(*message);
    }
    EffectiveMessages restored;
    restored.restore(copy);
    for (const KeptMessage& message : copy) {
        EXPECT_TRUE(restored.note({.request = static_cast<FrontendRequest>(message.request),
                                   .payload = message.payload,
                                   .fds = message.fds,
                                   .reply = {}}))
            << message.request;
    }
    std::vector<KeptMessage> again;
    for (const KeptMessage* const message : restored.in_order()) {
        again.push_back(*message);
    }
    EXPECT_EQ(again, copy);
}

TEST_F(EffectiveMessagesTest, ItIsNoLargerForBeingToldTwice) {
    for (int round = 0; round < 3; ++round) {
        for (uint32_t i = 0; i < 256; ++i) {
            start_ring(i);
        }
    }
    EXPECT_EQ(messages_.in_order().size(), 256U * 6);
}

}  // namespace
}  // namespace outrigger
