// SPDX-License-Identifier: Apache-2.0
/// What the guest has sent and the host's socket has not taken yet: bytes of a stream, or messages,
/// of which the last may still grow. How much it may be is for the connection's window to say.
///
/// The bytes are in memory that is lent (Ledger), as a ring: so whoever has that and the four
/// numbers has all of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
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

    /// One range, or two where it goes round.
    using Ranges = std::array<iovec, 2>;

    /// Sizes are powers of two. `ends` has room for as many messages as may wait, which may be
    /// empty and so are not limited by the window.
    HostBacklog(std::span<std::byte> bytes, std::span<uint32_t> ends)
        : bytes_(bytes), ends_(ends) {}

    [[nodiscard]] bool empty() const { return bytes() == 0 && !has_message(); }

    [[nodiscard]] size_t bytes() const { return at_.end - at_.begin; }

    [[nodiscard]] bool has_message() const { return at_.messages_begin != at_.messages_end; }

    [[nodiscard]] bool is_full() const {
        return at_.messages_end - at_.messages_begin >= ends_.size();
    }

    /// Room for `count` more bytes at the end, to be written to before the next call. At most so
    /// many that bytes() stays within the memory.
    [[nodiscard]] Ranges extend(size_t count) {
        OUTRIGGER_ASSERT(count <= bytes_.size() - bytes());
        const Ranges room = ranges(at_.end, count);
        at_.end += static_cast<uint32_t>(count);
        used_max_ = std::max(used_max_, std::min<size_t>(at_.end, bytes_.size()));
        return room;
    }

    /// What was added since the last message is one.
    void end_message() {
        ends_[at_.messages_end % ends_.size()] = at_.end;
        ++at_.messages_end;
    }

    [[nodiscard]] Ranges stream() const { return ranges(at_.begin, bytes()); }

    /// has_message().
    [[nodiscard]] size_t message_bytes() const {
        return ends_[at_.messages_begin % ends_.size()] - at_.begin;
    }

    [[nodiscard]] Ranges message() const { return ranges(at_.begin, message_bytes()); }

    void take_bytes(size_t count) {
        at_.begin += static_cast<uint32_t>(count);
        begin_anew_if_empty();
    }

    void take_message() {
        at_.begin += static_cast<uint32_t>(message_bytes());
        ++at_.messages_begin;
        begin_anew_if_empty();
    }

    void clear() { at_ = {}; }

    [[nodiscard]] const Position& position() const { return at_; }

    /// As another process left it. False, and nothing changes: it cannot be.
    [[nodiscard]] bool restore(const Position& at) {
        const uint32_t messages = at.messages_end - at.messages_begin;
        if (at.end - at.begin > bytes_.size() || messages > ends_.size()) {
            return false;
        }
        uint32_t before = at.begin;
        for (uint32_t i = 0; i < messages; ++i) {
            const uint32_t end = ends_[(at.messages_begin + i) % ends_.size()];
            if (end - before > at.end - before) {
                return false;
            }
            before = end;
        }
        at_ = at;
        used_max_ = bytes_.size();
        return true;
    }

    /// Memory that was used and is not any more, if it is more than `kept` bytes: of a backlog that
    /// is empty.
    [[nodiscard]] std::span<std::byte> take_unused(size_t kept) {
        if (bytes() > 0 || used_max_ <= kept) {
            return {};
        }
        const auto unused = bytes_.first(used_max_).subspan(kept);
        used_max_ = kept;
        return unused;
    }

  private:
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
    size_t used_max_ = 0;  // how far the memory was touched
};

}  // namespace outrigger::vsock
