// SPDX-License-Identifier: Apache-2.0
// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE: what moves between two back ends, and when.
// vhost-user "Migrating back-end state". What goes wrong with the transfer itself is in
// device_state_transfer_test.cc.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/device_state_fixture.h"

namespace outrigger::testing {
namespace {

class DeviceStateMoves : public DeviceStateTest, public ::testing::WithParamInterface<bool> {
  protected:
    [[nodiscard]] driver::BringUpOptions options() const {
        auto options = with_state();
        options.packed = GetParam();
        return options;
    }

    /// Where the driver's ring is by now, of either format, in its first round.
    [[nodiscard]] uint16_t position() const {
        return static_cast<uint16_t>(running_.queues[0].base() & 0x7fff);
    }

    /// Another back end, and a connection to it that has the protocol features and nothing else.
    void begin_destination() {
        destination_host_ =
            std::make_unique<SessionHost>(destination_device_, SessionHostOptions{});
        destination_.emplace(destination_host_->connect());
        take_protocol_features(*destination_);
    }

    [[nodiscard]] driver::Frontend& destination() { return *destination_; }

    /// What a front end does there once it has loaded the state.
    void bring_up_destination() {
        const auto agreement = driver::negotiate(destination(), options());
        ASSERT_TRUE(agreement) << agreement.error().step;
        ASSERT_TRUE(driver::share_memory(destination(), memory_, *agreement));
    }

