// SPDX-License-Identifier: Apache-2.0
/// A 16550 at COM1, for debugging: every byte is two exits, so a guest in production has none.
///
/// What the guest writes goes to a sink at once; what comes for it waits in a queue of 16 KiB.
/// Thread: any; it locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "vmm-lite/bus/bus.h"

namespace outrigger::vmm {

class SerialPort final : public BusDevice {
  public:
    /// `write` takes the guest's bytes, on a vCPU's thread, on several at once, and may take its
    /// time: nobody else waits for it. `interrupt` raises the line's edge.
    SerialPort(std::function<void(std::byte)> write, std::move_only_function<void()> interrupt)
        : write_(std::move(write)), interrupt_(std::move(interrupt)) {}

    void read(uint64_t offset, std::span<std::byte> out) override;
    void write(uint64_t offset, std::span<const std::byte> in) override;

    /// How many of `input` were taken: the rest when the guest has read.
    size_t push_input(std::span<const std::byte> input);

  private:
    [[nodiscard]] uint8_t read_register(uint64_t offset);
    void write_register(uint64_t offset, uint8_t value);
    [[nodiscard]] bool goes_out(uint64_t offset) const;
    void on_transmitted();
    [[nodiscard]] uint8_t pending_cause() const;
    [[nodiscard]] uint8_t line_status() const;
    [[nodiscard]] uint8_t modem_status() const;
    void update_interrupt();

    std::function<void(std::byte)> write_;
    std::mutex mutex_;  // what follows
    std::move_only_function<void()> interrupt_;
    std::deque<std::byte> input_;
    uint8_t interrupt_enable_ = 0;
    uint8_t fifo_control_ = 0;
    uint8_t line_control_ = 0;
    uint8_t modem_control_ = 0;
    uint8_t scratch_ = 0;
    uint16_t divisor_ = 12;  // 9600 baud
    bool transmitter_empty_told_ = true;
    bool raised_ = false;
};

}  // namespace outrigger::vmm
