// SPDX-License-Identifier: Apache-2.0
/// Which connections a guest has, in memory that outlives the process (KeptMemory): their sockets
/// die with it, and the next process tells the guest so.
#pragma once

#include <cstddef>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"

#include "devices/vsock/connection.h"

namespace outrigger::vsock {

/// Thread-bound as the table of connections is.
class KeptConnections final {
  public:
    [[nodiscard]] static size_t bytes_for(size_t connections_max);

    /// `fd` has bytes_for(connections_max), zeroed or as another process left them.
    [[nodiscard]] static Result<KeptConnections> open(int fd, size_t connections_max);

    /// What is there. Whoever wrote it may have been killed in the midst: what cannot be a
    /// connection is left out.
    [[nodiscard]] std::vector<ConnectionKey> keys() const;

    /// Before the guest hears of the connection; `slot` is below connections_max.
    void note(size_t slot, const ConnectionKey& key);

    /// When it knows that it is gone.
    void forget(size_t slot);

  private:
    explicit KeptConnections(Mapping mapping) : mapping_(std::move(mapping)) {}

    Mapping mapping_;
};

}  // namespace outrigger::vsock
