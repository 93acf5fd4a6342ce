// SPDX-License-Identifier: Apache-2.0
// Requests that outlive the one who took them: a ring that is stopped with GET_VRING_BASE_INFLIGHT
// or GET_VRING_BASE_SKIP_DRAIN, and a daemon that is killed.
#include <string>
#include <vector>

#include <signal.h>
#include <sys/resource.h>

#include "vhost-user-backend/base/mapping.h"

#include "tests/integration/blk_control.h"

namespace outrigger::testing {
namespace {

using driver::Answer;
using wire::ProtocolFeature;

constexpr uint64_t kLimit = uint64_t{8} << 20;
constexpr uint64_t kOffset = 2 * kLimit;

class BlkInflight : public BlkControlTest {
  protected:
    /// From here on the host fails writes behind kLimit with EFBIG.
    void let_writes_fail() const { set_file_limit(kLimit); }

    void heal() const { set_file_limit(RLIM_INFINITY); }

    void set_file_limit(rlim_t bytes) const {
        const rlimit limit{.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
        ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    }

    /// A guest whose ring notes what is in flight in a buffer that the front end has.
    ControlGuest connect_with(FeatureSet more = {}) {
        ControlGuest guest(connect_frontend(), more.with(bit(ProtocolFeature::kInflightShmfd)));
        EXPECT_TRUE(guest.queue().stop(guest.frontend()));
        auto region = guest.frontend().get_inflight_fd(1, 256);
        EXPECT_TRUE(region);
        region_ = *std::move(region);
        EXPECT_TRUE(guest.start_queue());
        return guest;
    }

    void hold_three(ControlGuest& guest) {
        let_writes_fail();
        for (uint32_t slot = 0; slot < 3; ++slot) {
            guest.submit(slot, VIRTIO_BLK_T_OUT, kOffset + slot * uint64_t{4096}, 4096, 7);
        }
        ASSERT_TRUE(eventually([&] { return block().state() == v1::BlockDevice::STOPPED; }));
    }

    void expect_answers_to_three(ControlGuest& guest) {
        for (int i = 0; i < 3; ++i) {
            const auto slot = guest.wait_answer();
            ASSERT_TRUE(slot);
            EXPECT_EQ(guest.status(*slot), VIRTIO_BLK_S_OK);
        }
        EXPECT_FALSE(guest.queue().poll_used());
        EXPECT_TRUE(backing_.holds(kOffset, 3 * 4096, 7));
        EXPECT_EQ(guest.request(VIRTIO_BLK_T_IN, kOffset), VIRTIO_BLK_S_OK);
    }

    driver::InflightRegion region_;
};

TEST_F(BlkInflight, StopThatSuspendsLeavesRequestsUnanswered) {
    start({"--on-error=stop"});
    ControlGuest guest =
        connect_with(FeatureSet::of({bit(ProtocolFeature::kGetVringBaseInflight)}));
    hold_three(guest);
    const auto base = guest.queue().stop(guest.frontend());
    ASSERT_TRUE(base);
    EXPECT_GE(*base, 1U);  // as many as were taken before the first one failed
    EXPECT_FALSE(guest.queue().poll_used());
    EXPECT_EQ(guest.status(0), ControlGuest::kUnanswered);
    EXPECT_EQ(block().held_requests(), 0U);
    heal();
    resume();
    ASSERT_TRUE(guest.start_queue());
    expect_answers_to_three(guest);
}

TEST_F(BlkInflight, FrontEndThatKnowsBothChoosesByTheRequest) {
    start({"--on-error=stop"});
    ControlGuest guest =
        connect_with(FeatureSet::of({bit(ProtocolFeature::kGetVringBaseInflight),
                                     bit(ProtocolFeature::kGetVringBaseSkipDrain)}));
    hold_three(guest);
    const wire::VringState state{.index = 0, .num = 0};
    const auto reply =
        guest.frontend().query(static_cast<uint32_t>(wire::FrontendRequest::kGetVringBaseSkipDrain),
                               std::as_bytes(std::span(&state, 1)));
    ASSERT_TRUE(reply);
    EXPECT_FALSE(guest.queue().poll_used());
    resume();
    ASSERT_TRUE(guest.start_queue());
    ASSERT_TRUE(eventually([&] { return block().held_requests() > 0; }));
    // The other one drains: the policy gives the requests back with their errors.
    ASSERT_TRUE(guest.queue().stop(guest.frontend()));
    EXPECT_TRUE(guest.queue().poll_used());
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkInflight, WithoutABufferOfTheFrontEndRequestsAreAnswered) {
    start({"--on-error=stop"});
    ControlGuest guest(connect_frontend(),
                       FeatureSet::of({bit(ProtocolFeature::kInflightShmfd),
                                       bit(ProtocolFeature::kGetVringBaseInflight)}));
    hold_three(guest);
    ASSERT_TRUE(guest.queue().stop(guest.frontend()));
    EXPECT_TRUE(guest.queue().poll_used());
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlkInflight, RequestsOfADaemonThatWasKilledAreServedByTheNext) {
    start({"--on-error=stop"});
    ControlGuest guest = connect_with();
    hold_three(guest);
    daemon_->send_signal(SIGKILL);
    ASSERT_EQ(daemon_->wait(), (Ended{.signal = SIGKILL}));
    start();
    ASSERT_TRUE(guest.go_over_to(connect_frontend()));
    ASSERT_EQ(guest.frontend().set_inflight_fd(region_.description, region_.fd.get()),
              Answer::kAccepted);
    ASSERT_TRUE(guest.start_queue());  // with the used index as base, which is 0
    expect_answers_to_three(guest);
}

// It keeps the buffer, and its guest is not to know that it was away.
TEST_F(BlkInflight, RequestsOfAFrontEndThatComesBackAreServedThen) {
    start({"--on-error=stop"});
    ControlGuest guest = connect_with();
    hold_three(guest);
    ASSERT_TRUE(guest.go_over_to(connect_frontend()));
    EXPECT_FALSE(guest.queue().poll_used());
    heal();
    ASSERT_EQ(guest.frontend().set_inflight_fd(region_.description, region_.fd.get()),
              Answer::kAccepted);
    ASSERT_TRUE(guest.start_queue());
    expect_answers_to_three(guest);
}

TEST_F(BlkInflight, RequestsOfADaemonThatWasEndedAreServedByTheNext) {
    start({"--on-error=stop"});
    ControlGuest guest = connect_with();
    hold_three(guest);
    daemon_->send_signal(SIGTERM);
    ASSERT_EQ(daemon_->wait(), Ended{.status = 0});
    EXPECT_FALSE(guest.queue().poll_used());
    start();
    ASSERT_TRUE(guest.go_over_to(connect_frontend()));
    ASSERT_EQ(guest.frontend().set_inflight_fd(region_.description, region_.fd.get()),
              Answer::kAccepted);
    ASSERT_TRUE(guest.start_queue());
    expect_answers_to_three(guest);
}

// Nobody would take them up again.
TEST_F(BlkInflight, RequestsOfAFrontEndThatLeavesWithoutABufferAreAnswered) {
    start({"--on-error=stop"});
    ControlGuest guest(connect_frontend());
    hold_three(guest);
    ASSERT_TRUE(guest.go_over_to(connect_frontend()));
    EXPECT_TRUE(guest.queue().poll_used());
    EXPECT_EQ(guest.status(0), VIRTIO_BLK_S_IOERR);
}

// --- More than a disk that fails takes before it stops -------------------------------------------

class BlkInflightMany : public BlkInflight {
  protected:
    static constexpr uint32_t kMany = 24;

