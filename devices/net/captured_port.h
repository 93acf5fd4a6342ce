// SPDX-License-Identifier: Apache-2.0
/// A port of which an operator may capture what passes.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "devices/net/capture.h"
#include "devices/net/port.h"

namespace outrigger::net {

class CapturedPort final : public Port, private PortEvents {
  public:
    /// `capture` lives as long.
    CapturedPort(std::unique_ptr<Port> port, Capture& capture)
        : port_(std::move(port)), capture_(capture) {}

    [[nodiscard]] Offloads takes() const override { return port_->takes(); }

    void set_guest(const Offloads& taken) override { port_->set_guest(taken); }

    void attach(EventLoop& loop, PortEvents& events) override {
        events_ = &events;
        port_->attach(loop, *this);
    }

    void detach() override {
        port_->detach();
        events_ = nullptr;
    }

    [[nodiscard]] size_t send(std::span<const Frame> frames) override {
        const size_t sent = port_->send(frames);
        if (capture_.is_running()) {
            for (const Frame& frame : frames.first(sent)) {
                capture_.note(frame, Capture::Direction::kFromGuest);
            }
        }
        return sent;
    }

    [[nodiscard]] std::optional<Frame> next_frame() override { return port_->next_frame(); }

    void drop_frame() override {
        if (capture_.is_running()) {
            if (const auto frame = port_->next_frame()) {
                capture_.note(*frame, Capture::Direction::kToGuest);
            }
        }
        port_->drop_frame();
    }

    void await_frames() override { port_->await_frames(); }

    void count_drop(DropReason reason) override { port_->count_drop(reason); }

    void use_pair(uint16_t pair, bool is_used) override { port_->use_pair(pair, is_used); }

    [[nodiscard]] PortState save() const override { return port_->save(); }

    void load(const PortState& state) override { port_->load(state); }

    void forget_stations_but(std::span<const StationAddress> kept) override {
        port_->forget_stations_but(kept);
    }

    [[nodiscard]] const PortCounters& counters() const override { return port_->counters(); }

  private:
    // PortEvents.
    void on_frames() override { events_->on_frames(); }

    void on_room() override { events_->on_room(); }

    [[nodiscard]] size_t take_frames(std::span<const Frame> frames) override {
        const size_t taken = events_->take_frames(frames);
        if (capture_.is_running()) {
            for (const Frame& frame : frames.first(taken)) {
                capture_.note(frame, Capture::Direction::kToGuest);
            }
        }
        return taken;
    }

    const std::unique_ptr<Port> port_;
    Capture& capture_;
    PortEvents* events_ = nullptr;
};

}  // namespace outrigger::net
