// SPDX-License-Identifier: Apache-2.0
/// The descriptors that a keeper has for its program, by name. A program may be anything once a
/// guest has taken it over, so it gets no more of the keeper than is bounded here.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/keeper.h"
#include "vhost-user-backend/daemon/keeper_message.h"

namespace outrigger {

class KeeperStore final {
  public:
    explicit KeeperStore(KeeperSettings::Named named) : named_(std::move(named)) {}

    /// The program names others from now on.
    void set_named(KeeperSettings::Named named) { named_ = std::move(named); }

    /// The program serves: what it inherited through us is its own, or stored.
    void close_inherited() const;

    /// Takes `fd` under the FDNAME of `message`, if that is one of a program of ours and there is
    /// room.
    void store(const KeeperMessage& message, UniqueFd fd);

    void remove(std::string_view name);

    /// Removes it when settle() says so, if nothing else was stored under that name by then.
    void remove_later(std::string_view name);

    /// `removes`: what was to be removed is; else it stays.
    void settle(bool removes);

    /// Tells who is at the other end of `channel` all names, with a descriptor each, and then `go`.
    /// False: it does not take that.
    [[nodiscard]] bool give_all(int channel, std::string_view go) const;

    /// The program is told to end, or has ended: closes all but what remove_socket_files() needs,
    /// so that front ends see their sockets closed as soon as the program closes them. From then on
    /// nothing is taken.
    void close();

    /// Behind close(): removes the socket files that a program made and did not remove, for when no
    /// other can any more. By now somebody else's may be there.
    void remove_socket_files() const;

  private:
    void find_device_sockets();

    KeeperSettings::Named named_;
    std::map<std::string, UniqueFd, std::less<>> stored_;
    std::set<std::string, std::less<>> removed_later_;
    bool closed_ = false;
};

}  // namespace outrigger
