// SPDX-License-Identifier: Apache-2.0
/// Frames to and from a tap. Where it has headers, what is left to do to a frame stays left to do,
/// as far as guest and kernel have agreed on it.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/host_watch.h"
#include "devices/net/port.h"
#include "devices/net/tap_device.h"

namespace outrigger::net {

class TapPort final : public Port {
  public:
    [[nodiscard]] static Result<std::unique_ptr<TapPort>> create(Tap tap);

    [[nodiscard]] Offloads takes() const override;
    void set_guest(const Offloads& taken) override;
    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;

  private:
    enum class Sent : uint8_t { kDone, kLater };

    TapPort(Tap tap, HostWatch watch);

    [[nodiscard]] Sent send_one(const Frame& frame);
    [[nodiscard]] ssize_t write_frame(const Frame& frame);
    [[nodiscard]] bool receive();
    void lose_tap();

    Tap tap_;
    HostWatch watch_;
    PortEvents* events_ = nullptr;
    LogLimiter limiter_;
    bool awaited_ = false;
    bool has_gone_ = false;  // somebody deleted it

    // The frame that was read last, behind its header, until drop_frame().
    std::vector<std::byte> buffer_;
    std::optional<Frame> frame_;
    iovec front_{};
    std::vector<iovec> pieces_;        // of one that is sent
    std::vector<std::byte> gathered_;  // one that has too many
};

}  // namespace outrigger::net
