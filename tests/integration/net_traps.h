// SPDX-License-Identifier: Apache-2.0
/// The fixture of the network device's tests: a device whose port the test plays, and a guest that
/// works it; and the list of what other network devices fell into, or a guest or a peer may try. A
/// style test checks that each has a test that is named after it, TrapNN....
///
///  1  rings are enabled before they start, and all pairs start whether they are used or not
///  2  nothing is offered that no message would bring to us: RSS, hash reports; the control queue
///     is ours where its ring starts (net_control_test.cc), and the front end's elsewhere, where
///     what a guest stops to take is unknown to us: --merge=off (net_user_test.cc)
///  3  frames go to pairs that the driver uses, the first before it says so
///  4  a ring beyond the last is refused, and harms nothing
///  5  GET_QUEUE_NUM counts rings, two a pair and one
///  6  a ring that is not enabled throws away what is sent, and receives nothing
///  7  headers of 10 and 12 bytes, in descriptors of any shape
///  8  num_buffers is there in each frame; buffers are full but for the last, and come at once
///  9  a frame is never cut to the guest's buffers
/// 10  checksums and segments are finished for whoever cannot
/// 11  hostile headers: the frame is dropped, its ring lives
/// 12  a guest without buffers: frames wait at the host, and go on when buffers come
/// 13  a host that takes nothing: frames wait in their order, and other rings live
/// 14  a tap: queues of pairs that are disabled are given up, and what comes in one that is not is
///     read, so none is dead; one that goes harms no ring
/// 15  the MTU never changes, and no frame is longer
/// 16  the link is up, for front ends that ask
/// 17  SEND_RARP announces the guest, once, also before a ring runs
/// 19  buffers that wait for more go back when the ring stops
/// 20  peers at sockets: lengths in pieces, nonsense, stalls, partings
/// 21  an address is offered only where there is one
/// 22  memory changes while frames wait
///
/// Of the list in the design, 18, the dirty log, is the rings' (integration-dirty-log).
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "devices/net/net_device.h"
#include "tests/support/net_frames.h"
#include "tests/support/net_guest.h"
#include "tests/support/session_host.h"
#include "tests/support/wait.h"

namespace outrigger::net {

using testing::eventually;
using testing::fragment_of;
using testing::FrameOptions;
using testing::give_others_a_moment;
using testing::make_frame;
using testing::make_payload;
using testing::NetFrame;
using testing::NetGuest;
using testing::NetGuestOptions;
using testing::read_frame;

/// What came to or from the host, as a test keeps it.
struct KeptFrame {
    std::string bytes{};
    FrameOffload offload{};
};

/// A host that the test plays, from its own thread.
class PlayedPort final : public Port {
  public:
    explicit PlayedPort(const Offloads& takes) : takes_(takes) {}

    [[nodiscard]] Offloads takes() const override { return takes_; }

    void attach(EventLoop& loop, PortEvents& events) override {
        const std::lock_guard lock(mutex_);
        loop_ = &loop;
        events_ = &events;
    }

    void detach() override {
        const std::lock_guard lock(mutex_);
        loop_ = nullptr;
        awaited_ = false;
    }

    [[nodiscard]] size_t send(std::span<const Frame> frames) override {
        const std::lock_guard lock(mutex_);
        size_t taken = 0;
        for (const Frame& frame : frames) {
            if (room_ == 0) {
                ++waits_;
                break;
            }
            --room_;
            KeptFrame kept{.bytes = std::string(frame.bytes, '\0'), .offload = frame.offload};
            EXPECT_EQ(copy_front(frame, std::as_writable_bytes(std::span(kept.bytes))),
                      frame.bytes);
            sent_.push_back(std::move(kept));
            ++taken;
        }
        return taken;
    }

    [[nodiscard]] std::optional<Frame> next_frame() override {
        const std::lock_guard lock(mutex_);
        if (given_.empty()) {
            return std::nullopt;
        }
        front_ = {.iov_base = given_.front().bytes.data(), .iov_len = given_.front().bytes.size()};
        return Frame{.pieces = std::span(&front_, 1),
                     .bytes = front_.iov_len,
                     .offload = given_.front().offload};
    }

    void drop_frame() override {
        const std::lock_guard lock(mutex_);
        if (!is_endless_) {
            given_.pop_front();
        }
    }

    void await_frames() override {
        const std::lock_guard lock(mutex_);
        awaited_ = true;
        if (!given_.empty()) {
            tell();
        }
    }

    // The test's.

