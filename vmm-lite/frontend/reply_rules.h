// SPDX-License-Identifier: Apache-2.0
/// What a reply must look like before anybody looks inside. Pure: fuzzed without a socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/wire/message_codec.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger::vmm {

/// "GET_FEATURES", or the number of a request that has no name.
[[nodiscard]] std::string name_of(wire::FrontendRequest request);

/// Does the request have a reply of its own, whether or not it says NEED_REPLY?
[[nodiscard]] bool has_own_reply(wire::FrontendRequest request);

/// How many descriptors a reply to it may bring at most.
[[nodiscard]] size_t reply_fds_max(wire::FrontendRequest request);

/// Checks the number, size and descriptors of `reply` to `request`; with `acknowledges` it is the
/// u64 that NEED_REPLY asks for. The stream has checked version and reply flag. An error is a
/// sentence about the back end.
[[nodiscard]] Result<void> check_reply(wire::FrontendRequest request,
                                       bool acknowledges,
                                       const wire::Message& reply);

/// Payloads of replies that check_reply() has let through.
[[nodiscard]] uint64_t u64_of(const wire::Message& reply);
[[nodiscard]] wire::VringState vring_state_of(const wire::Message& reply);

/// The index that GET_VRING_BASE answered for the ring: it must be that ring's, and fit its format.
[[nodiscard]] Result<uint32_t> parse_vring_base(const wire::Message& reply,
                                                uint32_t queue,
                                                bool packed);

/// The configuration space from GET_CONFIG of [0, bytes); empty when the back end refused.
[[nodiscard]] Result<std::vector<std::byte>> parse_config(const wire::Message& reply,
                                                          uint32_t bytes);

/// A buffer as GET_INFLIGHT_FD describes it.
struct InflightBuffer {
    wire::Inflight description{};
    UniqueFd fd{};
};

/// Takes the descriptor out of `reply`. Checks that it is a file which holds what the description
/// says, for the queues that were asked for. An empty buffer: the back end has none to give.
[[nodiscard]] Result<InflightBuffer> take_inflight(wire::Message& reply,
                                                   uint16_t queue_count,
                                                   uint16_t queue_size);

/// The sizes of the shared memory regions, by id; 0 is a region that is not there.
[[nodiscard]] Result<std::vector<uint64_t>> parse_shmem_config(const wire::Message& reply);

}  // namespace outrigger::vmm
