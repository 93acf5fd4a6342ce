// SPDX-License-Identifier: Apache-2.0
#include "devices/console/port_stream.h"

#include <algorithm>

namespace outrigger::console {

PortStream::PortStream(bool waits, size_t replay_bytes)
    : waits_(waits),
      replay_bytes_(replay_bytes),
      output_(std::max(replay_bytes, kWindowBytes) + (waits ? kChainBytesMax : 0)),
      input_(kInputBytes) {}

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
    output_.append(bytes);
}

bool PortStream::has_input() {
    const std::lock_guard lock(mutex_);
    return !input_.empty();
}

size_t PortStream::take_input(ChainWriter& writer) {
    const std::lock_guard lock(mutex_);
    size_t done = 0;
    for (const auto& piece : input_.view(input_.begin(), input_.size())) {
        done += writer.write(piece);
    }
    input_.drop(done);
    return done;
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
    held_from_ = position;
    delivered_ = delivered;
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
    const std::lock_guard lock(mutex_);
    input_.append(bytes);
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
    const std::lock_guard lock(mutex_);
    output_.append(saved.output);
    input_.drop(input_.size());
    input_.append(saved.input);
}

uint64_t PortStream::input_bytes() const {
    const std::lock_guard lock(mutex_);
    return input_.begin();
}

}  // namespace outrigger::console
