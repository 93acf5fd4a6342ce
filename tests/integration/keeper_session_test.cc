// SPDX-License-Identifier: Apache-2.0
// What of a session the next process knows beside what the front end said last: rings that wait or
// have stopped, a transfer of the device's state, what the driver did to the configuration.
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"

#include "tests/integration/keeper_test.h"
#include "tests/support/dirty_log_file.h"
#include "tests/support/state_pipe.h"

namespace outrigger::testing {
namespace {

constexpr FeatureSet kWithState =
    driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kDeviceState));

class KeptSessionTest : public KeeperTest {
  protected:
    [[nodiscard]] static DeviceState parsed(const std::string& bytes) {
        auto state = parse_state(std::as_bytes(std::span(bytes)));
        EXPECT_TRUE(state) << state.error().message;
        return std::move(state).value_or(DeviceState());
    }

    [[nodiscard]] bool is_served(Frontend& frontend) const {
        const bool served = frontend.get_features().has_value();
        EXPECT_TRUE(served) << daemon_->complained();
        return served;
    }
};

// --- Rings and their memory ----------------------------------------------------------------------

/// A guest with a region beside that of its ring.
class KeptRingTest : public KeptSessionTest {
  protected:
    void bring_up(const driver::BringUpOptions& options = {}) {
        start();
        guest_.emplace(connect(), options);
        EXPECT_GT(guest_->draw().value_or(0), 0U);
        own_ = guest_->memory.regions()[0];
        const auto other = guest_->memory.add_region(
            {.guest_address = GuestAddr{uint64_t{1} << 32}, .size = uint64_t{1} << 20});
        ASSERT_TRUE(other);
        ASSERT_EQ(frontend().add_mem_reg(guest_->memory, *other), Answer::kAccepted);
    }

    [[nodiscard]] Frontend& frontend() { return guest_->frontend; }

    [[nodiscard]] driver::DriverQueue& queue() { return guest_->running.queues[0]; }

    void take_memory_away() {
        ASSERT_EQ(frontend().rem_mem_reg(guest_->memory, own_), Answer::kAccepted);
    }

    void give_memory_back() {
        ASSERT_EQ(frontend().add_mem_reg(guest_->memory, own_), Answer::kAccepted)
            << daemon_->complained();
    }

    void start_ring() {
        ASSERT_EQ(queue().start(frontend(), guest_->memory), Answer::kAccepted)
            << daemon_->complained();
        ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    }

    void expect_draws() {
        for (int i = 0; i < 3; ++i) {
            EXPECT_GT(guest_->draw().value_or(0), 0U) << daemon_->complained();
        }
    }

    std::optional<Guest> guest_;
    driver::RegionId own_{};
};

TEST_F(KeptRingTest, ThatHasStoppedNeedsNoMemory) {
    bring_up();
    ASSERT_TRUE(queue().stop(frontend()));
    take_memory_away();
    kill_worker();
    ASSERT_TRUE(is_served(frontend()));
    give_memory_back();
    start_ring();
    expect_draws();
}

// As QEMU before 8.0 does with several pairs of queues.
TEST_F(KeptRingTest, WhoseMemoryWasAddedTwiceMayLoseItTwice) {
    bring_up();
    const driver::RegionId other = guest_->memory.regions()[1];
    give_memory_back();
    ASSERT_EQ(frontend().add_mem_reg(guest_->memory, other), Answer::kAccepted);
    kill_worker();
    expect_draws();
    ASSERT_EQ(frontend().rem_mem_reg(guest_->memory, other), Answer::kAccepted);
    // It begins where the region did that is gone.
    auto changed = guest_->memory.description(other);
    changed.user_address += changed.size;
    ASSERT_EQ(frontend().add_mem_reg(changed, guest_->memory.fd(other)), Answer::kAccepted);
    kill_worker();
    ASSERT_EQ(frontend().rem_mem_reg(guest_->memory, other), Answer::kAccepted);
    kill_worker();
    expect_draws();
    ASSERT_EQ(frontend().rem_mem_reg(changed), Answer::kAccepted) << daemon_->complained();
    expect_draws();
}

TEST_F(KeptRingTest, ThatRunsWaitsForItsMemory) {
    bring_up();
    take_memory_away();
    kill_worker();
    ASSERT_TRUE(is_served(frontend()));
    give_memory_back();
    expect_draws();
    kill_worker();
    expect_draws();
    EXPECT_EQ(frontend().get_vring_base(0).value_or(0xffff), queue().base());
}

