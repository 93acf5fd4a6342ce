// SPDX-License-Identifier: Apache-2.0
/// How far each request of a ring has come, for devices some of whose requests must not be carried
/// out twice: what the device noted before it did something (intent) and behind it (outcome). One
/// record for each entry of the in-flight log, under that log's counter.
///
/// The order of stores is a protocol with whoever reads after this process was killed between any
/// two of them; open() is that reader. A record's word says its state, which of its two buffers
/// holds the bytes, and whose they are, so one store changes all of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace outrigger {

/// That a device may note at a time, of one request.
inline constexpr size_t kOutcomeBytesMax = 512;

/// How far a replayed request had come.
enum class EarlierProgress : uint8_t {
    kNothing,  ///< the device had noted nothing, so it had not begun
    kUnknown,  ///< nobody kept what was noted
    kIntent,   ///< it was about to begin, and may have done it
    kOutcome,  ///< it was done, and the driver has not heard
};

struct EarlierRun {
    EarlierProgress progress = EarlierProgress::kNothing;
    /// What was noted. Of our own memory; until the chain notes something or goes.
    std::span<const std::byte> bytes{};
    /// kOutcome: what the chain was to be completed with; it has so many bytes to write.
    uint32_t written_bytes = 0;
};

/// Thread-bound: queue worker. The memory is ours alone, but what an earlier process left in it is
/// checked all the same.
class OutcomeJournal final {
  public:
    /// A request in flight: its entry in the in-flight log, and its counter there.
    struct Key {
        uint16_t entry = 0;
        uint64_t counter = 0;
    };

    /// Of a queue's part.
    [[nodiscard]] static constexpr size_t bytes(size_t entries, size_t record_bytes) {
        return kHeaderBytes + entries * entry_bytes(record_bytes);
    }

    /// `part` begins at a multiple of 64 bytes and has bytes() of them at least.
    OutcomeJournal(std::span<std::byte> part, uint16_t ring_size, uint16_t record_bytes);

    /// Takes up what is there of the requests that are still in flight, and forgets the rest. Once,
    /// and before any other call.
    void open(std::span<const Key> in_flight);

    /// The device is about to carry the request out. A later intent takes the place of this one.
    void note_intent(const Key& key, std::span<const std::byte> intent);

    /// It was carried out.
    void note_outcome(const Key& key, std::span<const std::byte> outcome, uint32_t written_bytes);

    [[nodiscard]] EarlierRun earlier(const Key& key) const;

    /// The request is used, but the driver does not look there yet.
    void note_used(uint16_t entry) { batch_.push_back(entry); }

    /// All that note_used() named is the driver's: nobody will ask for it any more.
    void note_published();

    [[nodiscard]] uint16_t record_bytes() const { return record_bytes_; }

  private:
    enum class State : uint8_t { kNone, kIntent, kOutcome, kUnknown };

    /// A record's word, taken apart.
    struct Word {
        State state = State::kNone;
        uint8_t buffer = 0;
        uint64_t owner = 0;  ///< the lower bits of the counter
    };

    // One word, when the records mean something, in a cache line; entries are whole ones, too.
    static constexpr size_t kHeaderBytes = 64;
    // Of an entry. The lengths are of the two buffers, which follow.
    static constexpr size_t kWord = 0;
    static constexpr size_t kLengths = 8;   ///< 16 bits each
    static constexpr size_t kWritten = 12;  ///< 32 bits
    static constexpr size_t kBuffers = 16;

    static constexpr size_t entry_bytes(size_t record_bytes) {
        return round_up(kBuffers + 2 * round_up(record_bytes, sizeof(uint64_t)), kHeaderBytes);
    }

    static constexpr size_t round_up(size_t bytes, size_t unit) {
        return (bytes + unit - 1) / unit * unit;
    }

    [[nodiscard]] std::byte* entry(uint16_t index) const {
        return part_ + kHeaderBytes + size_t{index} * entry_bytes(record_bytes_);
    }

    [[nodiscard]] std::byte* buffer(uint16_t index, uint8_t which) const {
        return entry(index) + kBuffers + which * round_up(record_bytes_, sizeof(uint64_t));
    }

    [[nodiscard]] static uint64_t owner_of(const Key& key);
    [[nodiscard]] static uint64_t pack(const Word& word);
    [[nodiscard]] Word load_word(uint16_t index) const;
    void store_word(uint16_t index, const Word& word);
    [[nodiscard]] uint8_t write_bytes(const Key& key, std::span<const std::byte> bytes);

    std::byte* part_;
    uint16_t ring_size_;
    uint16_t record_bytes_;
    std::vector<uint16_t> batch_;  // used and not published
};

}  // namespace outrigger
