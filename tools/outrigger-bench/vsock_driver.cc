// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/vsock_driver.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include <linux/virtio_vsock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tools/driver/frontend_socket.h"
#include "tools/outrigger-bench/host_socket.h"

namespace outrigger::bench {
namespace {

constexpr uint64_t kHostCid = 2;
/// A receive buffer as Linux has them: a page without what it keeps beside.
constexpr uint32_t kReceiveBytes = 3776;
/// VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux.
constexpr uint32_t kPayloadMax = 64 << 10;
/// What Linux gives each connection.
constexpr uint32_t kCredit = 256 << 10;
/// Ports of the guest for connections of the host, one for each.
constexpr uint32_t kGuestPort = 6000;
constexpr std::chrono::microseconds kBetweenLooks{50};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// Who only makes connections receives nothing yet.
class NoSink final : public StreamSink {
  public:
    void on_received(uint32_t /*stream*/, std::span<const std::byte> /*bytes*/) override {}

    void on_returned(uint32_t /*bytes*/, driver::Deadline /*sent*/) override {}
};

}  // namespace

/// VIRTIO 1.3, 5.10.6.
struct VsockDriver::WirePacket {
    Le64 source_cid;
    Le64 destination_cid;
    Le32 source_port;
    Le32 destination_port;
    Le32 length;
    Le16 type;
    Le16 op;
    Le32 flags;
    Le32 allocated;
    Le32 forwarded;
};

RingStreamDriver::Buffers VsockDriver::buffers_of(const BenchPlan& plan) {
    static_assert(sizeof(WirePacket) == 44);
    return {.receive_bytes = kReceiveBytes,
            .head_bytes = sizeof(WirePacket),
            .data_bytes = std::min(plan.block_bytes, kPayloadMax),
            .count = plan.depth,
            .control_count = kControlPacketsMax};
}

uint64_t VsockDriver::buffer_bytes(const BenchPlan& plan) {
    return guest_bytes(buffers_of(plan), plan.ring_size);
}

VsockDriver::VsockDriver(const BenchPlan& plan, const Target& target, driver::RunningDevice& device)
    : RingStreamDriver(buffers_of(plan),
                       device.queues[0],
                       device.queues[1],
                       device.agreement.features.has(driver::kIndirectDescBit)
                           ? driver::ChainLayout::kIndirect
                           : driver::ChainLayout::kDirect),
      plan_(plan),
      target_(target),
      connections_(plan.connections) {}

Result<std::unique_ptr<StreamDriver>> VsockDriver::create(const BenchPlan& plan,
                                                          const Target& target,
                                                          driver::Frontend& frontend,
                                                          driver::RunningDevice& device,
                                                          driver::GuestMemory& memory) {
    std::unique_ptr<VsockDriver> guest(new VsockDriver(plan, target, device));
    OUTRIGGER_TRY(guest->learn_cid(frontend));
    OUTRIGGER_TRY(guest->allocate(memory));
    OUTRIGGER_TRY(guest->connect_all());
    return guest;
}

Result<void> VsockDriver::learn_cid(driver::Frontend& frontend) {
    Le64 cid;
    const auto config = frontend.get_config(0, sizeof cid);
    if (!config || config->size() != sizeof cid) {
        return refuse("the guest's CID cannot be read");
    }
    std::memcpy(&cid, config->data(), sizeof cid);
    cid_ = cid;
    return {};
}

Result<void> VsockDriver::connect_all() {
    if (plan_.access == Access::kToGuest) {
        for (uint32_t i = 0; i < connections_.size(); ++i) {
            OUTRIGGER_TRY(connect_from_host(i));
        }
        return {};
    }
    // Not the port of another run beside this one.
    const auto port = static_cast<uint32_t>(10'000 + ::getpid() % 50'000);
    const HostListener listener =
        OUTRIGGER_TRY(HostListener::create(fmt::format("{}_{}", target_.host_path, port)));
    for (uint32_t i = 0; i < connections_.size(); ++i) {
        const driver::Deadline deadline = driver::after(plan_.patience);
        connections_[i].host_port = port;
        OUTRIGGER_ASSERT(try_send_packet(i, VIRTIO_VSOCK_OP_REQUEST));
        OUTRIGGER_TRY(await_established(i, deadline));
        connections_[i].host = OUTRIGGER_TRY(listener.accept(deadline));
    }
    return {};
}

Result<void> VsockDriver::connect_from_host(uint32_t number) {
    const driver::Deadline deadline = driver::after(plan_.patience);
    UniqueFd socket = OUTRIGGER_TRY(driver::connect_until(target_.host_path, deadline));
    const std::string request = fmt::format("CONNECT {}\n", kGuestPort + number);
    if (driver::send_until(socket.get(), std::as_bytes(std::span(request)), {}, deadline) !=
        driver::SendStatus::kSent) {
        return refuse(target_.host_path + " hung up");
    }
    OUTRIGGER_TRY(await_established(number, deadline));
    (void)publish();
    if (!read_reply(socket.get(), deadline)) {
        return refuse(target_.host_path + " does not answer OK");
    }
    connections_[number].host = std::move(socket);
    return {};
}

/// "OK 1073741824\n".
bool VsockDriver::read_reply(int socket, driver::Deadline deadline) {
    constexpr size_t kReplyMax = 32;
    std::string reply;
    while (reply.size() < kReplyMax && !reply.ends_with('\n')) {
        char byte = 0;
        if (!driver::wait_readable(socket, deadline) || ::recv(socket, &byte, 1, 0) != 1) {
            return false;
        }
        reply += byte;
    }
    return reply.starts_with("OK ") && reply.ends_with('\n');
}

Result<void> VsockDriver::await_established(uint32_t number, driver::Deadline deadline) {
    NoSink sink;
    while (!connections_[number].established) {
        (void)publish();
        if (!complaint().empty()) {
            return refuse(complaint());
        }
        if (driver::Clock::now() >= deadline) {
            return refuse(fmt::format("connection {} was not answered", number));
        }
        if (!take(sink)) {
            std::this_thread::sleep_for(kBetweenLooks);
        }
    }
    return {};
}

std::vector<UniqueFd> VsockDriver::take_host_ends() {
    std::vector<UniqueFd> ends;
    for (Connection& connection : connections_) {
        ends.push_back(std::move(connection.host));
    }
    return ends;
}

VsockDriver::WirePacket VsockDriver::header_of(uint32_t number, uint16_t op, uint32_t length) {
    Connection& connection = connections_[number];
    connection.told = connection.received;
    connection.owes_credit = false;
    return {.source_cid = cid_,
            .destination_cid = kHostCid,
            .source_port = kGuestPort + number,
            .destination_port = connection.host_port,
            .length = length,
            .type = uint16_t{VIRTIO_VSOCK_TYPE_STREAM},
            .op = op,
            .flags = uint32_t{0},
            .allocated = kCredit,
            .forwarded = connection.received};
}

uint64_t VsockDriver::sendable(uint32_t stream) const {
    const Connection& connection = connections_[stream];
    // 5.10.6.3, signed: the other side may have shrunk its buffer.
    const int64_t credit =
        int64_t{connection.peer_allocated} - int64_t{connection.sent - connection.peer_forwarded};
    return static_cast<uint64_t>(std::max<int64_t>(credit, 0));
}

void VsockDriver::write_head(uint32_t stream, uint32_t length, std::byte* head) {
    const WirePacket header = header_of(stream, VIRTIO_VSOCK_OP_RW, length);
    std::memcpy(head, &header, sizeof header);
    connections_[stream].sent += length;
}

bool VsockDriver::try_send_packet(uint32_t number, uint16_t op) {
    if (!may_send_control()) {
        return false;
    }
    const WirePacket header = header_of(number, op, 0);
    send_control(std::as_bytes(std::span(&header, 1)));
    return true;
}

void VsockDriver::on_buffer(StreamSink& sink, std::span<const std::byte> packet) {
    WirePacket header;
    if (packet.size() < sizeof header) {
        lose("a packet is shorter than its header");
        return;
    }
    std::memcpy(&header, packet.data(), sizeof header);
    const uint32_t number = header.destination_port - kGuestPort;
    if (header.length != packet.size() - sizeof header || header.destination_cid != cid_ ||
        header.source_cid != kHostCid || header.type != VIRTIO_VSOCK_TYPE_STREAM ||
        number >= connections_.size()) {
        lose("a packet is not of the host for this guest, or not as long as it says");
        return;
    }
    Connection& connection = connections_[number];
    const bool begins = header.op == VIRTIO_VSOCK_OP_REQUEST && !connection.established;
    if (!begins && header.source_port != connection.host_port) {
        lose(fmt::format("connection {} has got a packet of another one", number));
        return;
    }
    connection.peer_allocated = header.allocated;
    connection.peer_forwarded = header.forwarded;
    switch (header.op) {
        case VIRTIO_VSOCK_OP_REQUEST:
            if (!begins) {
                lose(fmt::format("connection {} was asked for once more", number));
                return;
            }
            connection.host_port = header.source_port;
            connection.established = try_send_packet(number, VIRTIO_VSOCK_OP_RESPONSE);
            return;
        case VIRTIO_VSOCK_OP_RESPONSE:
            connection.established = true;
            return;
        case VIRTIO_VSOCK_OP_RW:
            on_data(sink, number, packet.subspan(sizeof header));
            return;
        case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
            return;
        case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
            connection.owes_credit = any_owes_ = true;
            return;
        default:
            lose(fmt::format("connection {} was ended (operation {})",
                             number,
                             static_cast<uint16_t>(header.op)));
    }
}

void VsockDriver::on_data(StreamSink& sink, uint32_t number, std::span<const std::byte> data) {
    Connection& connection = connections_[number];
    connection.received += static_cast<uint32_t>(data.size());
    const uint32_t untold = connection.received - connection.told;
    if (untold > kCredit) {
        lose(fmt::format("connection {} was sent more than it gave credit for", number));
        return;
    }
    // As Linux does: the host's side has half of the window left when it hears of the rest.
    connection.owes_credit = connection.owes_credit || untold >= kCredit / 2;
    any_owes_ = any_owes_ || connection.owes_credit;
    sink.on_received(number, data);
}

/// The credit updates that are due, as far as there is room for them.
void VsockDriver::on_taken() {
    if (!any_owes_) {
        return;
    }
    any_owes_ = false;
    for (uint32_t i = 0; i < connections_.size(); ++i) {
        if (connections_[i].owes_credit && !try_send_packet(i, VIRTIO_VSOCK_OP_CREDIT_UPDATE)) {
            any_owes_ = true;
        }
    }
}

}  // namespace outrigger::bench
