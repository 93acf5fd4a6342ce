// SPDX-License-Identifier: Apache-2.0
/// The socket device: connections between programs of the guest and programs of the host.
/// VIRTIO 1.3, 5.10.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/device.h"

#include "devices/vsock/vsock_control.h"
#include "devices/vsock/vsock_engine.h"

namespace outrigger::vsock {

class VsockDevice final : public Device {
  public:
    /// Is whole behind open().
    explicit VsockDevice(VsockOptions options) : options_(std::move(options)) {}

    /// For those that open it themselves.
    VsockDevice(VsockOptions options, std::unique_ptr<VsockEngine> engine)
        : options_(std::move(options)), engine_(std::move(engine)) {}

    /// Before anything else: begins to listen for the host, and takes up what another process left
    /// in `memory`, which is null where there is no keeper.
    [[nodiscard]] Result<void> open(DeviceKeeper* keeper);

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] DeviceAbilities abilities() const override;
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

    [[nodiscard]] control::DeviceControl* control() override { return &control_; }

    // Any thread.

    [[nodiscard]] const VsockCounters& counters() const { return engine_->counters(); }

    [[nodiscard]] uint64_t guest_cid() const { return options_.guest_cid; }

    [[nodiscard]] size_t connections_max() const { return options_.connections_max; }

    /// What is written down of the connection in that slot, for whoever only shows it.
    [[nodiscard]] ConnectionRecord look_at(uint32_t slot) const { return engine_->look_at(slot); }

  private:
    enum Queue : uint16_t { kReceive = 0, kTransmit = 1, kEvent = 2 };

    static constexpr size_t kQueueCount = 3;

    [[nodiscard]] QueueProgress send_events();
    void note_event_published();
    [[nodiscard]] bool is_of_new_driver(QueueIndex index, const Virtqueue& queue) const;
    void look_for_new_driver(QueueIndex index, const Virtqueue& queue);
    void forget_runs();
    [[nodiscard]] bool carries_packets() const;
    void forget_connections();

    const VsockOptions options_;
    std::unique_ptr<VsockEngine> engine_;
    std::atomic<bool> stream_ = true;  // control thread to worker
    std::atomic<bool> seqpacket_ = false;

    bool has_frontend_ = false;  // control thread
    VsockControl control_{*this};

    // The worker's while queues run, and the control thread's otherwise.
    std::array<Virtqueue*, kQueueCount> queues_{};
    bool event_is_sent_ = false;  // and not known to be published
};

}  // namespace outrigger::vsock
