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
    /// Messages that wait, which may be empty and so are not limited by the window.
    static constexpr size_t kMessagesMax = 4096;

    [[nodiscard]] bool empty() const { return begin_ == bytes_.size() && messages_.empty(); }

    [[nodiscard]] size_t bytes() const { return bytes_.size() - begin_; }

    [[nodiscard]] bool has_message() const { return !messages_.empty(); }

    [[nodiscard]] bool is_full() const { return messages_.size() >= kMessagesMax; }

    /// Room for `count` more bytes at the end, to be written to before the next call.
    [[nodiscard]] std::span<std::byte> extend(size_t count) {
        drop_written();
        const size_t before = bytes_.size();
        bytes_.resize(before + count);
        return std::span(bytes_).subspan(before);
    }

    /// What was added since the last message is one.
    void end_message() {
        messages_.push_back(bytes() - message_bytes_);
        message_bytes_ = bytes();
    }

    [[nodiscard]] std::span<const std::byte> stream() const {
        return std::span(bytes_).subspan(begin_);
    }

    /// has_message().
    [[nodiscard]] std::span<const std::byte> message() const {
        return std::span(bytes_).subspan(begin_, messages_.front());
    }

    void take_bytes(size_t count) {
        begin_ += count;
        if (begin_ == bytes_.size()) {
            clear_bytes();
        }
    }

    void take_message() {
        const size_t count = messages_.front();
        messages_.pop_front();
        message_bytes_ -= count;
        take_bytes(count);
    }

    void clear() {
        messages_.clear();
        message_bytes_ = 0;
        clear_bytes();
    }

  private:
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
    std::deque<size_t> messages_;  // bytes of each whole message
    size_t message_bytes_ = 0;     // their sum
};

}  // namespace outrigger::vsock
