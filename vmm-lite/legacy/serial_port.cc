// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/legacy/serial_port.h"

#include <algorithm>

namespace outrigger::vmm {
namespace {

constexpr size_t kInputMax = 16384;

// Registers, and what they are while the divisor's latch is open.
constexpr uint64_t kData = 0;
constexpr uint64_t kInterruptEnable = 1;
constexpr uint64_t kInterruptCause = 2;  // read; FIFO control when written
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kEnableReceived = 0x01;
constexpr uint8_t kEnableTransmitterEmpty = 0x02;
constexpr uint8_t kNoCause = 0x01;
constexpr uint8_t kCauseTransmitterEmpty = 0x02;
constexpr uint8_t kCauseReceived = 0x04;
constexpr uint8_t kFifosEnabled = 0xC0;
constexpr uint8_t kDivisorLatch = 0x80;
constexpr uint8_t kLoop = 0x10;
constexpr uint8_t kDataReady = 0x01;
constexpr uint8_t kTransmitterEmpty = 0x60;
constexpr uint8_t kCarrierAndReady = 0xB0;

}  // namespace

void SerialPort::read(uint64_t offset, std::span<std::byte> out) {
    if (out.size() == 1) {
        const std::lock_guard lock(mutex_);
        out[0] = std::byte{read_register(offset)};
    }
}

void SerialPort::write(uint64_t offset, std::span<const std::byte> in) {
    if (in.size() != 1) {
        return;
    }
    std::unique_lock lock(mutex_);
    if (!goes_out(offset)) {
        write_register(offset, std::to_integer<uint8_t>(in[0]));
        return;
    }
    lock.unlock();
    write_(in[0]);
    lock.lock();
    on_transmitted();
}

size_t SerialPort::push_input(std::span<const std::byte> input) {
    const std::lock_guard lock(mutex_);
    const size_t taken = std::min(input.size(), kInputMax - input_.size());
    input_.insert(input_.end(), input.begin(), input.begin() + static_cast<std::ptrdiff_t>(taken));
    update_interrupt();
    return taken;
}

uint8_t SerialPort::read_register(uint64_t offset) {
    const bool latch = (line_control_ & kDivisorLatch) != 0;
    switch (offset) {
        case kData: {
            if (latch) {
                return static_cast<uint8_t>(divisor_);
            }
            if (input_.empty()) {
                return 0;
            }
            const auto value = std::to_integer<uint8_t>(input_.front());
            input_.pop_front();
            update_interrupt();
            return value;
        }
        case kInterruptEnable:
            return latch ? static_cast<uint8_t>(divisor_ >> 8U) : interrupt_enable_;
        case kInterruptCause: {
            const uint8_t cause = pending_cause();
            if (cause == kCauseTransmitterEmpty) {
                transmitter_empty_told_ = true;
                update_interrupt();
            }
            return static_cast<uint8_t>(cause | ((fifo_control_ & 1U) != 0 ? kFifosEnabled : 0U));
        }
        case kLineControl:
            return line_control_;
        case kModemControl:
            return modem_control_;
        case kLineStatus:
            return line_status();
        case kModemStatus:
            return modem_status();
        default:
            return scratch_;
    }
}

void SerialPort::write_register(uint64_t offset, uint8_t value) {
    const bool latch = (line_control_ & kDivisorLatch) != 0;
    switch (offset) {
        case kData:
            if (latch) {
                divisor_ = static_cast<uint16_t>((divisor_ & 0xFF00U) | value);
                break;
            }
            // To itself: what goes out does not come here.
            if (input_.size() < kInputMax) {
                input_.push_back(std::byte{value});
            }
            on_transmitted();
            break;
        case kInterruptEnable:
            if (latch) {
                divisor_ = static_cast<uint16_t>((divisor_ & 0xFFU) | (unsigned{value} << 8U));
                break;
            }
            if ((value & ~unsigned{interrupt_enable_} & kEnableTransmitterEmpty) != 0) {
                transmitter_empty_told_ = false;
            }
            interrupt_enable_ = value & 0x0FU;
            update_interrupt();
            break;
        case kInterruptCause:
            fifo_control_ = value;
            if ((value & 0x02U) != 0) {
                input_.clear();
            }
            update_interrupt();
            break;
        case kLineControl:
            line_control_ = value;
            break;
        case kModemControl:
            modem_control_ = value;
            break;
        case kScratch:
            scratch_ = value;
            break;
        default:
            break;
    }
}

bool SerialPort::goes_out(uint64_t offset) const {
    return offset == kData && (line_control_ & kDivisorLatch) == 0 && (modem_control_ & kLoop) == 0;
}

/// A new edge tells so, also where the line is up.
void SerialPort::on_transmitted() {
    transmitter_empty_told_ = false;
    raised_ = false;
    update_interrupt();
}

uint8_t SerialPort::pending_cause() const {
    if ((interrupt_enable_ & kEnableReceived) != 0 && !input_.empty()) {
        return kCauseReceived;
    }
    if ((interrupt_enable_ & kEnableTransmitterEmpty) != 0 && !transmitter_empty_told_) {
        return kCauseTransmitterEmpty;
    }
    return kNoCause;
}

uint8_t SerialPort::line_status() const {
    return static_cast<uint8_t>(kTransmitterEmpty | (input_.empty() ? 0U : kDataReady));
}

uint8_t SerialPort::modem_status() const {
    if ((modem_control_ & kLoop) == 0) {
        return kCarrierAndReady;
    }
    // RTS, DTR, OUT1 and OUT2 come back as CTS, DSR, RI and DCD.
    const unsigned control = modem_control_;
    return static_cast<uint8_t>(((control & 2U) << 3U) | ((control & 1U) << 5U) |
                                ((control & 4U) << 4U) | ((control & 8U) << 4U));
}

void SerialPort::update_interrupt() {
    const bool pending = pending_cause() != kNoCause;
    if (pending && !raised_) {
        interrupt_();
    }
    raised_ = pending;
}

}  // namespace outrigger::vmm
