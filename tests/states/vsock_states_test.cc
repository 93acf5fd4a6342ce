// SPDX-License-Identifier: Apache-2.0
// Kept states of the socket device, which not every build has.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include "vhost-user-backend/state/device_state.h"
#include "vhost-user-backend/state/section.h"

#include "devices/vsock/vsock_state.h"

namespace outrigger::testing {
namespace {

TEST(KeptStates, OfASocketDeviceAreLoaded) {
    const char* const folder = std::getenv("OUTRIGGER_STATES");
    ASSERT_NE(folder, nullptr) << "OUTRIGGER_STATES names the folder of the kept states";
    std::ifstream file(std::filesystem::path(folder) / "v1/vsock.state", std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    const auto state = parse_state(std::as_bytes(std::span(bytes)));
    ASSERT_TRUE(state);
    EXPECT_EQ(state->device_id, 19U);
    EXPECT_TRUE(state->features->has(1));
    ASSERT_EQ(state->queues.size(), 3U);
    EXPECT_EQ(state->queues[1].next_available, 3);
    const auto known = select_sections(state->sections, vsock::kVsockSections);
    ASSERT_TRUE(known);
    const auto read = vsock::read_vsock_state(known->sections);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->guest_cid, 7U);
    EXPECT_EQ(read->next_port, 0x4000'0001U);
    ASSERT_EQ(read->connections.size(), 2U);
    EXPECT_EQ(read->connections[0],
              (vsock::ConnectionKey{.peer_cid = 2,
                                    .peer_port = 0x4000'0000,
                                    .guest_port = 22,
                                    .type = vsock::SocketType::kStream}));
    EXPECT_EQ(read->connections[1],
              (vsock::ConnectionKey{.peer_cid = 0xffff'fffe,
                                    .peer_port = 5000,
                                    .guest_port = 0xffff'fffe,
                                    .type = vsock::SocketType::kSeqpacket}));
}

}  // namespace
}  // namespace outrigger::testing
