// SPDX-License-Identifier: Apache-2.0
/// Frames to and from a tap. Where it has headers, what is left to do to a frame stays left to do,
/// as far as guest and kernel have agreed on it. Where it has a queue for each pair of the guest's,
/// the kernel uses those of the pairs that the guest does, by what use_pair() was told last, and
/// frames stay on their pair both ways: the kernel's spread of flows is the guest's. All queues
/// that the kernel uses are read, whatever becomes of their rings. How often a guest may have them
/// change is bounded; what it wished last holds in the end.
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
#include "devices/net/later_call.h"
#include "devices/net/port.h"
#include "devices/net/rate_limit.h"
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
    void use_pair(uint16_t pair, bool is_used) override;

  private:
    enum class Sent : uint8_t { kDone, kLater };

    struct Queue {
        int fd = -1;  // of tap_
        HostWatch watch;
        bool is_used = true;      // by the kernel
        bool is_wanted = true;    // by the guest
        bool is_refused = false;  // the kernel does not change that; not asked again for the same
        bool is_empty = false;    // it was, and the watch says when it is not
    };

    TapPort(Tap tap, std::vector<Queue> queues);

    void follow_wishes();
    void change_use(Queue& queue);
    void on_ready(Queue& queue, HostWatch::Ready ready);
    [[nodiscard]] Queue& queue_of(const Frame& frame);
    [[nodiscard]] Sent send_one(const Frame& frame);
    [[nodiscard]] ssize_t write_frame(const Frame& frame);
    [[nodiscard]] bool receive();
    [[nodiscard]] Queue* next_queue();
    void lose_tap();

    Tap tap_;
    std::vector<Queue> queues_;  // each of the pair of its number, or one of all
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    LogLimiter limiter_;
    bool awaited_ = false;
    bool awaits_room_ = false;
    bool has_gone_ = false;  // somebody deleted it
    RateLimit changes_;      // of what the kernel uses
    LaterCall following_;    // wishes that came too fast
    LaterCall telling_of_room_;
    size_t turn_ = 0;     // of queues_, that frames were read from last
    int turns_left_ = 0;  // frames before others have theirs

    // The frame that was read last, behind its header, until drop_frame().
    std::vector<std::byte> buffer_;
    std::optional<Frame> frame_;
    iovec front_{};
    std::vector<iovec> pieces_;        // of one that is sent
    std::vector<std::byte> gathered_;  // one that has too many
};

}  // namespace outrigger::net
