// SPDX-License-Identifier: Apache-2.0
// Features, configuration space, status and reset: each message well and badly, seen from the front
// end. What answers a ring or memory message is in the files beside this one.
#include <set>
#include <string_view>

#include <gtest/gtest.h>

#include "vhost-user-backend/wire/request_table.h"

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

using wire::ProtocolFeature;

class ServedMessages : public SessionTest {};

// The served_*_messages_test.cc files together: whoever serves another message must add it here
// and write its tests.
TEST(ServedMessagesTable, EveryServedMessageHasATest) {
    const std::set<std::string_view> tested = {
        "GET_FEATURES",
        "SET_FEATURES",
        "SET_OWNER",
        "RESET_OWNER",
        "SET_MEM_TABLE",
        "SET_VRING_NUM",
        "SET_VRING_ADDR",
        "SET_VRING_BASE",
        "GET_VRING_BASE",
        "SET_VRING_KICK",
        "SET_VRING_CALL",
        "SET_VRING_ERR",
        "GET_QUEUE_NUM",
        "SET_VRING_ENABLE",
        "GET_PROTOCOL_FEATURES",
        "GET_CONFIG",
        "SET_CONFIG",
        "SET_PROTOCOL_FEATURES",
        "RESET_DEVICE",
        "GET_MAX_MEM_SLOTS",
        "ADD_MEM_REG",
        "REM_MEM_REG",
        "SET_STATUS",
        "GET_STATUS",
        "SEND_RARP",
        "NET_SET_MTU",
        "SET_BACKEND_REQ_FD",
        "VRING_KICK",
        "GET_SHARED_OBJECT",
        "GET_SHMEM_CONFIG",
        "IOTLB_MSG",
        "GET_INFLIGHT_FD",
        "SET_INFLIGHT_FD",
        "GET_VRING_BASE_SKIP_DRAIN",
        "POSTCOPY_ADVISE",
        "POSTCOPY_LISTEN",
        "POSTCOPY_END",
        "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE",
        "SET_LOG_BASE",
        "SET_LOG_FD",
    };
    std::set<std::string_view> served;
    for (const auto& request : wire::frontend_requests()) {
        if (request.served == wire::Served::kYes) {
            served.insert(request.name);
        }
    }
    EXPECT_EQ(served, tested);
}

TEST_F(ServedMessages, GetFeaturesGivesTheDevicesBitsAndTheFrameworks) {
    const auto features = frontend().get_features().value();
    EXPECT_TRUE(features.contains(EchoDeviceOptions{}.features));
    EXPECT_TRUE(features.contains(FeatureSet::of({driver::kIndirectDescBit,
                                                  driver::kEventIdxBit,
                                                  driver::kVersion1Bit,
                                                  driver::kAccessPlatformBit,
                                                  driver::kRingPackedBit,
                                                  driver::kInOrderBit,
                                                  driver::kNotificationDataBit,
                                                  wire::kLogAllBit,
                                                  wire::kProtocolFeaturesBit})));
}

// Offered is what is finished: no ORDER_PLATFORM.
TEST_F(ServedMessages, GetFeaturesOffersNothingUnfinished) {
    const auto features = frontend().get_features().value();
    for (const unsigned unfinished : {24U, 36U, 43U}) {
        EXPECT_FALSE(features.has(unfinished)) << unfinished;
    }
}

TEST_F(ServedMessages, RepliesCarryVersionReplyFlagNumberAndSize) {
    EXPECT_EQ(frontend().send({.request = 1, .flags = wire::kVersion, .size = 0}),
              Answer::kUnasked);
    const auto reply = frontend().receive().value();
    EXPECT_EQ(reply.header.request, 1U);
    EXPECT_EQ(reply.header.flags, wire::kVersion | wire::kFlagReply);
    EXPECT_EQ(reply.header.size, 8U);
    EXPECT_TRUE(reply.fds.empty());
}

// vhost-user REPLY_ACK: "messages that have their own reply do not get a second one".
TEST_F(ServedMessages, NeedReplyOnAMessageWithItsOwnReplyBringsOneReply) {
    negotiate();
    const wire::Header header{
        .request = 1, .flags = wire::kVersion | wire::kFlagNeedReply, .size = 0};
    EXPECT_EQ(frontend().send(header), Answer::kUnasked);
    EXPECT_TRUE(frontend().receive());
    EXPECT_EQ(frontend().set_owner(), Answer::kAccepted);
}

TEST_F(ServedMessages, NeedReplyBeforeReplyAckIsNegotiatedBringsNone) {
    const wire::Header header{
        .request = 3, .flags = wire::kVersion | wire::kFlagNeedReply, .size = 0};
    EXPECT_EQ(frontend().send(header), Answer::kUnasked);
    EXPECT_EQ(frontend().get_features().value(), frontend().get_features().value());
}

