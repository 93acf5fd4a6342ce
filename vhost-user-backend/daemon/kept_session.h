// SPDX-License-Identifier: Apache-2.0
/// From the names in a store to a session that goes on.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/descriptor_store.h"
#include "vhost-user-backend/session/saved_session.h"
#include "vhost-user-backend/session/session_journal.h"

namespace outrigger {

/// What a device's sessions write, and the one that the process before left.
struct KeptSession {
    std::unique_ptr<SessionJournal> journal{};  ///< null: nothing is kept
    UniqueFd connection{};                      ///< of `saved`
    std::optional<SavedSession> saved{};
};

/// Everything that `store` has under `prefix`: what is of no use any more is forgotten. A session
/// that cannot go on is closed, and the log says why. Where there can be no journal (a limit of
/// file sizes, say), sessions are served all the same and not kept.
[[nodiscard]] KeptSession take_kept_session(DescriptorStore& store, const std::string& prefix);

}  // namespace outrigger
