// SPDX-License-Identifier: Apache-2.0
#include "tests/states/vsock_samples.h"

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/state/device_state.h"

#include "devices/vsock/vsock_state.h"

namespace outrigger::testing {
namespace {

constexpr uint32_t kVsock = 19;
constexpr unsigned kSeqpacket = 1;
constexpr unsigned kEventIdx = 29;
constexpr unsigned kVersion1 = 32;

}  // namespace

/// A guest with a connection of each type, from the host and to another guest.
std::map<std::string, std::string> sample_vsock_states() {
    const vsock::VsockState state{.guest_cid = 7,
                                  .next_port = 0x4000'0001,
                                  .connections = {{.peer_cid = 2,
                                                   .peer_port = 0x4000'0000,
                                                   .guest_port = 22,
                                                   .type = vsock::SocketType::kStream},
                                                  {.peer_cid = 0xffff'fffe,
                                                   .peer_port = 5000,
                                                   .guest_port = 0xffff'fffe,
                                                   .type = vsock::SocketType::kSeqpacket}}};
    return {{"v1/vsock.state",
             encode_state({.device_id = kVsock,
                           .features = FeatureSet::of({kSeqpacket, kEventIdx, kVersion1}),
                           .queues = {{.index = 0, .size = 128, .next_available = 128},
                                      {.index = 1, .size = 128, .next_available = 3},
                                      {.index = 2, .size = 128, .next_available = 0}},
                           .sections = vsock::write_vsock_state(state)})
                 .value()}};
}

}  // namespace outrigger::testing
