// SPDX-License-Identifier: Apache-2.0
/// What the guest has sent and the host's socket has not taken yet: bytes of a stream, or messages,
/// of which the last may still grow. How much it may be is for the connection's window to say.
///
/// The bytes are in memory that is lent (Ledger), as a ring: so whoever has that and the four
/// numbers has all of it. Others may write there at any time: what is read is checked each time, so
/// that it never leads out of the ring.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <sys/uio.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::vsock {

class HostBacklog final {
  public:
    /// Bytes and messages that were ever taken and added, modulo 2^32, since it was empty last.
    struct Position {
        uint32_t begin = 0;
        uint32_t end = 0;
        uint32_t messages_begin = 0;
        uint32_t messages_end = 0;

        friend bool operator==(const Position&, const Position&) = default;
    };

    /// Messages without a byte that wait; of others the window limits how many there are.
    static constexpr size_t kEmptyMessagesMax = 4096;

    /// One range, or two where it goes round.
    using Ranges = std::array<iovec, 2>;

    struct Message {
        Ranges bytes{};
        size_t count = 0;  ///< of bytes
        bool ends_record = false;
    };

    [[nodiscard]] static std::span<std::byte> as_bytes(const iovec& range) {
        return {static_cast<std::byte*>(range.iov_base), range.iov_len};
    }

    /// Sizes are powers of two. `ends` has room for a message a byte, and kEmptyMessagesMax more.
    HostBacklog(std::span<std::byte> bytes, std::span<uint32_t> ends)
        : bytes_(bytes), ends_(ends) {}

    [[nodiscard]] bool empty() const { return bytes() == 0 && !has_message(); }

    [[nodiscard]] size_t bytes() const { return at_.end - at_.begin; }

    [[nodiscard]] bool has_message() const { return at_.messages_begin != at_.messages_end; }

    /// Of messages: are there bytes of one that is not whole yet?
    [[nodiscard]] bool has_part() const { return at_.end != whole_end(); }

    /// Room for `count` more bytes at the end, to be written to before the next call. At most so
    /// many that bytes() stays within the memory.
    [[nodiscard]] Ranges extend(size_t count) {
        OUTRIGGER_ASSERT(count <= bytes_.size() - bytes());
        const Ranges room = ranges(at_.end, count);
        at_.end += static_cast<uint32_t>(count);
        used_max_ = std::max(used_max_, std::min<size_t>(at_.end, bytes_.size()));
        return room;
    }

    /// extend() by what is in `pieces` behind the first `skipped` bytes, at most `count` bytes.
    void add(size_t count, std::span<const iovec> pieces, size_t skipped = 0) {
        const Ranges ranges = extend(count);
        std::array rooms{as_bytes(ranges[0]), as_bytes(ranges[1])};
        for (const iovec& piece : pieces) {
            const size_t skip = std::min(skipped, piece.iov_len);
            skipped -= skip;
            auto rest = as_bytes(piece).subspan(skip);
            for (std::span<std::byte>& room : rooms) {
                const size_t moved = std::min(rest.size(), room.size());
                if (moved > 0) {
                    std::memcpy(room.data(), rest.data(), moved);
                }
                room = room.subspan(moved);
                rest = rest.subspan(moved);
            }
        }
    }

    /// What was added since the last message is one. False, and nothing happens: it is empty, and
    /// too many of these wait.
    [[nodiscard]] bool end_message(bool ends_record) {
        const bool is_empty = !has_part();
        if (is_empty && empty_messages_ >= kEmptyMessagesMax) {
            return false;
        }
        empty_messages_ += is_empty ? 1 : 0;
        set_end_of(at_.messages_end, (at_.end & kEndMask) | (ends_record ? kRecordBit : 0));
        ++at_.messages_end;
        ends_used_max_ = std::max<size_t>(ends_used_max_, at_.messages_end);
        return true;
    }

    [[nodiscard]] Ranges stream() const { return ranges(at_.begin, bytes()); }

    /// has_message(). The first.
    [[nodiscard]] Message message() const {
        const uint32_t end = end_of(at_.messages_begin);
        const size_t count = std::min<size_t>(bytes_between(at_.begin, end), bytes());
        return {.bytes = ranges(at_.begin, count),
                .count = count,
                .ends_record = (end & kRecordBit) != 0};
    }

