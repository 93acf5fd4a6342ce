// SPDX-License-Identifier: Apache-2.0
/// Frames over a Unix stream socket, each behind its length in four bytes of network byte order: as
/// QEMU's `-netdev stream`, passt and gvproxy have them. One peer at a time.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/host_watch.h"
#include "devices/net/later_call.h"
#include "devices/net/peer_socket.h"
#include "devices/net/port.h"

namespace outrigger::net {

class StreamPort final : public Port {
  public:
    /// Connects for the first time when a queue runs, and again whenever the peer has gone.
    [[nodiscard]] static Result<std::unique_ptr<StreamPort>> create(PeerOptions options);

    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;

  private:
    StreamPort(PeerOptions options, HostWatch peer_watch, HostWatch listener_watch);

    void look_for_peer();
    void look_again_later();
    void await_room();
    void await_rest();
    void take_peer(UniqueFd socket);
    void lose_peer(std::string_view why);
    void on_ready(HostWatch::Ready ready);
    [[nodiscard]] size_t send_frames(std::span<const Frame> frames);
    [[nodiscard]] bool send_rest();
    [[nodiscard]] size_t gather(std::span<const Frame> frames);
    [[nodiscard]] size_t account(std::span<const Frame> frames, size_t bytes);
    void keep_rest(const Frame& frame, size_t sent);
    void drop_all(std::span<const Frame> frames);
    [[nodiscard]] bool receive();
    [[nodiscard]] std::optional<size_t> whole_frame();

    PeerOptions options_;
    HostWatch peer_watch_;
    HostWatch listener_watch_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    LaterCall retry_;
    LaterCall telling_;
    LogLimiter limiter_;

    UniqueFd socket_;
    bool awaited_ = false;        // on_frames() is owed
    bool stopped_early_ = false;  // there is more, which the last look left for later
    bool wants_room_ = false;     // on_room() is
    // What was received, from begin_ to end_; the frames in it are whole but the last.
    std::vector<std::byte> received_;
    size_t begin_ = 0;
    size_t end_ = 0;
    iovec front_{};
    // The rest of a frame that the socket took the beginning of.
    std::vector<std::byte> rest_;
    size_t rest_sent_ = 0;
    // Of one call.
    std::vector<iovec> pieces_;
    std::vector<std::array<std::byte, 4>> lengths_;
};

}  // namespace outrigger::net
