// SPDX-License-Identifier: Apache-2.0
// In-band notifications: kicks and calls as messages, for rings that have no descriptors for them.
// vhost-user "In-band notifications".
#include <array>

#include <gtest/gtest.h>

#include "tests/support/channel_test.h"

namespace outrigger::testing {
namespace {

constexpr FeatureSet kInBand = FeatureSet::of({bit(ProtocolFeature::kInbandNotifications),
                                               bit(ProtocolFeature::kBackendReq),
                                               bit(ProtocolFeature::kReplyAck)});

class InBand : public ChannelTest, public ::testing::WithParamInterface<bool> {
  protected:
    InBand() : ChannelTest(SessionHostOptions{.worker_count = 2}) {}

    void set_up_rings(uint16_t count = 1) {
        const driver::BringUpOptions options{.protocol_features = kEverything,
                                             .packed = GetParam()};
        negotiate(options);
        ASSERT_FALSE(HasFatalFailure());
        ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
        open_channel();
        for (uint16_t index = 0; index < count; ++index) {
            queues().push_back(
                driver::create_queue(memory_, running_.agreement, options, index).value());
            set_up(index);
        }
    }

    /// All but the descriptors: the ring starts with its first VRING_KICK.
    void set_up(uint16_t index) {
        EXPECT_EQ(frontend().set_vring_num(index, queue(index).size()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_base(index, queue(index).start_base()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_addr(queue(index).vring_address(memory_)),
                  Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(index, 1), Answer::kAccepted);
    }

    void send_request(size_t index = 0) {
        buffers(index).fill();
        ASSERT_TRUE(queue(index).try_add(buffers(index).chain(), 0));
        queue(index).publish();
    }

    void expect_answer(size_t index = 0) {
        EXPECT_TRUE(queue(index).enable_calls());
        const auto completion = queue(index).poll_used();
        ASSERT_TRUE(completion);
        EXPECT_EQ(completion->length, EchoBuffers::kBytes);
        EXPECT_TRUE(buffers(index).answered());
    }

    /// The next message of the back end is a call of that ring; answers it.
    void expect_call(uint32_t index = 0) {
        const auto message = expect_request(BackendRequest::kVringCall);
        const auto state = payload_as<wire::VringState>(message);
        EXPECT_EQ(state.index, index);
        EXPECT_EQ(state.num, 0U);
        EXPECT_TRUE(message.needs_reply());
        EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    }
};

INSTANTIATE_TEST_SUITE_P(Formats, InBand, ::testing::Bool(), [](const auto& format) {
    return format.param ? "Packed" : "Split";
});

TEST_P(InBand, RequestsTravelByKickAndCallMessagesAlone) {
    set_up_rings();
    for (int i = 0; i < 300; ++i) {
        EXPECT_FALSE(queue().enable_calls());
        send_request();
        ASSERT_EQ(frontend().vring_kick(0), Answer::kAccepted);
        expect_call();
        expect_answer();
        ASSERT_FALSE(HasFailure()) << i;
    }
    EXPECT_EQ(counters().rings_started.value(), 1U);
    EXPECT_EQ(frontend().get_vring_base(0).value(), queue().base());
}

// "To block until they are processed": what the driver sent is popped when the reply comes.
TEST_P(InBand, AKickIsAnsweredWhenTheDeviceHasLooked) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    device_.hold(true);
    for (uint32_t i = 1; i <= 20; ++i) {
        send_request();
        ASSERT_EQ(frontend().vring_kick(0), Answer::kAccepted);
        EXPECT_EQ(device_.held(), i);
    }
    device_.hold(false);
    device_.release_held(QueueIndex{0});
}

// The pause for a move is no look: the answer waits for what comes behind it.
TEST_P(InBand, AKickDuringAMoveIsAnsweredWhenTheDeviceHasLooked) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    device_.hold(true);
    send_request();
    ASSERT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    for (uint32_t i = 2; i <= 4; ++i) {
        // Ends when it has taken too long, for the device holds requests.
        auto moved = host_->begin_move(0, 1);
        settle();
        send_request();
        ASSERT_EQ(frontend().vring_kick(0), Answer::kAccepted);
        EXPECT_EQ(device_.held(), i);
        EXPECT_FALSE(moved.get());
    }
    device_.hold(false);
    device_.release_held(QueueIndex{0});
    EXPECT_TRUE(eventually([this] { return device_.held() == 0; }));
    EXPECT_TRUE(host_->move_queue(0, 1));
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_EQ(device_.answered(), 5U);
}

// The worker may have its last look before a sleep just then; a ring that is polled is always
// looked at within a millisecond.
TEST_P(InBand, ARingThatIsKickedInBandIsNotPolled) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    bool left_alone = false;
    for (uint64_t i = 0; i < 20 && !left_alone; ++i) {
        give_others_a_moment();
        send_request();
        give_others_a_moment();
        left_alone = device_.answered() == i;
        EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
        EXPECT_EQ(device_.answered(), i + 1);
        EXPECT_TRUE(queue().poll_used());
    }
    EXPECT_TRUE(left_alone);
}

// "To enable polling": SET_VRING_KICK without a descriptor still says so.
TEST_P(InBand, SetVringKickWithoutADescriptorStillMeansPolling) {
    set_up_rings();
    EXPECT_EQ(frontend().set_vring_kick(0, -1), Answer::kAccepted);
    send_request();
    EXPECT_TRUE(eventually([&] { return device_.answered() == 1; }));
    expect_call();
}

TEST_P(InBand, AKickDescriptorIsPreferredToTheMessage) {
    set_up_rings();
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    queue().kick();
    expect_call();
    expect_answer();
}

TEST_P(InBand, ACallDescriptorTakesThePlaceOfTheMessage) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    (void)queue().wait_call(driver::after(kPatience));  // the one for the new descriptor
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_TRUE(queue().wait_call(driver::after(kPatience)));
    settle();
    EXPECT_FALSE(channel().has_input());
}

