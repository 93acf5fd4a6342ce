// SPDX-License-Identifier: Apache-2.0
#include "devices/console/port_stream.h"

#include <algorithm>

namespace outrigger::console {

namespace {

/// Of the head's memory, so that what follows begins at a line of the cache.
constexpr size_t round_up(size_t bytes) {
    constexpr size_t kLine = 64;
    return (bytes + kLine - 1) / kLine * kLine;
}

size_t output_capacity(bool waits, size_t replay_bytes) {
    return std::max(replay_bytes, PortStream::kWindowBytes) +
           (waits ? PortStream::kChainBytesMax : 0);
}

}  // namespace

size_t PortStream::bytes(bool waits, size_t replay_bytes) {
    return KeptValue<Head>::kBytes + kInputBytes + round_up(output_capacity(waits, replay_bytes));
}

PortStream::PortStream(bool waits, size_t replay_bytes, std::span<std::byte> kept)
    : waits_(waits),
      replay_bytes_(replay_bytes),
      own_(kept.empty() ? std::make_unique_for_overwrite<std::byte[]>(bytes(waits, replay_bytes))
                        : nullptr),
      output_((kept.empty() ? std::span(own_.get(), bytes(waits, replay_bytes)) : kept)
                  .subspan(KeptValue<Head>::kBytes + kInputBytes,
                           output_capacity(waits, replay_bytes))),
      input_((kept.empty() ? std::span(own_.get(), bytes(waits, replay_bytes)) : kept)
                 .subspan(KeptValue<Head>::kBytes, kInputBytes)) {
    if (!kept.empty()) {
        head_.emplace(kept.first(KeptValue<Head>::kBytes));
        take_up(head_->load().value_or(Head{}));
    }
}

/// Anybody may have written it: where it cannot be, there is nothing.
void PortStream::take_up(const Head& head) {
    constexpr uint64_t kMost = uint64_t{1} << 62;  // which no stream reaches
    const auto fits = [](const ByteRing& ring, uint64_t begin, uint64_t end) {
        return begin <= end && end - begin <= ring.capacity() && end < kMost;
    };
    if (!fits(output_, head.output_begin, head.output_end) ||
        !fits(input_, head.input_begin, head.input_end) || head.chains >= kMost) {
        return;
    }
    output_.restore(head.output_begin, head.output_end);
    input_.restore(head.input_begin, head.input_end);
    chains_ = head.chains;
    delivered_ = std::min(head.delivered, head.output_end);
    if (head.is_held != 0) {
        held_from_ = std::min(head.held_from, head.output_end);
    }
}

void PortStream::store_head() {
    if (head_) {
        head_->store({.output_begin = output_.begin(),
                      .output_end = output_.end(),
                      .input_begin = input_.begin(),
                      .input_end = input_.end(),
                      .chains = chains_,
                      .is_held = held_from_ ? uint64_t{1} : 0,
                      .held_from = held_from_.value_or(0),
                      .delivered = delivered_});
    }
}

bool PortStream::has_room_locked() const {
    return !waits_ || !held_from_ || output_.end() - *held_from_ < kWindowBytes;
}

bool PortStream::has_room() {
    const std::lock_guard lock(mutex_);
    room_wished_ = !has_room_locked();
    return !room_wished_;
}

void PortStream::append_output(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    bytes = bytes.last(std::min(bytes.size(), output_.capacity()));
    output_.make_room(bytes.size());
    store_head();
    output_.append(bytes);
    store_head();
}

bool PortStream::has_taken(uint64_t chain) const {
    const std::lock_guard lock(mutex_);
    return chain < chains_;
}

bool PortStream::has_input() {
    const std::lock_guard lock(mutex_);
    return !input_.empty();
}

void PortStream::note_input_taken(uint64_t position) {
    const std::lock_guard lock(mutex_);
    if (position >= input_.begin() && position <= input_.end()) {
        input_.drop(static_cast<size_t>(position - input_.begin()));
        store_head();
    }
}

PortStream::Ends PortStream::output() const {
    const std::lock_guard lock(mutex_);
    return {.begin = output_.begin(), .end = output_.end()};
}

uint64_t PortStream::first_for_new_viewer_locked() const {
    const uint64_t replayed = output_.end() - std::min<uint64_t>(output_.size(), replay_bytes_);
    return waits_ ? std::max(output_.begin(), std::min(replayed, delivered_)) : replayed;
}

uint64_t PortStream::first_for_new_viewer() const {
    const std::lock_guard lock(mutex_);
    return first_for_new_viewer_locked();
}

size_t PortStream::copy_output(uint64_t& position, std::span<std::byte> out, uint64_t& missed) {
    const std::lock_guard lock(mutex_);
    if (position < output_.begin()) {
        missed += output_.begin() - position;
        position = output_.begin();
    }
    return output_.copy(position, out);
}

void PortStream::hold_from(std::optional<uint64_t> position, uint64_t delivered) {
    const std::lock_guard lock(mutex_);
    if (held_from_ == position && delivered_ == delivered) {
        return;
    }
    held_from_ = position;
    delivered_ = delivered;
    store_head();
}

uint64_t PortStream::delivered() const {
    const std::lock_guard lock(mutex_);
    return delivered_;
}

bool PortStream::take_room_wish() {
    const std::lock_guard lock(mutex_);
    if (!room_wished_ || !has_room_locked()) {
        return false;
    }
    room_wished_ = false;
    return true;
}

size_t PortStream::input_room() {
    const std::lock_guard lock(mutex_);
    if (input_.room() == 0) {
        input_wished_.store(true);
    }
    return input_.room();
}

void PortStream::append_input(std::span<const std::byte> bytes) {
    const std::lock_guard input(input_mutex_);
    const std::lock_guard lock(mutex_);
    input_.append(bytes);
    store_head();
}

uint64_t PortStream::input_end() const {
    const std::lock_guard lock(mutex_);
    return input_.end();
}

std::optional<std::array<std::span<std::byte>, 2>> PortStream::input_space(uint64_t position,
                                                                           size_t count) {
    const std::lock_guard lock(mutex_);
    if (position != input_.end() || count > input_.room()) {
        return std::nullopt;
    }
    return input_.prepare(count);
}

void PortStream::commit_input(uint64_t position, size_t count) {
    const std::lock_guard lock(mutex_);
    if (position == input_.end() && count <= input_.room()) {
        input_.commit(count);
        store_head();
    }
}

PortStream::Saved PortStream::save() const {
    const std::lock_guard lock(mutex_);
    Saved saved;
    const uint64_t first = first_for_new_viewer_locked();
    saved.output.resize(static_cast<size_t>(output_.end() - first));
    output_.copy(first, saved.output);
    saved.input.resize(input_.size());
    input_.copy(input_.begin(), saved.input);
    return saved;
}

void PortStream::load(const Saved& saved) {
    append_output(saved.output);
    const std::lock_guard input(input_mutex_);
    const std::lock_guard lock(mutex_);
    input_.drop(input_.size());
    store_head();
    input_.append(saved.input);
    store_head();
}

uint64_t PortStream::input_bytes() const {
    const std::lock_guard lock(mutex_);
    return input_.begin();
}

}  // namespace outrigger::console