    EchoDevice destination_device_{EchoDeviceOptions{}};
    std::unique_ptr<SessionHost> destination_host_;
    std::optional<driver::Frontend> destination_;
};

INSTANTIATE_TEST_SUITE_P(Rings, DeviceStateMoves, ::testing::Bool(), [](const auto& rings) {
    return rings.param ? "Packed" : "Split";
});

TEST_P(DeviceStateMoves, TheStateSaysWhatTheDriverAgreedOnAndWhereItsRingsStood) {
    run(options());
    device_.set_saved_byte(7);
    expect_echo();
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const DeviceState state = parsed(save_state(frontend()));
    EXPECT_EQ(state.device_id, device_.identity().virtio_id);
    ASSERT_TRUE(state.features);
    EXPECT_EQ(*state.features, running_.agreement.features.without(wire::kProtocolFeaturesBit));
    ASSERT_EQ(state.queues.size(), 1U);
    EXPECT_EQ(state.queues[0],
              (SavedQueue{.index = 0,
                          .size = 256,
                          .next_available = position(),
                          .next_used = position(),
                          .available_wrap = GetParam(),
                          .used_wrap = GetParam()}));
    ASSERT_EQ(state.sections.size(), 1U);
    EXPECT_EQ(state.sections[0], make_section(kEchoSection, std::vector{std::byte{7}}));
    EXPECT_EQ(counters().states_saved.value(), 1U);
}

// In QEMU's order: the state comes before features, memory and rings.
TEST_P(DeviceStateMoves, TheGuestGoesOnAtAnotherBackEnd) {
    run(options());
    device_.set_saved_byte(7);
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const std::string state = save_state(frontend());
    begin_destination();
    EXPECT_TRUE(load_state(destination(), state));
    EXPECT_EQ(destination_device_.saved_byte(), 7);
    bring_up_destination();
    ASSERT_EQ(queue().start(destination(), memory_), Answer::kAccepted);
    ASSERT_EQ(destination().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(echo_problem(queue(), buffers()), "");
    EXPECT_EQ(destination_device_.answered(), 1U);
}

TEST_P(DeviceStateMoves, ARingWhoseBaseTheFrontEndDoesNotTellBeginsWhereItStood) {
    run(options());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const std::string state = save_state(frontend());
    begin_destination();
    EXPECT_TRUE(load_state(destination(), state));
    bring_up_destination();
    EXPECT_EQ(destination().set_vring_num(0, 256), Answer::kAccepted);
    EXPECT_EQ(destination().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    const auto kick = Notifier::create().value();
    EXPECT_EQ(destination().set_vring_kick(0, kick.read_fd()), Answer::kAccepted);
    EXPECT_EQ(destination().get_vring_base(0).value(), queue().base());
}

// A failed migration: "the source can transparently resume operation".
TEST_P(DeviceStateMoves, TheSourceGoesOnAfterASave) {
    run(options());
    device_.set_saved_byte(7);
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const std::string state = save_state(frontend());
    start_again();
    expect_echo();
    EXPECT_EQ(device_.saved_byte(), 7);
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_EQ(parsed(save_state(frontend())).queues[0].next_available, position());
}

// One that came and never ran is passed on as it is.
TEST_P(DeviceStateMoves, WhatWasLoadedCanBeSavedAgain) {
    run(options());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const std::string state = save_state(frontend());
    begin_destination();
    EXPECT_TRUE(load_state(destination(), state));
    EXPECT_EQ(save_state(destination()), state);
}

class DeviceStateMessages : public DeviceStateTest {};

TEST_F(DeviceStateMessages, OfADeviceWithoutADriverHasNeitherFeaturesNorQueues) {
    take_protocol_features(frontend());
    const DeviceState state = parsed(save_state(frontend()));
    EXPECT_FALSE(state.features);
    EXPECT_TRUE(state.queues.empty());
    EXPECT_EQ(state.sections.size(), 1U);
}

TEST_F(DeviceStateMessages, AreRefusedWhileARingRuns) {
    run(with_state());
    const auto pipe = platform::open_pipe().value();
    EXPECT_NE(begin_transfer(frontend(), kSaveState, pipe.write_end.get()), 0U);
    EXPECT_NE(begin_transfer(frontend(), kLoadState, pipe.read_end.get()), 0U);
    EXPECT_NE(frontend().check_device_state().value(), 0U);
    EXPECT_EQ(counters().refused.value(Refusal::kState), 3U);
    expect_echo();
}

TEST_F(DeviceStateMessages, OfADirectionOrPhaseThatThereIsNotAreRefused) {
    take_protocol_features(frontend());
    const auto pipe = platform::open_pipe().value();
    EXPECT_NE(begin_transfer(frontend(), {.direction = 2, .phase = 0}, pipe.write_end.get()), 0U);
    EXPECT_NE(begin_transfer(frontend(), {.direction = 0, .phase = 1}, pipe.write_end.get()), 0U);
    EXPECT_EQ(counters().refused.value(Refusal::kStateTransfer), 2U);
}

TEST_F(DeviceStateMessages, ACheckOfNothingFails) {
    take_protocol_features(frontend());
    EXPECT_FALSE(transfer_is_good(frontend()));
    EXPECT_EQ(counters().refused.value(Refusal::kDeviceState), 1U);
}

TEST_F(DeviceStateMessages, ACheckIsAnsweredTheSameAgain) {
    take_protocol_features(frontend());
    EXPECT_NE(save_state(frontend()), "");
    EXPECT_TRUE(transfer_is_good(frontend()));
    EXPECT_FALSE(load_state(frontend(), "no state"));
    EXPECT_FALSE(transfer_is_good(frontend()));
}

TEST_F(DeviceStateMessages, ASaveThatTheDeviceRefusesIsRefused) {
    take_protocol_features(frontend());
    device_.refuse_save(true);
    EXPECT_FALSE(begin_pipe(frontend(), kSaveState).valid());
    EXPECT_EQ(counters().refused.value(Refusal::kDeviceState), 1U);
    device_.refuse_save(false);
    EXPECT_NE(save_state(frontend()), "");
}

// --- States that do not fit ---------------------------------------------------------------------

class DeviceStateThatDoesNotFit : public DeviceStateTest {
  protected:
    DeviceStateThatDoesNotFit() { take_protocol_features(frontend()); }

    [[nodiscard]] DeviceState good() const {
        return {.device_id = device_.identity().virtio_id,
                .sections = {make_section(kEchoSection, std::vector{std::byte{9}})}};
    }

    void expect_refused(const DeviceState& state) {
        EXPECT_FALSE(load_state(frontend(), encode_state(state).value()));
        EXPECT_EQ(device_.loads(), 0U);
        expect_unusable_until_reset();
    }

    /// Nobody may take the device for one that goes on; a driver that begins anew can have it.
    void expect_unusable_until_reset() {
        EXPECT_FALSE(driver::bring_up(frontend(), memory_, with_state()));
        EXPECT_GT(counters().refused.value(Refusal::kDeviceState), 0U);
        EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
        reconnect_memory();
        run(with_state());
        expect_echo();
    }

    /// Memory as of a guest that starts anew, on this connection.
    void reconnect_memory() {
        const auto region = memory_.regions()[0];
        EXPECT_EQ(frontend().rem_mem_reg(memory_, region), Answer::kAccepted);
        memory_ = driver::GuestMemory::create(kMemoryBytes, kMemoryStart).value();
    }
};

TEST_F(DeviceStateThatDoesNotFit, IsTheControlOfTheOthers) {
    EXPECT_TRUE(load_state(frontend(), encode_state(good()).value()));
    EXPECT_EQ(device_.saved_byte(), 9);
}

TEST_F(DeviceStateThatDoesNotFit, OfAnotherKindOfDevice) {
    DeviceState state = good();
    ++state.device_id;
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithFeaturesThatAreNotOffered) {
    DeviceState state = good();
    state.features = FeatureSet::of({32, 51});
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithAQueueThatIsNotThere) {
    DeviceState state = good();
    state.queues = {{.index = 2, .size = 256}};
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithAQueueThatIsTooLarge) {
    DeviceState state = good();
    state.queues = {{.index = 0, .size = 2048}};
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithACriticalSectionThatNobodyKnows) {
    DeviceState state = good();
    state.sections.push_back({.id = 6, .name = "future", .version = 1, .critical = true});
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithALaterVersionOfACriticalSection) {
    DeviceState state = good();
    state.sections[0].version = kEchoSection.version + 1;
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, WithContentThatTheDeviceRefuses) {
    DeviceState state = good();
    state.sections[0].bytes[0] = std::byte{kImpossibleSavedByte};
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, FromAFutureThatThisReaderCannotKnow) {
    DeviceState state = good();
    state.format_version = kStateFormatVersion + 1;
    state.min_reader = kStateFormatVersion + 1;
    expect_refused(state);
}

TEST_F(DeviceStateThatDoesNotFit, ButASectionThatIsNotCriticalIsSkipped) {
    DeviceState state = good();
    state.sections.push_back({.id = 6, .name = "hints", .version = 1, .critical = false});
    EXPECT_TRUE(load_state(frontend(), encode_state(state).value()));
    EXPECT_EQ(device_.saved_byte(), 9);
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateThatDoesNotFit, ButAGoodOneBehindItIsTaken) {
    EXPECT_FALSE(load_state(frontend(), "no state"));
    EXPECT_TRUE(load_state(frontend(), encode_state(good()).value()));
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateThatDoesNotFit, ASaveBehindItDoesNotMakeUpForIt) {
    EXPECT_FALSE(load_state(frontend(), "no state"));
    EXPECT_NE(save_state(frontend()), "");
    expect_unusable_until_reset();
}

// Only now it shows: the driver of that state took other features than the front end sends.
TEST_F(DeviceStateThatDoesNotFit, WithFeaturesThatAreNotThoseOfTheFrontEnd) {
    DeviceState state = good();
    state.features = FeatureSet::of({32});
    EXPECT_TRUE(load_state(frontend(), encode_state(state).value()));
    expect_unusable_until_reset();
}

TEST_F(DeviceStateThatDoesNotFit, WithARingOfAnotherSize) {
    DeviceState state = good();
    state.queues = {{.index = 0, .size = 128}};
    EXPECT_TRUE(load_state(frontend(), encode_state(state).value()));
    expect_unusable_until_reset();
}

// --- Resets ------------------------------------------------------------------------------------

class DeviceStateResets : public DeviceStateTest {
  protected:
    void load_something_else() {
        const DeviceState state{
            .device_id = device_.identity().virtio_id,
            .features = FeatureSet::of({32}),
            .sections = {make_section(kEchoSection, std::vector{std::byte{9}})}};
        EXPECT_TRUE(load_state(frontend(), encode_state(state).value()));
    }
};

TEST_F(DeviceStateResets, ResetDeviceDropsWhatWaitsForItsRings) {
    take_protocol_features(frontend());
    load_something_else();
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateResets, StatusZeroDropsItToo) {
    take_protocol_features(frontend());
    load_something_else();
    EXPECT_EQ(frontend().set_status(0), Answer::kAccepted);
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateResets, OneLoadIsForOneStart) {
    run(with_state());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    const std::string state = save_state(frontend());
    EXPECT_TRUE(load_state(frontend(), state));
    start_again();
    expect_echo();
    // The driver begins anew with a ring of another size.
    ASSERT_TRUE(queue().stop(frontend()));
    queues().clear();
    running_.agreement.features = running_.agreement.features.without(driver::kEventIdxBit);
    EXPECT_EQ(frontend().set_features(running_.agreement.features), Answer::kAccepted);
    auto options = with_state();
    options.queue_size = 64;
    options.event_idx = false;
    queues().push_back(driver::create_queue(memory_, running_.agreement, options, 0).value());
    start_again();
    expect_echo();
}

// QEMU stops a machine so: each ring, then status 0, and then it asks for the state.
TEST_F(DeviceStateResets, ASaveBehindStatusZeroHasWhatWasBefore) {
    run(with_state());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_EQ(frontend().set_status(0), Answer::kAccepted);
    const DeviceState state = parsed(save_state(frontend()));
    EXPECT_TRUE(state.features);
    ASSERT_EQ(state.queues.size(), 1U);
    EXPECT_EQ(state.queues[0].next_available, 1);
}

// What is a reset it says by RESET_DEVICE.
TEST_F(DeviceStateResets, ASaveBehindResetDeviceHasNothingOfTheDriver) {
    run(with_state());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_EQ(frontend().set_status(0), Answer::kAccepted);
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    const DeviceState state = parsed(save_state(frontend()));
    EXPECT_FALSE(state.features);
    EXPECT_TRUE(state.queues.empty());
}

TEST_F(DeviceStateResets, AnotherFrontEndHasNothingOfTheLast) {
    take_protocol_features(frontend());
    EXPECT_FALSE(load_state(frontend(), "no state"));
    frontend().close();
    EXPECT_TRUE(host_->wait_closed());
    reconnect();
    run(with_state());
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
