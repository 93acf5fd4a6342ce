// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_state.h"

#include <gtest/gtest.h>

namespace outrigger::vsock {
namespace {

VsockState example() {
    return {.guest_cid = 7,
            .next_port = 1234,
            .connections = {
                {.peer_cid = 2, .peer_port = 10, .guest_port = 20, .type = SocketType::kSeqpacket},
                {.peer_cid = 2, .peer_port = 11, .guest_port = 21, .type = SocketType::kStream}}};
}

TEST(VsockState, IsReadAsItWasWritten) {
    const auto state = read_vsock_state(write_vsock_state(example()));
    ASSERT_TRUE(state);
    EXPECT_EQ(state->guest_cid, 7U);
    EXPECT_EQ(state->next_port, 1234U);
    EXPECT_EQ(state->connections, example().connections);
}

TEST(VsockState, SectionsOfAnotherSizeAreRefused) {
    for (const size_t section : {0U, 1U}) {
        auto sections = write_vsock_state(example());
        sections[section].bytes.pop_back();
        EXPECT_FALSE(read_vsock_state(sections));
        sections.erase(sections.begin() + static_cast<std::ptrdiff_t>(section));
        EXPECT_FALSE(read_vsock_state(sections));
    }
}

TEST(VsockState, UnknownTypeIsRefused) {
    auto sections = write_vsock_state(example());
    sections[1].bytes[16] = std::byte{3};
    EXPECT_FALSE(read_vsock_state(sections));
}

}  // namespace
}  // namespace outrigger::vsock
