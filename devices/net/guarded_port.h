// SPDX-License-Identifier: Apache-2.0
/// A port that lets nothing through that the guest sends as somebody else, where anybody has said
/// who it is.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "devices/net/port.h"
#include "devices/net/sender_guard.h"

namespace outrigger::net {

class GuardedPort final : public Port {
  public:
    GuardedPort(std::unique_ptr<Port> port, SenderRules rules);

    /// From now on, also for what already waits to be sent.
    void set_rules(SenderRules rules);

    /// Control thread: those of which a state may speak; none: of any.
    void set_loaded_stations(std::vector<StationAddress> stations) {
        loaded_stations_ = std::move(stations);
    }

    [[nodiscard]] Offloads takes() const override { return port_->takes(); }

    void set_guest(const Offloads& taken) override { port_->set_guest(taken); }

    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;

    [[nodiscard]] size_t send(std::span<const Frame> frames) override;

    [[nodiscard]] std::optional<Frame> next_frame() override { return port_->next_frame(); }

    void drop_frame() override { port_->drop_frame(); }

    void await_frames() override { port_->await_frames(); }

    void count_drop(DropReason reason) override { port_->count_drop(reason); }

    void use_pair(uint16_t pair, bool is_used) override { port_->use_pair(pair, is_used); }

    [[nodiscard]] PortState save() const override { return port_->save(); }

    void load(const PortState& state) override;

    void forget_stations_but(std::span<const StationAddress> kept) override {
        port_->forget_stations_but(kept);
    }

    [[nodiscard]] const PortCounters& counters() const override { return port_->counters(); }

  private:
    static constexpr size_t kBatch = 64;

    [[nodiscard]] size_t send_batch(std::span<const Frame> frames);

    const std::unique_ptr<Port> port_;
    std::vector<StationAddress> loaded_stations_;  // control thread
    std::vector<StationAddress> stations_;         // that may send; empty: all
    std::optional<SenderGuard> guard_;             // nothing: all passes
    bool is_attached_ = false;
    // Of one batch: the start of each frame as it was looked at, which the guest cannot write any
    // more, and the rest of it.
    std::array<std::array<std::byte, SenderGuard::kFrontBytes>, kBatch> fronts_{};
    std::array<std::vector<iovec>, kBatch> pieces_;
    std::vector<Frame> passing_;
};

}  // namespace outrigger::net
