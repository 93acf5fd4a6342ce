// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/outcome_journal.h"

#include <atomic>
#include <cstring>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/virtq/ring_memory.h"

namespace outrigger {
namespace {

using ring_memory::load;
using ring_memory::store;

/// "OUTCOME" and the version of the layout. A new layout is a new number, and what the old one
/// says is then not known.
constexpr uint64_t kOpenVersion1 = 0x0045'4d4f'4354'554f + (uint64_t{1} << 56);

constexpr unsigned kStateBits = 2;
constexpr unsigned kOwnerShift = kStateBits + 1;
constexpr uint64_t kOwnerMask = ~uint64_t{0} >> kOwnerShift;

}  // namespace

OutcomeJournal::OutcomeJournal(std::span<std::byte> part, uint16_t ring_size, uint16_t record_bytes)
    : part_(part.data()), ring_size_(ring_size), record_bytes_(record_bytes) {
    OUTRIGGER_ASSERT(part.size() >= bytes(ring_size, record_bytes));
    batch_.reserve(ring_size);
}

uint64_t OutcomeJournal::owner_of(const Key& key) {
    return key.counter & kOwnerMask;
}

uint64_t OutcomeJournal::pack(const Word& word) {
    return static_cast<uint64_t>(word.state) | uint64_t{word.buffer} << kStateBits |
           word.owner << kOwnerShift;
}

/// Relaxed: our own thread wrote it, or somebody who is dead.
OutcomeJournal::Word OutcomeJournal::load_word(uint16_t index) const {
    const auto raw = load<uint64_t>(entry(index) + kWord, __ATOMIC_RELAXED);
    return {.state = static_cast<State>(raw & 3),
            .buffer = static_cast<uint8_t>(raw >> kStateBits & 1),
            .owner = raw >> kOwnerShift};
}

void OutcomeJournal::store_word(uint16_t index, const Word& word) {
    // Release, for a reader after our death: behind the bytes that it stands for.
    store<uint64_t>(entry(index) + kWord, pack(word), __ATOMIC_RELEASE);
    // And what comes behind it in the program stays behind it: what the record told of, and bytes
    // in the buffer that it stood for before. A process dies between two instructions, so it is
    // the compiler alone that must not reorder them.
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

void OutcomeJournal::open(std::span<const Key> in_flight) {
    // What is not in flight any more was answered: the process before died before it forgot.
    std::vector<const Key*> owners(ring_size_);
    for (const Key& key : in_flight) {
        owners[key.entry] = &key;
    }
    const bool is_known = load<uint64_t>(part_, __ATOMIC_RELAXED) == kOpenVersion1;
    for (uint16_t index = 0; index < ring_size_; ++index) {
        const Key* const owner = owners[index];
        const Word found = load_word(index);
        if (owner != nullptr && !is_known) {
            store_word(index, {.state = State::kUnknown, .owner = owner_of(*owner)});
        } else if (found.state != State::kNone &&
                   (owner == nullptr || found.owner != owner_of(*owner))) {
            store_word(index, {});
        }
    }
    // Release: who reads this after our death finds that all records are what they say.
    store<uint64_t>(part_, kOpenVersion1, __ATOMIC_RELEASE);
}

/// Into the buffer that the record does not stand for, so that the record stays whole.
uint8_t OutcomeJournal::write_bytes(const Key& key, std::span<const std::byte> bytes) {
    OUTRIGGER_ASSERT(bytes.size() <= record_bytes_ && key.entry < ring_size_);
    const auto which = static_cast<uint8_t>(load_word(key.entry).buffer ^ 1U);
    if (!bytes.empty()) {
        std::memcpy(buffer(key.entry, which), bytes.data(), bytes.size());
    }
    store<uint16_t>(entry(key.entry) + kLengths + size_t{which} * sizeof(uint16_t),
                    static_cast<uint16_t>(bytes.size()),
                    __ATOMIC_RELAXED);
    return which;
}

void OutcomeJournal::note_intent(const Key& key, std::span<const std::byte> intent) {
    const uint8_t which = write_bytes(key, intent);
    store_word(key.entry, {.state = State::kIntent, .buffer = which, .owner = owner_of(key)});
}

void OutcomeJournal::note_outcome(const Key& key,
                                  std::span<const std::byte> outcome,
                                  uint32_t written_bytes) {
    const uint8_t which = write_bytes(key, outcome);
    store<uint32_t>(entry(key.entry) + kWritten, written_bytes, __ATOMIC_RELAXED);
    store_word(key.entry, {.state = State::kOutcome, .buffer = which, .owner = owner_of(key)});
}

EarlierRun OutcomeJournal::earlier(const Key& key) const {
    const Word word = load_word(key.entry);
    if (word.state == State::kNone || word.owner != owner_of(key)) {
        return {};
    }
    const std::byte* const at = entry(key.entry);
    const auto length =
        load<uint16_t>(at + kLengths + size_t{word.buffer} * sizeof(uint16_t), __ATOMIC_RELAXED);
    if (word.state == State::kUnknown || length > record_bytes_) {
        return {.progress = EarlierProgress::kUnknown};
    }
    const std::span<const std::byte> noted(buffer(key.entry, word.buffer), length);
    if (word.state == State::kIntent) {
        return {.progress = EarlierProgress::kIntent, .bytes = noted};
    }
    return {.progress = EarlierProgress::kOutcome,
            .bytes = noted,
            .written_bytes = load<uint32_t>(at + kWritten, __ATOMIC_RELAXED)};
}

void OutcomeJournal::note_published() {
    for (const uint16_t index : batch_) {
        store_word(index, {});
    }
    batch_.clear();
}

}  // namespace outrigger
