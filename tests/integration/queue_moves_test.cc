// SPDX-License-Identifier: Apache-2.0
// A ring that runs goes to another worker: nothing is lost, and whatever the front end asks for
// meanwhile is answered as if it had stayed.
#include "tests/integration/queue_moves.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/session_test.h"

namespace outrigger::testing {
namespace {

constexpr size_t kWorkers = 3;
constexpr uint16_t kQueues = 4;

class QueueMoves : public SessionTest {
  protected:
    explicit QueueMoves(const SessionOptions& session = {})
        : SessionTest({.queue_count = kQueues}, {.worker_count = kWorkers, .session = session}) {}

    [[nodiscard]] std::optional<size_t> worker_of(size_t queue_index) {
        return host_->queue_workers().at(queue_index);
    }

    /// One request that the device keeps.
    void hold_one() {
        device_.hold(true);
        buffers().fill();
        ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
        queue().publish_and_kick();
        ASSERT_TRUE(eventually([this] { return device_.held() == 1; }));
    }

    void release_one() {
        device_.hold(false);
        device_.release_held(QueueIndex{0});
        EXPECT_TRUE(eventually([this] { return queue().poll_used().has_value(); }));
        EXPECT_TRUE(buffers().answered());
    }

    void restart(size_t index) {
        queue(index).reset();
        EXPECT_EQ(queue(index).start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(static_cast<uint32_t>(index), 1), Answer::kAccepted);
    }
};

TEST_F(QueueMoves, RingsStartOnOneWorkerAfterTheOther) {
    run({.queue_count = kQueues});

    EXPECT_EQ(host_->queue_workers(), (std::vector<std::optional<size_t>>{0, 1, 2, 0}));
}

TEST_F(QueueMoves, RingGoesOnOnAnotherWorker) {
    run({.queue_count = 2});
    expect_echo(0);

    EXPECT_TRUE(host_->move_queue(0, 2));
    EXPECT_EQ(worker_of(0), 2U);
    EXPECT_EQ(worker_of(1), 1U);
    EXPECT_EQ(counters().queues_moved.value(), 1U);
    EXPECT_EQ(device_.queues_running(), 2U);
    expect_echo(0);
    expect_echo(1);
}

TEST_F(QueueMoves, RingMovesBackAndForth) {
    run();
    for (size_t i = 1; i < 20; ++i) {
        EXPECT_TRUE(host_->move_queue(0, i % kWorkers));
        expect_echo(0);
    }
}

TEST_F(QueueMoves, RequestThatCameWithoutAWorkerIsServed) {
    run();
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    auto moved = host_->begin_move(0, 1);
    queue().publish_and_kick();

    EXPECT_TRUE(moved.get());
    EXPECT_TRUE(eventually([this] { return queue().poll_used().has_value(); }));
    EXPECT_TRUE(buffers().answered());
}

TEST_F(QueueMoves, WhatCannotBeIsRefused) {
    run({.queue_count = 2});

    EXPECT_FALSE(host_->move_queue(kQueues, 1)) << "no such ring";
    EXPECT_FALSE(host_->move_queue(0, kWorkers)) << "no such worker";
    EXPECT_FALSE(host_->move_queue(2, 0)) << "a ring that does not run";
    EXPECT_FALSE(host_->move_queue(0, 0)) << "it is there";
    EXPECT_EQ(counters().queues_moved.value(), 0U);
    expect_echo(0);
}

TEST_F(QueueMoves, RingThatIsDisabledMovesAndIsServedOnceItIsEnabled) {
    run();
    ASSERT_EQ(frontend().set_vring_enable(0, 0), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(host_->move_queue(0, 1));
    give_others_a_moment();
    EXPECT_FALSE(queue().poll_used());

    ASSERT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    EXPECT_TRUE(eventually([this] { return queue().poll_used().has_value(); }));
}

TEST_F(QueueMoves, RingWhoseRequestsTakeTooLongStaysAndGoesOn) {
    run();
    hold_one();

    EXPECT_FALSE(host_->move_queue(0, 1));
    EXPECT_EQ(worker_of(0), 0U);
    EXPECT_EQ(counters().queue_moves_failed.value(), 1U);
    release_one();
    expect_echo(0);
    EXPECT_TRUE(host_->move_queue(0, 1));
    expect_echo(0);
}

TEST_F(QueueMoves, SecondMoveDuringTheFirstIsRefused) {
    run();
    hold_one();
    auto first = host_->begin_move(0, 1);

    EXPECT_FALSE(host_->move_queue(0, 2));
    release_one();
    (void)first.get();
    expect_echo(0);
}

TEST_F(QueueMoves, GetVringBaseDuringAMoveWaitsForTheRequestsAndCountsThem) {
    run();
    expect_echo(0);
    hold_one();
    auto moved = host_->begin_move(0, 1);
    auto base = std::async(std::launch::async, [this] { return frontend().get_vring_base(0); });
    give_others_a_moment();
    release_one();

    const auto stopped = base.get();
    ASSERT_TRUE(stopped);
    EXPECT_EQ(*stopped, 2U);
    (void)moved.get();
    EXPECT_EQ(device_.queues_running(), 0U);
    restart(0);
    expect_echo(0);
}

TEST_F(QueueMoves, FrontEndThatGoesDuringAMoveEndsTheSession) {
    run({.queue_count = 2});
    hold_one();
    auto moved = host_->begin_move(0, 1);
    frontend_.reset();
    device_.hold(false);
    device_.release_held(QueueIndex{0});

    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    (void)moved.get();  // ends, whichever of the two was first
    EXPECT_EQ(device_.queues_running(), 0U);
    reconnect();
    expect_echo(0);
}

TEST_F(QueueMoves, DeviceThatRefusesTheOtherWorkerKeepsTheQueue) {
    run();
    device_.refuse_next_starts(1);

    EXPECT_FALSE(host_->move_queue(0, 1));
    EXPECT_EQ(worker_of(0), 0U);
    expect_echo(0);
    EXPECT_TRUE(host_->move_queue(0, 1));
    expect_echo(0);
}

TEST_F(QueueMoves, DeviceThatTakesTheQueueNowhereBreaksTheRingAndNoOther) {
    run({.queue_count = 2});
    device_.refuse_next_starts(2);

    EXPECT_FALSE(host_->move_queue(0, 1));
    EXPECT_TRUE(queue().wait_error(driver::after(kPatience)));
    EXPECT_TRUE(
        eventually([this] { return counters().rings_broken.value(RingError::kDevice) == 1; }));
    expect_echo(1);
    EXPECT_FALSE(host_->move_queue(0, 1)) << "a broken ring";
    EXPECT_TRUE(frontend().get_vring_base(0));
    restart(0);
    expect_echo(0);
}

TEST_F(QueueMoves, RingThatWasMovedStartsWhereItWas) {
    run();
    ASSERT_TRUE(host_->move_queue(0, 2));
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_EQ(worker_of(0), std::nullopt);

    restart(0);
    EXPECT_EQ(worker_of(0), 2U);
    expect_echo(0);
}

TEST_F(QueueMoves, WorkersOfARingThatLeftAndOneThatCameSleep) {
    run();
    ASSERT_TRUE(host_->move_queue(0, 1));
    expect_echo(0);

    for (size_t worker = 0; worker < 2; ++worker) {
        EXPECT_TRUE(eventually([&] {
            const uint64_t before = host_->worker_counters(worker).turns.value();
            give_others_a_moment();
            return host_->worker_counters(worker).turns.value() == before;
        })) << worker;
    }
    expect_echo(0);  // the kick wakes the new one
}

// --- Everything else while rings move ------------------------------------------------------------

struct Format {
    std::string name;
    driver::BringUpOptions options;
};

class QueueMovesRace : public QueueMoves, public ::testing::WithParamInterface<Format> {
  protected:
    void SetUp() override {
        options_ = GetParam().options;
        options_.queue_count = kQueues;
        run(options_);
    }

    [[nodiscard]] RestlessMover::Options everywhere() const {
        return {.queue_count = kQueues, .worker_count = kWorkers};
    }

    driver::BringUpOptions options_;
};

INSTANTIATE_TEST_SUITE_P(Formats,
                         QueueMovesRace,
                         ::testing::Values(Format{"Split", {}},
                                           Format{"Packed", {.packed = true}},
                                           Format{"InOrder", {.in_order = true}},
                                           Format{"Pipe", {.notifier = Notifier::Kind::kPipe}}),
                         [](const auto& format) { return format.param.name; });

TEST_P(QueueMovesRace, RequestsAreAnsweredRight) {
    const RestlessMover mover(*host_, everywhere());
    for (size_t round = 0; round < 500; ++round) {
        expect_echo(round % kQueues);
        ASSERT_FALSE(HasFailure());
    }
    EXPECT_TRUE(eventually([&] { return mover.moves() > 0; }));
}

TEST_P(QueueMovesRace, RingsAreDisabledStoppedAndStarted) {
    const RestlessMover mover(*host_, everywhere());
    std::minstd_rand random(3);
    for (int round = 0; round < 150; ++round) {
        const size_t index = random() % kQueues;
        const auto number = static_cast<uint32_t>(index);
        if (random() % 2 == 0) {
            EXPECT_EQ(frontend().set_vring_enable(number, 0), Answer::kAccepted);
            EXPECT_EQ(frontend().set_vring_enable(number, 1), Answer::kAccepted);
        } else {
            ASSERT_TRUE(queue(index).stop(frontend()));
            restart(index);
        }
        expect_echo(index);
        ASSERT_FALSE(HasFailure());
    }
}

TEST_P(QueueMovesRace, DescriptorsOfRingsAreReplaced) {
    const RestlessMover mover(*host_, everywhere());
    for (uint32_t round = 0; round < 150; ++round) {
        const uint32_t index = round % kQueues;
        driver::DriverQueue& ring = queue(index);
        EXPECT_EQ(frontend().set_vring_call(index, ring.call_fd()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_kick(index, ring.kick_fd()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_err(index, ring.error_fd()), Answer::kAccepted);
        expect_echo(index);
        ASSERT_FALSE(HasFailure());
    }
}

TEST_P(QueueMovesRace, MemoryComesAndGoes) {
    const RestlessMover mover(*host_, everywhere());
    for (size_t index = 0; index < kQueues; ++index) {
        (void)buffers(index);  // in the memory that stays
    }
    const driver::RegionId region =
        memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = 1 << 20}).value();
    for (size_t round = 0; round < 100; ++round) {
        EXPECT_EQ(frontend().add_mem_reg(memory_, region), Answer::kAccepted);
        expect_echo(round % kQueues);
        EXPECT_EQ(frontend().rem_mem_reg(memory_, region), Answer::kAccepted);
        expect_echo(round % kQueues);
        ASSERT_FALSE(HasFailure());
    }
}

TEST_P(QueueMovesRace, DeviceIsReset) {
    const RestlessMover mover(*host_, everywhere());
    for (int round = 0; round < 30; ++round) {
        EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
        EXPECT_EQ(device_.queues_running(), 0U);
        for (size_t index = 0; index < kQueues; ++index) {
            restart(index);
            expect_echo(index);
        }
        ASSERT_FALSE(HasFailure());
    }
}

TEST_P(QueueMovesRace, FrontEndsComeAndGo) {
    const RestlessMover mover(*host_, everywhere());
    for (int round = 0; round < 30; ++round) {
        expect_echo(static_cast<size_t>(round) % kQueues);
        frontend_.reset();
        ASSERT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
        EXPECT_EQ(device_.queues_running(), 0U);
        reconnect();
        run(options_);
        ASSERT_FALSE(HasFailure());
    }
}

// --- The balancer --------------------------------------------------------------------------------

class BalancedQueues : public QueueMoves {
  protected:
    BalancedQueues() : QueueMoves({.balances_queues = true}) {}
};

TEST_F(BalancedQueues, BusyQueuesOfOneWorkerPart) {
    // Rings 0 and 3 start on the same worker.
    run({.queue_count = kQueues});
    ASSERT_EQ(worker_of(0), worker_of(3));
    device_.spend(std::chrono::microseconds(20));
    const std::array<size_t, 2> busy{0, 3};
    const bool parted = eventually([&] {
        for (int i = 0; i < 100; ++i) {
            for (const size_t index : busy) {
                while (queue(index).try_add(buffers(index).chain(), 1)) {
                }
                queue(index).publish_and_kick();
            }
            for (const size_t index : busy) {
                while (queue(index).in_flight() > 0) {
                    (void)queue(index).poll_used();
                }
            }
        }
        return worker_of(0) != worker_of(3);
    });

    EXPECT_TRUE(parted);
    expect_echo(0);
    expect_echo(3);
}

TEST_F(BalancedQueues, QueueThatIsBusyAloneStays) {
    run({.queue_count = kQueues});
    device_.spend(std::chrono::microseconds(20));
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (std::chrono::steady_clock::now() < end) {
        while (queue(3).try_add(buffers(3).chain(), 1)) {
        }
        queue(3).publish_and_kick();
        while (queue(3).in_flight() > 0) {
            (void)queue(3).poll_used();
        }
    }

    EXPECT_EQ(counters().queues_moved.value(), 0U);
    EXPECT_EQ(worker_of(3), 0U);
}

TEST_F(BalancedQueues, ControlThreadOfAnIdleDeviceSleeps) {
    run({.queue_count = kQueues});
    for (size_t round = 0; round < 200; ++round) {
        expect_echo(round % kQueues);
    }

    EXPECT_TRUE(eventually([&] {
        const uint64_t before = host_->control_turns();
        std::this_thread::sleep_for(std::chrono::milliseconds(250));
        return host_->control_turns() == before;
    }));
}

}  // namespace
}  // namespace outrigger::testing