    /// A guest with so many writes, which a process had in hand when it was killed, and the process
    /// that comes after it, whose host fails them all.
    ControlGuest leave_many(const std::vector<std::string>& options) {
        // Reads might pass, so those that wait are off the ring.
        start({"--limit-write-ops=1"});
        ControlGuest guest =
            connect_with(FeatureSet::of({bit(ProtocolFeature::kGetVringBaseSkipDrain)}));
        for (uint32_t slot = 0; slot < kMany; ++slot) {
            guest.submit(slot, VIRTIO_BLK_T_OUT, kOffset + slot * uint64_t{4096}, 4096, 7);
        }
        EXPECT_TRUE(eventually([&] { return noted() == kMany - 1; }));
        EXPECT_EQ(guest.wait_answer(), std::optional<uint32_t>(0));
        daemon_->send_signal(SIGKILL);
        EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGKILL}));
        start(options);
        let_writes_fail();
        EXPECT_TRUE(guest.go_over_to(connect_frontend()));
        EXPECT_EQ(guest.frontend().set_inflight_fd(region_.description, region_.fd.get()),
                  Answer::kAccepted);
        EXPECT_TRUE(guest.start_queue());
        return guest;
    }

    /// Requests that the buffer says are in flight.
    [[nodiscard]] uint32_t noted() const {
        constexpr size_t kHeaderBytes = 16;
        constexpr size_t kEntryBytes = 16;
        const auto log =
            Mapping::map_file(region_.fd.get(), 0, region_.description.mmap_size).value();
        uint32_t count = 0;
        for (size_t entry = 0; entry < 256; ++entry) {
            count += log.data()[kHeaderBytes + entry * kEntryBytes] == std::byte{1} ? 1U : 0U;
        }
        return count;
    }

