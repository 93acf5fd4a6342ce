// SPDX-License-Identifier: Apache-2.0
/// What the guest has sent and the host's socket has not taken yet: bytes of a stream, or messages,
/// of which the last may still grow. How much it may be is for the connection's window to say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace outrigger::vsock {

class HostBacklog final {
  public:
    /// Messages without a byte that wait; of others the window limits how many there are.
    static constexpr size_t kEmptyMessagesMax = 4096;

    struct Message {
        std::span<const std::byte> bytes{};
        bool ends_record = false;
    };

    [[nodiscard]] bool empty() const { return begin_ == bytes_.size() && messages_.empty(); }

    [[nodiscard]] size_t bytes() const { return bytes_.size() - begin_; }

    [[nodiscard]] bool has_message() const { return !messages_.empty(); }

    /// Of messages: are there bytes of one that is not whole yet?
    [[nodiscard]] bool has_part() const { return bytes() > message_bytes_; }

    /// Room for `count` more bytes at the end, to be written to before the next call.
    [[nodiscard]] std::span<std::byte> extend(size_t count) {
        drop_written();
        const size_t before = bytes_.size();
        bytes_.resize(before + count);
        return std::span(bytes_).subspan(before);
    }

    /// What was added since the last message is one. False, and nothing happens: it is empty, and
    /// too many of these wait.
    [[nodiscard]] bool end_message(bool ends_record) {
        const size_t count = bytes() - message_bytes_;
        if (count == 0 && empty_messages_ >= kEmptyMessagesMax) {
            return false;
        }
        empty_messages_ += count == 0 ? 1 : 0;
        messages_.push_back({.bytes = static_cast<uint32_t>(count) & kMessageBytesMax,
                             .ends_record = ends_record ? 1U : 0U});
        message_bytes_ = bytes();
        return true;
    }

    [[nodiscard]] std::span<const std::byte> stream() const {
        return std::span(bytes_).subspan(begin_);
    }

    /// has_message().
    [[nodiscard]] Message message() const {
        return {.bytes = std::span(bytes_).subspan(begin_, messages_.front().bytes),
                .ends_record = messages_.front().ends_record != 0};
    }

    void take_bytes(size_t count) {
        begin_ += count;
        if (begin_ == bytes_.size()) {
            clear_bytes();
        }
    }

    void take_message() {
        const size_t count = messages_.front().bytes;
        messages_.pop_front();
        message_bytes_ -= count;
        empty_messages_ -= count == 0 ? 1 : 0;
        take_bytes(count);
    }

    void clear() {
        messages_.clear();
        message_bytes_ = 0;
        empty_messages_ = 0;
        clear_bytes();
    }

  private:
    /// Above what any window admits.
    static constexpr uint32_t kMessageBytesMax = 0x7fff'ffff;

    /// In four bytes, because there may be one for each byte that waits.
    struct Bounds {
        uint32_t bytes : 31;
        uint32_t ends_record : 1;
    };

    static_assert(sizeof(Bounds) == 4);

    void clear_bytes() {
        // A connection that was slow once does not keep the memory for ever.
        bytes_ = {};
        begin_ = 0;
    }

    void drop_written() {
        if (begin_ > 0 && begin_ >= bytes_.size() / 2) {
            bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(begin_));
            begin_ = 0;
        }
    }

    std::vector<std::byte> bytes_;
    size_t begin_ = 0;             // what is before has been written
    std::deque<Bounds> messages_;  // those that are whole
    size_t message_bytes_ = 0;     // their sum
    size_t empty_messages_ = 0;    // of them
};

}  // namespace outrigger::vsock
