// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_journal.h"

#include <algorithm>
#include <concepts>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/platform.h"

namespace outrigger {
namespace {

/// Of the content; JournalFile has its own. A reader knows one version alone.
constexpr uint32_t kContentVersion = 2;

constexpr size_t kNameBytesMax = 64;
constexpr size_t kMessagesMax = 8192;
static_assert(kOwnRecordBytesMax >= wire::kPayloadBytesMax);

class Writer final {
  public:
    template <std::unsigned_integral T>
    void number(T value) {
        const auto raw = std::as_bytes(std::span(&value, 1));
        bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    }

    void bytes(std::span<const std::byte> content) {
        number(static_cast<uint32_t>(content.size()));
        bytes_.insert(bytes_.end(), content.begin(), content.end());
    }

    void text(const std::string& content) { bytes(std::as_bytes(std::span(content))); }

    [[nodiscard]] std::span<const std::byte> written() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

/// Reads what Writer wrote, or anything: then fine() is false in the end and all that was read is
/// of no use.
class Reader final {
  public:
    explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

    template <std::unsigned_integral T>
    T number() {
        T value{};
        const auto raw = take(sizeof value);
        if (!raw.empty()) {
            std::memcpy(&value, raw.data(), sizeof value);
        }
        return value;
    }

    std::vector<std::byte> bytes(size_t bytes_max) {
        const auto size = number<uint32_t>();
        fine_ = fine_ && size <= bytes_max;
        const auto raw = fine_ ? take(size) : std::span<const std::byte>();
        return {raw.begin(), raw.end()};
    }

    std::string text() {
        const auto raw = bytes(kNameBytesMax);
        std::string content(raw.size(), '\0');
        if (!raw.empty()) {  // of nothing memcpy() takes no null pointer
            std::memcpy(content.data(), raw.data(), raw.size());
        }
        return content;
    }

    [[nodiscard]] bool fine() const { return fine_; }

    [[nodiscard]] bool at_end() const { return rest_.empty(); }

  private:
    std::span<const std::byte> take(size_t size) {
        if (!fine_ || size > rest_.size()) {
            fine_ = false;
            return {};
        }
        const auto taken = rest_.first(size);
        rest_ = rest_.subspan(size);
        return taken;
    }

