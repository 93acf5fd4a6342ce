// SPDX-License-Identifier: Apache-2.0
/// A connection as plain bytes, and back. Pure.
#pragma once

#include "devices/vsock/connection.h"
#include "devices/vsock/ledger.h"

namespace outrigger::vsock {

/// What another process needs of it.
[[nodiscard]] ConnectionRecord record_of(const Connection& connection);

/// What is left of one that is gone.
[[nodiscard]] ConnectionRecord record_of_none(ConnectionId id);

/// Takes all of it; the key is not in the table yet. False: it cannot be; anybody may have
/// written it.
[[nodiscard]] bool restore(Connection& connection, const ConnectionRecord& record);

/// Nothing: it had none, or one that cannot be.
[[nodiscard]] std::optional<ConnectionKey> key_of(const ConnectionRecord& record);

}  // namespace outrigger::vsock
