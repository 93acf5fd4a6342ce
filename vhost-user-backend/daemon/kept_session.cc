// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/kept_session.h"

#include <utility>
#include <vector>

#include "vhost-user-backend/base/log.h"

namespace outrigger {
namespace {

/// The descriptors of a session, by the names in its journal. An error names the one that lacks.
Result<void> open_descriptors(DescriptorStore& store,
                              const SessionJournal::Saved& saved,
                              KeptSession& kept) {
    const auto open = [&](const std::string& name) -> Result<UniqueFd> {
        UniqueFd fd = store.open(name);
        if (!fd.valid()) {
            return failure(Error{.message = "the keeper does not have descriptor " + name});
        }
        store.claim(name);
        return fd;
    };
    kept.connection = OUTRIGGER_TRY(open(saved.connection));
    SavedSession session;
    for (const KeptMessage& message : saved.messages) {
        SavedSession::Message& copy = session.messages.emplace_back(
            SavedSession::Message{.request = message.request, .payload = message.payload});
        for (const std::string& name : message.fds) {
            copy.fds.push_back(OUTRIGGER_TRY(open(name)));
        }
    }
    session.in_hand = saved.in_hand;
    session.in_hand_is_untaken = saved.in_hand_is_untaken;
    if (saved.in_hand && !saved.in_hand->reply_fd.empty()) {
        session.reply_fd = OUTRIGGER_TRY(open(saved.in_hand->reply_fd));
    }
    session.owed_answers = kept.journal->owed();
    kept.saved.emplace(std::move(session));
    return {};
}

Result<KeptSession> open_kept_session(DescriptorStore& store, const std::string& prefix) {
    const std::string journal_name = SessionJournal::journal_name(prefix);
    KeptSession kept;
    kept.journal = OUTRIGGER_TRY(SessionJournal::adopt(store, prefix, store.open(journal_name)));
    store.claim(journal_name);
    if (kept.journal->saved()) {
        OUTRIGGER_TRY(open_descriptors(store, *kept.journal->saved(), kept));
    }
    return kept;
}

}  // namespace

KeptSession take_kept_session(DescriptorStore& store, const std::string& prefix) {
    const std::vector<std::string> names = store.names(prefix + ".");
    if (!names.empty()) {
        auto kept = open_kept_session(store, prefix);
        if (kept) {
            for (const std::string& name : names) {
                if (name != SessionJournal::journal_name(prefix) && !kept->journal->names(name)) {
                    store.forget(name);
                }
            }
            return *std::move(kept);
        }
        log(LogLevel::kError,
            "a session of the process before cannot go on: {}",
            kept.error().message);
        store.forget_all(names);
    }
    KeptSession kept;
    auto journal = SessionJournal::create(store, prefix);
    if (journal) {
        kept.journal = *std::move(journal);
    } else {
        log(LogLevel::kWarning,
            "sessions end with their process, because they cannot be written down: {}",
            journal.error().message);
    }
    return kept;
}

}  // namespace outrigger
