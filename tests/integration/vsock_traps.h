// SPDX-License-Identifier: Apache-2.0
/// The fixture of the socket device's tests: a device whose host side lies in a folder of its own,
/// and a guest that works it; and the list of what other socket devices fell into, or a guest or a
/// program of the host may try. A style test checks that each has a test that is named after it,
/// TrapNN....
///
///  1  header and payload in descriptors of any shape; each chain goes back
///  2  a payload that is not contiguous, across regions of memory
///  3  lengths beyond the buffers or 64 KiB, or on operations without payload; unknown types
///  4  credit of a guest that shrinks its buffer or claims too much
///  5  forwarded bytes are those that the host took, for each connection
///  6  credit comes with any packet
///  7  RESPONSE leaves before data
///  8  nothing to read takes no receive buffer
///  9  RST is not answered by RST; packets of no connection are
/// 10  ports of the host are not used again soon
/// 11  SHUTDOWN adds up; RST behind the drain, or in time
/// 12  a listener that is not there, is busy or of another type holds up nobody
/// 13  transmission goes on while nothing is received; resets are bounded
/// 14  a side that does not read costs no processor
/// 15  one read fills many buffers, and connections take turns
/// 16  receive buffers of any size
/// 17  foreign source addresses, unknown destinations, peers of a guest that leaves
/// 18  a guest cannot fill the log
/// 19  programs of the host that close abruptly
/// 20  the CONNECT line: bytes behind it, pieces, nonsense, silence
/// 21  paths without room for a port; sockets of other programs
/// 22  host bytes wait while rings are stopped
/// 23  what came while a ring was stopped is found without a kick
/// 24  messages that are empty, too long or too many
/// 25  the configuration, and addresses that cannot be
/// 26  a reboot ends connections and keeps listeners
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <stdlib.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "devices/vsock/hybrid_request.h"
#include "devices/vsock/vsock_device.h"
#include "tests/support/session_host.h"
#include "tests/support/vsock_guest.h"
#include "tests/support/wait.h"

namespace outrigger::vsock {

using testing::eventually;
using testing::HostSocket;
using testing::VsockGuest;
using testing::VsockGuestOptions;
using testing::VsockPacket;

inline constexpr uint32_t kGuestPort = 1111;
inline constexpr uint32_t kHostPort = 2222;

inline constexpr size_t kBytesAtOnce = 50'000;

inline std::string pattern(size_t bytes) {
    std::string text(bytes, '\0');
    uint32_t state = 12345;
    for (char& c : text) {
        state = state * 1664525 + 1013904223;
        c = static_cast<char>(state >> 24);
    }
    return text;
}

/// A keeper of sockets and of nothing else.
class SocketKeeper : public DeviceKeeper {
  public:
    bool goes_on() const override { return false; }

    bool can_hand_back() const override { return false; }

    Result<UniqueFd> keep(std::string_view /*name*/, size_t /*bytes*/) override {
        return failure(Error{.message = "not asked for"});
    }

    UniqueFd take(std::string_view /*name*/) override { return {}; }
};

class VsockTest : public ::testing::TestWithParam<bool> {
  protected:
    VsockTest() {
        std::string name = ::testing::TempDir() + "vsock-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        options_.guest_cid = 7;
        options_.uds_path = base();
    }

    ~VsockTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
        std::filesystem::remove_all(folder_);
    }

    [[nodiscard]] std::string base() const { return folder_ / "v.sock"; }

    [[nodiscard]] std::string path_of(uint32_t port) const { return port_path(base(), port); }

    /// It listens, and nobody serves it yet.
    [[nodiscard]] static std::unique_ptr<VsockDevice> make_device(const VsockOptions& options,
                                                                  Keeping keeping = {}) {
        HostListeners listeners;
        listeners.stream =
            listen_at(options.uds_path, {.type = SOCK_STREAM, .backlog = 32}).value();
        listeners.seqpacket =
            listen_at(seqpacket_path(options.uds_path), {.type = SOCK_SEQPACKET, .backlog = 32})
                .value();
        return std::make_unique<VsockDevice>(
            options,
            VsockEngine::create(options, std::move(listeners), std::move(keeping)).value());
    }

    /// No guest is there yet.
    void serve_device(Keeping keeping = {}) {
        device_ = make_device(options_, std::move(keeping));
        host_ = std::make_unique<testing::SessionHost>(*device_, testing::SessionHostOptions{});
    }

    void start_guest(VsockGuestOptions options = {}) {
        options.packed = GetParam();
        guest_ = std::make_unique<VsockGuest>(host_->connect(), options);
        ASSERT_TRUE(guest_->is_up());
    }

    void serve(VsockGuestOptions options = {}) {
        serve_device();
        start_guest(options);
    }

    void stop_serving() {
        guest_.reset();
        ASSERT_TRUE(host_->wait_closed());
        host_.reset();
        device_.reset();
    }

