// SPDX-License-Identifier: Apache-2.0
/// Ports without a host behind them, for measuring: one that swallows everything, and one that
/// gives everything back.
#pragma once

#include "devices/net/frame_queue.h"
#include "devices/net/later_call.h"
#include "devices/net/port.h"

namespace outrigger::net {

class NullPort final : public Port {
  public:
    [[nodiscard]] Offloads takes() const override;

    void attach(EventLoop& /*loop*/, PortEvents& /*events*/) override {}

    void detach() override {}

    [[nodiscard]] size_t send(std::span<const Frame> frames) override;

    [[nodiscard]] std::optional<Frame> next_frame() override { return std::nullopt; }

    void drop_frame() override {}

    void await_frames() override {}
};

/// What the guest does not take back in time is dropped when kLoopBytesMax of it wait.
class LoopPort final : public Port {
  public:
    LoopPort();

    [[nodiscard]] Offloads takes() const override;
    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;

    [[nodiscard]] std::optional<Frame> next_frame() override { return queue_.front(); }

    void drop_frame() override { queue_.pop(); }

    void await_frames() override { awaited_ = true; }

  private:
    FrameQueue queue_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    LaterCall telling_;
    bool awaited_ = false;
};

}  // namespace outrigger::net
