// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/ring_stream_driver.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace outrigger::bench {
namespace {

constexpr uint64_t kLineBytes = 64;
constexpr uint64_t kPageBytes = 4096;
/// Filled buffers between two looks at everything else.
constexpr uint32_t kBuffersAtATime = 64;

uint64_t in_lines(uint64_t bytes) {
    return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

/// Pages lie where pages do.
uint64_t alignment_of(uint64_t bytes) {
    return bytes % kPageBytes == 0 ? kPageBytes : kLineBytes;
}

}  // namespace

uint64_t RingStreamDriver::guest_bytes(const Buffers& buffers, uint16_t ring_size) {
    const uint64_t slots = uint64_t{buffers.count} + buffers.control_count;
    return uint64_t{ring_size} * in_lines(buffers.receive_bytes) +
           slots * in_lines(buffers.head_bytes) +
           uint64_t{buffers.count} * (buffers.data_bytes + kPageBytes) + 2 * kPageBytes;
}

RingStreamDriver::RingStreamDriver(const Buffers& buffers,
                                   driver::DriverQueue& receive,
                                   driver::DriverQueue& transmit,
                                   driver::ChainLayout layout)
    : buffers_(buffers),
      queues_{&receive, &transmit},
      layout_(buffers.head_bytes > 0 ? layout : driver::ChainLayout::kDirect) {}

Result<void> RingStreamDriver::allocate(driver::GuestMemory& memory) {
    const uint32_t length = buffers_.receive_bytes;
    for (uint32_t i = 0; i < queues_[0]->size(); ++i) {
        const GuestAddr buffer = OUTRIGGER_TRY(memory.allocate(length, alignment_of(length)));
        receive_buffers_.push_back({.address = buffer, .length = length, .device_writable = true});
        receive_data_.push_back(memory.data(buffer, length));
        OUTRIGGER_ASSERT(queues_[0]->try_add(std::span(&receive_buffers_.back(), 1), i));
    }
    for (uint32_t i = 0; i < buffers_.count + buffers_.control_count; ++i) {
        OUTRIGGER_TRY(allocate_slot(memory, i));
    }
    for (driver::DriverQueue* const queue : queues_) {
        queue->suppress_calls();
    }
    any_taken_ = true;
    (void)publish();
    return {};
}

Result<void> RingStreamDriver::allocate_slot(driver::GuestMemory& memory, uint32_t number) {
    Slot slot;
    if (buffers_.head_bytes > 0) {
        const GuestAddr head = OUTRIGGER_TRY(memory.allocate(buffers_.head_bytes, kLineBytes));
        slot.head = memory.data(head, buffers_.head_bytes);
        slot.segments[0] = {.address = head, .length = buffers_.head_bytes};
    }
    const bool has_data = number < buffers_.count;
    if (has_data) {
        const GuestAddr data = OUTRIGGER_TRY(memory.allocate(buffers_.data_bytes, kPageBytes));
        slot.data = memory.data(data, buffers_.data_bytes);
        slot.segments[1] = {.address = data};
        std::memset(slot.data, 'o', buffers_.data_bytes);
    }
    (has_data ? free_slots_ : free_control_).push_back(number);
    slots_.push_back(slot);
    return {};
}

uint32_t RingStreamDriver::try_send(uint32_t stream,
                                    std::span<const std::byte> bytes,
                                    bool copy,
                                    driver::Deadline now) {
    const uint64_t room = std::min<uint64_t>(sendable(stream), buffers_.data_bytes);
    if (free_slots_.empty() || room == 0) {
        return 0;
    }
    const auto length = static_cast<uint32_t>(std::min<uint64_t>(room, bytes.size()));
    const uint32_t number = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[number];
    slot.sent = now;
    slot.segments[1].length = length;
    write_head(stream, length, slot.head);
    if (copy) {
        std::memcpy(slot.data, bytes.data(), length);
    }
    // choose_ring_size() has seen to it that there is room for all slots.
    OUTRIGGER_ASSERT(queues_[1]->try_add(
        std::span(slot.segments).subspan(buffers_.head_bytes > 0 ? 0 : 1), number, layout_));
    any_sent_ = true;
    ++in_flight_;
    return length;
}

void RingStreamDriver::send_control(std::span<const std::byte> head) {
    OUTRIGGER_ASSERT(may_send_control() && head.size() == buffers_.head_bytes);
    const uint32_t number = free_control_.back();
    free_control_.pop_back();
    std::memcpy(slots_[number].head, head.data(), head.size());
    OUTRIGGER_ASSERT(queues_[1]->try_add(std::span(slots_[number].segments).first(1), number));
    any_sent_ = true;
}

bool RingStreamDriver::take(StreamSink& sink) {
    const uint32_t before = in_flight_;
    take_sent(sink);
    const bool received = take_received(sink);
    on_taken();
    return received || in_flight_ != before;
}

void RingStreamDriver::take_sent(StreamSink& sink) {
    // No more than the ring holds.
    for (uint32_t left = queues_[1]->size(); left > 0; --left) {
        const auto completion = queues_[1]->poll_used();
        if (!completion) {
            return;
        }
        const auto number = static_cast<uint32_t>(completion->token);
        if (number >= buffers_.count) {
            free_control_.push_back(number);
            continue;
        }
        free_slots_.push_back(number);
        --in_flight_;
        sink.on_returned(slots_[number].segments[1].length, slots_[number].sent);
    }
}

bool RingStreamDriver::take_received(StreamSink& sink) {
    bool any = false;
    for (uint32_t left = kBuffersAtATime; left > 0; --left) {
        const auto completion = queues_[0]->poll_used();
        if (!completion) {
            break;
        }
        any = true;
        const size_t number = completion->token;
        const uint32_t length = std::min(completion->length, buffers_.receive_bytes);
        on_buffer(sink, std::span(receive_data_[number], length));
        OUTRIGGER_ASSERT(queues_[0]->try_add(std::span(&receive_buffers_[number], 1), number));
    }
    any_taken_ = any_taken_ || any;
    return any;
}

uint32_t RingStreamDriver::publish() {
    const bool first = std::exchange(any_taken_, false) && queues_[0]->publish_and_kick();
    const bool second = std::exchange(any_sent_, false) && queues_[1]->publish_and_kick();
    return (first ? 1U : 0U) + (second ? 1U : 0U);
}

void RingStreamDriver::lose(std::string words) {
    complaint_ = complaint_.empty() ? std::move(words) : complaint_;
}

}  // namespace outrigger::bench
