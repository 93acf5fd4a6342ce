// SPDX-License-Identifier: Apache-2.0
/// A guest with a network device, and a program at a Unix stream socket that its frames go to and
/// come from, each behind its length in four bytes: what QEMU's `-netdev stream` and passt speak.
/// Or nobody: then the device throws frames away, or sends them back. VIRTIO 1.3, 5.1.
///
/// A frame is an Ethernet header, of a type that is nobody's, and a block of the stream.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tools/driver/bring_up.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/ring_stream_driver.h"

namespace outrigger::bench {

class NetDriver final : public RingStreamDriver {
  public:
    /// Receive and transmit: one pair.
    static constexpr uint16_t kRings = 2;

    /// No offload, so that what is sent is what arrives.
    [[nodiscard]] static FeatureSet features();

    /// Guest memory for all buffers.
    [[nodiscard]] static uint64_t buffer_bytes(const BenchPlan& plan);

    /// The plan with blocks that are what a frame carries.
    [[nodiscard]] static BenchPlan plan_of_payload(BenchPlan plan);

    /// Connects at the host, and waits for a frame from there. All but the plan and the target are
    /// borrowed.
    [[nodiscard]] static Result<std::unique_ptr<StreamDriver>> create(const BenchPlan& plan,
                                                                      const Target& target,
                                                                      driver::RunningDevice& device,
                                                                      driver::GuestMemory& memory);

    std::vector<UniqueFd> take_host_ends() override;

    [[nodiscard]] std::span<const std::byte> head_to_host() const override {
        return heads_[kToHost];
    }

    [[nodiscard]] std::span<const std::byte> head_to_guest() const override {
        return heads_[kToGuest];
    }

  private:
    static constexpr uint32_t kEthernetBytes = 14;
    static constexpr size_t kLengthBytes = 4;
    static constexpr size_t kToHost = 0;
    static constexpr size_t kToGuest = 1;
    static constexpr size_t kGreeting = 2;
    using Head = std::array<std::byte, kLengthBytes + kEthernetBytes>;

    [[nodiscard]] static Buffers buffers_of(const BenchPlan& plan, bool merges);

    NetDriver(const BenchPlan& plan, driver::RunningDevice& device);

    void write_head(uint32_t stream, uint32_t length, std::byte* head) override;
    void on_buffer(StreamSink& sink, std::span<const std::byte> bytes) override;
    [[nodiscard]] size_t begin_frame(std::span<const std::byte> bytes);
    [[nodiscard]] Result<void> greet(driver::Deadline deadline);

    const uint32_t payload_bytes_;
    const bool merges_;  // a frame may lie in several buffers
    const bool echoes_;
    std::array<Head, 3> heads_;
    UniqueFd host_;

    // The frame that is being received.
    uint32_t buffers_left_ = 0;
    uint32_t bytes_left_ = 0;
    bool foreign_ = false;
    bool greeted_ = false;
};

}  // namespace outrigger::bench