    std::span<const std::byte> rest_;
    bool fine_ = true;
};

void write_message(Writer& writer, const KeptMessage& message) {
    writer.number(message.request);
    writer.bytes(message.payload);
    writer.number(static_cast<uint32_t>(message.fds.size()));
    for (const std::string& fd : message.fds) {
        writer.text(fd);
    }
}

KeptMessage read_message(Reader& reader) {
    KeptMessage message;
    message.request = reader.number<uint32_t>();
    message.payload = reader.bytes(kOwnRecordBytesMax);
    const auto fds = reader.number<uint32_t>();
    for (uint32_t i = 0; reader.fine() && i < std::min<uint32_t>(fds, wire::kMessageFdsMax); ++i) {
        message.fds.push_back(reader.text());
    }
    return message;
}

void write_in_hand(Writer& writer, const SessionJournal::InHand& in_hand) {
    writer.number(in_hand.header.request);
    writer.number(in_hand.header.flags);
    writer.number(in_hand.header.size);
    writer.number(in_hand.fd_count);
    writer.number(static_cast<uint8_t>(in_hand.has_reply));
    writer.bytes(in_hand.reply);
    writer.text(in_hand.reply_fd);
}

SessionJournal::InHand read_in_hand(Reader& reader) {
    SessionJournal::InHand in_hand;
    in_hand.header.request = reader.number<uint32_t>();
    in_hand.header.flags = reader.number<uint32_t>();
    in_hand.header.size = reader.number<uint32_t>();
    in_hand.fd_count = reader.number<uint32_t>();
    in_hand.has_reply = reader.number<uint8_t>() != 0;
    in_hand.reply = reader.bytes(wire::kPayloadBytesMax);
    in_hand.reply_fd = reader.text();
    return in_hand;
}

/// The message in hand was taken, and its answer sent.
Result<bool> was_dealt_with(const SessionJournal::InHand& in_hand,
                            const JournalFile::Content& content) {
    switch (content.progress) {
        case JournalFile::Progress::kWritten:
        case JournalFile::Progress::kTaking:
            return false;
        case JournalFile::Progress::kReplying:
            break;
        case JournalFile::Progress::kDone:
            return true;
    }
    const size_t reply_bytes = sizeof(wire::Header) + in_hand.reply.size();
    // Another version may have noted nothing; then it most likely was sent.
    const size_t sent = content.sent.value_or(reply_bytes);
    if (sent != 0 && sent != reply_bytes) {
        return failure(Error{.message = "the front end did not take an answer"});
    }
    return sent != 0;
}

}  // namespace

Result<std::unique_ptr<SessionJournal>> SessionJournal::create(DescriptorKeeper& keeper,
                                                               std::string prefix) {
    JournalFile file = OUTRIGGER_TRY(JournalFile::create());
    std::unique_ptr<SessionJournal> journal(
        new SessionJournal(keeper, std::move(prefix), std::move(file)));
    journal->write();
    const std::string name = journal_name(journal->prefix_);
    if (keeper.keep(name, journal->file_.fd()) != name) {
        return failure(Error{.message = "the keeper does not take a session's journal"});
    }
    return journal;
}

Result<std::unique_ptr<SessionJournal>> SessionJournal::adopt(DescriptorKeeper& keeper,
                                                              std::string prefix,
                                                              UniqueFd file) {
    JournalFile opened = OUTRIGGER_TRY(JournalFile::open(std::move(file)));
    const auto content = opened.read();
    if (!content) {
        return failure(Error{.message = "the session's journal is damaged"});
    }
    std::unique_ptr<SessionJournal> journal(
        new SessionJournal(keeper, std::move(prefix), std::move(opened)));
    OUTRIGGER_TRY(journal->decode(*content));
    return journal;
}

void SessionJournal::write(JournalFile::Progress progress) {
    Writer writer;
    writer.number(kContentVersion);
    writer.number(next_name_);
    // A session that could not go on elsewhere is none for who reads this.
    const bool there = !connection_.empty() && messages_.restorable();
    writer.text(there ? connection_ : std::string());
    const auto messages = messages_.in_order();
    writer.number(static_cast<uint32_t>(there ? messages.size() : 0));
    for (const KeptMessage* const message : messages) {
        if (there) {
            write_message(writer, *message);
        }
    }
    write_in_hand(writer, in_hand_);
    // The limits of a session keep it far below that of the file.
    OUTRIGGER_ASSERT(file_.write(writer.written(), progress));
    progress_ = progress;
}

Result<void> SessionJournal::decode(const JournalFile::Content& content) {
    Reader reader(content.bytes);
    if (reader.number<uint32_t>() != kContentVersion) {
        return failure(Error{.message = "the session's journal is of another version"});
    }
    next_name_ = reader.number<uint64_t>();
    Saved saved{.connection = reader.text(), .messages = {}, .in_hand = {}};
    const auto count = reader.number<uint32_t>();
    for (uint32_t i = 0; reader.fine() && i < std::min<size_t>(count, kMessagesMax); ++i) {
        saved.messages.push_back(read_message(reader));
    }
    InHand in_hand = read_in_hand(reader);
    if (!reader.fine() || !reader.at_end() || in_hand.header.size > wire::kPayloadBytesMax ||
        in_hand.fd_count > wire::kMessageFdsMax) {
        return failure(Error{.message = "the session's journal is damaged"});
    }
    connection_ = saved.connection;
    if (connection_.empty()) {
        return {};
    }
    messages_.restore(saved.messages);
    in_hand_ = in_hand;
    written_ = true;
    progress_ = content.progress;
    const bool is_there = in_hand.header.request != 0 || in_hand.has_reply;
    if (is_there && !OUTRIGGER_TRY(was_dealt_with(in_hand, content))) {
        saved.in_hand = std::move(in_hand);
    } else {
        in_hand_.reply_fd.clear();  // sent: nobody claims it
    }
    saved_ = std::move(saved);
    return {};
}

Result<void> SessionJournal::take_left(int connection) {
    const InHand& in_hand = *saved_->in_hand;
    if (progress_ == JournalFile::Progress::kWritten) {
        // All of it is there, whatever was looked at since: that has to be known as soon as it is
        // about to be taken.
        if (!platform::start_peeking(connection, sizeof in_hand.header + in_hand.header.size)) {
            return failure(error_from_errno("the connection cannot be looked at"));
        }
        on_taking();
    }
    if (progress_ == JournalFile::Progress::kTaking) {
        const size_t left = platform::peeked_bytes(connection);
        if (left > sizeof in_hand.header + in_hand.header.size ||
            wire::take_peeked(connection, left, in_hand.fd_count) != wire::StreamStatus::kMessage) {
            return failure(Error{.message = "the message in hand is not in the connection"});
        }
    }
    if (!in_hand.has_reply) {
        on_replied();
        saved_->in_hand.reset();
    }
    return {};
}

platform::NotedMessage& SessionJournal::on_replying() {
    OUTRIGGER_ASSERT(written_);  // an answer is
    progress_ = JournalFile::Progress::kReplying;
    return file_.begin_reply();
}

std::string SessionJournal::keep(int fd) {
    const std::string wanted = prefix_ + "." + std::to_string(next_name_++);
    std::string name = keeper_.keep(wanted, fd);
    if (name.empty()) {
        name = wanted;  // which nobody has: the next process says that it cannot go on
        log(LogLevel::kError,
            "{}: the keeper does not take a descriptor: the session would not outlive this process",
            prefix_);
    }
    return name;
}

void SessionJournal::forget(std::span<const std::string> names) {
    for (const std::string& name : names) {
        keeper_.forget(name);
    }
}

void SessionJournal::note(JournalFile::Progress progress) {
    if (written_) {
        file_.set_progress(progress);
        progress_ = progress;
    }
}

void SessionJournal::begin(int connection) {
    messages_ = {};
    in_hand_ = {};
    set_owed(0);
    connection_ = keep(connection);
    write();
}

void SessionJournal::keep_inflight(const wire::Inflight& description, int fd) {
    messages_.keep_inflight(description, keep(fd));
    write_now();
}

void SessionJournal::keep_outcomes(std::vector<std::byte> shape, int fd) {
    messages_.keep_outcomes(std::move(shape), keep(fd));
    write_now();
}

void SessionJournal::write_now() {
    if (connection_.empty()) {
        return;
    }
    if (written_) {
        write(progress_);
    } else {
        // The message in hand has no effect yet: who reads this finds it in the socket.
        InHand current = std::exchange(in_hand_, {});
        write();
        in_hand_ = std::move(current);
    }
    forget(messages_.take_released());
}

void SessionJournal::arrive(const wire::Message& message) {
    if (!in_hand_.reply_fd.empty()) {
        old_reply_fd_ = std::move(in_hand_.reply_fd);
    }
    in_hand_ = {.header = message.header,
                .fd_count = static_cast<uint32_t>(message.fds.size()),
                .reply = {},
                .reply_fd = {}};
    payload_ = message.payload;
    written_ = false;
    state_changed_ = false;
    arrived_.clear();
}

void SessionJournal::keep_descriptors(const wire::Message& message) {
    for (const UniqueFd& fd : message.fds) {
        arrived_.push_back(keep(fd.get()));
    }
}

void SessionJournal::set_ring_state(uint32_t index, bool started, bool enabled) {
    state_changed_ |= messages_.set_ring_state(index, started, enabled);
}

void SessionJournal::keep_device(std::optional<std::vector<std::byte>> sections) {
    if (sections && sections->size() <= kOwnRecordBytesMax) {
        state_changed_ |= messages_.keep_device(*std::move(sections));
    } else {
        messages_.give_up();
        state_changed_ = true;
    }
}

void SessionJournal::keep_session(std::optional<std::vector<std::byte>> facts) {
    if (facts && facts->size() <= kOwnRecordBytesMax) {
        state_changed_ |= messages_.keep_session(*std::move(facts));
    } else {
        messages_.give_up();
        state_changed_ = true;
    }
}

void SessionJournal::set_ring_base(uint32_t index, uint32_t base) {
    messages_.set_ring_base(index, base);
    state_changed_ = true;
}

/// The names that came with the message are the messages' from here on.
bool SessionJournal::note_in_hand(const Outcome& outcome) {
    std::vector<std::string> fds = std::exchange(arrived_, {});
    const auto request = wire::FrontendRequest{in_hand_.header.request};
    if (outcome.waits_for_acknowledgement) {
        unacknowledged_.push_back({.request = request, .payload = payload_, .fds = std::move(fds)});
        return false;
    }
    // A descriptor that the front end is given is kept twice, because the answer goes first.
    const bool is_kept = request == wire::FrontendRequest::kGetInflightFd && outcome.reply_fd >= 0;
    return messages_.note({.request = request,
                           .payload = payload_,
                           .fds = fds,
                           .reply = outcome.reply,
                           .reply_fd = is_kept ? keep(outcome.reply_fd) : std::string()});
}

bool SessionJournal::end_wait(bool acknowledged) {
    bool changed = false;
    for (const Unacknowledged& each : std::exchange(unacknowledged_, {})) {
        if (acknowledged) {
            changed |= messages_.note(
                {.request = each.request, .payload = each.payload, .fds = each.fds, .reply = {}});
        } else {
            forget(each.fds);
        }
    }
    return changed;
}

void SessionJournal::settle(const Outcome& outcome) {
    in_hand_.has_reply = outcome.has_reply;
    in_hand_.reply.assign(outcome.reply.begin(), outcome.reply.end());
    if (outcome.reply_fd >= 0) {
        in_hand_.reply_fd = keep(outcome.reply_fd);
    }
    bool changed = state_changed_;
    if (outcome.acknowledged) {
        changed |= end_wait(*outcome.acknowledged);
    } else if (outcome.carried_out) {
        changed |= note_in_hand(outcome);
    }
    // What changes nothing and is not answered may as well be carried out once more. But what has
    // descriptors may have to be taken in pieces, and who is killed in between leaves half of it.
    written_ = changed || outcome.has_reply || in_hand_.fd_count > 0;
    if (written_) {
        write();
        if (!old_reply_fd_.empty()) {
            arrived_.push_back(std::exchange(old_reply_fd_, {}));
        }
    }
    forget(std::exchange(arrived_, {}));  // of a message that was refused, and of an old answer
    forget(messages_.take_released());
}

void SessionJournal::end() {
    if (connection_.empty()) {
        return;
    }
    std::vector<std::string> gone;
    for (const KeptMessage* const message : messages_.in_order()) {
        gone.insert(gone.end(), message->fds.begin(), message->fds.end());
    }
    if (!in_hand_.reply_fd.empty()) {
        gone.push_back(in_hand_.reply_fd);
    }
    if (!old_reply_fd_.empty()) {
        gone.push_back(std::exchange(old_reply_fd_, {}));
    }
    gone.insert(gone.end(), arrived_.begin(), arrived_.end());
    for (Unacknowledged& each : std::exchange(unacknowledged_, {})) {
        std::ranges::move(each.fds, std::back_inserter(gone));
    }
    gone.push_back(std::exchange(connection_, {}));
    messages_ = {};
    in_hand_ = {};
    arrived_.clear();
    saved_.reset();
    write();
    forget(gone);
}

}  // namespace outrigger
