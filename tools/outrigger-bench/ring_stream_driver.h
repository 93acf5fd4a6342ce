// SPDX-License-Identifier: Apache-2.0
/// The rings under streams of bytes: one of buffers that the device fills, and one of buffers that
/// are sent. What the bytes in them mean, each type of device says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/stream_driver.h"

namespace outrigger::bench {

class RingStreamDriver : public StreamDriver {
  public:
    uint32_t try_send(uint32_t stream,
                      std::span<const std::byte> bytes,
                      bool copy,
                      driver::Deadline now) final;
    bool take(StreamSink& sink) final;
    uint32_t publish() final;

    [[nodiscard]] uint32_t in_flight() const final { return in_flight_; }

    std::span<driver::DriverQueue* const> queues() final { return queues_; }

    [[nodiscard]] const std::string& complaint() const final { return complaint_; }

  protected:
    /// What the rings are filled with.
    struct Buffers {
        uint32_t receive_bytes = 0;  ///< of each buffer that the device fills: a whole ring of them
        uint32_t head_bytes = 0;     ///< in front of what is sent; 0: nothing is
        uint32_t data_bytes = 0;     ///< of each buffer that is sent, without its head
        uint32_t count = 0;          ///< buffers that are sent
        uint32_t control_count = 0;  ///< heads without data that may be in flight beside those
    };

    /// Guest memory for all of them.
    [[nodiscard]] static uint64_t guest_bytes(const Buffers& buffers, uint16_t ring_size);

    /// The queues are borrowed. `layout`: of chains that have a head and data.
    RingStreamDriver(const Buffers& buffers,
                     driver::DriverQueue& receive,
                     driver::DriverQueue& transmit,
                     driver::ChainLayout layout = driver::ChainLayout::kDirect);

    /// Makes the buffers, and gives the device those that it fills. Called once.
    [[nodiscard]] Result<void> allocate(driver::GuestMemory& memory);

    /// Not all heads that are sent alone are in flight.
    [[nodiscard]] bool may_send_control() const { return !free_control_.empty(); }

    /// Sends a head alone, where may_send_control().
    void send_control(std::span<const std::byte> head);

    /// What went wrong first.
    void lose(std::string words);

    /// How many bytes of that stream the device takes now.
    [[nodiscard]] virtual uint64_t sendable(uint32_t /*stream*/) const { return UINT64_MAX; }

    /// So much is about to be sent; `head` is what comes before it.
    virtual void write_head(uint32_t /*stream*/, uint32_t /*length*/, std::byte* /*head*/) {}

    /// The device has filled a buffer.
    virtual void on_buffer(StreamSink& sink, std::span<const std::byte> bytes) = 0;

    /// All that was there has been taken.
    virtual void on_taken() {}

  private:
    /// Those behind Buffers::count have no data.
    struct Slot {
        std::array<driver::Segment, 2> segments{};
        std::byte* head = nullptr;
        std::byte* data = nullptr;
        driver::Deadline sent{};
    };

    [[nodiscard]] Result<void> allocate_slot(driver::GuestMemory& memory, uint32_t number);
    void take_sent(StreamSink& sink);
    [[nodiscard]] bool take_received(StreamSink& sink);

    const Buffers buffers_;
    const std::array<driver::DriverQueue*, 2> queues_;  // receive, transmit
    const driver::ChainLayout layout_;

    std::vector<driver::Segment> receive_buffers_;
    std::vector<const std::byte*> receive_data_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_slots_;    // below Buffers::count
    std::vector<uint32_t> free_control_;  // the others
    uint32_t in_flight_ = 0;
    bool any_taken_ = false;  // of the ring of received buffers since publish()
    bool any_sent_ = false;
    std::string complaint_;
};

}  // namespace outrigger::bench
