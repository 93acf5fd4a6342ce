// SPDX-License-Identifier: Apache-2.0
// Trap 2: every field of a packet's header, changed between any two accesses of the device to it:
// what comes of it is what the old value alone gives, or what the new one alone gives, never a
// mixture that passed a check with one and was used with the other.
//
// (What a packet carries goes from the guest's memory to the socket by the kernel, and means
// nothing to the device.)
#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/listening_socket.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/vsock/hybrid_request.h"
#include "devices/vsock/vsock_engine.h"
#include "tests/support/access_trap.h"
#include "tests/unit/virtq/guest_memory.h"
#include "tests/unit/virtq/hand_rings.h"

namespace outrigger::vsock {
namespace {

using outrigger::testing::AccessTrap;
using outrigger::testing::Flip;
using outrigger::testing::kHasAccessTrap;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kReceiveRing = 0;
constexpr uint64_t kTransmitRing = kPage;
constexpr uint64_t kHeader = 2 * kPage;  // and nothing else in its page
constexpr uint64_t kPayload = 3 * kPage;
constexpr uint64_t kReceiveBuffers = 4 * kPage;
constexpr uint16_t kRingSize = 16;
constexpr uint64_t kMemoryBytes = kReceiveBuffers + kRingSize * kPage;

constexpr uint32_t kPort = 11;
constexpr uint32_t kOtherPort = 12;
constexpr uint32_t kHostPort = 22;
constexpr uint32_t kCredit = 1 << 20;
constexpr std::string_view kText = "12345678";

/// One field of a header of `operation`, and two values that it may have while the device looks.
struct Case {
    const char* name;
    uint16_t operation;
    size_t offset;
    uint32_t bytes;
    uint64_t before;
    uint64_t after;
};

void PrintTo(const Case& one, std::ostream* out) {
    *out << one.name;
}

/// A device with two connections of the guest's, and a packet for the first to take.
class Stage final {
  public:
    explicit Stage(const Case& one) : case_(one) {
        std::string name = ::testing::TempDir() + "vsockd-XXXXXX";
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        VsockOptions options;
        options.guest_cid = 7;
        options.uds_path = folder_ / "v";
        options.connections_max = 4;
        engine_ = VsockEngine::create(options, {}).value();
        engine_->set_types({.stream = true, .seqpacket = true});
        engine_->attach(*loop_);
        engine_->set_receive_queue(receive_queue_.get());
        engine_->set_transmit_queue(transmit_queue_.get());
        for (uint16_t i = 0; i < kRingSize; ++i) {
            receive_.set_descriptor(
                i,
                {.address = kReceiveBuffers + i * kPage, .length = kPage, .flags = test::kWrite});
            receive_.offer(i);
        }
        memory_.write(kPayload, kText);
        const ListeningSocket listener =
            listen_at(port_path(options.uds_path, kHostPort), {.type = SOCK_STREAM, .backlog = 8})
                .value();
        for (const uint32_t port : {kPort, kOtherPort}) {
            put_header(VIRTIO_VSOCK_OP_REQUEST, port);
            offer();
            serve();
            hosts_.emplace_back(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
            EXPECT_TRUE(hosts_.back().valid());
        }
        put_header(one.operation, kPort);
        put_field(one.before);
        offer();
    }

    Stage(const Stage&) = delete;
    Stage& operator=(const Stage&) = delete;

    ~Stage() {
        engine_->detach();
        engine_.reset();
        std::filesystem::remove_all(folder_);
    }

    [[nodiscard]] std::byte* field() const { return memory_.at(kHeader + case_.offset); }

    void put_field(uint64_t value) const { std::memcpy(field(), &value, case_.bytes); }

    [[nodiscard]] std::span<std::byte> header_page() const { return {memory_.at(kHeader), kPage}; }

    /// The device takes the packet.
    void take() { (void)engine_->take_transmit_queue(); }

    /// What has come of it by now, for both connections.
    [[nodiscard]] std::string outcome() {
        serve();
        std::string text;
        for (const UniqueFd& host : hosts_) {
            std::array<char, 64> bytes{};
            const ssize_t count = ::recv(host.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
            text += count < 0 ? "host: open"
                              : "host: " + std::string(bytes.data(), static_cast<size_t>(count));
            text += '\n';
            (void)::send(host.get(), "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        serve();
        for (uint16_t i = 0; i < receive_.used_index(); ++i) {
            virtio_vsock_hdr header{};
            std::memcpy(
                &header, memory_.at(kReceiveBuffers + receive_.used(i).id * kPage), sizeof header);
            for (const uint64_t part : {uint64_t{header.op},
                                        uint64_t{header.src_cid},
                                        uint64_t{header.src_port},
                                        uint64_t{header.dst_port},
                                        uint64_t{header.type},
                                        uint64_t{header.flags},
                                        uint64_t{header.fwd_cnt}}) {
                text += std::to_string(part) + ' ';
            }
            text += '\n';
        }
        return text;
    }

  private:
    static std::unique_ptr<Virtqueue> start(const test::SplitRing& ring,
                                            const test::GuestMemory& memory) {
        return Virtqueue::create(ring.config(), VringBase{0}, memory.snapshot()).value();
    }

    void put_header(uint16_t operation, uint32_t port) const {
        virtio_vsock_hdr made{};
        made.src_cid = 7;
        made.dst_cid = 2;
        made.src_port = port;
        made.dst_port = kHostPort;
        made.type = VIRTIO_VSOCK_TYPE_STREAM;
        made.op = operation;
        made.len = operation == VIRTIO_VSOCK_OP_RW ? 4 : 0;
        made.buf_alloc = kCredit;
        std::memcpy(memory_.at(kHeader), &made, sizeof made);
    }

    void offer() {
        transmit_.set_descriptor(0,
                                 {.address = kHeader,
                                  .length = sizeof(virtio_vsock_hdr),
                                  .flags = test::kNext,
                                  .next = 1});
        transmit_.set_descriptor(
            1, {.address = kPayload, .length = static_cast<uint32_t>(kText.size())});
        transmit_.offer(0);
    }

    void serve() {
        constexpr int kRounds = 4;
        for (int round = 0; round < kRounds; ++round) {
            (void)loop_->run_once(EventLoop::Clock::time_point::min());
            (void)engine_->take_transmit_queue();
            (void)transmit_queue_->publish();
            (void)engine_->fill_receive_queue();
            (void)receive_queue_->publish();
        }
    }

    Case case_;
    std::filesystem::path folder_;
    test::GuestMemory memory_{{{0, kMemoryBytes}}};
    test::SplitRing receive_{memory_, kRingSize, kReceiveRing};
    test::SplitRing transmit_{memory_, kRingSize, kTransmitRing};
    std::unique_ptr<Virtqueue> receive_queue_ = start(receive_, memory_);
    std::unique_ptr<Virtqueue> transmit_queue_ = start(transmit_, memory_);
    std::unique_ptr<EventLoop> loop_ = create_event_loop(LoopKind::kAsio).value();
    std::unique_ptr<VsockEngine> engine_;
    std::vector<UniqueFd> hosts_;
};

class VsockDoubleFetch : public ::testing::TestWithParam<Case> {
  protected:
    static std::string outcome_of(uint64_t value) {
        Stage stage(GetParam());
        stage.put_field(value);
        stage.take();
        return stage.outcome();
    }

    const std::string before_ = outcome_of(GetParam().before);
    const std::string after_ = outcome_of(GetParam().after);
};

TEST_P(VsockDoubleFetch, ValuesDiffer) {
    // Else the case proves nothing.
    EXPECT_NE(before_, after_);
}

TEST_P(VsockDoubleFetch, FieldThatChangesBetweenAnyTwoAccessesGivesOneOutcomeOrTheOther) {
    if (!kHasAccessTrap) {
        GTEST_SKIP() << "this system cannot trap accesses";
    }
    size_t access_count = 0;
    for (size_t after = 1; after == 1 || after <= access_count; ++after) {
        Stage stage(GetParam());
        AccessTrap trap(stage.header_page(),
                        Flip{.field = stage.field(),
                             .value = GetParam().after,
                             .bytes = GetParam().bytes,
                             .after_accesses = after});
        stage.take();
        access_count = std::max(access_count, trap.finish().size());
        const std::string outcome = stage.outcome();
        EXPECT_TRUE(outcome == before_ || outcome == after_)
            << "changed behind access " << after << ":\n"
            << outcome << "is neither\n"
            << before_ << "nor\n"
            << after_;
    }
    EXPECT_GT(access_count, 0U);
}

constexpr uint16_t kData = VIRTIO_VSOCK_OP_RW;

INSTANTIATE_TEST_SUITE_P(
    Fields,
    VsockDoubleFetch,
    ::testing::Values(
        Case{"SourceCidIsForeign", kData, 0, 8, 7, 8},
        Case{"DestinationCidIsForeign", kData, 8, 8, 2, 9},
        Case{"SourcePortIsOfTheOther", kData, 16, 4, kPort, kOtherPort},
        Case{"SourcePortIsNobodys", kData, 16, 4, kPort, 99},
        Case{"DestinationPortIsNobodys", kData, 20, 4, kHostPort, 99},
        Case{"LengthGrows", kData, 24, 4, 4, kText.size()},
        Case{"LengthLeavesTheBuffers", kData, 24, 4, 4, 100},
        Case{"LengthIsAboveAllLimits", kData, 24, 4, 4, ~0U},
        Case{"LengthVanishes", kData, 24, 4, 4, 0},
        Case{"TypeIsAnother", kData, 28, 2, 1, VIRTIO_VSOCK_TYPE_SEQPACKET},
        Case{"TypeIsUnknown", kData, 28, 2, 1, 9},
        Case{"OperationBecomesReset", kData, 30, 2, kData, VIRTIO_VSOCK_OP_RST},
        Case{"OperationBecomesAControl", kData, 30, 2, kData, VIRTIO_VSOCK_OP_CREDIT_REQUEST},
        Case{"OperationIsUnknown", kData, 30, 2, kData, 77},
        Case{"ControlBecomesAnother",
             VIRTIO_VSOCK_OP_CREDIT_UPDATE,
             30,
             2,
             VIRTIO_VSOCK_OP_CREDIT_UPDATE,
             VIRTIO_VSOCK_OP_RST},
        Case{"FlagsOfTheEndAddUp", VIRTIO_VSOCK_OP_SHUTDOWN, 32, 4, 1, 3},
        Case{"BufferVanishes", kData, 36, 4, kCredit, 0},
        Case{"ForwardedIsMoreThanSent", kData, 40, 4, 0, 5}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace outrigger::vsock
