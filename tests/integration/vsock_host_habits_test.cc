// SPDX-License-Identifier: Apache-2.0
// Rarer things that programs of the host do.
#include <atomic>
#include <string>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

class VsockHostHabitsTest : public VsockTest {
  protected:
    /// False: this kernel's Unix sockets send nothing out of band.
    static bool send_urgently(const HostSocket& host, char byte) {
        return ::send(host.fd(), &byte, 1, MSG_OOB) == 1;
    }
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockHostHabitsTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

TEST_P(VsockHostHabitsTest, Trap14ByteOutOfBandArrivesInItsPlaceAndCostsNothing) {
    serve();
    const HostSocket host = open_from_guest();
    host.send("before");
    if (!send_urgently(host, '!')) {
        GTEST_SKIP() << "this kernel's Unix sockets send nothing out of band";
    }
    EXPECT_EQ(guest().receive_bytes(7), "before!");
    host.send("behind");
    EXPECT_EQ(guest().receive_bytes(6), "behind");
    testing::give_others_a_moment();
    const uint64_t packets = counters().packets_to_guest.value();
    testing::give_others_a_moment();
    EXPECT_LE(counters().packets_to_guest.value(), packets + 1);
}

TEST_P(VsockHostHabitsTest, Trap19EndBehindAByteOutOfBandIsTold) {
    serve();
    HostSocket host = open_from_guest();
    if (!send_urgently(host, '!')) {
        GTEST_SKIP() << "this kernel's Unix sockets send nothing out of band";
    }
    host.close();
    EXPECT_EQ(guest().receive_bytes(1), "!");
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_SHUTDOWN);
}

/// What a busy port costs is bounded by the time that its callers wait, not by how fast we are.
TEST_P(VsockHostHabitsTest, Trap12BusyPortIsNotTriedAllTheTime) {
    std::atomic<int> dials = 0;
    options_.forward.cid = 1;
    options_.forward.dial = [&](uint32_t, uint32_t) {
        ++dials;
        return Dialled{.outcome = DialOutcome::kBusy};
    };
    serve();
    ASSERT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, kGuestPort, kHostPort));
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostBusy), 1U);
    EXPECT_GT(dials, 3);
    EXPECT_LE(dials, 16);
}

}  // namespace
}  // namespace outrigger::vsock
