// SPDX-License-Identifier: Apache-2.0
/// A socket device's engine in a process that can be killed before each of its stores to the memory
/// that outlives it, with a driver and programs of the host that live on: what tests of crash
/// points stop and go on from.
///
/// Rings, in-flight buffers and the ledger are in shared memory, sockets are passed to the test as
/// to a keeper. The driver is written from VIRTIO 1.3, 2.7 on raw memory, packets by the kernel's
/// header.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/virtq/inflight_buffer.h"

#include "devices/vsock/connection_table.h"
#include "devices/vsock/hybrid_request.h"
#include "devices/vsock/vsock_engine.h"
#include "tests/support/store_trap.h"
#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::vsock {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint16_t kRingSize = 16;
inline constexpr uint64_t kBufferBytes = 64 * 1024;
inline constexpr uint64_t kReceiveBytes = 4096;
inline constexpr uint32_t kGuestCredit = 1 << 20;
inline constexpr uint32_t kOtherRoom = 1 << 20;

/// A split ring at the start of a page, and its driver.
class CrashRing final {
  public:
    CrashRing(const test::GuestMemory& memory, uint64_t page) : memory_(memory), at_(page) {}

    [[nodiscard]] VirtqueueConfig config() const {
        const auto address = [&](uint64_t offset) {
            return FrontendAddr{at_ + offset + test::GuestMemory::kFrontendShift};
        };
        return {.size = kRingSize,
                .descriptor_area = address(0),
                .driver_area = address(kAvailable),
                .device_area = address(kUsed)};
    }

    [[nodiscard]] bool can_add() const { return static_cast<uint16_t>(next_ - used_) < kRingSize; }

    /// Makes one buffer available; its number.
    uint16_t add(uint64_t address, uint32_t bytes, bool writable) {
        const uint16_t id = free_.front();
        free_.erase(free_.begin());
        const test::SplitDescriptor descriptor{
            .address = address, .length = bytes, .flags = writable ? test::kWrite : uint16_t{0}};
        std::memcpy(memory_.at(at_ + sizeof descriptor * id), &descriptor, sizeof descriptor);
        test::put<uint16_t>(memory_.at(at_ + kAvailable + 4 + 2 * (next_ % kRingSize)), id);
        ++next_;
        test::put<uint16_t>(memory_.at(at_ + kAvailable + 2), next_);
        return id;
    }

    [[nodiscard]] uint16_t next_id() const { return free_.front(); }

    /// The number of the next that was used, and its bytes.
    std::optional<std::pair<uint16_t, uint32_t>> take_used() {
        if (test::get<uint16_t>(memory_.at(at_ + kUsed + 2)) == used_) {
            return std::nullopt;
        }
        std::byte* const element = memory_.at(at_ + kUsed + 4 + 8 * (used_ % kRingSize));
        const auto id = static_cast<uint16_t>(test::get<uint32_t>(element));
        ++used_;
        EXPECT_EQ(std::ranges::find(free_, id), free_.end()) << "used what it did not have";
        free_.push_back(id);
        return std::pair(id, test::get<uint32_t>(element + 4));
    }

    [[nodiscard]] bool is_idle() const { return free_.size() == kRingSize; }

  private:
    static constexpr uint64_t kAvailable = 16 * kRingSize;
    static constexpr uint64_t kUsed = kAvailable + 64;

    static std::vector<uint16_t> all() {
        std::vector<uint16_t> ids;
        for (uint16_t id = 0; id < kRingSize; ++id) {
            ids.push_back(id);
        }
        return ids;
    }

    const test::GuestMemory& memory_;
    uint64_t at_;
    uint16_t next_ = 0;
    uint16_t used_ = 0;
    std::vector<uint16_t> free_ = all();
};

/// What the guest has received.
struct CrashPacket {
    virtio_vsock_hdr header{};
    std::string payload{};
};

class CrashWorld final {
  public:
    CrashWorld() {
        std::string name = ::testing::TempDir() + "vsockw-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        options_.guest_cid = 7;
        options_.uds_path = base();
        options_.connections_max = 4;
        options_.window_bytes = kWindowBytes;
        options_.window_bytes_max = kWindowBytes;
        options_.siblings.groups = {"both"};
        other_ = Sibling::create(kOtherCid, options_.siblings).value();
        other_->set_up(true);
        shape_ = VsockEngine::ledger_shape(options_);
        ledger_ = create_shared_memory("ledger", Ledger::bytes_for(shape_)).value();
        listeners_.stream = listen_at(base(), {.type = SOCK_STREAM, .backlog = 8}).value();
        listeners_.seqpacket =
            listen_at(seqpacket_path(base()), {.type = SOCK_SEQPACKET, .backlog = 8}).value();
        mailbox_ = Mailbox::create().value();
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        keeper_end_ = UniqueFd(ends[0]);
        device_end_ = UniqueFd(ends[1]);
        inflight_ = InflightBuffer::create(2, kRingSize).value();
        snapshot_ = memory_.snapshot();
        while (receive_.can_add()) {
            post();
        }
    }

