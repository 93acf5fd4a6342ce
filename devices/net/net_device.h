// SPDX-License-Identifier: Apache-2.0
/// The network device: pairs of rings for frames, and a port of the host. VIRTIO 1.3, 5.1.
///
/// All queues are on one worker, because they share the port.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/device.h"

#include "devices/net/capture.h"
#include "devices/net/control_command.h"
#include "devices/net/flow_table.h"
#include "devices/net/guest_settings.h"
#include "devices/net/later_call.h"
#include "devices/net/net_control.h"
#include "devices/net/offload.h"
#include "devices/net/port.h"
#include "devices/net/port_policy.h"
#include "devices/net/receive_queue.h"
#include "devices/net/switch_uplink.h"
#include "devices/net/transmit_batch.h"

namespace outrigger::net {

inline constexpr uint16_t kMtuMin = 68;  // RFC 791
inline constexpr uint16_t kMtuDefault = 1500;
inline constexpr uint16_t kQueuePairsMax = 64;

/// Of the configuration space. VIRTIO 1.3, 5.1.4.
inline constexpr uint16_t kConfigBytes = 24;

struct NetOptions {
    std::optional<MacAddress> mac{};  ///< the guest's; nothing: the front end chooses
    uint16_t mtu = kMtuDefault;
    uint16_t queue_pairs = 1;
    std::string backend{};  ///< what the port is, for people
    /// A frame that is longer than all buffers that a driver has given waits so long for more.
    std::chrono::milliseconds buffers_wait{3000};
};

/// Written by the queues' worker.
struct NetCounters {
    Counter frames_from_guest;
    Counter bytes_from_guest;
    Counter frames_to_guest;
    Counter bytes_to_guest;
    Counter announcements;
    Counter commands;           ///< of the control queue, carried out
    Counter commands_refused;   ///< that were malformed, or asked for what was not agreed on
    Counter finished_to_guest;  ///< frames whose checksum or segments were made for the guest
    CounterTable<DropReason, kDropReasonCount> dropped_from_guest;
    CounterTable<DropReason, kDropReasonCount> dropped_to_guest;
};

class NetDevice final : public Device, private PortEvents {
  public:
    /// `kept`: of kKeptBytes, which outlive this process, or empty.
    /// `capture`: of what passes at `port`; null: nothing can be captured.
    /// `policy`: what `port` is held to; null: to nothing.
    NetDevice(const NetOptions& options,
              std::unique_ptr<Port> port,
              Mapping kept = {},
              std::unique_ptr<Capture> capture = nullptr,
              std::unique_ptr<PortPolicy> policy = nullptr);

    /// Before it serves: the way out of the device's switch, which is the device's worker's, too,
    /// but passes frames of others also when no guest is here.
    void give_uplink(std::unique_ptr<SwitchUplink> uplink) { uplink_ = std::move(uplink); }

    /// What the device needs of a keeper's memory.
    static constexpr size_t kKeptBytes = KeptRecord::bytes(GuestSettings::kBytesMax);

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] DeviceAbilities abilities() const override;
    [[nodiscard]] FeatureSet offered_features() const override;
    void on_negotiated(FeatureSet agreed) override;
    void on_frontend(std::shared_ptr<Frontend> frontend) override;
    void on_serving(std::span<Worker* const> workers) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;

    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void suspend_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void hurry_queue(QueueIndex index) override;

    [[nodiscard]] bool set_mtu(uint16_t mtu) override;
    [[nodiscard]] bool announce(const MacAddress& address) override;

    [[nodiscard]] control::DeviceControl* control() override { return &operators_; }

    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;
    void reset() override;

    /// Any thread.
    [[nodiscard]] const NetCounters& counters() const { return counters_; }

    [[nodiscard]] const Port& port() const { return *port_; }

    [[nodiscard]] const NetOptions& options() const { return options_; }

    /// Null: there is none.
    [[nodiscard]] Capture* capture() const { return capture_.get(); }

    /// Null: there is none.
    [[nodiscard]] PortPolicy* policy() const { return policy_.get(); }

    /// Null: there is none.
    [[nodiscard]] const SwitchUplink* uplink() const { return uplink_.get(); }

  private:
    /// What a ring is for. VIRTIO 1.3, 5.1.2: with one pair the third is the control queue,
    /// whatever the device has.
    enum class Role : uint8_t { kReceive, kTransmit, kControl, kNone };

