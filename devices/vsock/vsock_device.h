// SPDX-License-Identifier: Apache-2.0
/// The socket device: connections between programs of the guest and programs of the host.
/// VIRTIO 1.3, 5.10.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/daemon/kept_memory.h"
#include "vhost-user-backend/device.h"

#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {

class VsockDevice final : public Device {
  public:
    explicit VsockDevice(const VsockOptions& options, std::unique_ptr<VsockEngine> engine);

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] FeatureSet offered_features() const override;
    void on_negotiated(FeatureSet agreed) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;

    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;

    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;

    void on_frontend(std::shared_ptr<Frontend> frontend) override;
    void reset() override;

    /// Where there is a keeper, before anything runs: what the guest has to be told when another
    /// process goes on.
    [[nodiscard]] Result<void> keep_memory(KeptMemory& memory);

    /// Any thread.
    [[nodiscard]] const VsockCounters& counters() const { return engine_->counters(); }

  private:
    enum Queue : uint16_t { kReceive = 0, kTransmit = 1, kEvent = 2 };

    static constexpr size_t kQueueCount = 3;

    [[nodiscard]] QueueProgress send_events();
    [[nodiscard]] bool is_of_new_driver(QueueIndex index, const Virtqueue& queue) const;
    void forget_connections();

    const uint64_t guest_cid_;
    const std::unique_ptr<VsockEngine> engine_;
    std::atomic<bool> stream_ = true;  // control thread to worker
    std::atomic<bool> seqpacket_ = false;

    bool has_frontend_ = false;  // control thread

    // The worker's while queues run, and the control thread's otherwise.
    std::array<Virtqueue*, kQueueCount> queues_{};
    std::array<bool, kQueueCount> has_run_{};  // since the last reset
    size_t running_ = 0;
    bool reset_is_due_ = false;  // the driver is to be told by an event
};

}  // namespace outrigger::vsock