TEST_F(ServedMessages, SetFeaturesTellsTheDeviceItsOwnBitsOnly) {
    negotiate({.features = FeatureSet::of({3, driver::kVersion1Bit})});
    EXPECT_EQ(device_.negotiated(), FeatureSet::of({3}));
}

TEST_F(ServedMessages, SetFeaturesRefusesBitsThatWereNotOffered) {
    negotiate();
    expect_refusal(Refusal::kFeatures,
                   [&] { return frontend().set_features(FeatureSet::of({4})); });
    expect_echo();
}

TEST_F(ServedMessages, SetFeaturesOnARunningRingLeavesItWhereItIs) {
    run();
    expect_echo();
    EXPECT_EQ(frontend().set_features(running_.agreement.features), Answer::kAccepted);
    expect_echo();
    EXPECT_EQ(queue().base(), 2U);
}

TEST_F(ServedMessages, GetProtocolFeaturesOffersWhatIsServed) {
    const auto protocol = frontend().get_protocol_features().value();
    EXPECT_EQ(protocol,
              FeatureSet::of({bit(ProtocolFeature::kMq),
                              bit(ProtocolFeature::kLogShmfd),
                              bit(ProtocolFeature::kReplyAck),
                              bit(ProtocolFeature::kBackendReq),
                              bit(ProtocolFeature::kDeviceState),
                              bit(ProtocolFeature::kGpaAddresses),
                              bit(ProtocolFeature::kConfig),
                              bit(ProtocolFeature::kResetDevice),
                              bit(ProtocolFeature::kInflightShmfd),
                              bit(ProtocolFeature::kGetVringBaseInflight),
                              bit(ProtocolFeature::kGetVringBaseSkipDrain),
                              bit(ProtocolFeature::kInbandNotifications),
                              bit(ProtocolFeature::kConfigureMemSlots),
                              bit(ProtocolFeature::kStatus)}));
}

TEST_F(ServedMessages, SetProtocolFeaturesRefusesBitsThatWereNotOffered) {
    negotiate();
    expect_refusal(Refusal::kFeatures, [&] {
        return frontend().set_protocol_features(
            FeatureSet::of({bit(ProtocolFeature::kReplyAck), bit(ProtocolFeature::kXenMmap)}));
    });
    // What was agreed on before still is.
    EXPECT_EQ(frontend().set_owner(), Answer::kAccepted);
}

TEST_F(ServedMessages, SetOwnerAndResetOwnerAreAcceptedAndChangeNothing) {
    run();
    EXPECT_EQ(frontend().set_owner(), Answer::kAccepted);
    EXPECT_EQ(frontend().reset_owner(), Answer::kAccepted);
    expect_echo();
}

TEST_F(ServedMessages, GetQueueNumIsTheDevicesNumberOfRings) {
    negotiate();
    EXPECT_EQ(frontend().get_queue_num().value(), 2U);
}

TEST_F(ServedMessages, AMessageWhoseFeatureWasNotNegotiatedIsRefused) {
    negotiate({.protocol_features = FeatureSet::of({bit(ProtocolFeature::kReplyAck)})});
    expect_refusal(Refusal::kNotNegotiated, [&] { return frontend().set_status(1); });
    expect_refusal(Refusal::kNotNegotiated, [&] { return frontend().reset_device(); });
}

// The front end would wait for a reply that does not come: better no connection than a hung one.
TEST_F(ServedMessages, AQueryThatCannotBeAnsweredAndAsksForNoAckClosesTheConnection) {
    negotiate({.protocol_features = {}});
    EXPECT_EQ(frontend().get_queue_num().error(), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kRefused);
}

// An acknowledgement would be taken for the answer: "one ring", here.
TEST_F(ServedMessages, AQueryThatCannotBeAnsweredClosesTheConnectionAlsoWhenItAsksForAnAck) {
    negotiate({.protocol_features = FeatureSet::of({bit(ProtocolFeature::kReplyAck)})});
    EXPECT_EQ(frontend().call(number(FrontendRequest::kGetQueueNum)), Answer::kClosed);
    expect_close_and_next_session(CloseReason::kRefused);
}

// --- Configuration space -----------------------------------------------------------------------

TEST_F(ServedMessages, GetConfigGivesTheBytesAskedFor) {
    negotiate();
    const auto bytes = frontend().get_config(4, 3).value();
    EXPECT_EQ(
        bytes,
        (std::vector{initial_config_byte(4), initial_config_byte(5), initial_config_byte(6)}));
}

// RV's front end reads the full length and would block on a short reply.
TEST_F(ServedMessages, GetConfigBehindTheDevicesSpaceReadsAsZero) {
    negotiate();
    const auto bytes = frontend().get_config(31, 2).value();
    EXPECT_EQ(bytes, (std::vector{initial_config_byte(31), std::byte{0}}));
}

