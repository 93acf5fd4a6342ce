// SPDX-License-Identifier: Apache-2.0
// How a session goes on in another process: what this one writes down before it takes a message
// from the socket and answers it, and how it carries out again what the one before wrote.
#include <utility>

#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

/// Before the bytes of each section.
struct SectionHeader {
    uint32_t id;
    uint32_t version;
    uint32_t critical;
    uint32_t length;
};

static_assert(sizeof(SectionHeader) == 16);

std::vector<std::byte> write_sections(std::span<const StateSection> sections) {
    std::vector<std::byte> bytes;
    for (const StateSection& section : sections) {
        const SectionHeader header{.id = section.id,
                                   .version = section.version,
                                   .critical = section.critical ? 1U : 0U,
                                   .length = static_cast<uint32_t>(section.bytes.size())};
        const auto raw = std::as_bytes(std::span(&header, 1));
        bytes.insert(bytes.end(), raw.begin(), raw.end());
        bytes.insert(bytes.end(), section.bytes.begin(), section.bytes.end());
    }
    return bytes;
}

/// Nothing when `bytes` are no such list: they come from a file.
std::optional<std::vector<StateSection>> read_sections(std::span<const std::byte> bytes) {
    std::vector<StateSection> sections;
    while (!bytes.empty()) {
        SectionHeader header{};
        if (bytes.size() < sizeof header) {
            return std::nullopt;
        }
        std::memcpy(&header, bytes.data(), sizeof header);
        bytes = bytes.subspan(sizeof header);
        if (header.length > bytes.size()) {
            return std::nullopt;
        }
        const auto content = bytes.first(header.length);
        sections.push_back({.id = header.id,
                            .version = header.version,
                            .critical = header.critical != 0,
                            .bytes = {content.begin(), content.end()}});
        bytes = bytes.subspan(header.length);
    }
    return sections;
}

}  // namespace

/// Messages that start or enable a ring: a refusal leaves it stopped, or not enabled.
std::optional<uint32_t> Session::Impl::ring_in_doubt(const wire::Message& message) const {
    std::optional<size_t> index;
    switch (static_cast<wire::FrontendRequest>(message.header.request)) {
        case wire::FrontendRequest::kSetVringKick:
            index = ring_index(payload_as<uint64_t>(message) & wire::kVringFdIndexMask);
            break;
        case wire::FrontendRequest::kVringKick:
        case wire::FrontendRequest::kSetVringEnable:
            index = ring_index(payload_as<wire::VringState>(message).index);
            break;
        default:  // the many others
            break;
    }
    return index ? std::optional(static_cast<uint32_t>(*index)) : std::nullopt;
}

/// What the device is by now, where messages cannot tell: behind a reset, and a state that was
/// loaded; of a device that can say so at any time also when it is asked for its configuration.
void Session::Impl::note_device() {
    if (abilities_.keeps_itself) {
        return;
    }
    SessionJournal& journal = *environment_.journal;
    bool changed = std::exchange(device_was_reset_, false) && journal.knows_of_device();
    if (abilities_.saves_while_running) {
        switch (static_cast<wire::FrontendRequest>(request_)) {
            case wire::FrontendRequest::kSetFeatures:
            case wire::FrontendRequest::kSetConfig:
            case wire::FrontendRequest::kGetConfig:
                changed = true;
                break;
            default:  // the many others
                break;
        }
    }
    if (changed && (abilities_.saves_while_running || !any_ring_running())) {
        const auto sections = environment_.device.save_state();
        journal.keep_device(sections ? std::optional(write_sections(*sections)) : std::nullopt);
    }
}

/// As at the end, but the front end is told nothing, and the journal says what it said.
void Session::Impl::leave(std::move_only_function<void(bool)> left) {
    const bool may_leave = environment_.journal != nullptr && !close_reason_ && !handling_ &&
                           !waiting_ && !is_restoring() && !leaving_ && !postcopy_.is_listening() &&
                           !state_.under_way();
    if (!may_leave) {
        left(false);
        return;
    }
    leaving_ = true;
    stops_to_leave_ = true;
    connection_.leave();
    placement_.stop();
    auto shared_left = std::make_shared<std::move_only_function<void(bool)>>(std::move(left));
    auto outstanding = std::make_shared<size_t>(rings_.size());
    for (size_t index = 0; index < rings_.size(); ++index) {
        // What waits for something, or has not begun, the next process begins.
        stop_ring(index, QueueRunner::StopKind::kSuspend, [this, shared_left, outstanding] {
            if (--*outstanding > 0) {
                return;
            }
            stops_to_leave_ = false;
            if (close_reason_) {
                begin_close();
            } else {
                (*shared_left)(true);
            }
        });
    }
}

