// SPDX-License-Identifier: Apache-2.0
/// What of a session outlives this process: its descriptors, in the hands of a keeper, and a
/// journal beside them of what the front end has said (EffectiveMessages), written before each
/// answer.
///
/// A front end that cannot connect again does not notice when the process dies: the next one takes
/// descriptors and journal, carries out the messages once more, answers what was left unanswered,
/// and reads on. The message in hand is safe, too: it stays in the socket until the journal has its
/// effect (MessageStream::take()).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/session/effective_messages.h"
#include "vhost-user-backend/session/journal_file.h"
#include "vhost-user-backend/wire/message_codec.h"

namespace outrigger {

/// Where descriptors outlive the process: our parent process, or systemd. Thread-bound: control
/// thread.
class DescriptorKeeper {
  public:
    /// Keeps another descriptor of the same open file under `name` or, where that one is taken, one
    /// like it, or under the name that this open file has already: what is returned, and is to be
    /// forgotten once more. Empty when it cannot be kept; a keeper that fails later tells nobody.
    [[nodiscard]] virtual std::string keep(const std::string& name, int fd) = 0;

    /// Closes it when it is forgotten as often as it was kept. Unknown names are ignored.
    virtual void forget(const std::string& name) = 0;

  protected:
    ~DescriptorKeeper() = default;
};

/// Thread-bound: control thread.
class SessionJournal final {
  public:
    /// The message that was in hand when the journal was written, and its answer.
    struct InHand {
        wire::Header header{};
        uint32_t fd_count = 0;
        bool has_reply = false;
        std::vector<std::byte> reply{};
        std::string reply_fd{};  ///< empty: none
    };

    /// A session as it was left.
    struct Saved {
        std::string connection;
        std::vector<KeptMessage> messages;
        /// Taken and answered when nullopt. What of it is in the socket yet take_left() takes.
        std::optional<InHand> in_hand;
    };

    /// A journal without a session. Its descriptors have names that begin with `prefix`, a letter
    /// and more, without ':'; it is kept under journal_name(prefix).
    [[nodiscard]] static Result<std::unique_ptr<SessionJournal>> create(DescriptorKeeper& keeper,
                                                                        std::string prefix);

    /// The one that another process left in `file`. An error says why that session cannot go on.
    [[nodiscard]] static Result<std::unique_ptr<SessionJournal>> adopt(DescriptorKeeper& keeper,
                                                                       std::string prefix,
                                                                       UniqueFd file);

    [[nodiscard]] static std::string journal_name(const std::string& prefix) {
        return prefix + ".journal";
    }

    /// What adopt() found: nothing when no session was there.
    [[nodiscard]] const std::optional<Saved>& saved() const { return saved_; }

    /// Takes the message in hand of saved(), or what is left of it, out of `connection`, before
    /// anybody looks at that one again. An error says why the session cannot go on.
    [[nodiscard]] Result<void> take_left(int connection);

    // --- A session, from begin() or saved() to end()
    // ----------------------------------------------

    /// A session begins on `connection`.
    void begin(int connection);

    /// A buffer for requests in flight of our own, before any ring uses it; also while a message is
    /// in hand. `description` is what SET_INFLIGHT_FD would say of it.
    void keep_inflight(const wire::Inflight& description, int fd);

    /// The same of a buffer for what devices note of those requests.
    void keep_outcomes(std::vector<std::byte> shape, int fd);

    /// `message` is in hand.
    void arrive(const wire::Message& message);

    /// It is about to be carried out: keeps its descriptors.
    void keep_descriptors(const wire::Message& message);

    struct Outcome {
        bool carried_out = false;  ///< else it was refused
        /// It brought memory that counts when the front end has acknowledged it (postcopy).
        bool waits_for_acknowledgement = false;
        /// It was that acknowledgement, and says whether the memory counts.
        std::optional<bool> acknowledged{};
        bool has_reply = false;
        std::span<const std::byte> reply{};
        int reply_fd = -1;
    };

    /// It was. Writes that down, if it matters; then the message may be taken from the socket.
    void settle(const Outcome& outcome);

    /// After a refusal, before settle(): what is left of the ring that the message named.
    void set_ring_state(uint32_t index, bool started, bool enabled);

    /// Before settle(), or write_now(): what the device is by now. Nothing: it does not say, and no
    /// other process can go on.
    void keep_device(std::optional<std::vector<std::byte>> sections);

    /// Likewise: what the session is beside what messages say (SessionFacts).
    void keep_session(std::optional<std::vector<std::byte>> facts);

    /// Likewise: where a ring stands whose memory was taken away.
    void set_ring_base(uint32_t index, uint32_t base);

    /// keep_device() has something to replace.
    [[nodiscard]] bool knows_of_device() const { return messages_.knows_of_device(); }

    /// What was kept while no message is in hand, or while one is that has no effect yet.
    void write_now();

    /// Just before the system calls that take the message and that send its answer, and behind the
    /// last of them.
    void on_taking() { note(JournalFile::Progress::kTaking); }

    /// Gives where to note how much of the answer is sent.
    [[nodiscard]] platform::NotedMessage& on_replying();

    void on_replied() { note(JournalFile::Progress::kDone); }

    /// So many answers the front end owes on the back-end channel.
    void set_owed(size_t answers) { file_.set_owed(answers); }

    [[nodiscard]] size_t owed() const { return file_.owed(); }

    /// The session is over: the keeper forgets it.
    void end();

  private:
    SessionJournal(DescriptorKeeper& keeper, std::string prefix, JournalFile file)
        : keeper_(keeper), prefix_(std::move(prefix)), file_(std::move(file)) {}

    [[nodiscard]] Result<void> decode(const JournalFile::Content& content);
    [[nodiscard]] std::string keep(int fd);
    void forget(std::span<const std::string> names);
    [[nodiscard]] bool note_in_hand(const Outcome& outcome);
    [[nodiscard]] bool end_wait(bool acknowledged);
    void write(JournalFile::Progress progress = JournalFile::Progress::kWritten);
    void note(JournalFile::Progress progress);

    DescriptorKeeper& keeper_;
    std::string prefix_;
    JournalFile file_;
    uint64_t next_name_ = 0;
    std::string connection_;  // empty: no session
    EffectiveMessages messages_;
    std::optional<Saved> saved_;
    // The message in hand.
    InHand in_hand_;
    std::vector<std::byte> payload_;
    std::vector<std::string> arrived_;

    struct Unacknowledged {
        wire::FrontendRequest request;
        std::vector<std::byte> payload;
        std::vector<std::string> fds;
    };

    std::vector<Unacknowledged> unacknowledged_;
    std::string old_reply_fd_;                                          // of the message before
    bool written_ = false;                                              // the journal has it
    JournalFile::Progress progress_ = JournalFile::Progress::kWritten;  // since the last write()
    bool state_changed_ = false;  // by the message in hand, beside what it says
};

}  // namespace outrigger