TEST_F(ServedMessages, GetConfigBeyond256BytesOrOfNothingFailsWithAnEmptyReply) {
    negotiate();
    EXPECT_EQ(frontend().get_config(255, 1).value().size(), 1U);
    EXPECT_TRUE(frontend().get_config(512, 1).value().empty());
    EXPECT_TRUE(frontend().get_config(255, 2).value().empty());
    EXPECT_TRUE(frontend().get_config(0xffff'ffff, 2).value().empty());
    EXPECT_TRUE(frontend().get_config(0, 0).value().empty());
    EXPECT_EQ(counters().refused.value(Refusal::kConfigRange), 4U);
    EXPECT_EQ(counters().closed.total(), 0U);
}

// Old cloud-hypervisor asks where virtio-mmio has the configuration space.
TEST_F(ServedMessages, GetConfigAt256IsTheStartOfTheSpace) {
    negotiate();
    EXPECT_EQ(frontend().get_config(256 + 4, 1).value(), (std::vector{initial_config_byte(4)}));
}

TEST_F(ServedMessages, SetConfigWritesAWritableField) {
    negotiate();
    const std::vector value(kWritableConfigBytes, std::byte{7});
    EXPECT_EQ(frontend().set_config(kWritableConfigOffset, value), Answer::kAccepted);
    EXPECT_EQ(frontend().get_config(kWritableConfigOffset, kWritableConfigBytes).value(), value);
}

TEST_F(ServedMessages, SetConfigRefusesReadOnlyFields) {
    negotiate();
    const std::array value = {std::byte{1}};
    expect_refusal(Refusal::kConfigValue,
                   [&] { return frontend().set_config(kWritableConfigOffset - 1, value); });
    EXPECT_EQ(frontend().get_config(kWritableConfigOffset - 1, 1).value().at(0),
              initial_config_byte(kWritableConfigOffset - 1));
}

TEST_F(ServedMessages, SetConfigRefusesValuesThatTheDeviceRefuses) {
    negotiate();
    const std::array value = {kForbiddenConfigValue};
    expect_refusal(Refusal::kConfigValue,
                   [&] { return frontend().set_config(kWritableConfigOffset, value); });
}

TEST_F(ServedMessages, SetConfigRefusesWhatLiesBehindTheSpace) {
    negotiate();
    const std::array value = {std::byte{1}, std::byte{2}};
    expect_refusal(Refusal::kConfigRange, [&] { return frontend().set_config(31, value); });
    expect_refusal(Refusal::kConfigRange,
                   [&] { return frontend().set_config(0xffff'ffff, value); });
    expect_refusal(Refusal::kConfigRange, [&] { return frontend().set_config(0, {}); });
}

// --- Status and reset ----------------------------------------------------------------------------

TEST_F(ServedMessages, GetStatusGivesWhatSetStatusSaid) {
    negotiate();
    EXPECT_EQ(frontend().set_status(0x0f), Answer::kAccepted);
    EXPECT_EQ(frontend().get_status().value(), 0x0fU);
}

TEST_F(ServedMessages, SetStatusRefusesMoreThanAByte) {
    negotiate();
    const auto before = frontend().get_status().value();
    expect_refusal(Refusal::kStatus, [&] { return frontend().set_status(0x100); });
    EXPECT_EQ(frontend().get_status().value(), before);
}

// VIRTIO 1.3, 3.1.1: FEATURES_OK stays clear when the device does not take the features.
TEST_F(ServedMessages, FeaturesOkStaysClearAfterRefusedFeatures) {
    negotiate();
    EXPECT_EQ(frontend().set_features(FeatureSet::of({4})), Answer::kRefused);
    EXPECT_EQ(frontend().set_status(1 | 2 | 8), Answer::kAccepted);
    EXPECT_EQ(frontend().get_status().value(), 1U | 2U);
}

TEST_F(ServedMessages, StatusZeroStopsTheRingsAndResetsTheDevice) {
    run();
    expect_echo();
    EXPECT_EQ(frontend().set_status(0), Answer::kAccepted);
    EXPECT_EQ(device_.queues_running(), 0U);
    EXPECT_EQ(device_.resets(), 1U);
    EXPECT_EQ(frontend().get_status().value(), 0U);
}

TEST_F(ServedMessages, ResetDeviceStopsTheRingsAndKeepsConnectionAndMemory) {
    run();
    expect_echo();
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    EXPECT_EQ(device_.queues_running(), 0U);
    EXPECT_EQ(device_.resets(), 1U);
    queue().reset();
    EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    expect_echo();
}

TEST_F(ServedMessages, ResetDeviceWaitsForRequestsInFlight) {
    run();
    device_.hold(true);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    ASSERT_TRUE(eventually([&] { return device_.held() == 1; }));
    const wire::Header header{.request = number(FrontendRequest::kResetDevice),
                              .flags = wire::kVersion | wire::kFlagNeedReply,
                              .size = 0};
    EXPECT_EQ(frontend().send(header), Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    device_.release_held(QueueIndex{0});
    EXPECT_EQ(frontend().receive_ack(header.request), Answer::kAccepted);
    EXPECT_EQ(device_.held(), 0U);
}

}  // namespace
}  // namespace outrigger::testing