    void give(std::string bytes, const FrameOffload& offload = {}) {
        const std::lock_guard lock(mutex_);
        given_.push_back({.bytes = std::move(bytes), .offload = offload});
        tell();
    }

    /// The first of those given comes again and again.
    void set_endless(bool endless) {
        const std::lock_guard lock(mutex_);
        is_endless_ = endless;
    }

    /// So many at once.
    void give_many(size_t count, const std::string& bytes, const FrameOffload& offload) {
        const std::lock_guard lock(mutex_);
        given_.insert(given_.end(), count, {.bytes = bytes, .offload = offload});
        tell();
    }

    [[nodiscard]] std::optional<KeptFrame> take() {
        std::optional<KeptFrame> taken;
        EXPECT_TRUE(eventually([&] { return (taken = take_now()).has_value(); }));
        return taken;
    }

    [[nodiscard]] std::optional<KeptFrame> take_now() {
        const std::lock_guard lock(mutex_);
        if (sent_.empty()) {
            return std::nullopt;
        }
        KeptFrame frame = std::move(sent_.front());
        sent_.pop_front();
        return frame;
    }

    /// Frames that it takes from now on.
    void set_room(size_t frames) {
        const std::lock_guard lock(mutex_);
        room_ = frames;
        if (frames > 0 && loop_ != nullptr) {
            loop_->post([this] { events_->on_room(); });
        }
    }

    [[nodiscard]] size_t waits() {
        const std::lock_guard lock(mutex_);
        return waits_;
    }

    [[nodiscard]] size_t waiting() {
        const std::lock_guard lock(mutex_);
        return given_.size();
    }

  private:
    void tell() {
        if (loop_ != nullptr && std::exchange(awaited_, false)) {
            loop_->post([this] { events_->on_frames(); });
        }
    }

    const Offloads takes_;
    std::mutex mutex_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    bool awaited_ = false;
    size_t room_ = SIZE_MAX;
    size_t waits_ = 0;
    bool is_endless_ = false;
    std::deque<KeptFrame> sent_;
    std::deque<KeptFrame> given_;
    iovec front_{};
};

/// What a driver says of a frame made with these options.
inline virtio_net_hdr_v1 header_of(const FrameOptions& options, uint16_t segment_bytes = 0) {
    virtio_net_hdr_v1 header{};
    header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.csum_start = static_cast<uint16_t>(testing::transport_start_of(options));
    header.csum_offset = options.udp ? 6 : 16;
    if (segment_bytes > 0) {
        header.gso_type = options.udp   ? 5
                          : options.ip6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                        : VIRTIO_NET_HDR_GSO_TCPV4;
        header.gso_size = segment_bytes;
    }
    return header;
}

/// Of a datagram that is to become fragments of IP.
inline virtio_net_hdr_v1 fragments_header_of(const FrameOptions& options, uint16_t bytes) {
    virtio_net_hdr_v1 header = header_of(options, bytes);
    header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    return header;
}

class NetTest : public ::testing::TestWithParam<bool> {
  protected:
    ~NetTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    void serve_device(const NetOptions& options = {}, const Offloads& takes = kAllOffloads) {
        auto port = std::make_unique<PlayedPort>(takes);
        port_ = port.get();
        device_ = std::make_unique<NetDevice>(options, std::move(port));
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
    }

    void start_guest(NetGuestOptions options = {}) {
        options.packed = GetParam();
        guest_ = std::make_unique<NetGuest>(host_->connect(), options);
        ASSERT_TRUE(guest_->is_up());
    }

    void serve(const NetGuestOptions& guest = {},
               const NetOptions& options = {},
               const Offloads& takes = kAllOffloads) {
        serve_device(options, takes);
        start_guest(guest);
    }

    NetGuest& guest() { return *guest_; }

    PlayedPort& port() { return *port_; }

    [[nodiscard]] const NetCounters& counters() const { return device_->counters(); }

    /// Both ways work.
    void expect_traffic(uint16_t pair = 0) {
        const std::string frame = make_frame("ping");
        EXPECT_TRUE(guest().send(frame, {}, {}, pair));
        const auto sent = port().take();
        ASSERT_TRUE(sent);
        EXPECT_EQ(sent->bytes, frame);
        const std::string answer = make_frame("pong");
        port().give(answer);
        const auto received = guest().receive(pair);
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, answer);
    }

    PlayedPort* port_ = nullptr;
    std::unique_ptr<NetDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<NetGuest> guest_;
};

}  // namespace outrigger::net
