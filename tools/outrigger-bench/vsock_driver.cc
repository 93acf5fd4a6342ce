// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/vsock_driver.h"

#include <algorithm>
#include <array>
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
constexpr uint64_t kLineBytes = 64;
constexpr uint64_t kPageBytes = 4096;
/// Ports of the guest for connections of the host, one for each.
constexpr uint32_t kGuestPort = 6000;
/// Received packets between two looks at everything else.
constexpr uint32_t kPacketsAtATime = 64;
constexpr std::chrono::microseconds kBetweenLooks{50};

/// VIRTIO 1.3, 5.10.6.
struct PacketHeader {
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

static_assert(sizeof(PacketHeader) == 44);

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

uint32_t data_bytes(const BenchPlan& plan) {
    return std::min(plan.block_bytes, kPayloadMax);
}

/// Who only makes connections receives nothing yet.
class NoSink final : public StreamSink {
  public:
    void on_received(uint32_t /*stream*/, std::span<const std::byte> /*bytes*/) override {}

    void on_returned(uint32_t /*bytes*/, driver::Deadline /*sent*/) override {}
};

}  // namespace

uint64_t VsockDriver::buffer_bytes(const BenchPlan& plan) {
    const uint64_t data = uint64_t{plan.depth} * (data_bytes(plan) + kPageBytes);
    const uint64_t headers = uint64_t{plan.depth + kControlPacketsMax} * kLineBytes;
    return data + headers + uint64_t{plan.ring_size} * (kReceiveBytes + kLineBytes) + kPageBytes;
}

VsockDriver::VsockDriver(const BenchPlan& plan, const Target& target, driver::RunningDevice& device)
    : plan_(plan),
      target_(target),
      queues_{&device.queues[0], &device.queues[1]},
      layout_(device.agreement.features.has(driver::kIndirectDescBit)
                  ? driver::ChainLayout::kIndirect
                  : driver::ChainLayout::kDirect),
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