    /// One that runs.
    struct Ring {
        Role role = Role::kNone;
        Virtqueue* queue = nullptr;
    };

    struct Transmit {
        Virtqueue* ring = nullptr;
        size_t header_bytes = 0;
    };

    // PortEvents.
    void on_frames() override;
    void on_room() override;
    [[nodiscard]] size_t take_frames(std::span<const Frame> frames) override;

    [[nodiscard]] QueueProgress transmit(uint16_t pair);
    void take_chain(uint16_t pair, DescriptorChain chain, const Offloads& allowed);
    void drop_from_guest(DropReason reason);
    [[nodiscard]] QueueProgress discard(Transmit& queue);
    void leave_transmit(uint16_t pair, bool set_aside);

    [[nodiscard]] Role role_of(QueueIndex index) const;
    void leave_queue(QueueIndex index, bool set_aside);

    [[nodiscard]] QueueProgress receive(uint16_t pair);
    [[nodiscard]] std::optional<DropReason> refusal(const Frame& frame) const;
    [[nodiscard]] bool is_whole_for_guest(const Frame& frame) const;
    void note_given(std::span<const Frame> frames);
    [[nodiscard]] size_t count_alike(std::span<const Frame> frames, ReceiveQueue& queue);
    [[nodiscard]] std::optional<Frame> next_frame(int& turns);
    void drop_frame();
    void look_again_soon();
    void await_buffers();
    void give_up_waiting();
    [[nodiscard]] std::optional<Frame> finish(const Frame& frame);
    [[nodiscard]] Frame finished_frame() const;
    void drop_to_guest(DropReason reason);
    [[nodiscard]] bool is_over_mtu(const Frame& frame) const;
    [[nodiscard]] bool is_wanted(const Frame& frame) const;
    [[nodiscard]] ReceiveQueue& choose_queue(const Frame& frame, ReceiveQueue& called);
    [[nodiscard]] size_t pairs_in_use() const;
    [[nodiscard]] Offloads guest_offloads() const;

    [[nodiscard]] static QueueProgress ignore(Virtqueue& ring);

    [[nodiscard]] QueueProgress obey_all(Virtqueue& ring);
    void obey(Virtqueue& ring, DescriptorChain chain);
    void carry_out(const ControlCommand& command);
    [[nodiscard]] std::optional<StationAddress> own_station() const;
    void recall_settings();
    void keep_settings();
    void ask_for_announcement();

    void note_started(Worker& worker);
    void note_stopped();
    void send_announcement();

    const NetOptions options_;
    NetControl operators_{*this};  // before the capture, whose writer calls it at the end
    const std::unique_ptr<Capture> capture_;
    const std::unique_ptr<PortPolicy> policy_;
    const std::unique_ptr<Port> port_;
    std::unique_ptr<SwitchUplink> uplink_;
    NetCounters counters_;
    LogLimiter limiter_;

    // Written by the control thread, read by the worker.
    std::atomic<uint64_t> agreed_ = 0;
    std::atomic<uint16_t> mtu_;
    std::atomic<uint64_t> announced_ = 0;  // a MAC address and bit 48: to be announced
    // The guest is to announce itself, and has not answered.
    std::atomic<bool> awaits_announcement_ = false;

    // Written by the worker while queues run, who alone reads it without the lock, and else by the
    // control thread.
    mutable std::mutex settings_mutex_;
    GuestSettings settings_;
    Mapping kept_;

    std::mutex frontend_mutex_;
    std::shared_ptr<Frontend> frontend_;  // guarded by frontend_mutex_

    std::mutex worker_mutex_;
    Worker* worker_ = nullptr;  // guarded by worker_mutex_: where queues run or ran

    // The worker's while queues run, and the control thread's otherwise.
    std::vector<Ring> rings_;   // by their numbers
    size_t control_rings_ = 0;  // that run: features may change between the starts of two
    std::vector<Transmit> transmit_;
    std::vector<ReceiveQueue> receive_;
    size_t running_ = 0;
    TransmitBatch batch_;
    FlowTable flows_;
    // A frame of the port that the guest cannot take as it is.
    std::unique_ptr<std::byte[]> whole_;
    std::unique_ptr<std::byte[]> segment_;
    Segmenter segmenter_;
    iovec finished_{};
    uint16_t finished_pair_ = kNoPair;  // that the frame was steered to
    bool has_finished_ = false;
    LaterCall looking_again_;
    LaterCall giving_up_;
};

}  // namespace outrigger::net
