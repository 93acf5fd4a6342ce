// SPDX-License-Identifier: Apache-2.0
/// A network of the guest's own behind a NAT of our own, by libslirp: DHCP, a name server, IPv4 and
/// IPv6, ports that are forwarded. Needs no privileges and no device of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/address_rewriter.h"
#include "devices/net/connection_limit.h"
#include "devices/net/frame_queue.h"
#include "devices/net/guest_connections.h"
#include "devices/net/ip4_reassembler.h"
#include "devices/net/later_call.h"
#include "devices/net/polled_descriptors.h"
#include "devices/net/port.h"
#include "devices/net/segment_merger.h"
#include "devices/net/user_options.h"

struct Slirp;

namespace outrigger::net {

class UserPort final : public Port {
  public:
    /// Opens the ports that are forwarded. `kept`: of GuestConnections::kKeptBytes, which outlive
    /// this process, or empty.
    [[nodiscard]] static Result<std::unique_ptr<UserPort>> create(const UserOptions& options,
                                                                  Mapping kept = {});

    ~UserPort() override;

    /// The library refuses IPv6 packets beyond the MTU, and no others.
    [[nodiscard]] Offloads takes() const override { return {.giants = true}; }

    void set_guest(const Offloads& taken) override {
        merger_.set_guest(merges_ ? taken : Offloads{});
    }

    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;
    /// The addresses that DHCP has given. (Of connections the library saves nothing.)
    [[nodiscard]] PortState save() const override;
    void load(const PortState& state) override;

  private:
    static constexpr unsigned kQuestionsMax = 6;

    /// What the library calls; a class of its own so that this header needs none of its types.
    struct Callbacks;
    friend struct Callbacks;

    /// One of the library's timers.
    struct Timer {
        int id = 0;
        void* opaque = nullptr;
        std::optional<int64_t> expires_ms{};
    };

    UserPort(const UserOptions& options, Mapping kept);

    [[nodiscard]] Result<void> open(const UserOptions& options);
    [[nodiscard]] Result<void> add_forward(const Forward& forward);
    void note_listeners();

    [[nodiscard]] std::optional<DropReason> refusal_of(std::span<const std::byte> frame);
    void note_sent(const Frame& frame);
    void look();
    [[nodiscard]] int find_ready();
    void serve();
    void watch_descriptors();
    void update_timer(uint32_t timeout_ms);
    void run_timers();
    void take_packet(std::span<const std::byte> packet);
    void ask_about_connections();
    void give_to_guest(std::span<const std::byte> bytes);
    void tell_later();
    [[nodiscard]] static int64_t now_ns();

    Slirp* slirp_ = nullptr;
    PolledDescriptors polled_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    std::optional<WatchId> watch_;
    std::optional<TimerId> timer_;
    LaterCall telling_;
    bool awaited_ = false;
    LogLimiter limiter_;

    ConnectionLimit limit_;
    GuestConnections connections_;
    /// Of a process before this one: how often the guest is asked yet, and when.
    unsigned questions_left_ = kQuestionsMax;
    std::optional<TimerId> question_timer_;
    const bool merges_;
    FrameQueue queue_;  // to the guest
    SegmentMerger merger_{queue_};
    std::vector<std::byte> frame_;
    Ip4Reassembler reassembler_;
    std::optional<AddressRewriter> dns4_;
    std::optional<AddressRewriter> dns6_;
    std::vector<std::unique_ptr<Timer>> timers_;
};

/// "4.7.0".
[[nodiscard]] const char* user_network_version();

}  // namespace outrigger::net
