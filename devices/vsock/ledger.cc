// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/ledger.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/shared_memory.h"

#include "devices/vsock/host_backlog.h"

namespace outrigger::vsock {
namespace {

/// "OUTRVSK" and the version of this layout.
constexpr uint64_t kMagic = 0x4f55'5452'5653'4b05;

/// The system may have larger ones; what is put back to it begins where those do.
constexpr size_t kPage = 4096;
constexpr size_t kLargestPage = 64 * 1024;

/// What no call has moved: it is not done.
constexpr unsigned kNotDone = ~0U;

constexpr size_t round_up(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

/// Of one connection: one a byte, and empty ones.
size_t message_slots(const Ledger::Shape& shape) {
    static_assert(HostBacklog::kEmptyMessagesMax <= kLargestPage);
    return 2 * size_t{shape.backlog_bytes};
}

struct ResetBytes {
    uint64_t destination_cid;  ///< of the packet that is answered
    uint32_t source_port;
    uint32_t destination_port;
    uint16_t type;
    uint16_t reserved[3];
};

static_assert(sizeof(ResetBytes) == 24);
static_assert(sizeof(ConnectionRecord) == 88);
static_assert(sizeof(Numbers) == 64);

/// The reader comes when this process is dead: the compiler alone must keep to the order.
void in_order() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

/// What is there now, and is not read again.
template <class T>
T copied(const T& shared) {
    T copy;
    std::memcpy(&copy, &shared, sizeof copy);
    in_order();
    return copy;
}

/// Records are written and looked at by words, because another thread may look meanwhile.
constexpr size_t kRecordWords = sizeof(ConnectionRecord) / sizeof(uint64_t);
using RecordWords = std::array<uint64_t, kRecordWords>;

static_assert(sizeof(RecordWords) == sizeof(ConnectionRecord));

std::atomic_ref<uint64_t> word_at(std::byte* record, size_t index) {
    static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);
    // SAFETY: records begin at a multiple of 8 of a mapping, are whole words, and live as long as
    // it.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return std::atomic_ref<uint64_t>(reinterpret_cast<uint64_t*>(record)[index]);
}

void write_record(std::byte* at, const ConnectionRecord& record) {
    const auto words = std::bit_cast<RecordWords>(record);
    for (size_t i = 0; i < words.size(); ++i) {
        word_at(at, i).store(words[i], std::memory_order_relaxed);
    }
}

ConnectionRecord look_at_record(std::byte* at) {
    RecordWords words{};
    for (size_t i = 0; i < words.size(); ++i) {
        words[i] = word_at(at, i).load(std::memory_order_relaxed);
    }
    return std::bit_cast<ConnectionRecord>(words);
}

}  // namespace

struct Ledger::Change {
    Numbers numbers;
    uint32_t slot;
    uint32_t reserved;
    ConnectionRecord record;
};

/// The second page. The first begins with NotedMessage::moved, which is the kernel's to write to.
struct Ledger::Front {
    uint64_t magic;
    uint32_t connections_max;
    uint32_t backlog_bytes;
    uint64_t guest_cid;
    uint64_t change_is_whole;
    Change change;
    Numbers numbers;
    uint32_t transfer;  ///< TransferKind
    uint32_t transfer_slot;
    Change expected;  ///< kWhole
};

struct Ledger::Places {
    size_t resets = 0;
    size_t records = 0;
    size_t message_ends = 0;
    size_t backlogs = 0;
    size_t bytes = 0;
};

Ledger::Places Ledger::places_in(const Shape& shape) {
    static_assert(sizeof(Front) <= kPage);
    Places places;
    places.resets = 2 * kPage;
    places.records = places.resets + kResetSlots * sizeof(ResetBytes);
    places.message_ends =
        round_up(places.records + shape.connections_max * sizeof(ConnectionRecord), kLargestPage);
    places.backlogs = places.message_ends +
                      size_t{shape.connections_max} * message_slots(shape) * sizeof(uint32_t);
    places.backlogs = round_up(places.backlogs, kLargestPage);
    places.bytes = places.backlogs + size_t{shape.connections_max} * shape.backlog_bytes;
    return places;
}

size_t Ledger::bytes_for(const Shape& shape) {
    return places_in(shape).bytes;
}

Ledger::Ledger(Mapping mapping, const Shape& shape) : mapping_(std::move(mapping)), shape_(shape) {
    // The kernel notes there what a process has sent that is being killed, and such a process does
    // not wait for a page that was swapped out.
    const auto note = static_cast<size_t>(mapping_.data() - mapping_.whole().data());
    platform::lock_pages(mapping_.whole().first(note + 2 * kPage));
}

Result<std::optional<Ledger>> Ledger::open(int fd, const Shape& shape) {
    Ledger ledger(OUTRIGGER_TRY(Mapping::map_file_behind_page(fd, 0, bytes_for(shape))), shape);
    const Front front = copied(ledger.front());
    if (front.magic == 0) {
        return std::optional(OUTRIGGER_TRY(begin_anew(fd, shape)));
    }
    if (front.magic != kMagic || front.connections_max != shape.connections_max ||
        front.backlog_bytes != shape.backlog_bytes || front.guest_cid != shape.guest_cid) {
        return std::optional<Ledger>();
    }
    ledger.goes_on_ = true;
    ledger.take_up();
    return std::optional(std::move(ledger));
}

Result<Ledger> Ledger::begin_anew(int fd, const Shape& shape) {
    Ledger ledger(OUTRIGGER_TRY(Mapping::map_file_behind_page(fd, 0, bytes_for(shape))), shape);
    Front& front = ledger.front();
    front.magic = 0;
    in_order();
    const Places places = places_in(shape);
    std::memset(ledger.mapping_.data() + places.records,
                0,
                shape.connections_max * sizeof(ConnectionRecord));
    front.connections_max = shape.connections_max;
    front.backlog_bytes = shape.backlog_bytes;
    front.guest_cid = shape.guest_cid;
    front.change_is_whole = 0;
    front.numbers = {};
    front.transfer = static_cast<uint32_t>(TransferKind::kNone);
    in_order();
    front.magic = kMagic;
    return ledger;
}

Result<Ledger> Ledger::create(const Shape& shape) {
    const UniqueFd fd =
        OUTRIGGER_TRY(create_shared_memory("outrigger-connections", bytes_for(shape)));
    return begin_anew(fd.get(), shape);
}

Ledger::Front& Ledger::front() const {
    // SAFETY: the mapping is aligned to pages and larger than two of them, and lives as long as
    // this; any bytes are a Front, and what is read of it is copied().
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return *reinterpret_cast<Front*>(mapping_.data() + kPage);
}

platform::NotedMessage& Ledger::noted() const {
    constexpr size_t kBefore = offsetof(platform::NotedMessage, moved);
    static_assert(kBefore % alignof(platform::NotedMessage) == 0);
    // SAFETY: a page that is ours alone is before the mapping, so it is all there, and aligned; any
    // bytes are such a message, and begin() writes its pointers before a system call follows them.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return *reinterpret_cast<platform::NotedMessage*>(mapping_.data() - kBefore);
}

std::byte* Ledger::record_at(uint32_t slot) const {
    OUTRIGGER_ASSERT(slot < shape_.connections_max);
    return mapping_.data() + places_in(shape_).records + slot * sizeof(ConnectionRecord);
}

ConnectionRecord Ledger::record(uint32_t slot) const {
    ConnectionRecord found;
    std::memcpy(&found, record_at(slot), sizeof found);
    return found;
}

/// Twice, until both are alike or it changes all the time.
ConnectionRecord Ledger::look_at(uint32_t slot) const {
    constexpr int kLooksMax = 4;
    ConnectionRecord seen = look_at_record(record_at(slot));
    for (int look = 1; look < kLooksMax; ++look) {
        const ConnectionRecord again = look_at_record(record_at(slot));
        if (std::memcmp(&again, &seen, sizeof seen) == 0) {
            break;
        }
        seen = again;
    }
    return seen;
}

// --- Changes -----------------------------------------------------------------------------------

void Ledger::commit(uint32_t slot, const ConnectionRecord& record) {
    write_change({.numbers = numbers_, .slot = slot, .reserved = 0, .record = record});
}

void Ledger::commit() {
    commit(kNoSlot, {});
}

/// Killed before the mark, nothing has happened; behind it, whoever comes applies it once more.
void Ledger::write_change(const Change& change) {
    Front& front = this->front();
    front.change = change;
    in_order();
    front.change_is_whole = 1;
    in_order();
    apply(change);
    in_order();
    front.change_is_whole = 0;
    in_order();
}

void Ledger::apply(const Change& change) {
    Front& front = this->front();
    front.numbers = change.numbers;
    if (change.slot != kNoSlot) {
        write_record(record_at(change.slot), change.record);
    }
    front.transfer = static_cast<uint32_t>(TransferKind::kNone);
}

// --- Transfers ---------------------------------------------------------------------------------

platform::NotedMessage& Ledger::begin(TransferKind kind, uint32_t slot, const msghdr& message) {
    Front& front = this->front();
    front.transfer = static_cast<uint32_t>(TransferKind::kNone);
    in_order();
    platform::NotedMessage& note = noted();
    note = {.message = message, .moved = kNotDone};
    front.transfer_slot = slot;
    in_order();
    front.transfer = static_cast<uint32_t>(kind);
    in_order();
    return note;
}

ssize_t Ledger::send(TransferKind kind, uint32_t slot, int socket, const msghdr& message) {
    return platform::send_noted_message(socket, begin(kind, slot, message));
}

ssize_t Ledger::receive(
    TransferKind kind, uint32_t slot, int socket, const msghdr& message, int flags) {
    return platform::receive_noted_message(socket, begin(kind, slot, message), flags);
}

void Ledger::expect(uint32_t slot, const ConnectionRecord& record) {
    Front& front = this->front();
    front.transfer = static_cast<uint32_t>(TransferKind::kNone);
    in_order();
    front.expected = {.numbers = numbers_, .slot = slot, .reserved = 0, .record = record};
}

// --- Another process ---------------------------------------------------------------------------

void Ledger::take_up() {
    Front& front = this->front();
    if (copied(front.change_is_whole) != 0) {
        const Change change = copied(front.change);
        if (change.slot == kNoSlot || change.slot < shape_.connections_max) {
            apply(change);
        }
        in_order();
        front.change_is_whole = 0;
    }
    numbers_ = copied(front.numbers);
    resolve_transfer();
    Numbers& numbers = numbers_;
    if (numbers.skip_slot >= shape_.connections_max) {
        numbers.skip_slot = kNoSlot;
    }
    if (numbers.landed_slot >= shape_.connections_max) {
        numbers.landed_slot = kNoSlot;
    }
    if (numbers.resets_end - numbers.resets_begin > kResetSlots) {
        numbers.resets_begin = numbers.resets_end;
    }
    commit();
}

/// The process before was killed between a system call and the commit behind it.
void Ledger::resolve_transfer() {
    Front& front = this->front();
    const auto kind = static_cast<TransferKind>(copied(front.transfer));
    const uint32_t slot = copied(front.transfer_slot);
    const uint32_t moved = copied(noted().moved);
    if (moved == kNotDone || slot >= shape_.connections_max) {
        return;
    }
    switch (kind) {
        case TransferKind::kNone:
            return;
        case TransferKind::kGather:
            numbers_.skip_slot = slot;
            numbers_.skip_bytes = moved;
            return;
        case TransferKind::kLand:
            numbers_.landed_slot = slot;
            numbers_.landed_bytes = moved;
            return;
        case TransferKind::kDrain: {
            ConnectionRecord drained = record(slot);
            drained.backlog_begin += moved;
            if (drained.peer_cid == kHostCid) {
                drained.forwarded += moved;  // else the room is free when the other guest says so
            }
            commit(slot, drained);
            return;
        }
        case TransferKind::kWhole: {
            const Change expected = copied(front.expected);
            if (expected.slot == slot) {
                numbers_ = expected.numbers;
                commit(slot, expected.record);
            }
            return;
        }
    }
}

// --- Places ------------------------------------------------------------------------------------

void Ledger::put_reset(uint32_t number, const PacketAddresses& addresses) {
    const ResetBytes bytes{.destination_cid = addresses.destination_cid,
                           .source_port = addresses.source_port,
                           .destination_port = addresses.destination_port,
                           .type = addresses.type,
                           .reserved = {}};
    std::memcpy(
        mapping_.data() + places_in(shape_).resets + size_t{number % kResetSlots} * sizeof bytes,
        &bytes,
        sizeof bytes);
}

PacketAddresses Ledger::reset(uint32_t number) const {
    ResetBytes bytes;
    std::memcpy(
        &bytes,
        mapping_.data() + places_in(shape_).resets + size_t{number % kResetSlots} * sizeof bytes,
        sizeof bytes);
    return {.source_cid = 0,
            .destination_cid = bytes.destination_cid,
            .source_port = bytes.source_port,
            .destination_port = bytes.destination_port,
            .type = bytes.type};
}

std::span<std::byte> Ledger::backlog(uint32_t slot) const {
    OUTRIGGER_ASSERT(slot < shape_.connections_max);
    return {mapping_.data() + places_in(shape_).backlogs + size_t{slot} * shape_.backlog_bytes,
            shape_.backlog_bytes};
}

std::span<uint32_t> Ledger::message_ends(uint32_t slot) const {
    OUTRIGGER_ASSERT(slot < shape_.connections_max);
    std::byte* const at = mapping_.data() + places_in(shape_).message_ends +
                          size_t{slot} * message_slots(shape_) * sizeof(uint32_t);
    // SAFETY: inside the mapping, aligned to pages, and any bytes are numbers.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return {reinterpret_cast<uint32_t*>(at), message_slots(shape_)};
}

}  // namespace outrigger::vsock
