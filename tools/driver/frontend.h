// SPDX-License-Identifier: Apache-2.0
/// A vhost-user front end: one method a message, and raw bytes for messages that do not exist.
///
/// What a back end answers is always a value: nothing here throws or aborts for it, and nothing
/// waits longer than the time limit.
///
/// Thread-bound.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/message_codec.h"
#include "vhost-user-backend/wire/messages.h"

#include "tools/driver/cut.h"
#include "tools/driver/frontend_socket.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::driver {

/// What became of a message.
enum class Answer : uint8_t {
    kAccepted,   ///< acknowledged with 0
    kRefused,    ///< acknowledged with something else; see Frontend::last_ack()
    kUnasked,    ///< sent, and no acknowledgement was asked for
    kTimeout,    ///< no answer, or no room to send, within the time limit
    kClosed,     ///< the back end hung up
    kMalformed,  ///< an answer that is none: wrong number, size, flags, version
};

[[nodiscard]] std::string_view describe(Answer answer);

/// Sent, and not refused as far as one can know.
[[nodiscard]] constexpr bool went_well(Answer answer) {
    return answer == Answer::kAccepted || answer == Answer::kUnasked;
}

/// Which messages without a reply of their own carry NEED_REPLY.
enum class AckPolicy : uint8_t {
    kWhenNegotiated,  ///< all, from the moment REPLY_ACK is negotiated
    kAlways,
    kNever,
};

/// GET_INFLIGHT_FD's answer.
struct InflightRegion {
    wire::Inflight description{};
    UniqueFd fd;
};

/// SET_DEVICE_STATE_FD's answer.
struct DeviceStateChannel {
    uint64_t error = 0;  ///< bits 0-7: 0 is success
    UniqueFd fd;         ///< the back end's own pipe, when it gave one
};

class Frontend final {
  public:
    template <class T>
    using Reply = Result<T, Answer>;

    /// Serves a connected socket: one end of a socketpair, say.
    explicit Frontend(UniqueFd socket);

    /// Connects to the back end that listens at `path`, or will until the deadline.
    [[nodiscard]] static Result<Frontend> connect(const std::string& path, Deadline deadline);

    Frontend(Frontend&&) = default;
    Frontend& operator=(Frontend&&) = default;
    ~Frontend() = default;

    void set_time_limit(std::chrono::milliseconds limit) { time_limit_ = limit; }

    void set_ack_policy(AckPolicy policy) { ack_policy_ = policy; }

    /// From now on `cut` (borrowed; null: none) counts what is sent and ends it.
    void set_cut(Cut* cut) { cut_ = cut; }

    /// The value of the last acknowledgement that came.
    [[nodiscard]] uint64_t last_ack() const { return last_ack_; }

    [[nodiscard]] FeatureSet protocol_features() const { return protocol_features_; }

    [[nodiscard]] int socket() const { return socket_.get(); }

    // --- Messages ------------------------------------------------------------------------------

    [[nodiscard]] Reply<FeatureSet> get_features();
    Answer set_features(FeatureSet features);
    [[nodiscard]] Reply<FeatureSet> get_protocol_features();
    Answer set_protocol_features(FeatureSet features);
    Answer set_owner();
    Answer reset_owner();
    [[nodiscard]] Reply<uint64_t> get_queue_num();

    /// All regions of `memory`, at most 8.
    Answer set_mem_table(const GuestMemory& memory);
    /// These regions, whatever they say, and these descriptors.
    Answer set_mem_table(std::span<const wire::MemoryRegion> regions, std::span<const int> fds);
    [[nodiscard]] Reply<uint64_t> get_max_mem_slots();
    Answer add_mem_reg(const GuestMemory& memory, RegionId region);
    Answer add_mem_reg(const wire::MemoryRegion& region, int fd);
    Answer rem_mem_reg(const GuestMemory& memory, RegionId region);
    /// `fd` -1: none comes along.
    Answer rem_mem_reg(const wire::MemoryRegion& region, int fd = -1);