    void take_bytes(size_t count) {
        at_.begin += static_cast<uint32_t>(count);
        begin_anew_if_empty();
    }

    /// message(), which was `first`.
    void take_message(const Message& first) {
        at_.begin += static_cast<uint32_t>(first.count);
        ++at_.messages_begin;
        empty_messages_ -= first.count == 0 && empty_messages_ > 0 ? 1 : 0;
        begin_anew_if_empty();
    }

    void clear() {
        at_ = {};
        empty_messages_ = 0;
    }

    [[nodiscard]] const Position& position() const { return at_; }

    /// As another process left it. False, and nothing changes: it cannot be.
    [[nodiscard]] bool restore(const Position& at) {
        const uint32_t messages = at.messages_end - at.messages_begin;
        if (at.end - at.begin > bytes_.size() || messages > ends_.size()) {
            return false;
        }
        uint32_t before = at.begin;
        size_t empty = 0;
        for (uint32_t i = 0; i < messages; ++i) {
            const uint32_t count = bytes_between(before, end_of(at.messages_begin + i));
            if (count > at.end - before) {
                return false;
            }
            before += count;
            empty += count == 0 ? 1 : 0;
        }
        if (empty > kEmptyMessagesMax) {
            return false;
        }
        empty_messages_ = empty;
        at_ = at;
        used_max_ = bytes_.size();
        ends_used_max_ = ends_.size();
        return true;
    }

    /// Memory that was used and is not any more, of each kind what is behind the first `kept`
    /// bytes: of a backlog that is empty.
    [[nodiscard]] std::array<std::span<std::byte>, 2> take_unused(size_t kept) {
        if (!empty()) {
            return {};
        }
        const auto ends = std::as_writable_bytes(ends_);
        return {take_behind(bytes_, used_max_, kept, 1),
                take_behind(ends, ends_used_max_, kept, sizeof(uint32_t))};
    }

  private:
    /// An entry of ends_: the lower bits of the end, of which there are enough for any window, and
    /// whether a record ends there, too.
    static constexpr uint32_t kRecordBit = 1U << 31;
    static constexpr uint32_t kEndMask = kRecordBit - 1;

    /// Of `memory`, whose first `used` units were used: what is behind `kept` bytes.
    [[nodiscard]] static std::span<std::byte> take_behind(std::span<std::byte> memory,
                                                          size_t& used,
                                                          size_t kept,
                                                          size_t unit) {
        const size_t end = std::min(used * unit, memory.size());
        if (end <= kept) {
            return {};
        }
        used = kept / unit;
        return memory.first(end).subspan(kept);
    }

    // Relaxed: one read or one write of memory that others may have; a process that comes later
    // goes by what Ledger's commit() says.
    [[nodiscard]] uint32_t end_of(uint32_t message) const {
        return std::atomic_ref(ends_[message % ends_.size()]).load(std::memory_order_relaxed);
    }

    void set_end_of(uint32_t message, uint32_t end) {
        std::atomic_ref(ends_[message % ends_.size()]).store(end, std::memory_order_relaxed);
    }

    [[nodiscard]] static uint32_t bytes_between(uint32_t from, uint32_t end) {
        return (end - from) & kEndMask;
    }

    /// Where the last whole message ends.
    [[nodiscard]] uint32_t whole_end() const {
        return has_message() ? at_.end - bytes_between(end_of(at_.messages_end - 1), at_.end)
                             : at_.begin;
    }

    [[nodiscard]] Ranges ranges(uint32_t from, size_t count) const {
        const size_t first = from % bytes_.size();
        const size_t straight = std::min(count, bytes_.size() - first);
        return {iovec{.iov_base = bytes_.data() + first, .iov_len = straight},
                iovec{.iov_base = bytes_.data(), .iov_len = count - straight}};
    }

    /// So that a connection that is a little slow now and then uses the same few pages.
    void begin_anew_if_empty() {
        if (empty()) {
            at_ = {};
        }
    }

    std::span<std::byte> bytes_;
    std::span<uint32_t> ends_;
    Position at_;
    size_t empty_messages_ = 0;
    size_t used_max_ = 0;  // how far the memory was touched
    size_t ends_used_max_ = 0;
};

}  // namespace outrigger::vsock