/// From the loop, between or in messages: what was sent or loaded by now is not to be lost.
void Session::Impl::on_transfer_ended(bool loaded) {
    SessionJournal* const journal = environment_.journal;
    if (journal != nullptr && loaded && is_noting() && !abilities_.keeps_itself) {
        // No ring runs yet.
        const auto sections = environment_.device.save_state();
        journal->keep_device(sections ? std::optional(write_sections(*sections)) : std::nullopt);
    }
    note_now();
}

/// Likewise: a fact that no message tells.
void Session::Impl::note_now() {
    if (environment_.journal != nullptr && is_noting()) {
        // What a message in hand has done to rings by now the journal must not say before it has
        // the message, and with it the base of a ring that has stopped.
        const bool in_hand = (handling_ || waiting_) && !places_noted_.empty();
        note_facts(in_hand ? places_noted_ : places_known());
        environment_.journal->write_now();
    }
}

RingPlaceKnown Session::Impl::place_known(const Vring& ring) const {
    if (ring.runner != nullptr && (!ring.without_memory || memory_->mode().iommu)) {
        return RingPlaceKnown::kByItself;
    }
    if (ring.runner != nullptr || ring.waits_for_memory) {
        return RingPlaceKnown::kWithoutMemory;
    }
    return ring.stopped_here ? RingPlaceKnown::kStopped : RingPlaceKnown::kToBeFound;
}

std::vector<RingPlaceKnown> Session::Impl::places_known() const {
    std::vector<RingPlaceKnown> places;
    places.reserve(rings_.size());
    for (const Vring& ring : rings_) {
        places.push_back(place_known(ring));
    }
    return places;
}

void Session::Impl::note_facts(std::vector<RingPlaceKnown> places) {
    const std::array facts{
        used_, features_refused_, device_is_reset_, log_is_incomplete_, regions_repeated_};
    if (facts == facts_noted_ && places == places_noted_ && state_.version() == exchange_noted_) {
        return;
    }
    facts_noted_ = facts;
    places_noted_ = places;
    exchange_noted_ = state_.version();
    environment_.journal->keep_session(SessionFacts{.used = used_,
                                                    .features_refused = features_refused_,
                                                    .device_is_reset = device_is_reset_,
                                                    .log_is_incomplete = log_is_incomplete_,
                                                    .regions_repeated = regions_repeated_,
                                                    .rings = std::move(places),
                                                    .exchange = state_.to_keep()}
                                           .encode());
}

Session::Impl::Outcome Session::Impl::restore_device(std::span<const std::byte> bytes) {
    if (abilities_.keeps_itself) {
        return done();
    }
    const auto sections = read_sections(bytes);
    if (!sections) {
        return refuse(Refusal::kDeviceState);
    }
    const auto refused = [this](const std::string& reason) {
        log(LogLevel::kError, "{}: {}", identity_.name, reason);
        return refuse(Refusal::kDeviceState);
    };
    // Another binary may have written them (--take-over).
    const auto known = select_sections(*sections, environment_.device.state_sections());
    if (!known) {
        return refused(known.error().message);
    }
    const auto loaded = environment_.device.load_state(known->sections);
    return loaded ? done() : refused(loaded.error().message);
}

Session::Impl::Outcome Session::Impl::restore_facts(std::span<const std::byte> bytes) {
    auto facts = SessionFacts::decode(bytes);
    if (!facts || facts->rings.size() != rings_.size()) {
        return refuse(Refusal::kDeviceState);
    }
    used_ = facts->used;
    features_refused_ = facts->features_refused;
    device_is_reset_ = facts->device_is_reset;
    log_is_incomplete_ = facts->log_is_incomplete;
    regions_repeated_ = facts->regions_repeated;
    if (device_is_reset_) {
        environment_.device.reset();
    }
    places_noted_ = facts->rings;
    for (size_t index = 0; index < rings_.size(); ++index) {
        Vring& ring = rings_[index];
        const RingPlaceKnown known = facts->rings[index];
        ring.must_start = known == RingPlaceKnown::kByItself;
        ring.waits_for_memory = known == RingPlaceKnown::kWithoutMemory;
        ring.stopped_here = known == RingPlaceKnown::kStopped || ring.waits_for_memory;
    }
    state_.restore(std::move(facts->exchange));
    return done();
}

