// SPDX-License-Identifier: Apache-2.0
/// From the names in a store to a session that goes on.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"
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

/// The session that `store` has under `prefix`, if it has one; an error says why it cannot go on.
/// What it needs is claimed, whichever session's name it has: systemd keeps an open file that
/// several sessions were given under one name.
[[nodiscard]] Result<KeptSession> claim_kept_session(DescriptorStore& store,
                                                     const std::string& prefix);

/// A journal for `kept` where it has none; behind DescriptorStore::release(), which forgets what is
/// of no use any more. Where there can be none (a limit of file sizes, say), sessions are served
/// all the same and not kept.
void begin_journal(DescriptorStore& store, const std::string& prefix, KeptSession& kept);

}  // namespace outrigger
