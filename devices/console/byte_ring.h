// SPDX-License-Identifier: Apache-2.0
/// The last bytes of a stream, each known by its position in the whole of it. Several readers may
/// each have a position of their own; the writer waits for none of them.
///
/// Not synchronized.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace outrigger::console {

class ByteRing final {
  public:
    /// `memory` is borrowed and not empty. It is touched as bytes come.
    explicit ByteRing(std::span<std::byte> memory)
        : capacity_(memory.size()), bytes_(memory.data()) {}

    [[nodiscard]] size_t capacity() const { return capacity_; }

    /// Goes on with what is in the memory already: at most capacity() bytes.
    void restore(uint64_t begin, uint64_t end) {
        begin_ = begin;
        end_ = end;
    }

    /// Position of the oldest byte that is there, and behind the newest.
    [[nodiscard]] uint64_t begin() const { return begin_; }

    [[nodiscard]] uint64_t end() const { return end_; }

    [[nodiscard]] size_t size() const { return static_cast<size_t>(end_ - begin_); }

    [[nodiscard]] bool empty() const { return begin_ == end_; }

    [[nodiscard]] size_t room() const { return capacity_ - size(); }

    /// The oldest bytes make room for `count` (at most capacity()).
    void make_room(size_t count) {
        if (count > room()) {
            begin_ += count - room();
        }
    }

    /// Where the next `count` bytes, for which there is room, come to lie, in one or two pieces;
    /// commit() makes them appear.
    [[nodiscard]] std::array<std::span<std::byte>, 2> prepare(size_t count) {
        return pieces(end_, count);
    }

    void commit(size_t count) { end_ += count; }

    /// Appends all of it; of more than capacity() only the end stays.
    void append(std::span<const std::byte> bytes) {
        if (bytes.size() > capacity_) {
            const size_t passed = bytes.size() - capacity_;
            end_ += passed;
            begin_ = std::max(begin_, end_);
            bytes = bytes.subspan(passed);
        }
        make_room(bytes.size());
        size_t done = 0;
        for (const auto& piece : prepare(bytes.size())) {
            std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(done), piece.size(), piece.begin());
            done += piece.size();
        }
        commit(done);
    }

    /// The bytes from `position` (begin() to end()) on, at most `count`, in one or two pieces.
    [[nodiscard]] std::array<std::span<std::byte>, 2> view(uint64_t position, size_t count) {
        return pieces(position, static_cast<size_t>(std::min<uint64_t>(count, end_ - position)));
    }

    /// Copies what is there from `position` (begin() to end()) on; returns how many bytes.
    size_t copy(uint64_t position, std::span<std::byte> out) const {
        const auto count = static_cast<size_t>(std::min<uint64_t>(out.size(), end_ - position));
        const auto at = static_cast<size_t>(position % capacity_);
        const size_t first = std::min(count, capacity_ - at);
        std::copy_n(bytes_ + at, first, out.begin());
        std::copy_n(bytes_, count - first, out.begin() + static_cast<ptrdiff_t>(first));
        return count;
    }

    /// Forgets the oldest `count` bytes, at most size().
    void drop(size_t count) { begin_ += count; }

  private:
    [[nodiscard]] std::array<std::span<std::byte>, 2> pieces(uint64_t position, size_t count) {
        const auto at = static_cast<size_t>(position % capacity_);
        const size_t first = std::min(count, capacity_ - at);
        return {std::span(bytes_ + at, first), std::span(bytes_, count - first)};
    }

    size_t capacity_;
    std::byte* bytes_;
    uint64_t begin_ = 0;
    uint64_t end_ = 0;
};

}  // namespace outrigger::console
