// SPDX-License-Identifier: Apache-2.0
/// Namespaces of the process's own: a root directory in which nothing lies but what it must name,
/// no network, no System V objects and no host name of others.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"

namespace outrigger {

struct NamespacePlan {
    /// Files, and directories with all that is below, that keep their names. Relative ones, too.
    std::vector<std::string> visible_paths{};
    /// It makes sockets later that reach the host's network, or its AF_VSOCK.
    bool keeps_network = false;
    /// It shows owners of files to others: without privileges it cannot have namespaces, because in
    /// a user namespace all owners but its own user would look alike.
    bool shows_owners = false;
};

struct OwnNamespaces {
    /// What could not be done here, and why; empty: all was.
    std::string lack{};
    /// In a user namespace of our own, what SO_PEERCRED and stat() say of every user but ours.
    std::optional<uid_t> others_look_like{};
};

/// For the calling thread, which must be the only one, and what it starts. With CAP_SYS_ADMIN this
/// needs nothing else, without it a user namespace, where the system allows that. An error when it
/// cannot go on half way.
[[nodiscard]] Result<OwnNamespaces> enter_own_namespaces(const NamespacePlan& plan);

/// A process that may mount has mounts of its own from now on, where the system lets it and the
/// host's are shared, as systemd has them: what it mounts, or who subverts it, the host does not
/// see. What the host mounts still comes. Who has no right to mount has nothing to keep.
void take_own_mounts();

}  // namespace outrigger
