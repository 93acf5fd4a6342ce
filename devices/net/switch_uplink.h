// SPDX-License-Identifier: Apache-2.0
/// The way from a switch to the host: a port of the switch behind which there is no guest but
/// another port, mostly a tap. What the host does not take unfinished is finished here.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <sys/uio.h>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/net/capture.h"
#include "devices/net/later_call.h"
#include "devices/net/offload.h"
#include "devices/net/port.h"
#include "devices/net/switch_port.h"

namespace outrigger::net {

class SwitchUplink final : private PortEvents {
  public:
    /// Of stations at the host there may be more than behind a guest.
    static constexpr size_t kAddressesMax = 4096;

    /// An error: the switch has one. `name`: of the host's side, for people. `capture`: of what
    /// passes at `host`; null: nothing can be captured.
    [[nodiscard]] static Result<std::unique_ptr<SwitchUplink>> create(
        const SwitchOptions& options,
        std::string name,
        std::unique_ptr<Port> host,
        std::unique_ptr<Capture> capture = nullptr);

    ~SwitchUplink();

    /// Frames pass from now on, on that thread, whether guests are there or not. Once; the worker
    /// outlives every guest at the switch, and ends before this does. Any thread.
    void start(Worker& worker);

    // Any thread.

    [[nodiscard]] const std::string& name() const { return name_; }

    [[nodiscard]] const PortCounters& host_counters() const { return host_->counters(); }

    [[nodiscard]] const PortCounters& switch_counters() const { return port_->counters(); }

    /// Null: there is none.
    [[nodiscard]] Capture* capture() const { return capture_.get(); }

  private:
    /// What the host tells.
    class HostEvents final : public PortEvents {
      public:
        explicit HostEvents(SwitchUplink& uplink) : uplink_(uplink) {}

        void on_frames() override { uplink_.receive(); }

        void on_room() override {
            uplink_.host_is_full_ = false;
            uplink_.send();
        }

      private:
        SwitchUplink& uplink_;
    };

    SwitchUplink(std::string name,
                 std::unique_ptr<SwitchPort> port,
                 std::unique_ptr<Port> host,
                 std::unique_ptr<Capture> capture);

    // PortEvents, of the switch.
    void on_frames() override;

    void on_room() override {}  // it always has

    [[nodiscard]] size_t take_frames(std::span<const Frame> frames) override;

    void send();
    void receive();
    [[nodiscard]] bool is_taken_by_host(const Frame& frame) const;
    [[nodiscard]] std::optional<Frame> next_frame(int& turns);
    void finish(const Frame& frame);
    void drop_frame();

    const std::string name_;
    const std::unique_ptr<Capture> capture_;
    const std::unique_ptr<SwitchPort> port_;
    const std::unique_ptr<Port> host_;
    const Offloads taken_;  // by the host
    HostEvents host_events_{*this};
    EventLoop* loop_ = nullptr;
    LaterCall sending_;
    LaterCall receiving_;
    bool host_is_full_ = false;
    bool waits_for_guests_ = false;  // frames wait at the host
    // A frame that the host cannot take as it is, and what is made of it.
    std::unique_ptr<std::byte[]> whole_;
    std::unique_ptr<std::byte[]> segment_;
    Segmenter segmenter_;
    iovec finished_{};
    bool has_finished_ = false;
};

}  // namespace outrigger::net