    /// A ring that was stopped runs again, from `base` on.
    void start_again(size_t index, uint32_t base, bool kicks = true) {
        auto& queue = guest().queue(index);
        const auto number = static_cast<uint32_t>(index);
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_base(number, base)));
        ASSERT_TRUE(driver::went_well(
            guest().frontend().set_vring_addr(queue.vring_address(guest().memory()))));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_call(number, queue.call_fd())));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_kick(number, queue.kick_fd())));
        ASSERT_TRUE(driver::went_well(guest().frontend().set_vring_enable(number, 1)));
        if (kicks) {
            queue.kick();
        }
    }

    VsockGuest& guest() { return *guest_; }

    [[nodiscard]] const VsockCounters& counters() const { return device_->counters(); }

    [[nodiscard]] uint64_t ended(EndReason reason) const { return counters().ended.value(reason); }

    /// A connection of the guest to a program that listens at kHostPort; its other end.
    HostSocket open_from_guest(uint16_t type = VIRTIO_VSOCK_TYPE_STREAM,
                               uint32_t guest_port = kGuestPort,
                               uint32_t host_port = kHostPort) {
        const HostSocket listener = HostSocket::listen_at(path_of(host_port), kind_of(type));
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_REQUEST, guest_port, host_port, type));
        EXPECT_EQ(guest().receive_op(), VIRTIO_VSOCK_OP_RESPONSE);
        HostSocket accepted = listener.accept();
        std::filesystem::remove(path_of(host_port));
        EXPECT_TRUE(accepted.valid());
        return accepted;
    }

    struct FromHost {
        HostSocket socket;
        uint32_t host_port = 0;
    };

    /// A connection of the host to a program of the guest at kGuestPort.
    FromHost open_from_host(std::string_view behind = {}) {
        FromHost opened{.socket = HostSocket::connect_to(base(), SOCK_STREAM)};
        opened.socket.send("CONNECT " + std::to_string(kGuestPort) + "\n" + std::string(behind));
        const auto request = guest().receive_event();
        EXPECT_TRUE(request && request->op() == VIRTIO_VSOCK_OP_REQUEST);
        opened.host_port = request ? request->header.src_port : 0;
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_RESPONSE, kGuestPort, opened.host_port));
        const std::string line = make_ok_line(opened.host_port);
        EXPECT_EQ(opened.socket.receive(line.size()), line);
        return opened;
    }

    /// The connection works in both directions.
    void expect_echo(const HostSocket& host,
                     uint32_t guest_port = kGuestPort,
                     uint32_t host_port = kHostPort) {
        EXPECT_TRUE(guest().send_data(guest_port, host_port, "ping"));
        EXPECT_EQ(host.receive(4), "ping");
        host.send("pong");
        EXPECT_EQ(guest().receive_bytes(4), "pong");
    }

    /// What the device says that it has forwarded of the connection at kGuestPort.
    [[nodiscard]] std::optional<uint32_t> told_forwarded() {
        EXPECT_TRUE(guest().send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST, kGuestPort, kHostPort));
        auto packet = guest().receive();
        // Of two the last is the answer.
        for (auto next = packet; next; next = guest().receive_now()) {
            packet = next;
        }
        if (!packet) {
            return std::nullopt;
        }
        const uint32_t forwarded = packet->header.fwd_cnt;
        return forwarded;
    }

    /// The guest sends by the connection at kGuestPort, and nobody reads, until the kernel takes no
    /// more and the device has so many bytes itself, or a piece more; all that was sent.
    [[nodiscard]] std::string send_until_kept(size_t kept = 2 * kBytesAtOnce) {
        constexpr size_t kMoreThanAnySocketHolds = 100'000'000;
        const std::string piece = pattern(kBytesAtOnce);
        std::string all;
        size_t forwarded = 0;
        while (all.size() - forwarded < kept) {
            if (all.size() > kMoreThanAnySocketHolds ||
                !guest().send_data(kGuestPort, kHostPort, piece)) {
                ADD_FAILURE() << "nothing stays with the device: " << all.size();
                return all;
            }
            all += piece;
            forwarded = told_forwarded().value_or(all.size());
        }
        testing::give_others_a_moment();
        EXPECT_LE(told_forwarded().value_or(all.size()), all.size() - kept);
        return all;
    }

    /// The device's thread has nothing to do.
    void expect_idle() {
        testing::give_others_a_moment();
        const Counter& turns = host_->worker_counters(0).turns;
        const uint64_t before = turns.value();
        testing::give_others_a_moment();
        EXPECT_LT(turns.value() - before, 5U);
    }

    /// No connection is left, and the next one is served.
    void expect_clean() {
        EXPECT_TRUE(eventually(
            [&] { return counters().connections_gone.value() == counters().connections.value(); }));
        guest().forwarded = 0;  // a new connection counts from there
        expect_echo(open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 60'000, 60'001), 60'000, 60'001);
    }

    static int kind_of(uint16_t type) {
        return type == VIRTIO_VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
    }

    std::filesystem::path folder_;
    VsockOptions options_;
    std::unique_ptr<VsockDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::unique_ptr<VsockGuest> guest_;
};

}  // namespace outrigger::vsock
