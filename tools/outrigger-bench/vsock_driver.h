// SPDX-License-Identifier: Apache-2.0
/// A guest with a socket device, and the host's programs that it is connected with: connections of
/// the hybrid kind, which ours and others have in common. The host connects to the socket of
/// --a-host and asks for a port of the guest; the guest connects to a port of the host, which is a
/// socket beside that one. VIRTIO 1.3, 5.10.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/driver/bring_up.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/ring_stream_driver.h"

namespace outrigger::bench {

class VsockDriver final : public RingStreamDriver {
  public:
    /// Receive and transmit. Of the third, for events, nothing is expected, and QEMU keeps it.
    static constexpr uint16_t kRings = 2;

    /// Guest memory for all buffers.
    [[nodiscard]] static uint64_t buffer_bytes(const BenchPlan& plan);

    /// Makes the connections. All but the plan and the target are borrowed.
    [[nodiscard]] static Result<std::unique_ptr<StreamDriver>> create(const BenchPlan& plan,
                                                                      const Target& target,
                                                                      driver::Frontend& frontend,
                                                                      driver::RunningDevice& device,
                                                                      driver::GuestMemory& memory);

    std::vector<UniqueFd> take_host_ends() override;

  private:
    struct WirePacket;

    struct Connection {
        UniqueFd host;
        uint32_t host_port = 0;
        bool established = false;
        bool owes_credit = false;     // a credit update is to be sent
        uint32_t peer_allocated = 0;  // what the host's side said last
        uint32_t peer_forwarded = 0;
        uint32_t sent = 0;
        uint32_t received = 0;
        uint32_t told = 0;  // of what was received, what the host's side knows that it is gone
    };

    [[nodiscard]] static Buffers buffers_of(const BenchPlan& plan);

    VsockDriver(const BenchPlan& plan, const Target& target, driver::RunningDevice& device);

    [[nodiscard]] Result<void> learn_cid(driver::Frontend& frontend);
    [[nodiscard]] Result<void> connect_all();
    [[nodiscard]] Result<void> connect_from_host(uint32_t number);
    [[nodiscard]] Result<void> await_established(uint32_t number, driver::Deadline deadline);
    [[nodiscard]] bool read_reply(int socket, driver::Deadline deadline);
    [[nodiscard]] uint64_t sendable(uint32_t stream) const override;
    void write_head(uint32_t stream, uint32_t length, std::byte* head) override;
    void on_buffer(StreamSink& sink, std::span<const std::byte> packet) override;
    void on_taken() override;
    [[nodiscard]] bool try_send_packet(uint32_t number, uint16_t op);
    void on_data(StreamSink& sink, uint32_t number, std::span<const std::byte> data);
    [[nodiscard]] WirePacket header_of(uint32_t number, uint16_t op, uint32_t length);

    const BenchPlan plan_;
    const Target target_;
    uint64_t cid_ = 0;
    std::vector<Connection> connections_;
    bool any_owes_ = false;
};

}  // namespace outrigger::bench