    CrashWorld(const CrashWorld&) = delete;
    CrashWorld& operator=(const CrashWorld&) = delete;

    ~CrashWorld() { std::filesystem::remove_all(folder_); }

    [[nodiscard]] std::string base() const { return folder_ / "v"; }

    [[nodiscard]] std::string path_of(uint32_t port) const { return port_path(base(), port); }

    // --- The device ------------------------------------------------------------------------------

    /// Has a process serve until nothing is left to do. It is killed before store number `kill_at`
    /// (from 0); false when it had fewer.
    bool serve(std::optional<size_t> kill_at = std::nullopt) {
        const pid_t child = ::fork();
        if (child == 0) {
            run_device(kill_at);
        }
        int status = 0;
        EXPECT_EQ(::waitpid(child, &status, 0), child);
        take_kept();
        if (WIFSIGNALED(status)) {
            EXPECT_EQ(WTERMSIG(status), SIGKILL);
            EXPECT_TRUE(kill_at);
            return true;
        }
        EXPECT_EQ(WEXITSTATUS(status), 0);
        collect();
        return false;
    }

    /// Its sockets take little at once from now on, whatever the system allows.
    void narrow_sockets() const {
        const int bytes = 64 * 1024;
        for (const auto& [name, socket] : kept_) {
            EXPECT_EQ(::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), 0);
        }
    }

    // --- The guest -------------------------------------------------------------------------------

    [[nodiscard]] virtio_vsock_hdr header(uint16_t op, uint32_t port, uint32_t peer_port) const {
        virtio_vsock_hdr made{};
        made.src_cid = 7;
        made.dst_cid = peer_cid;
        made.src_port = port;
        made.dst_port = peer_port;
        made.type = type;
        made.op = op;
        made.buf_alloc = kGuestCredit;
        made.fwd_cnt = forwarded;
        return made;
    }

    void send(virtio_vsock_hdr header, std::string_view payload = {}) {
        header.len = static_cast<uint32_t>(payload.size());
        const uint64_t address = kTransmitAt + kBufferBytes * transmit_.next_id();
        std::memcpy(memory_.at(address), &header, sizeof header);
        std::memcpy(memory_.at(address) + sizeof header, payload.data(), payload.size());
        transmit_.add(address, static_cast<uint32_t>(sizeof header + payload.size()), false);
    }

    /// What has come since this was asked last, but for flow control.
    std::vector<CrashPacket> take_packets() {
        auto all = std::exchange(packets_, {});
        std::erase_if(all, [](const CrashPacket& packet) {
            return packet.header.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE ||
                   packet.header.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
        });
        return all;
    }

    /// All that it sent was taken.
    [[nodiscard]] bool has_sent_all() const { return transmit_.is_idle(); }

    uint16_t type = VIRTIO_VSOCK_TYPE_STREAM;
    /// To whom it sends.
    uint64_t peer_cid = 2;
    uint32_t forwarded = 0;
    /// What the device said last of the bytes that it took.
    uint32_t device_forwarded = 0;

    // --- Another guest, of which there is the mailbox and the end of one connection --------------

    static constexpr uint64_t kOtherCid = 8;
    static constexpr uint32_t kWindowBytes = 512 * 1024;

    /// The call that waits there, which is taken.
    [[nodiscard]] SiblingCall take_call() const {
        auto call = other_->next_call();
        EXPECT_TRUE(call);
        other_->drop_call();
        return call ? *std::move(call) : SiblingCall{};
    }

    /// Of its connection, and what it has taken of that by now.
    LinkId other_link = kNoLink;
    uint32_t other_has_taken = 0;

    /// Writes to what outlives the process, as whoever has it may.
    void forge(const std::function<void(Ledger&)>& write) const {
        Ledger ledger = Ledger::open(ledger_.get(), shape_).value().value();
        write(ledger);
    }

    // --- The host --------------------------------------------------------------------------------

    [[nodiscard]] UniqueFd connect_host() const {
        return dial_path(type == VIRTIO_VSOCK_TYPE_STREAM ? base() : seqpacket_path(base()));
    }

    [[nodiscard]] UniqueFd listen_host(uint32_t port) const {
        auto listening = listen_at(path_of(port), {.type = kind(), .backlog = 8}).value();
        UniqueFd fd(::fcntl(listening.fd.get(), F_DUPFD_CLOEXEC, 0));
        names_.push_back(std::move(listening));
        return fd;
    }

    /// The last of those that wait: whoever connected before them was killed.
    [[nodiscard]] static UniqueFd accept_last(const UniqueFd& listener) {
        UniqueFd last;
        while (true) {
            UniqueFd next(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
            if (!next.valid()) {
                return last;
            }
            last = std::move(next);
        }
    }

    /// What is there now; a message of a SEQPACKET socket.
    [[nodiscard]] static std::string read_host(const UniqueFd& socket) {
        std::string all;
        std::string piece(kBufferBytes, '\0');
        while (true) {
            const ssize_t count = ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
            if (count <= 0) {
                return all;
            }
            all.append(piece, 0, static_cast<size_t>(count));
        }
    }

    /// Every message that is there, until there are `bytes_max`; each in brackets.
    [[nodiscard]] static std::string read_messages(const UniqueFd& socket,
                                                   size_t bytes_max = ~size_t{0}) {
        std::string all;
        std::string piece(kBufferBytes, '\0');
        while (all.size() < bytes_max) {
            const ssize_t count = ::recv(socket.get(), piece.data(), piece.size(), MSG_DONTWAIT);
            if (count < 0) {
                return all;
            }
            all += '[';
            all.append(piece, 0, static_cast<size_t>(count));
            all += ']';
        }
        return all;
    }

    static void write_host(const UniqueFd& socket, std::string_view bytes) {
        EXPECT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL),
                  static_cast<ssize_t>(bytes.size()));
    }

    [[nodiscard]] static bool has_ended(const UniqueFd& socket) {
        char byte = 0;
        return ::recv(socket.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
    }

    [[nodiscard]] int kind() const {
        return type == VIRTIO_VSOCK_TYPE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET;
    }

  private:
    static constexpr uint64_t kReceiveAt = 16 * kPage;
    static constexpr uint64_t kTransmitAt = kReceiveAt + kReceiveBytes * kRingSize;
    static constexpr uint64_t kMemoryBytes = kTransmitAt + kBufferBytes * kRingSize;
    static constexpr int kRounds = 12;

    /// To the test, in place of a keeper.
    class Teller final : public DeviceKeeper {
      public:
        explicit Teller(int channel) : channel_(channel) {}

        [[nodiscard]] bool goes_on() const override { return true; }

        [[nodiscard]] bool can_hand_back() const override { return false; }

        [[nodiscard]] Result<UniqueFd> keep(std::string_view /*name*/, size_t /*bytes*/) override {
            return failure(Error{.message = "the test has the memory"});
        }

        [[nodiscard]] UniqueFd take(std::string_view /*name*/) override { return {}; }

        [[nodiscard]] bool keep_open(std::string_view name, int fd) override {
            tell(std::string(1, '+').append(name), fd);
            return true;
        }

        void forget(std::string_view name) override { tell(std::string(1, '-').append(name), -1); }

      private:
        void tell(std::string text, int fd) const {
            iovec piece{.iov_base = text.data(), .iov_len = text.size()};
            alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
            msghdr message{};
            message.msg_iov = &piece;
            message.msg_iovlen = 1;
            if (fd >= 0) {
                message.msg_control = control.data();
                message.msg_controllen = control.size();
                cmsghdr* const rights = CMSG_FIRSTHDR(&message);
                rights->cmsg_level = SOL_SOCKET;
                rights->cmsg_type = SCM_RIGHTS;
                rights->cmsg_len = CMSG_LEN(sizeof fd);
                std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
            }
            (void)::sendmsg(channel_, &message, MSG_NOSIGNAL);
        }

        int channel_;
    };

    void take_kept() {
        while (true) {
            std::array<char, 64> text{};
            iovec piece{.iov_base = text.data(), .iov_len = text.size()};
            alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
            msghdr message{};
            message.msg_iov = &piece;
            message.msg_iovlen = 1;
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            const ssize_t count =
                ::recvmsg(keeper_end_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
            if (count <= 0) {
                return;
            }
            const std::string name(text.data() + 1, static_cast<size_t>(count) - 1);
            if (const cmsghdr* const rights = CMSG_FIRSTHDR(&message); rights != nullptr) {
                int fd = -1;
                std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
                kept_.insert_or_assign(name, UniqueFd(fd));
            } else {
                kept_.erase(name);
            }
        }
    }

    [[nodiscard]] std::unique_ptr<Virtqueue> start(const CrashRing& ring, uint16_t index) const {
        return Virtqueue::create(
                   ring.config(), VringBase{0}, snapshot_, {.buffer = inflight_, .queue = index})
            .value();
    }

    /// What a device stores to, but for the page that the kernel does, and the bytes that wait:
    /// each of these counts when what is behind it is committed.
    [[nodiscard]] std::vector<std::span<std::byte>> watched(const Ledger& ledger) const {
        const auto log = inflight_->part(0);
        const auto kept = ledger.memory();
        const size_t waiting_bytes = size_t{shape_.connections_max} * shape_.backlog_bytes;
        const size_t log_bytes = (log.size() * 2 + kPage - 1) / kPage * kPage;
        return {{memory_.at(0), 2 * kPage},
                {log.data(), log_bytes},
                kept.first(kept.size() - waiting_bytes).subspan(kPage)};
    }

    /// In the child.
    [[noreturn]] void run_device(std::optional<size_t> kill_at) {
        const auto receive = start(receive_, 0);
        const auto transmit = start(transmit_, 1);
        const auto loop = create_event_loop(LoopKind::kAsio).value();
        SiblingEnd other_end(other_link, LinkSide::kCalled, 1, other_has_taken);
        if (other_end.valid()) {
            (void)other_end.tell_room(kOtherRoom);
        }
        Teller teller(device_end_.get());
        Keeping keeping{.ledger = Ledger::open(ledger_.get(), shape_).value().value(),
                        .keeper = &teller,
                        .found = std::vector<UniqueFd>(options_.connections_max),
                        .mailbox = std::move(mailbox_)};
        for (uint32_t slot = 0; slot < options_.connections_max; ++slot) {
            const ConnectionRecord record = keeping.ledger->record(slot);
            const auto found = kept_.find(kept_name(make_id(slot, record.generation)));
            if (record.phase != 0 && found != kept_.end()) {
                keeping.found[slot] = std::move(found->second);
            }
        }
        kept_.clear();
        const auto ranges = watched(*keeping.ledger);
        size_t stores = 0;
        const std::function<void()> before_store = [&] {
            if (stores++ == kill_at) {
                ::kill(::getpid(), SIGKILL);
            }
        };
        std::optional<testing::StoreTrap> trap;
        if (kill_at) {
            trap.emplace(ranges, before_store);
        }
        const auto engine =
            VsockEngine::create(options_, std::move(listeners_), std::move(keeping)).value();
        engine->set_types({.stream = true, .seqpacket = true});
        engine->attach(*loop);
        engine->set_receive_queue(receive.get());
        engine->set_transmit_queue(transmit.get());
        for (int round = 0; round < kRounds; ++round) {
            (void)loop->run_once(EventLoop::Clock::time_point::min());
            (void)transmit->take_processing_request();
            (void)engine->take_transmit_queue();
            (void)transmit->publish();
            (void)receive->take_processing_request();
            (void)engine->fill_receive_queue();
            (void)receive->publish();
        }
        ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }

    void post() {
        receive_.add(kReceiveAt + kReceiveBytes * receive_.next_id(), kReceiveBytes, true);
    }

    void collect() {
        while (const auto used = receive_.take_used()) {
            CrashPacket packet;
            const std::byte* const at = memory_.at(kReceiveAt + kReceiveBytes * used->first);
            ASSERT_GE(used->second, sizeof packet.header);
            std::memcpy(&packet.header, at, sizeof packet.header);
            ASSERT_EQ(packet.header.len, used->second - sizeof packet.header);
            packet.payload.resize(packet.header.len);
            std::memcpy(packet.payload.data(), at + sizeof packet.header, packet.header.len);
            forwarded += packet.header.len;
            device_forwarded = packet.header.fwd_cnt;
            packets_.push_back(std::move(packet));
            post();
        }
        while (transmit_.take_used()) {
        }
    }

    static UniqueFd dial_path(const std::string& path) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        const bool is_stream = !path.ends_with("_seqpacket");
        UniqueFd fd(
            ::socket(AF_UNIX, (is_stream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC, 0));
        // SAFETY: the sockets API takes every address family by this one pointer type.
        EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
                  0);
        return fd;
    }

    std::filesystem::path folder_;
    VsockOptions options_;
    Ledger::Shape shape_;
    UniqueFd ledger_;
    HostListeners listeners_;
    Mailbox mailbox_;
    std::shared_ptr<Sibling> other_;
    UniqueFd keeper_end_;
    UniqueFd device_end_;
    std::map<std::string, UniqueFd> kept_;
    mutable std::vector<ListeningSocket> names_;
    test::GuestMemory memory_{{{0, kMemoryBytes}}};
    std::shared_ptr<const InflightBuffer> inflight_;
    std::shared_ptr<const MemorySnapshot> snapshot_;
    CrashRing receive_{memory_, 0};
    CrashRing transmit_{memory_, kPage};
    std::vector<CrashPacket> packets_;
};

}  // namespace outrigger::vsock
