// SPDX-License-Identifier: Apache-2.0
/// A guest's socket driver, as far as tests need one: it sends any packet, right or wrong, in
/// buffers of any shape, and hands out what it receives one packet after the other. Packets are
/// laid out by the kernel's header, not by the device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <linux/virtio_vsock.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

struct VsockGuestOptions {
    bool packed = false;
    uint16_t queue_count = 3;
    uint64_t cid = 7;
    uint16_t receive_buffers = 32;
    uint32_t receive_bytes = 3776;  ///< of one buffer, header included, as Linux has them
    uint32_t credit = 256 * 1024;   ///< that it gives for each connection
    /// Bits 0 to 23 that it takes.
    uint64_t device_features = 7;
};

struct VsockPacket {
    virtio_vsock_hdr header{};
    std::string payload{};

    [[nodiscard]] uint16_t op() const { return header.op; }
};

/// Used from the test's thread. The rings run from construction on.
class VsockGuest final {
  public:
    VsockGuest(driver::Frontend frontend, const VsockGuestOptions& options);

    /// A header from `port` of the guest to `peer_port` of the host.
    [[nodiscard]] virtio_vsock_hdr header(uint16_t op, uint32_t port, uint32_t peer_port) const;

    /// Sends it in pieces of these lengths (the rest in one), and waits until the device has given
    /// the buffers back. False: it did not.
    [[nodiscard]] bool send(const virtio_vsock_hdr& header,
                            std::string_view payload = {},
                            std::span<const uint32_t> pieces = {});

    /// Any bytes.
    [[nodiscard]] bool send_raw(std::string_view bytes, std::span<const uint32_t> pieces = {});

    /// A header of `op`, with what it needs and nothing else.
    [[nodiscard]] bool send_op(uint16_t op,
                               uint32_t port,
                               uint32_t peer_port,
                               uint16_t type = VIRTIO_VSOCK_TYPE_STREAM,
                               uint32_t flags = 0);
    [[nodiscard]] bool send_data(uint32_t port,
                                 uint32_t peer_port,
                                 std::string_view payload,
                                 uint16_t type = VIRTIO_VSOCK_TYPE_STREAM,
                                 uint32_t flags = 0);

    /// The next packet; nothing when none comes within kPatience.
    [[nodiscard]] std::optional<VsockPacket> receive();
    /// What is there already.
    [[nodiscard]] std::optional<VsockPacket> receive_now();
    /// The next that is not of flow control.
    [[nodiscard]] std::optional<VsockPacket> receive_event();
    /// The operation of that; 0 when none comes.
    [[nodiscard]] uint16_t receive_op();
    /// So many bytes of data packets; less when they do not come. Credit is given back.
    [[nodiscard]] std::string receive_bytes(size_t bytes);

    /// From now on buffers that were filled stay with the driver, until post_buffers().
    void hold_buffers() { holds_ = true; }

    void post_buffers();

    /// Bytes that the guest says that it has taken out of its buffer.
    uint32_t forwarded = 0;
    /// Of each packet that it sends.
    uint32_t credit = 0;

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index) { return running_.queues.at(index); }

    [[nodiscard]] bool is_up() const { return is_up_; }

  private:
    void post(size_t buffer);

    VsockGuestOptions options_;
    driver::Frontend frontend_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    bool is_up_ = false;
    bool holds_ = false;
    std::vector<GuestAddr> buffers_;
    std::deque<size_t> held_;
    GuestAddr transmit_{};
};

/// A listening or connected Unix socket of a program of the host.
class HostSocket final {
  public:
    explicit HostSocket(UniqueFd fd) : fd_(std::move(fd)) {}

    [[nodiscard]] static HostSocket listen_at(const std::string& path, int type, int backlog = 8);
    [[nodiscard]] static HostSocket connect_to(const std::string& path, int type);

    /// A connection within kPatience; an invalid one when there is none.
    [[nodiscard]] HostSocket accept() const;

    void send(std::string_view text) const;
    /// With a descriptor beside it, which the receiver may take.
    void send_descriptor(std::string_view text, int fd) const;
    /// So many bytes, or what came before the end or kPatience; of a SEQPACKET socket a message.
    [[nodiscard]] std::string receive(size_t bytes) const;
    /// Does its end come within kPatience, with nothing before it?
    [[nodiscard]] bool ends() const;
    /// Is there something to read, or the end, right now?
    [[nodiscard]] bool has_news() const;

    void shut_down(int how) const;

    void close() { fd_.reset(); }

    [[nodiscard]] int fd() const { return fd_.get(); }

    [[nodiscard]] bool valid() const { return fd_.valid(); }

  private:
    UniqueFd fd_;
};

}  // namespace outrigger::testing
