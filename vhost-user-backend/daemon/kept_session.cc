// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/kept_session.h"

#include <utility>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/listening_socket.h"

namespace outrigger {
namespace {

/// The descriptors of a session, by the names in its journal, which are put into `claimed`. An
/// error names the one that lacks.
Result<void> open_descriptors(const DescriptorStore& store,
                              const SessionJournal::Saved& saved,
                              KeptSession& kept,
                              std::vector<std::string>& claimed) {
    const auto open = [&](const std::string& name) -> Result<UniqueFd> {
        UniqueFd fd = store.open(name);
        if (!fd.valid()) {
            return failure(Error{.message = "the keeper does not have descriptor " + name});
        }
        claimed.push_back(name);
        return fd;
    };
    kept.connection = OUTRIGGER_TRY(open(saved.connection));
    if (!is_connection(kept.connection.get())) {
        return failure(Error{.message = "what the keeper has is no connection"});
    }
    SavedSession session;
    for (const KeptMessage& message : saved.messages) {
        SavedSession::Message& copy = session.messages.emplace_back(
            SavedSession::Message{.request = message.request, .payload = message.payload});
        for (const std::string& name : message.fds) {
            copy.fds.push_back(OUTRIGGER_TRY(open(name)));
        }
    }
    if (saved.in_hand) {
        OUTRIGGER_TRY(kept.journal->take_left(kept.connection.get()));
    }
    session.in_hand = saved.in_hand;
    if (saved.in_hand && !saved.in_hand->reply_fd.empty()) {
        session.reply_fd = OUTRIGGER_TRY(open(saved.in_hand->reply_fd));
    }
    session.owed_answers = kept.journal->owed();
    kept.saved.emplace(std::move(session));
    return {};
}

}  // namespace

Result<KeptSession> claim_kept_session(DescriptorStore& store, const std::string& prefix) {
    KeptSession kept;
    if (store.names(prefix + ".").empty()) {
        return kept;
    }
    const std::string journal_name = SessionJournal::journal_name(prefix);
    std::vector<std::string> claimed{journal_name};
    kept.journal = OUTRIGGER_TRY(SessionJournal::adopt(store, prefix, store.open(journal_name)));
    if (kept.journal->saved()) {
        OUTRIGGER_TRY(open_descriptors(store, *kept.journal->saved(), kept, claimed));
    }
    // Once for each that the journal will forget; of a session that cannot go on none.
    for (const std::string& name : claimed) {
        store.claim(name);
    }
    return kept;
}

void begin_journal(DescriptorStore& store, const std::string& prefix, KeptSession& kept) {
    if (kept.journal != nullptr) {
        return;
    }
    auto journal = SessionJournal::create(store, prefix);
    if (journal) {
        kept.journal = *std::move(journal);
    } else {
        log(LogLevel::kWarning,
            "sessions end with their process, because they cannot be written down: {}",
            journal.error().message);
    }
}

}  // namespace outrigger
