// SPDX-License-Identifier: Apache-2.0
/// A session that another process began, as this one goes on with it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/session/session_journal.h"

namespace outrigger {

class SavedSession final {
  public:
    struct Message {
        uint32_t request = 0;
        std::vector<std::byte> payload{};
        std::vector<UniqueFd> fds{};
    };

    std::vector<Message> messages{};
    /// Its answer is to be sent, and all else is done.
    std::optional<SessionJournal::InHand> in_hand{};
    UniqueFd reply_fd{};
    size_t owed_answers = 0;  ///< on the back-end channel, to the process before
    /// Called once when the front end is served again; not when the session ends before.
    std::move_only_function<void()> on_restored{};
    /// Called once when the session cannot go on, before anything of it ends.
    std::function<void()> on_not_restored = [] {};
};

}  // namespace outrigger
