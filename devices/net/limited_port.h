// SPDX-License-Identifier: Apache-2.0
/// A port that lets no more through in a second than it may: what is too much waits, at the guest
/// and at the host, and nothing is dropped for it.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "devices/net/later_call.h"
#include "devices/net/port.h"
#include "devices/net/rate_limit.h"

namespace outrigger::net {

struct PortLimits {
    FrameLimits::PerSecond send{};     ///< to the host
    FrameLimits::PerSecond receive{};  ///< to the guest

    friend bool operator==(const PortLimits&, const PortLimits&) = default;
};

class LimitedPort final : public Port, private PortEvents {
  public:
    LimitedPort(std::unique_ptr<Port> port, const PortLimits& limits);

    /// From now on. What had to wait for a limit that is another one now is looked at again.
    void set_limits(const PortLimits& limits);

    [[nodiscard]] Offloads takes() const override { return port_->takes(); }

    void set_guest(const Offloads& taken) override { port_->set_guest(taken); }

    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;

    void count_drop(DropReason reason) override { port_->count_drop(reason); }

    void use_pair(uint16_t pair, bool is_used) override { port_->use_pair(pair, is_used); }

    [[nodiscard]] PortState save() const override { return port_->save(); }

    void load(const PortState& state) override { port_->load(state); }

    void forget_stations_but(std::span<const StationAddress> kept) override {
        port_->forget_stations_but(kept);
    }

    [[nodiscard]] const PortCounters& counters() const override { return port_->counters(); }

    /// Times that somebody had to wait, to send or to receive. Any thread.
    [[nodiscard]] const Counter& waits() const { return waits_; }

  private:
    // PortEvents.
    void on_frames() override { events_->on_frames(); }

    void on_room() override { events_->on_room(); }

    /// Those that may have to wait do so at the port.
    [[nodiscard]] size_t take_frames(std::span<const Frame> frames) override {
        return limits_.receive.any() ? 0 : events_->take_frames(frames);
    }

    const std::unique_ptr<Port> port_;
    PortLimits limits_;
    FrameLimits send_;
    FrameLimits receive_;
    Counter waits_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    LaterCall room_;
    LaterCall frames_;
    Frame front_{};         // what next_frame() gave last, but for its bytes
    bool is_held_ = false;  // it gave nothing, because it may not yet
};

}  // namespace outrigger::net