    Answer set_vring_num(uint32_t index, uint32_t size);
    Answer set_vring_base(uint32_t index, uint32_t base);
    Answer set_vring_addr(const wire::VringAddress& address);
    /// `fd` -1: the message says that none comes along.
    Answer set_vring_kick(uint32_t index, int fd);
    Answer set_vring_call(uint32_t index, int fd);
    Answer set_vring_err(uint32_t index, int fd);
    Answer set_vring_enable(uint32_t index, uint32_t enable);
    /// Stops the ring. The index that the back end answers is checked.
    [[nodiscard]] Reply<uint32_t> get_vring_base(uint32_t index);
    Answer vring_kick(uint32_t index);

    /// The bytes of the configuration space; empty when the back end says it failed.
    [[nodiscard]] Reply<std::vector<std::byte>> get_config(uint32_t offset,
                                                           uint32_t size,
                                                           uint32_t flags = 0);
    Answer set_config(uint32_t offset, std::span<const std::byte> bytes, uint32_t flags = 0);
    Answer set_status(uint64_t status);
    [[nodiscard]] Reply<uint64_t> get_status();
    Answer reset_device();

    /// 0: the back end took it.
    [[nodiscard]] Reply<uint64_t> iotlb(const wire::Iotlb& message);

    Answer send_rarp(uint64_t mac);
    Answer net_set_mtu(uint64_t mtu);
    Answer set_backend_req_fd(int fd);
    /// The object's descriptor; empty when the back end has no such object.
    [[nodiscard]] Reply<UniqueFd> get_shared_object(const wire::SharedObject& object);
    [[nodiscard]] Reply<wire::ShmemConfig> get_shmem_config();
    /// True replies come only when LOG_SHMFD is negotiated; their size differs between back ends.
    [[nodiscard]] Answer set_log_base(const wire::Log& log, int fd);
    Answer set_log_fd(int fd);
    [[nodiscard]] Reply<InflightRegion> get_inflight_fd(uint16_t queue_count, uint16_t queue_size);
    Answer set_inflight_fd(const wire::Inflight& description, int fd);
    [[nodiscard]] Reply<DeviceStateChannel> set_device_state_fd(
        const wire::DeviceStateTransfer& transfer, int fd);
    [[nodiscard]] Reply<uint64_t> check_device_state();

    // --- Any message ---------------------------------------------------------------------------

    /// A message without a reply of its own: NEED_REPLY and the acknowledgement as the policy says.
    Answer call(uint32_t request,
                std::span<const std::byte> payload = {},
                std::span<const int> fds = {});

    /// A message with a reply of its own: the reply, whose number is checked and whose size is not.
    [[nodiscard]] Reply<wire::Message> query(uint32_t request,
                                             std::span<const std::byte> payload = {},
                                             std::span<const int> fds = {});

    /// Sends a header and a payload that need not fit each other. kUnasked when all was sent.
    Answer send(const wire::Header& header,
                std::span<const std::byte> payload = {},
                std::span<const int> fds = {});

    /// Sends bytes, whatever they are.
    Answer send_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {});

    /// The next reply, whatever it answers.
    [[nodiscard]] Reply<wire::Message> receive();

    /// Waits for the acknowledgement of `request`, which was sent with send().
    Answer receive_ack(uint32_t request);

    /// Is anything there to read now, an end of stream included?
    [[nodiscard]] bool has_input() const;

    /// True when the back end hangs up within the time limit. What it sent before is dropped.
    [[nodiscard]] bool wait_closed();

    /// Sends an end of stream; replies can still be read.
    void finish_sending();

    void close() { socket_.reset(); }

  private:
    [[nodiscard]] bool asks_ack() const;
    Answer call_vring_fd(wire::FrontendRequest request, uint32_t index, int fd);
    [[nodiscard]] Reply<uint64_t> query_u64(wire::FrontendRequest request);

    UniqueFd socket_;
    wire::MessageStream stream_;
    std::chrono::milliseconds time_limit_{5000};
    AckPolicy ack_policy_ = AckPolicy::kWhenNegotiated;
    FeatureSet protocol_features_;
    uint64_t last_ack_ = 0;
    Cut* cut_ = nullptr;
};

/// Both ends of a fresh connection: a front end and the socket to hand to a back end.
[[nodiscard]] Result<std::pair<Frontend, UniqueFd>> create_connected_pair();

}  // namespace outrigger::driver