/// The message has its effect: the next process must have it, too, and not once more.
void Session::Impl::settle(std::span<const std::byte> reply, int reply_fd, bool has_reply) {
    SessionJournal* const journal = environment_.journal;
    if (journal == nullptr || std::exchange(settled_, true)) {
        return;
    }
    if (const auto index = std::exchange(ring_in_doubt_, std::nullopt); index && !carried_out_) {
        const Vring& ring = rings_[*index];
        journal->set_ring_state(*index, ring.started, ring.enabled);
    }
    note_device();
    note_facts(places_known());
    // Else it is in what the device says of itself, or keeps.
    const bool says_itself = abilities_.saves_while_running || abilities_.keeps_itself;
    const bool is_told =
        !says_itself || request_ != static_cast<uint32_t>(wire::FrontendRequest::kSetConfig);
    const HeldMemory* const held = postcopy_.held();
    journal->settle({.carried_out = carried_out_ && is_told && !said_before_,
                     .waits_for_acknowledgement = held != nullptr && held->request == request_,
                     .acknowledged = acknowledges_ ? std::optional(carried_out_) : std::nullopt,
                     .has_reply = has_reply,
                     .reply = reply,
                     .reply_fd = reply_fd});
    journal->on_taking();
    (void)connection_.take();  // if it fails, it ends the session
    if (!has_reply) {
        // Or the next message that somebody looks at would be taken for this one.
        journal->on_replied();
    }
}

Session::Impl::Outcome Session::Impl::restore(SavedSession::Message& saved) {
    if (saved.request == static_cast<uint32_t>(OwnRecord::kSession)) {
        return restore_facts(saved.payload);
    }
    if (saved.request == static_cast<uint32_t>(OwnRecord::kDevice)) {
        return restore_device(saved.payload);
    }
    if (saved.request == static_cast<uint32_t>(OwnRecord::kOutcomes)) {
        return restore_outcomes(saved);
    }
    wire::Message message{.header = {.request = saved.request,
                                     .flags = wire::kVersion,
                                     .size = static_cast<uint32_t>(saved.payload.size())},
                          .payload = std::move(saved.payload),
                          .fds = std::move(saved.fds)};
    const wire::RequestDescription* request = wire::find_frontend_request(saved.request);
    // It comes from a file: its form is checked, and that handlers meet what they count on. It was
    // negotiated when it came.
    if (request == nullptr || malformed(*request, message)) {
        return refuse(Refusal::kUnknownRequest);
    }
    const auto refusal = forbidden_now(*request, message);
    return refusal ? refuse(*refusal) : dispatch(message);
}

void Session::Impl::restore_next() {
    while (!close_reason_ && restored_ < saved_->messages.size()) {
        handling_ = true;
        Outcome outcome = restore(saved_->messages[restored_++]);
        handling_ = false;
        if (outcome.kind == Outcome::Kind::kLater) {
            if (!finished_) {
                waiting_ = true;
                return;
            }
            outcome = *std::exchange(finished_, std::nullopt);
        }
        if (!was_restored(outcome)) {
            return;
        }
    }
    if (!close_reason_) {
        end_restore();
    }
}

bool Session::Impl::was_restored(const Outcome& outcome) {
    if (outcome.kind != Outcome::Kind::kRefused) {
        return true;
    }
    const SavedSession::Message& message = saved_->messages[restored_ - 1];
    const wire::RequestDescription* request = wire::find_frontend_request(message.request);
    if (message.request == static_cast<uint32_t>(wire::FrontendRequest::kSetConfig)) {
        // Another driver wrote it, with other features. The device has none of it then, and none
        // since.
        return true;
    }
    log(LogLevel::kError,
        "{}: the session cannot go on: {} ({}) of the process before is refused: {}",
        identity_.name,
        request != nullptr ? request->name : "a request",
        message.request,
        describe(outcome.refusal));
    saved_->on_not_restored();
    close(CloseReason::kNotRestored);
    return false;
}

/// The message that was in hand, and from here on as if nothing had been.
void Session::Impl::end_restore() {
    SavedSession saved = *std::exchange(saved_, std::nullopt);
    if (saved.in_hand) {
        settled_ = true;
        request_ = saved.in_hand->header.request;
        send(saved.in_hand->reply, saved.reply_fd.get());
    }
    if (close_reason_) {
        return;
    }
    log(LogLevel::kInfo,
        "{}: goes on with a session that another process began ({} messages)",
        identity_.name,
        restored_);
    misses_.send_queued();
    connection_.resume();
    if (saved.on_restored) {
        saved.on_restored();
    }
}

}  // namespace outrigger
