// SPDX-License-Identifier: Apache-2.0
/// The driver that belongs to the echo device: sends bytes through a ring and checks what comes.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/wait.h"
#include "tools/driver/driver_queue.h"
#include "tools/driver/guest_memory.h"

namespace outrigger::testing {

/// Two buffers of the guest's, for one echo at a time.
class EchoBuffers final {
  public:
    static constexpr uint32_t kBytes = 256;

    /// Takes the buffers from `memory` (from one region, when named).
    explicit EchoBuffers(driver::GuestMemory& memory,
                         std::optional<driver::RegionId> region = std::nullopt)
        : memory_(&memory),
          request_(memory.allocate(kBytes, 64, region).value()),
          response_(memory.allocate(kBytes, 64, region).value()) {}

    /// The request as a chain: two readable parts, two writable ones.
    [[nodiscard]] std::array<driver::Segment, 4> chain() const {
        using driver::offset_by;
        return {
            {{.address = request_, .length = 1, .device_writable = false},
             {.address = offset_by(request_, 1), .length = kBytes - 1, .device_writable = false},
             {.address = response_, .length = kBytes - 7, .device_writable = true},
             {.address = offset_by(response_, kBytes - 7), .length = 7, .device_writable = true}}};
    }

    /// Fills the request with bytes that no other call used, and clears the response.
    void fill() {
        static uint8_t serial = 0;
        ++serial;
        for (uint32_t i = 0; i < kBytes; ++i) {
            expected_[i] = static_cast<std::byte>(serial * 31 + i);
        }
        memory_->write(request_, expected_);
        memory_->write(response_, std::array<std::byte, kBytes>{});
    }

    [[nodiscard]] bool answered() const {
        std::array<std::byte, kBytes> found{};
        memory_->read(response_, found);
        return found == expected_;
    }

    [[nodiscard]] GuestAddr request() const { return request_; }

    [[nodiscard]] GuestAddr response() const { return response_; }

  private:
    driver::GuestMemory* memory_;
    GuestAddr request_;
    GuestAddr response_;
    std::array<std::byte, kBytes> expected_{};
};

/// Sends one request through the ring; empty when the right answer came, else what went wrong.
[[nodiscard]] inline std::string echo_problem(
    driver::DriverQueue& queue,
    EchoBuffers& buffers,
    driver::ChainLayout layout = driver::ChainLayout::kDirect) {
    buffers.fill();
    const auto completion = queue.transact(buffers.chain(), driver::after(kPatience), layout);
    if (!completion) {
        return "the request did not complete";
    }
    if (completion->length != EchoBuffers::kBytes) {
        return "used length " + std::to_string(completion->length);
    }
    return buffers.answered() ? "" : "other bytes came back";
}

}  // namespace outrigger::testing