// Bit 8 of SET_VRING_CALL: "polling will be used instead of waiting for the call".
TEST_P(InBand, ADriverThatPollsIsNotCalledInBand) {
    set_up_rings();
    EXPECT_EQ(frontend().set_vring_call(0, -1), Answer::kAccepted);
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_EQ(device_.answered(), 1U);
    settle();
    EXPECT_FALSE(channel().has_input());
}

TEST_P(InBand, OneCallOfARingIsUnansweredAtATime) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    const auto first = expect_request(BackendRequest::kVringCall);
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(queue().poll_used());
        EXPECT_FALSE(queue().enable_calls());
        send_request();
        ASSERT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    }
    settle();
    EXPECT_FALSE(channel().has_input());
    // The ten since then make one.
    EXPECT_EQ(channel().reply(first, 0), Answer::kUnasked);
    expect_call();
    settle();
    EXPECT_FALSE(channel().has_input());
    expect_answer();
}

TEST_P(InBand, EachRingHasItsOwnCalls) {
    set_up_rings(2);
    for (const uint32_t index : {1U, 0U}) {
        EXPECT_EQ(frontend().vring_kick(index), Answer::kAccepted);
        EXPECT_FALSE(queue(index).enable_calls());
        send_request(index);
        EXPECT_EQ(frontend().vring_kick(index), Answer::kAccepted);
        expect_call(index);
        expect_answer(index);
    }
}

// The last completions come before the answer that says where the ring stands.
TEST_P(InBand, AStoppingRingCallsBeforeItIsStopped) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    device_.hold(true);
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    device_.hold(false);
    EXPECT_TRUE(frontend().get_vring_base(0));
    EXPECT_TRUE(channel().has_input());
    expect_call();
    expect_answer();
}

