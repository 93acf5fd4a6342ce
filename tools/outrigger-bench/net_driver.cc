// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/net_driver.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/wire/messages.h"

#include "tools/driver/frontend_socket.h"

namespace outrigger::bench {
namespace {

// VIRTIO 1.3, 5.1.3 and 5.1.6. <linux/virtio_net.h> is not C++.
constexpr unsigned kMergedBuffersBit = 15;
constexpr uint8_t kNoSegmentation = 0;
/// A buffer as Linux has them for frames of the usual size.
constexpr uint32_t kReceiveBytes = 1536;
/// Locally administered.
using Address = std::array<uint8_t, 6>;
constexpr Address kGuestAddress = {0x02, 0, 0, 0, 0, 1};
constexpr Address kHostAddress = {0x02, 0, 0, 0, 0, 2};
constexpr Address kGreeterAddress = {0x02, 0, 0, 0, 0, 3};
constexpr uint32_t kFrameBytesMin = 60;
constexpr std::chrono::microseconds kBetweenLooks{50};
/// IEEE 802: for experiments within one place.
constexpr std::array<uint8_t, 2> kFrameType = {0x88, 0xb5};

/// VIRTIO 1.3, 5.1.6.
struct WireHeader {
    uint8_t flags = 0;
    uint8_t segmentation = 0;
    Le16 header_bytes;
    Le16 segment_bytes;
    Le16 checksum_start;
    Le16 checksum_offset;
    Le16 buffer_count;
};

static_assert(sizeof(WireHeader) == 12);

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// A frame's length, and its Ethernet header.
void write_wire_head(std::span<std::byte> head,
                     uint32_t length,
                     const Address& to,
                     const Address& from) {
    auto at = head.begin();
    for (unsigned shift = 32; shift > 0; ++at) {
        shift -= 8;
        *at = static_cast<std::byte>(length >> shift);
    }
    at = std::ranges::copy(std::as_bytes(std::span(to)), at).out;
    at = std::ranges::copy(std::as_bytes(std::span(from)), at).out;
    std::ranges::copy(std::as_bytes(std::span(kFrameType)), at);
}

/// Who only waits for a greeting receives nothing yet.
class NoSink final : public StreamSink {
  public:
    void on_received(uint32_t /*stream*/, std::span<const std::byte> /*bytes*/) override {}

