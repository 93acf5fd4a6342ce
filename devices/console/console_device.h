// SPDX-License-Identifier: Apache-2.0
/// The console device: named ports, each a terminal or a plain stream of bytes between the guest
/// and something on the host. VIRTIO 1.3, 5.3.
///
/// Queue workers copy between rings and PortStream, and the control queue's between ring and
/// PortControl; a thread of its own serves the host's side. No chain is held from one call to the
/// next: receive buffers are taken when there is input, and what the guest wrote is copied at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/device.h"

#include "devices/console/console_control.h"
#include "devices/console/host_end.h"
#include "devices/console/host_thread.h"
#include "devices/console/kept_console.h"
#include "devices/console/port_control.h"
#include "devices/console/port_options.h"
#include "devices/console/port_stream.h"

namespace outrigger::console {

struct ConsoleSettings {
    std::vector<PortOptions> ports{};  ///< at least one
    std::vector<HostEnd> ends{};       ///< of each port
    bool multiport = true;             ///< offer it; without, there is exactly one port
    ResizeOrder resize_order = ResizeOrder::kSpecification;
    // Where there is a keeper; the ends have what is in it.
    std::unique_ptr<KeptConsole> kept{};
    std::unique_ptr<Conduit> conduit{};
};

/// Written by the worker of the queue.
struct PortCounters {
    Counter chains_written;  ///< by the guest
    Counter chains_read;
    Counter empty_chains;  ///< with no byte of the direction that counts
    Counter output_waits;  ///< times the guest had to wait for the host
    Counter emergencies;   ///< bytes written by way of the configuration; control thread
};

class ConsoleDevice final : public Device, private HostEvents {
  public:
    [[nodiscard]] static Result<std::unique_ptr<ConsoleDevice>> create(ConsoleSettings settings);

    ~ConsoleDevice() override;

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] DeviceAbilities abilities() const override;
    [[nodiscard]] FeatureSet offered_features() const override;
    void on_negotiated(FeatureSet agreed) override;
    void on_frontend(std::shared_ptr<Frontend> frontend) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    void on_serving(std::span<Worker* const> workers) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;

    [[nodiscard]] control::DeviceControl* control() override { return &operator_; }

    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;
    void reset() override;

    /// Adds a port of the table while the guest runs, or takes it away. Control thread.
    [[nodiscard]] Result<void> set_plugged(size_t port, bool plugged);

    // What follows: any thread.

    [[nodiscard]] size_t port_count() const { return ports_.size(); }

    [[nodiscard]] const PortOptions& options(size_t port) const { return ports_[port]->options; }

    [[nodiscard]] PortControl::PortState port_state(size_t port) const {
        return control_.state(port);
    }

    [[nodiscard]] const PortCounters& counters(size_t port) const { return ports_[port]->counters; }

    [[nodiscard]] const PortControl::Counters& control_counters() const {
        return control_.counters();
    }

    [[nodiscard]] const HostPort& host(size_t port) const { return *ports_[port]->host; }

    [[nodiscard]] const PortStream& stream(size_t port) const { return ports_[port]->stream; }

  private:
    /// A ring, as far as others must find it: guarded by queues_mutex_. Its own worker reads it
    /// without, because nobody else writes.
    struct Queue {
        Virtqueue* ring = nullptr;
        Worker* worker = nullptr;
        bool wake_posted = false;
    };

    struct Port {
        Port(const PortOptions& from, const KeptPort& kept)
            : options(from), stream(!from.console, from.replay_bytes, kept.stream) {}

        const PortOptions options;
        PortStream stream;
        PortCounters counters;
        HostPort* host = nullptr;
    };

    ConsoleDevice(ConsoleSettings& settings, std::unique_ptr<HostThread> host);

    // HostEvents: host thread.
    void on_input(size_t port) override;
    void on_room(size_t port) override;
    void on_host_open(size_t port, bool open) override;
    void on_size(size_t port, TerminalSize size) override;

    [[nodiscard]] QueueProgress give_input(Virtqueue& ring, size_t port);
    [[nodiscard]] QueueProgress take_output(Virtqueue& ring, size_t port);
    [[nodiscard]] QueueProgress give_messages(Virtqueue& ring);
    [[nodiscard]] QueueProgress take_messages(Virtqueue& ring);
    void wake_queue(size_t index);
    void tell_driver(size_t port);

    std::unique_ptr<KeptConsole> kept_;  // null: there is no keeper
    std::unique_ptr<Conduit> conduit_;
    const bool multiport_offered_;
    ConsoleControl operator_{*this};
    PortControl control_;
    std::vector<std::unique_ptr<Port>> ports_;
    std::mutex queues_mutex_;
    std::vector<Queue> queues_;
    std::mutex frontend_mutex_;
    std::shared_ptr<Frontend> frontend_;  // guarded by frontend_mutex_
    std::unique_ptr<HostThread> host_;    // the first to go: it calls what is above
};

}  // namespace outrigger::console