TEST_P(InBand, ARingThatBreaksSaysSoByMessage) {
    set_up_rings();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    const std::array<driver::Segment, 1> nowhere{
        {{.address = GuestAddr{1ULL << 40}, .length = 16, .device_writable = true}}};
    ASSERT_TRUE(queue().try_add(nowhere, 0));
    queue().publish();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    const auto message = expect_request(BackendRequest::kVringErr);
    EXPECT_EQ(payload_as<wire::VringState>(message).index, 0U);
    EXPECT_EQ(channel().reply(message, 0), Answer::kUnasked);
    // The device needs a reset, and says that as well.
    (void)expect_request(BackendRequest::kConfigChangeMsg);
}

TEST_P(InBand, AnErrDescriptorTakesThePlaceOfTheMessage) {
    set_up_rings();
    EXPECT_EQ(frontend().set_vring_err(0, queue().error_fd()), Answer::kAccepted);
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    const std::array<driver::Segment, 1> nowhere{
        {{.address = GuestAddr{1ULL << 40}, .length = 16, .device_writable = true}}};
    ASSERT_TRUE(queue().try_add(nowhere, 0));
    queue().publish();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    (void)expect_request(BackendRequest::kConfigChangeMsg);
}

TEST_P(InBand, WithoutAChannelTheRingIsServedAndTheCallsAreCountedAsLost) {
    set_up_rings();
    channel().close();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_FALSE(queue().enable_calls());
    send_request();
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_TRUE(eventually([&] { return counters().calls_lost.value() > 0; }));
    expect_answer();
}

TEST_P(InBand, AKickBeforeTheRestStartsTheRingWhenTheRestHasCome) {
    const driver::BringUpOptions options{.protocol_features = kEverything, .packed = GetParam()};
    negotiate(options);
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    open_channel();
    queues().push_back(driver::create_queue(memory_, running_.agreement, options, 0).value());
    EXPECT_EQ(frontend().vring_kick(0), Answer::kAccepted);
    EXPECT_EQ(counters().rings_started.value(), 0U);
    set_up(0);
    EXPECT_EQ(counters().rings_started.value(), 1U);
}

TEST_P(InBand, AKickWithJunkOrOfNoRingIsRefused) {
    set_up_rings();
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().vring_kick(2); });
    expect_refusal(Refusal::kRingIndex, [&] {
        return frontend().call(number(FrontendRequest::kVringKick),
                               bytes_of(wire::VringState{.index = 0, .num = 1}));
    });
    EXPECT_EQ(counters().rings_started.value(), 0U);
}

TEST_P(InBand, WithoutTheFeatureAKickMessageIsRefusedAndTheRingIsPolled) {
    run({.packed = GetParam()});
    expect_refusal(Refusal::kNotNegotiated, [&] { return frontend().vring_kick(0); });
    expect_echo();
}

class InBandNegotiation : public ChannelTest {};

TEST_F(InBandNegotiation, WithoutABackEndChannelTheConnectionEnds) {
    (void)frontend().set_protocol_features(kInBand.without(bit(ProtocolFeature::kBackendReq)));
    expect_close_and_next_session(CloseReason::kInBandAlone);
}

TEST_F(InBandNegotiation, WithoutAcknowledgementsTheConnectionEnds) {
    (void)frontend().set_protocol_features(kInBand.without(bit(ProtocolFeature::kReplyAck)));
    expect_close_and_next_session(CloseReason::kInBandAlone);
}

TEST_F(InBandNegotiation, WithBothItIsAccepted) {
    EXPECT_EQ(frontend().set_protocol_features(kInBand), Answer::kUnasked);
    EXPECT_EQ(frontend().set_owner(), Answer::kAccepted);
}

// QEMU takes the bit, as it takes every bit, and sends descriptors all the same.
TEST_F(InBandNegotiation, AFrontEndThatTakesTheBitAndUsesDescriptorsGetsNoMessages) {
    run_with_channel();
    for (int i = 0; i < 100; ++i) {
        expect_echo();
    }
    settle();
    EXPECT_FALSE(channel().has_input());
}

}  // namespace
}  // namespace outrigger::testing
