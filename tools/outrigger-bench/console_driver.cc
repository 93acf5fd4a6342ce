// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/console_driver.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <linux/virtio_console.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/little_endian.h"

#include "tools/driver/frontend_socket.h"

namespace outrigger::bench {
namespace {

/// A page, as Linux has them for input.
constexpr uint32_t kReceiveBytes = 4096;
constexpr uint32_t kMessageBytes = 128;
constexpr uint32_t kMessageBuffers = 32;
constexpr uint64_t kLineBytes = 64;
// VIRTIO 1.3, 5.3.2.
constexpr size_t kMessagesFromDevice = 2;
constexpr size_t kMessagesToDevice = 3;

/// VIRTIO 1.3, 5.3.6.2.
struct WireMessage {
    Le32 port;
    Le16 event;
    Le16 value;
};

std::unexpected<Error> refuse(std::string message) {
    return failure(Error{.message = std::move(message)});
}

size_t receive_ring(const BenchPlan& plan) {
    const uint32_t port = plan.port.value_or(0);
    return port == 0 ? 0 : 2 + 2 * size_t{port};
}

}  // namespace

uint16_t ConsoleDriver::rings(const BenchPlan& plan) {
    return static_cast<uint16_t>(plan.port ? 2 * (*plan.port + 1) + 2 : 2);
}

FeatureSet ConsoleDriver::features(const BenchPlan& plan) {
    return plan.port ? driver::kUsualFeatures
                     : driver::kUsualFeatures.without(VIRTIO_CONSOLE_F_MULTIPORT);
}

uint64_t ConsoleDriver::buffer_bytes(const BenchPlan& plan) {
    return guest_bytes(buffers_of(plan), plan.ring_size) +
           (kMessageBuffers + 2) * (kMessageBytes + kLineBytes);
}

RingStreamDriver::Buffers ConsoleDriver::buffers_of(const BenchPlan& plan) {
    return {.receive_bytes = kReceiveBytes, .data_bytes = plan.block_bytes, .count = plan.depth};
}

ConsoleDriver::ConsoleDriver(const BenchPlan& plan, driver::RunningDevice& device)
    : RingStreamDriver(buffers_of(plan),
                       device.queues[receive_ring(plan)],
                       device.queues[receive_ring(plan) + 1]),
      plan_(plan) {}

Result<std::unique_ptr<StreamDriver>> ConsoleDriver::create(const BenchPlan& plan,
                                                            const Target& target,
                                                            driver::RunningDevice& device,
                                                            driver::GuestMemory& memory) {
    if (plan.port && !device.agreement.features.has(VIRTIO_CONSOLE_F_MULTIPORT)) {
        return refuse("the console has no numbered ports: leave --port out");
    }
    std::unique_ptr<ConsoleDriver> guest(new ConsoleDriver(plan, device));
    OUTRIGGER_TRY(guest->allocate(memory));
    if (plan.port) {
        OUTRIGGER_TRY(guest->set_up(device, memory, target.host_path));
    } else if (!target.host_path.empty()) {
        guest->host_ =
            OUTRIGGER_TRY(driver::connect_until(target.host_path, driver::after(plan.patience)));
    }
    return guest;
}

/// As Linux does when it loads its driver, and then a program that opens the port.
Result<void> ConsoleDriver::set_up(driver::RunningDevice& device,
                                   driver::GuestMemory& memory,
                                   const std::string& host_path) {
    driver::DriverQueue& from_device = device.queues[kMessagesFromDevice];
    driver::DriverQueue& to_device = device.queues[kMessagesToDevice];
    const uint32_t buffers = std::min<uint32_t>(kMessageBuffers, from_device.size());
    for (uint32_t i = 0; i < buffers; ++i) {
        const GuestAddr buffer = OUTRIGGER_TRY(memory.allocate(kMessageBytes, kLineBytes));
        message_buffers_.push_back(
            {.address = buffer, .length = kMessageBytes, .device_writable = true});
        message_data_.push_back(memory.data(buffer, kMessageBytes));
        OUTRIGGER_ASSERT(from_device.try_add(std::span(&message_buffers_.back(), 1), i));
    }
    (void)from_device.publish_and_kick();
    const GuestAddr own = OUTRIGGER_TRY(memory.allocate(sizeof(WireMessage), kLineBytes));
    own_message_ = {.address = own, .length = sizeof(WireMessage)};
    own_message_data_ = memory.data(own, sizeof(WireMessage));
    OUTRIGGER_TRY(send(to_device, {.event = VIRTIO_CONSOLE_DEVICE_READY, .value = 1}));
    const driver::Deadline deadline = driver::after(plan_.patience);
    for (bool added = false; !added;) {
        const Message message = OUTRIGGER_TRY(next_message(from_device, deadline));
        if (message.event == VIRTIO_CONSOLE_PORT_ADD) {
            added = message.port == *plan_.port;
            // Of the others there are no rings, or nothing is in them.
            OUTRIGGER_TRY(send(to_device,
                               {.port = message.port,
                                .event = VIRTIO_CONSOLE_PORT_READY,
                                .value = added ? uint16_t{1} : uint16_t{0}}));
        }
    }
    OUTRIGGER_TRY(
        send(to_device, {.port = *plan_.port, .event = VIRTIO_CONSOLE_PORT_OPEN, .value = 1}));
    if (host_path.empty()) {
        return {};
    }
    host_ = OUTRIGGER_TRY(driver::connect_until(host_path, deadline));
    return await_open(from_device);
}

/// Until the device has said that somebody is there at the host.
Result<void> ConsoleDriver::await_open(driver::DriverQueue& queue) {
    const driver::Deadline deadline = driver::after(plan_.patience);
    while (!open_at_host_) {
        (void)OUTRIGGER_TRY(next_message(queue, deadline));
    }
    return {};
}

Result<void> ConsoleDriver::send(driver::DriverQueue& queue, const Message& message) {
    const WireMessage wire{.port = message.port, .event = message.event, .value = message.value};
    std::memcpy(own_message_data_, &wire, sizeof wire);
    if (!queue.transact(std::span(&own_message_, 1), driver::after(plan_.patience))) {
        return refuse("a message to the console did not come back");
    }
    return {};
}

Result<ConsoleDriver::Message> ConsoleDriver::next_message(driver::DriverQueue& queue,
                                                           driver::Deadline deadline) {
    if (queue.wait_used(deadline) != driver::WaitResult::kUsed) {
        return refuse(fmt::format("the console does not say that it has port {}, or who opens it",
                                  *plan_.port));
    }
    const auto completion = queue.poll_used();
    WireMessage wire;
    if (!completion || completion->length < sizeof wire) {
        return refuse("a message of the console is too short");
    }
    const size_t number = completion->token;
    std::memcpy(&wire, message_data_[number], sizeof wire);
    OUTRIGGER_ASSERT(queue.try_add(std::span(&message_buffers_[number], 1), number));
    (void)queue.publish_and_kick();
    const Message message{.port = wire.port, .event = wire.event, .value = wire.value};
    if (message.port == *plan_.port && message.event == VIRTIO_CONSOLE_PORT_OPEN) {
        open_at_host_ = message.value != 0;
    }
    return message;
}

std::vector<UniqueFd> ConsoleDriver::take_host_ends() {
    std::vector<UniqueFd> ends;
    ends.push_back(std::move(host_));
    return ends;
}

void ConsoleDriver::on_buffer(StreamSink& sink, std::span<const std::byte> bytes) {
    sink.on_received(0, bytes);
}

}  // namespace outrigger::bench
