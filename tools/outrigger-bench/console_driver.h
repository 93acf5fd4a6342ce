// SPDX-License-Identifier: Apache-2.0
/// A guest with a console, and who looks at one of its ports at the host: a stream of bytes each
/// way between the port's rings and a Unix socket. VIRTIO 1.3, 5.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/driver/bring_up.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/ring_stream_driver.h"

namespace outrigger::bench {

class ConsoleDriver final : public RingStreamDriver {
  public:
    /// Without a number of a port there is one port and no messages.
    [[nodiscard]] static uint16_t rings(const BenchPlan& plan);

    /// MULTIPORT is agreed on where the plan names a port.
    [[nodiscard]] static FeatureSet features(const BenchPlan& plan);

    /// Guest memory for all buffers.
    [[nodiscard]] static uint64_t buffer_bytes(const BenchPlan& plan);

    /// Sets the port up, opens it, and connects at the host. All but the plan and the target are
    /// borrowed.
    [[nodiscard]] static Result<std::unique_ptr<StreamDriver>> create(const BenchPlan& plan,
                                                                      const Target& target,
                                                                      driver::RunningDevice& device,
                                                                      driver::GuestMemory& memory);

    std::vector<UniqueFd> take_host_ends() override;

  private:
    struct Message {
        uint32_t port = 0;
        uint16_t event = 0;
        uint16_t value = 0;
    };

    [[nodiscard]] static Buffers buffers_of(const BenchPlan& plan);

    ConsoleDriver(const BenchPlan& plan, driver::RunningDevice& device);

    [[nodiscard]] Result<void> set_up(driver::RunningDevice& device,
                                      driver::GuestMemory& memory,
                                      const std::string& host_path);
    [[nodiscard]] Result<void> send(driver::DriverQueue& queue, const Message& message);
    [[nodiscard]] Result<Message> next_message(driver::DriverQueue& queue,
                                               driver::Deadline deadline);
    [[nodiscard]] Result<void> await_open(driver::DriverQueue& queue);
    void on_buffer(StreamSink& sink, std::span<const std::byte> bytes) override;

    const BenchPlan plan_;
    UniqueFd host_;
    std::vector<driver::Segment> message_buffers_;  // of what the device says
    std::vector<const std::byte*> message_data_;
    driver::Segment own_message_{};
    std::byte* own_message_data_ = nullptr;
    bool open_at_host_ = false;
};

}  // namespace outrigger::bench