Result<void> VsockDriver::allocate(driver::GuestMemory& memory) {
    for (uint32_t i = 0; i < queues_[0]->size(); ++i) {
        const GuestAddr buffer = OUTRIGGER_TRY(memory.allocate(kReceiveBytes, kLineBytes));
        receive_buffers_.push_back(
            {.address = buffer, .length = kReceiveBytes, .device_writable = true});
        receive_data_.push_back(memory.data(buffer, kReceiveBytes));
        OUTRIGGER_ASSERT(queues_[0]->try_add(std::span(&receive_buffers_.back(), 1), i));
    }
    for (uint32_t i = 0; i < plan_.depth + kControlPacketsMax; ++i) {
        Slot slot;
        const GuestAddr header = OUTRIGGER_TRY(memory.allocate(sizeof(PacketHeader), kLineBytes));
        slot.header = memory.data(header, sizeof(PacketHeader));
        slot.segments[0] = {.address = header, .length = sizeof(PacketHeader)};
        if (i < plan_.depth) {
            const GuestAddr data = OUTRIGGER_TRY(memory.allocate(data_bytes(plan_), kPageBytes));
            slot.data = memory.data(data, data_bytes(plan_));
            slot.segments[1] = {.address = data};
        }
        (i < plan_.depth ? free_slots_ : free_control_).push_back(i);
        slots_.push_back(slot);
    }
    for (driver::DriverQueue* const queue : queues_) {
        queue->suppress_calls();
    }
    any_taken_ = true;
    (void)publish();
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
        OUTRIGGER_ASSERT(try_send_control(i, VIRTIO_VSOCK_OP_REQUEST));
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
        if (!complaint_.empty()) {
            return refuse(complaint_);
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

void VsockDriver::write_header(const Slot& slot, uint32_t number, uint16_t op, uint32_t length) {
    Connection& connection = connections_[number];
    const PacketHeader header{.source_cid = cid_,
                              .destination_cid = kHostCid,
                              .source_port = kGuestPort + number,
                              .destination_port = connection.host_port,
                              .length = length,
                              .type = uint16_t{VIRTIO_VSOCK_TYPE_STREAM},
                              .op = op,
                              .flags = uint32_t{0},
                              .allocated = kCredit,
                              .forwarded = connection.received};
    std::memcpy(slot.header, &header, sizeof header);
    connection.told = connection.received;
    connection.owes_credit = false;
}

uint32_t VsockDriver::try_send(uint32_t stream,
                               std::span<const std::byte> bytes,
                               bool copy,
                               driver::Deadline now) {
    Connection& connection = connections_[stream];
    // 5.10.6.3, signed: the other side may have shrunk its buffer.
    const int64_t credit =
        int64_t{connection.peer_allocated} - int64_t{connection.sent - connection.peer_forwarded};
    if (free_slots_.empty() || credit <= 0) {
        return 0;
    }
    const auto length = static_cast<uint32_t>(
        std::min({static_cast<uint64_t>(credit), bytes.size(), uint64_t{data_bytes(plan_)}}));
    const uint32_t number = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[number];
    slot.sent = now;
    slot.segments[1].length = length;
    write_header(slot, stream, VIRTIO_VSOCK_OP_RW, length);
    if (copy) {
        std::memcpy(slot.data, bytes.data(), length);
    }
    // choose_ring_size() has seen to it that there is room for all slots.
    OUTRIGGER_ASSERT(queues_[1]->try_add(slot.segments, number, layout_));
    any_sent_ = true;
    ++in_flight_;
    connection.sent += length;
    return length;
}

bool VsockDriver::try_send_control(uint32_t number, uint16_t op) {
    if (free_control_.empty()) {
        return false;
    }
    const uint32_t slot = free_control_.back();
    free_control_.pop_back();
    write_header(slots_[slot], number, op, 0);
    OUTRIGGER_ASSERT(queues_[1]->try_add(std::span(slots_[slot].segments).first(1), slot));
    any_sent_ = true;
    return true;
}

bool VsockDriver::take(StreamSink& sink) {
    const uint32_t before = in_flight_;
    take_sent(sink);
    const bool received = take_received(sink);
    if (any_owes_) {
        send_owed();
    }
    return received || in_flight_ != before;
}

void VsockDriver::take_sent(StreamSink& sink) {
    // No more than the ring holds.
    for (uint32_t left = queues_[1]->size(); left > 0; --left) {
        const auto completion = queues_[1]->poll_used();
        if (!completion) {
            return;
        }
        const auto number = static_cast<uint32_t>(completion->token);
        if (number >= plan_.depth) {
            free_control_.push_back(number);
            continue;
        }
        free_slots_.push_back(number);
        --in_flight_;
        sink.on_returned(slots_[number].segments[1].length, slots_[number].sent);
    }
}

bool VsockDriver::take_received(StreamSink& sink) {
    bool any = false;
    for (uint32_t left = kPacketsAtATime; left > 0; --left) {
        const auto completion = queues_[0]->poll_used();
        if (!completion) {
            break;
        }
        any = true;
        const size_t number = completion->token;
        const uint32_t length = std::min(completion->length, kReceiveBytes);
        on_packet(sink, std::span(receive_data_[number], length));
        OUTRIGGER_ASSERT(queues_[0]->try_add(std::span(&receive_buffers_[number], 1), number));
    }
    any_taken_ = any_taken_ || any;
    return any;
}

void VsockDriver::on_packet(StreamSink& sink, std::span<const std::byte> packet) {
    PacketHeader header;
    if (packet.size() < sizeof header) {
        lose("a packet is shorter than its header");
        return;
    }
    std::memcpy(&header, packet.data(), sizeof header);
    const uint32_t number = header.destination_port - kGuestPort;
    if (header.length != packet.size() - sizeof header || header.destination_cid != cid_ ||
        number >= connections_.size()) {
        lose("a packet is not for this guest, or not as long as it says");
        return;
    }
    Connection& connection = connections_[number];
    connection.peer_allocated = header.allocated;
    connection.peer_forwarded = header.forwarded;
    switch (header.op) {
        case VIRTIO_VSOCK_OP_REQUEST:
            connection.host_port = header.source_port;
            connection.established = try_send_control(number, VIRTIO_VSOCK_OP_RESPONSE);
            return;
        case VIRTIO_VSOCK_OP_RESPONSE:
            connection.established = true;
            return;
        case VIRTIO_VSOCK_OP_RW:
            connection.received += header.length;
            // As Linux does: the host's side has half of the window left when it hears of the rest.
            connection.owes_credit =
                connection.owes_credit || connection.received - connection.told >= kCredit / 2;
            any_owes_ = any_owes_ || connection.owes_credit;
            sink.on_received(number, packet.subspan(sizeof header));
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

/// The credit updates that are due, as far as there is room for them.
void VsockDriver::send_owed() {
    any_owes_ = false;
    for (uint32_t i = 0; i < connections_.size(); ++i) {
        if (connections_[i].owes_credit && !try_send_control(i, VIRTIO_VSOCK_OP_CREDIT_UPDATE)) {
            any_owes_ = true;
        }
    }
}

uint32_t VsockDriver::publish() {
    const bool first = std::exchange(any_taken_, false) && queues_[0]->publish_and_kick();
    const bool second = std::exchange(any_sent_, false) && queues_[1]->publish_and_kick();
    return (first ? 1U : 0U) + (second ? 1U : 0U);
}

void VsockDriver::lose(std::string words) {
    complaint_ = complaint_.empty() ? std::move(words) : complaint_;
}

}  // namespace outrigger::bench
