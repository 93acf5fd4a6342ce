// SPDX-License-Identifier: Apache-2.0
/// Frames over a Unix datagram socket, one each: as QEMU's `-netdev dgram`, vfkit and gvproxy have
/// them.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/host_watch.h"
#include "devices/net/later_call.h"
#include "devices/net/peer_socket.h"
#include "devices/net/port.h"

namespace outrigger::net {

class DatagramPort final : public Port {
  public:
    /// Where options.peer_path is empty, whoever sends the first datagram is the peer.
    [[nodiscard]] static Result<std::unique_ptr<DatagramPort>> create(PeerOptions options);

    void attach(EventLoop& loop, PortEvents& events) override;
    void detach() override;
    [[nodiscard]] size_t send(std::span<const Frame> frames) override;
    [[nodiscard]] std::optional<Frame> next_frame() override;
    void drop_frame() override;
    void await_frames() override;

  private:
    DatagramPort(PeerOptions options, UniqueFd socket, HostWatch watch);

    void go_on_with_peer();
    void look_for_peer();
    void greet_peer();
    void lose_peer(std::string_view why);
    void look_again_later();
    [[nodiscard]] bool receive();
    void on_ready(HostWatch::Ready ready);
    [[nodiscard]] bool is_of_peer(const sockaddr_un& from, socklen_t bytes);
    [[nodiscard]] size_t send_some(std::span<const Frame> frames, int& os_error);

    PeerOptions options_;
    UniqueFd own_socket_;  // where there is no listener
    int socket_;
    HostWatch watch_;
    EventLoop* loop_ = nullptr;
    PortEvents* events_ = nullptr;
    LaterCall retry_;
    LaterCall telling_;
    LogLimiter limiter_;
    bool has_peer_ = false;
    std::string learned_;  // the name of a peer that came by itself
    bool awaited_ = false;
    bool stopped_early_ = false;  // there is more, which the last look left for later

    // Datagrams that were received: those from next_ on still have to go to the guest.
    std::vector<std::byte> buffer_;
    std::vector<size_t> lengths_;
    size_t next_ = 0;
    std::vector<iovec> pieces_;
    std::vector<mmsghdr> messages_;
    std::vector<sockaddr_un> senders_;
};

}  // namespace outrigger::net
