// SPDX-License-Identifier: Apache-2.0
/// A guest with a socket device, and the host's programs that it is connected with: connections of
/// the hybrid kind, which ours and others have in common. The host connects to the socket of
/// --a-host and asks for a port of the guest; the guest connects to a port of the host, which is a
/// socket beside that one. VIRTIO 1.3, 5.10.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "tools/driver/bring_up.h"
#include "tools/driver/frontend.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/stream_driver.h"

namespace outrigger::bench {

class VsockDriver final : public StreamDriver {
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
    uint32_t try_send(uint32_t stream,
                      std::span<const std::byte> bytes,
                      bool copy,
                      driver::Deadline now) override;
    bool take(StreamSink& sink) override;
    uint32_t publish() override;

    [[nodiscard]] uint32_t in_flight() const override { return in_flight_; }

    std::span<driver::DriverQueue* const> queues() override { return queues_; }

    [[nodiscard]] const std::string& complaint() const override { return complaint_; }

  private:
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

    /// A packet that is sent. Those behind the plan's depth have no data.
    struct Slot {
        std::array<driver::Segment, 2> segments{};
        std::byte* header = nullptr;
        std::byte* data = nullptr;
        driver::Deadline sent{};
    };

    VsockDriver(const BenchPlan& plan, const Target& target, driver::RunningDevice& device);

    [[nodiscard]] Result<void> learn_cid(driver::Frontend& frontend);
    [[nodiscard]] Result<void> allocate(driver::GuestMemory& memory);
    [[nodiscard]] Result<void> connect_all();
    [[nodiscard]] Result<void> connect_from_guest(uint32_t number, int listener);
    [[nodiscard]] Result<void> connect_from_host(uint32_t number);
    [[nodiscard]] Result<void> await_established(uint32_t number, driver::Deadline deadline);
    [[nodiscard]] bool read_reply(int socket, driver::Deadline deadline);
    void take_sent(StreamSink& sink);
    [[nodiscard]] bool take_received(StreamSink& sink);
    void on_packet(StreamSink& sink, std::span<const std::byte> packet);
    void send_owed();
    [[nodiscard]] bool try_send_control(uint32_t number, uint16_t op);
    void write_header(const Slot& slot, uint32_t number, uint16_t op, uint32_t length);
    void lose(std::string words);

    const BenchPlan plan_;
    const Target target_;
    const std::array<driver::DriverQueue*, kRings> queues_;
    const driver::ChainLayout layout_;
    uint64_t cid_ = 0;
    std::vector<Connection> connections_;

    std::vector<driver::Segment> receive_buffers_;
    std::vector<const std::byte*> receive_data_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_slots_;    // below the plan's depth
    std::vector<uint32_t> free_control_;  // the others
    uint32_t in_flight_ = 0;
    bool any_owes_ = false;
    bool any_taken_ = false;  // of the ring of received packets since publish()
    bool any_sent_ = false;
    std::string complaint_;
};

}  // namespace outrigger::bench
