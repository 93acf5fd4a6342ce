// SPDX-License-Identifier: Apache-2.0
/// The fixture of tests of two guests that one program serves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {

inline constexpr uint64_t kCaller = 7;
inline constexpr uint64_t kCalled = 8;
inline constexpr uint32_t kPort = 22;

class VsockSiblingTest : public VsockTest {
  protected:
    ~VsockSiblingTest() override {
        other_guest_.reset();
        other_host_.reset();
        other_device_.reset();
    }

    /// Both guests are up. `other`: what guest kCalled lets in.
    void serve_both(const SiblingRules& mine,
                    const SiblingRules& others,
                    VsockGuestOptions options = {}) {
        options_.siblings = mine;
        serve();
        serve_other_device(others);
        start_other_guest(options);
    }

    void start_other_guest(VsockGuestOptions options = {}) {
        options.packed = GetParam();
        options.cid = kCalled;
        other_guest_ = std::make_unique<VsockGuest>(other_host_->connect(), options);
        ASSERT_TRUE(other_guest_->is_up());
    }

    void serve_other_device(const SiblingRules& rules, Keeping keeping = {}) {
        VsockOptions options;
        options.guest_cid = kCalled;
        options.uds_path = folder_ / "other";
        options.siblings = rules;
        other_device_ = make_device(options, std::move(keeping));
        other_host_ =
            std::make_unique<testing::SessionHost>(*other_device_, testing::SessionHostOptions{});
    }

    VsockGuest& other() { return *other_guest_; }

    /// From the caller to the called.
    virtio_vsock_hdr to_other(uint16_t op, uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        virtio_vsock_hdr header = guest().header(op, kGuestPort, kPort);
        header.dst_cid = kCalled;
        header.type = type;
        return header;
    }

    virtio_vsock_hdr to_caller(uint16_t op, uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        virtio_vsock_hdr header = other().header(op, kPort, kGuestPort);
        header.dst_cid = kCaller;
        header.type = type;
        return header;
    }

    void expect_refused(EndReason reason) {
        ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST)));
        const auto answer = guest().receive_event();
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->op(), VIRTIO_VSOCK_OP_RST);
        EXPECT_EQ(answer->header.src_cid, kCalled);
        EXPECT_EQ(ended(reason), 1U);
    }

    void open(uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        ASSERT_TRUE(guest().send(to_other(VIRTIO_VSOCK_OP_REQUEST, type)));
        const auto request = other().receive_event();
        ASSERT_TRUE(request);
        ASSERT_EQ(request->op(), VIRTIO_VSOCK_OP_REQUEST);
        EXPECT_EQ(request->header.src_cid, kCaller);
        EXPECT_EQ(request->header.src_port, kGuestPort);
        EXPECT_EQ(request->header.dst_port, kPort);
        ASSERT_TRUE(other().send(to_caller(VIRTIO_VSOCK_OP_RESPONSE, type)));
        const auto response = guest().receive_event();
        ASSERT_TRUE(response);
        EXPECT_EQ(response->op(), VIRTIO_VSOCK_OP_RESPONSE);
    }

    void send_message(const std::string& text, uint32_t flags) {
        virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_TYPE_SEQPACKET);
        header.len = static_cast<uint32_t>(text.size());
        header.flags = flags;
        ASSERT_TRUE(guest().send(header, text));
    }

    /// The other guest gets it, in however many packets, and the last has these flags.
    void expect_message(const std::string& text, uint32_t flags) {
        std::string got;
        uint32_t got_flags = 0;
        while (got_flags == 0) {
            const auto packet = other().receive_event();
            ASSERT_TRUE(packet);
            got += packet->payload;
            got_flags = packet->header.flags;
        }
        EXPECT_EQ(got, text);
        EXPECT_EQ(got_flags, flags);
    }

    void expect_echo_between_guests() {
        virtio_vsock_hdr header = to_other(VIRTIO_VSOCK_OP_RW);
        header.len = 4;
        ASSERT_TRUE(guest().send(header, "ping"));
        EXPECT_EQ(other().receive_bytes(4), "ping");
        header = to_caller(VIRTIO_VSOCK_OP_RW);
        header.len = 4;
        ASSERT_TRUE(other().send(header, "pong"));
        EXPECT_EQ(guest().receive_bytes(4), "pong");
    }

    std::unique_ptr<VsockDevice> other_device_;
    std::unique_ptr<testing::SessionHost> other_host_;
    std::unique_ptr<VsockGuest> other_guest_;
};

inline const SiblingRules kGroupA{.groups = {"a"}};

}  // namespace outrigger::vsock