    void expect_answers_to_the_rest(ControlGuest& guest, int status) {
        for (uint32_t i = 1; i < kMany; ++i) {
            const auto slot = guest.wait_answer();
            ASSERT_TRUE(slot) << "answer " << i;
            EXPECT_EQ(guest.status(*slot), status);
        }
        EXPECT_FALSE(guest.queue().poll_used());
    }
};

TEST_F(BlkInflightMany, StopAnswersThoseThatTheDiskHasNotComeTo) {
    ControlGuest guest = leave_many({"--on-error=stop", "--limit-ops=1"});
    ASSERT_TRUE(eventually([&] { return block().state() == v1::BlockDevice::STOPPED; }));
    ASSERT_LT(block().held_requests(), kMany - 1);
    ASSERT_TRUE(guest.queue().stop(guest.frontend()));
    expect_answers_to_the_rest(guest, VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(noted(), 0U);
}

TEST_F(BlkInflightMany, StopBeginsThoseThatWaitForALimit) {
    ControlGuest guest = leave_many({"--limit-ops=1"});
    heal();
    ASSERT_TRUE(guest.queue().stop(guest.frontend()));
    EXPECT_EQ(noted(), 0U);
    for (uint32_t i = 1; i < kMany; ++i) {
        EXPECT_TRUE(guest.wait_answer());
    }
    EXPECT_TRUE(backing_.holds(kOffset + 4096 * 16, 8 * 4096, 7));
}

TEST_F(BlkInflightMany, StopOfAPausedDiskFailsThem) {
    ControlGuest guest = leave_many({"--on-error=stop", "--limit-ops=1"});
    ASSERT_TRUE(eventually([&] { return block().state() == v1::BlockDevice::STOPPED; }));
    EXPECT_TRUE(ask([](v1::Request& request) { request.mutable_pause(); }).has_done());
    heal();  // they would succeed
    ASSERT_TRUE(guest.queue().stop(guest.frontend()));
    expect_answers_to_the_rest(guest, VIRTIO_BLK_S_IOERR);
    EXPECT_TRUE(backing_.holds(kOffset + 4096, (kMany - 1) * 4096, 0)) << "nothing touched it";
}

TEST_F(BlkInflightMany, SuspendingStopLeavesThemToTheNext) {
    ControlGuest guest = leave_many({"--on-error=stop", "--limit-ops=1"});
    ASSERT_TRUE(eventually([&] { return block().state() == v1::BlockDevice::STOPPED; }));
    const wire::VringState state{.index = 0, .num = 0};
    EXPECT_TRUE(
        guest.frontend().query(static_cast<uint32_t>(wire::FrontendRequest::kGetVringBaseSkipDrain),
                               std::as_bytes(std::span(&state, 1))));
    EXPECT_FALSE(guest.queue().poll_used());
    EXPECT_EQ(noted(), kMany - 1);
    heal();
    resume();
    ASSERT_TRUE(guest.start_queue());
    expect_answers_to_the_rest(guest, VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace outrigger::testing