TEST_F(KeptRingTest, ThatWaitsForItsMemoryTakesMessages) {
    bring_up();
    take_memory_away();
    kill_worker();
    EXPECT_EQ(frontend().set_vring_enable(0, 0), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    give_memory_back();
    expect_draws();
}

TEST_F(KeptRingTest, ThatWaitsForItsMemoryStopsWhereItStood) {
    bring_up();
    expect_draws();
    take_memory_away();
    kill_worker();
    EXPECT_EQ(frontend().get_vring_base(0).value_or(0xffff), queue().base())
        << daemon_->complained();
    kill_worker();
    give_memory_back();
    start_ring();
    expect_draws();
}

TEST_F(KeptRingTest, OfThePackedKindStopsWhereItStood) {
    bring_up({.packed = true});
    expect_draws();
    take_memory_away();
    kill_worker();
    EXPECT_EQ(frontend().get_vring_base(0).value_or(0), queue().base()) << daemon_->complained();
    give_memory_back();
    start_ring();
    expect_draws();
}

// Neither was judged when it came: the ring does not run.
TEST_F(KeptRingTest, ThatHasStoppedMayHaveASizeThatItsBaseDoesNotFit) {
    bring_up({.packed = true});
    for (int i = 0; i < 20; ++i) {
        ASSERT_GT(guest_->draw().value_or(0), 0U);
    }
    ASSERT_TRUE(queue().stop(frontend()));
    ASSERT_EQ(frontend().set_vring_num(0, 16), Answer::kAccepted);
    kill_worker();
    ASSERT_TRUE(is_served(frontend()));
    start_ring();
    expect_draws();
}

TEST_F(KeptRingTest, ThatDoesNotRunMayHaveASizeThatItsFormatDoesNotHave) {
    start();
    Frontend frontend = connect();
    ASSERT_EQ(frontend.set_vring_num(0, 100), Answer::kUnasked);
    ASSERT_TRUE(driver::negotiate(frontend, {}));
    kill_worker();
    EXPECT_TRUE(is_served(frontend));
}

// --- What the front end was told -----------------------------------------------------------------

TEST_F(KeptSessionTest, FeaturesThatWereRefusedStayRefused) {
    start();
    Frontend frontend = connect();
    const auto agreement = driver::negotiate(frontend, {});
    ASSERT_TRUE(agreement);
    EXPECT_EQ(frontend.set_features(agreement->features.with(23)), Answer::kRefused);
    EXPECT_EQ(frontend.set_status(15), Answer::kAccepted);
    EXPECT_EQ(frontend.get_status().value_or(0), 7U);
    kill_worker();
    EXPECT_EQ(frontend.get_status().value_or(0), 7U);
    EXPECT_EQ(frontend.set_status(15), Answer::kAccepted);
    EXPECT_EQ(frontend.get_status().value_or(0), 7U);
}

// QEMU stops the machine, resets by status, and saves.
TEST_F(KeptSessionTest, TheStateOfAMachineThatHasStoppedIsWhole) {
    start();
    Guest guest(connect(), {.protocol_features = kWithState});
    EXPECT_GT(guest.draw().value_or(0), 0U);
    ASSERT_TRUE(guest.running.queues[0].stop(guest.frontend));
    const auto expect_whole = [&] {
        kill_worker();
        const DeviceState state = parsed(save_state(guest.frontend));
        ASSERT_TRUE(state.features) << daemon_->complained();
        EXPECT_EQ(*state.features,
                  guest.running.agreement.features.without(wire::kProtocolFeaturesBit));
        ASSERT_EQ(state.queues.size(), 1U);
        EXPECT_EQ(state.queues[0].next_available, guest.running.queues[0].base());
        EXPECT_TRUE(transfer_is_good(guest.frontend));
        kill_worker();
        EXPECT_TRUE(transfer_is_good(guest.frontend)) << "a transfer that has ended";
    };
    expect_whole();
    EXPECT_EQ(guest.frontend.set_status(0), Answer::kAccepted);
    expect_whole();
}

TEST_F(KeptSessionTest, ATransferThatIsInterruptedHasFailed) {
    start();
    Guest guest(connect(), {.protocol_features = kWithState});
    EXPECT_GT(guest.draw().value_or(0), 0U);
    ASSERT_TRUE(guest.running.queues[0].stop(guest.frontend));
    const std::string state = save_state(guest.frontend);
    UniqueFd pipe = begin_pipe(guest.frontend, kLoadState);
    ASSERT_TRUE(pipe.valid());
    kill_worker();
    pipe.reset();
    EXPECT_FALSE(transfer_is_good(guest.frontend));
    // Nobody may take the device for one that goes on.
    EXPECT_EQ(guest.running.queues[0].start(guest.frontend, guest.memory), Answer::kRefused);
    kill_worker();
    EXPECT_EQ(guest.frontend.set_vring_kick(0, guest.running.queues[0].kick_fd()),
              Answer::kRefused);
    EXPECT_TRUE(load_state(guest.frontend, state)) << daemon_->complained();
    kill_worker();
    EXPECT_TRUE(transfer_is_good(guest.frontend)) << daemon_->complained();
    ASSERT_EQ(guest.running.queues[0].start(guest.frontend, guest.memory), Answer::kAccepted);
    EXPECT_EQ(guest.frontend.set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

// The ring has stopped: nobody finds out a second time that the log lacks what it wrote.
TEST_F(KeptSessionTest, AStateThatTheLogLacksAPartOfStaysNoGood) {
    start();
    Guest guest(connect(),
                {.protocol_features = kWithState.with(bit(wire::ProtocolFeature::kLogShmfd))});
    EXPECT_GT(guest.draw().value_or(0), 0U);
    constexpr uint64_t kTooFewPages = 8;
    const DirtyLogFile log(kTooFewPages);
    const FeatureSet features = guest.running.agreement.features;
    ASSERT_EQ(guest.frontend.set_log_base({.size = log.bytes(), .offset = log.offset()}, log.fd()),
              Answer::kAccepted);
    ASSERT_EQ(guest.frontend.set_features(features.with(wire::kLogAllBit)), Answer::kAccepted);
    ASSERT_TRUE(guest.running.queues[0].try_add(std::span(&guest.buffer, 1), 0));
    guest.running.queues[0].publish_and_kick();
    ASSERT_TRUE(daemon_->wait_complained("the front end broke it"));
    ASSERT_TRUE(guest.running.queues[0].stop(guest.frontend));
    EXPECT_EQ(save_state(guest.frontend), "");
    kill_worker();
    EXPECT_EQ(save_state(guest.frontend), "") << daemon_->complained();
    // Logging begins anew: all that was written until then is copied.
    ASSERT_EQ(guest.frontend.set_features(features), Answer::kAccepted);
    ASSERT_EQ(guest.frontend.set_features(features.with(wire::kLogAllBit)), Answer::kAccepted);
    kill_worker();
    EXPECT_NE(save_state(guest.frontend), "") << daemon_->complained();
}

// --- A disk's configuration ----------------------------------------------------------------------

class KeptConfigurationTest : public KeptSessionTest {
  protected:
    static constexpr uint32_t kWriteback = offsetof(virtio_blk_config, wce);
    /// Of the section "mode": docs/state.md.
    static constexpr uint8_t kMayRelyOnWriteThrough = 2;

    void SetUp() override {
        KeptSessionTest::SetUp();
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::ofstream(folder_ / "image").close();
        fs::resize_file(folder_ / "image", 1 << 20);
    }

    void connect_disk(const std::string& cache) {
        start({kManyRestarts, "--cache=" + cache, "--blk-file=" + (folder_ / "image").string()});
        frontend_.emplace(connect());
        agree();
    }

    void agree() { ASSERT_TRUE(driver::negotiate(*frontend_, {.protocol_features = kWithState})); }

    [[nodiscard]] uint8_t writeback() {
        const auto byte = frontend_->get_config(kWriteback, 1);
        EXPECT_TRUE(byte) << daemon_->complained();
        return byte ? std::to_integer<uint8_t>((*byte)[0]) : 0xff;
    }

    void write_writeback(uint8_t value) {
        const auto byte = static_cast<std::byte>(value);
        ASSERT_EQ(frontend_->set_config(kWriteback, std::span(&byte, 1)), Answer::kAccepted);
    }

    [[nodiscard]] uint8_t mode() {
        const DeviceState state = parsed(save_state(*frontend_));
        EXPECT_FALSE(state.sections.empty());
        return state.sections.empty() ? uint8_t{0xff}
                                      : std::to_integer<uint8_t>(state.sections[0].bytes[0]);
    }

    std::optional<Frontend> frontend_;
};

TEST_F(KeptConfigurationTest, WhatTheDriverWroteStays) {
    connect_disk("writeback");
    write_writeback(0);
    kill_worker();
    EXPECT_EQ(writeback(), 0);
    write_writeback(1);
    kill_worker();
    EXPECT_EQ(writeback(), 1);
}

// Nobody is there who could remove it: the program has not come so far.
TEST_F(KeptConfigurationTest, AProgramThatCannotStartAgainLeavesNoSocket) {
    connect_disk("writeback");
    fs::remove(folder_ / "image");
    ASSERT_EQ(::kill(worker(), SIGKILL), 0);
    EXPECT_EQ(daemon_->wait(), kFailed) << daemon_->complained();
    EXPECT_FALSE(socket_exists());
}

// A driver that was shown 0 does not flush, whatever was written before the reset.
TEST_F(KeptConfigurationTest, WhatAResetMadeOfItStays) {
    connect_disk("writethrough");
    write_writeback(1);
    ASSERT_EQ(frontend_->reset_device(), Answer::kAccepted);
    agree();
    EXPECT_EQ(writeback(), 0);
    kill_worker();
    EXPECT_EQ(writeback(), 0);
}

// An operator who turns the cache on later must not lose such a driver's writes.
TEST_F(KeptConfigurationTest, ThatADriverWasShownWriteThroughStays) {
    connect_disk("writethrough");
    EXPECT_EQ(mode() & kMayRelyOnWriteThrough, 0);
    EXPECT_EQ(writeback(), 0);
    kill_worker();
    EXPECT_EQ(mode() & kMayRelyOnWriteThrough, kMayRelyOnWriteThrough);
}

}  // namespace
}  // namespace outrigger::testing
