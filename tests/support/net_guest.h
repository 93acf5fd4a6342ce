// SPDX-License-Identifier: Apache-2.0
/// A guest's network driver, as far as tests need one: it sends any frame behind any header, right
/// or wrong, in buffers of any shape, and hands out what it receives one frame after the other.
/// Headers are laid out by the kernel's header, not by the device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/linux_virtio_net.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

struct NetGuestOptions {
    bool packed = false;
    bool event_idx = true;
    bool in_order = false;
    bool version_1 = true;
    uint16_t queue_pairs = 1;
    uint16_t receive_buffers = 64;
    uint32_t receive_bytes = 1526;  ///< of one buffer, header included
    /// Bits of the device that it takes where they are offered.
    uint64_t features = ~uint64_t{0};
    bool enable = true;
    bool control_queue = false;  ///< the ring behind those of the pairs
    bool device_state = false;   ///< takes DEVICE_STATE
};

struct NetFrame {
    virtio_net_hdr_v1 header{};
    std::string bytes{};
    size_t buffers = 0;  ///< that it came in
};

/// Used from the test's thread. The rings run from construction on.
class NetGuest final {
  public:
    NetGuest(driver::Frontend frontend, const NetGuestOptions& options);

    /// Sends it behind the header, in pieces of these lengths (the rest in one), and waits until
    /// the device has given the buffers back. False: it did not.
    [[nodiscard]] bool send(std::string_view frame,
                            const virtio_net_hdr_v1& header = {},
                            std::span<const uint32_t> pieces = {},
                            uint16_t pair = 0);

    /// Any bytes, header included.
    [[nodiscard]] bool send_raw(std::string_view bytes,
                                std::span<const uint32_t> pieces = {},
                                uint16_t pair = 0);

    /// Makes it available, and does not wait. False: there is no room.
    [[nodiscard]] bool post_frame(std::string_view frame,
                                  uint16_t pair = 0,
                                  const virtio_net_hdr_v1& header = {});
    /// So many that were posted are back, within kPatience.
    [[nodiscard]] bool await_posted(size_t count, uint16_t pair = 0);
    /// How many that were posted are back by now.
    [[nodiscard]] size_t take_posted(uint16_t pair = 0);

    /// The next frame; nothing when none comes within kPatience.
    [[nodiscard]] std::optional<NetFrame> receive(uint16_t pair = 0);
    /// What is there already.
    [[nodiscard]] std::optional<NetFrame> receive_now(uint16_t pair = 0);

    /// A command on the control queue, in pieces of these lengths, and room for so many bytes of
    /// answer; the first of them, or nothing where none came.
    [[nodiscard]] std::optional<uint8_t> command(std::string_view bytes,
                                                 uint32_t answer_bytes = 1,
                                                 std::span<const uint32_t> pieces = {});

    /// From now on buffers that were filled stay with the driver, until post_buffers().
    void hold_buffers() { holds_ = true; }

    void post_buffers();

    /// One buffer more than there were.
    void add_buffer(uint16_t pair = 0);

    /// Of the header before each frame.
    [[nodiscard]] size_t header_bytes() const { return header_bytes_; }

    /// Buffers that came back without a byte in them.
    [[nodiscard]] size_t empty_buffers() const { return empty_buffers_; }

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] driver::DriverQueue& receive_queue(uint16_t pair = 0) {
        return running_.queues.at(size_t{2} * pair);
    }

    [[nodiscard]] driver::DriverQueue& transmit_queue(uint16_t pair = 0) {
        return running_.queues.at(size_t{2} * pair + 1);
    }

    [[nodiscard]] driver::DriverQueue& control_queue() { return running_.queues.back(); }

    [[nodiscard]] FeatureSet features() const { return running_.agreement.features; }

    [[nodiscard]] bool is_up() const { return is_up_; }

  private:
    struct Buffer {
        GuestAddr address{};
        uint16_t pair = 0;
    };

    void post(size_t buffer);
    /// Writes them for the device, and says where they are.
    [[nodiscard]] std::vector<driver::Segment> lay_out(std::string_view bytes,
                                                       std::span<const uint32_t> pieces);
    [[nodiscard]] std::string header_bytes_of(const virtio_net_hdr_v1& header) const;

    NetGuestOptions options_;
    driver::Frontend frontend_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    bool is_up_ = false;
    bool holds_ = false;
    bool merges_ = false;
    size_t header_bytes_ = sizeof(virtio_net_hdr_v1);
    size_t empty_buffers_ = 0;
    std::vector<Buffer> buffers_;
    std::deque<size_t> held_;
    GuestAddr transmit_{};
    GuestAddr answer_{};
    GuestAddr posted_{};
    uint64_t posted_bytes_ = 0;
};

}  // namespace outrigger::testing