    void on_returned(uint32_t /*bytes*/, driver::Deadline /*sent*/) override {}
};

}  // namespace

FeatureSet NetDriver::features() {
    return FeatureSet::of({driver::kVersion1Bit, wire::kProtocolFeaturesBit, kMergedBuffersBit});
}

RingStreamDriver::Buffers NetDriver::buffers_of(const BenchPlan& plan, bool merges) {
    // Where a frame may not lie in several buffers each must hold a whole one.
    const auto whole =
        static_cast<uint32_t>(sizeof(WireHeader) + kEthernetBytes) + plan.block_bytes;
    return {.receive_bytes = merges ? kReceiveBytes : std::max(kReceiveBytes, whole),
            .head_bytes = sizeof(WireHeader) + kEthernetBytes,
            .data_bytes = plan.block_bytes,
            .count = plan.depth};
}

uint64_t NetDriver::buffer_bytes(const BenchPlan& plan) {
    return guest_bytes(buffers_of(plan_of_payload(plan), false), plan.ring_size);
}

BenchPlan NetDriver::plan_of_payload(BenchPlan plan) {
    plan.block_bytes -= kEthernetBytes;
    return plan;
}

NetDriver::NetDriver(const BenchPlan& plan, driver::RunningDevice& device)
    : RingStreamDriver(buffers_of(plan, device.agreement.features.has(kMergedBuffersBit)),
                       device.queues[0],
                       device.queues[1],
                       device.agreement.features.has(driver::kIndirectDescBit)
                           ? driver::ChainLayout::kIndirect
                           : driver::ChainLayout::kDirect),
      payload_bytes_(plan.block_bytes),
      merges_(device.agreement.features.has(kMergedBuffersBit)),
      echoes_(plan.access == Access::kEcho) {
    const uint32_t length = plan.block_bytes + kEthernetBytes;
    write_wire_head(heads_[kToHost], length, kHostAddress, kGuestAddress);
    write_wire_head(heads_[kToGuest], length, kGuestAddress, kHostAddress);
    write_wire_head(heads_[kGreeting], kFrameBytesMin, kGuestAddress, kGreeterAddress);
}

Result<std::unique_ptr<StreamDriver>> NetDriver::create(const BenchPlan& plan,
                                                        const Target& target,
                                                        driver::RunningDevice& device,
                                                        driver::GuestMemory& memory) {
    std::unique_ptr<NetDriver> guest(new NetDriver(plan, device));
    OUTRIGGER_TRY(guest->allocate(memory));
    if (!target.host_path.empty()) {
        const driver::Deadline deadline = driver::after(plan.patience);
        guest->host_ = OUTRIGGER_TRY(driver::connect_until(target.host_path, deadline));
        OUTRIGGER_TRY(guest->greet(deadline));
    }
    return guest;
}

/// A back end that has not yet taken the connection throws away what the guest sends: a frame that
/// has come through says that it has.
Result<void> NetDriver::greet(driver::Deadline deadline) {
    std::array<std::byte, kLengthBytes + kFrameBytesMin> frame{};
    std::ranges::copy(heads_[kGreeting], frame.begin());
    if (driver::send_until(host_.get(), frame, {}, deadline) != driver::SendStatus::kSent) {
        return refuse("the host's side hung up");
    }
    NoSink sink;
    while (!greeted_) {
        (void)publish();
        if (!complaint().empty()) {
            return refuse(complaint());
        }
        if (driver::Clock::now() >= deadline) {
            return refuse("a frame of the host does not reach the guest");
        }
        if (!take(sink)) {
            std::this_thread::sleep_for(kBetweenLooks);
        }
    }
    return {};
}

std::vector<UniqueFd> NetDriver::take_host_ends() {
    std::vector<UniqueFd> ends;
    ends.push_back(std::move(host_));
    return ends;
}

/// Nothing is left to the device: no offload is agreed on.
void NetDriver::write_head(uint32_t /*stream*/, uint32_t /*length*/, std::byte* head) {
    const WireHeader header{};
    std::memcpy(head, &header, sizeof header);
    std::memcpy(head + sizeof header, heads_[kToHost].data() + kLengthBytes, kEthernetBytes);
}

void NetDriver::on_buffer(StreamSink& sink, std::span<const std::byte> bytes) {
    if (buffers_left_ == 0) {
        const size_t front = begin_frame(bytes);
        if (buffers_left_ == 0) {
            return;
        }
        bytes = bytes.subspan(front);
    }
    --buffers_left_;
    if (foreign_) {
        return;
    }
    if (bytes.size() > bytes_left_ || (buffers_left_ == 0 && bytes.size() < bytes_left_)) {
        lose("a frame is not as long as those that were sent");
        return;
    }
    bytes_left_ -= static_cast<uint32_t>(bytes.size());
    sink.on_received(0, bytes);
}

/// The first buffer of a frame: how many there are, whose it is, and where its block begins.
size_t NetDriver::begin_frame(std::span<const std::byte> bytes) {
    WireHeader header;
    if (bytes.size() < sizeof header + kEthernetBytes) {
        lose("a frame is shorter than its headers");
        return 0;
    }
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.flags != 0 || header.segmentation != kNoSegmentation ||
        (merges_ && header.buffer_count == 0)) {
        lose("a frame says what was not agreed on");
        return 0;
    }
    buffers_left_ = merges_ ? uint32_t{header.buffer_count} : 1;
    bytes_left_ = payload_bytes_;
    // Others may have something to say to the guest, too: a router, a neighbour.
    const auto is = [&](size_t head) {
        return std::ranges::equal(bytes.subspan(sizeof header, kEthernetBytes),
                                  std::span(heads_[head]).subspan(kLengthBytes));
    };
    foreign_ = !is(echoes_ ? kToHost : kToGuest);
    greeted_ = greeted_ || is(kGreeting);
    return sizeof header + kEthernetBytes;
}

}  // namespace outrigger::bench
