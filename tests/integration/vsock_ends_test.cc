// SPDX-License-Identifier: Apache-2.0
// What was under way when an end of a connection closed: it arrives, or is missed with a reason.
#include <string>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

class VsockEndTest : public VsockTest {
  protected:
    /// The device looks at nothing of the host's before start_receiving().
    void stop_receiving() { ASSERT_TRUE(guest().queue(0).stop(guest().frontend())); }

    void start_receiving() { start_again(0, guest().queue(0).start_base()); }

    [[nodiscard]] bool send_message(std::string_view text) {
        return guest().send_data(
            kGuestPort, kHostPort, text, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_SEQ_EOM);
    }
};

TEST_P(VsockEndTest, MessagesOfAHostThatClosesWithoutReadingAllComeBeforeTheReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("read"));
    ASSERT_EQ(host.receive(4), "read");
    ASSERT_TRUE(send_message("never read"));
    stop_receiving();
    host.send("answer");
    host.send("another");
    host.close();
    start_receiving();
    for (const char* text : {"answer", "another"}) {
        const auto packet = guest().receive_event();
        ASSERT_TRUE(packet);
        ASSERT_EQ(packet->op(), VIRTIO_VSOCK_OP_RW);
        EXPECT_EQ(packet->payload, text);
    }
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

TEST_P(VsockEndTest, HostThatClosesWithoutReadingAllAndSentNothingIsAReset) {
    serve();
    HostSocket host = open_from_guest(VIRTIO_VSOCK_TYPE_SEQPACKET);
    ASSERT_TRUE(send_message("never read"));
    host.close();
    EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(ended(EndReason::kHostReset), 1U);
    expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockEndTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
