// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/config_cache.h"

#include <algorithm>

#include "vhost-user-backend/base/error.h"

namespace outrigger::vmm {

void ConfigCache::reset(std::span<const std::byte> content) {
    OUTRIGGER_ASSERT(content.size() <= wire::kConfigBytesMax);
    const std::lock_guard lock(mutex_);
    content_.assign(content.begin(), content.end());
    written_.reset();
    of_driver_.reset();
}

uint32_t ConfigCache::bytes() const {
    const std::lock_guard lock(mutex_);
    return static_cast<uint32_t>(content_.size());
}

void ConfigCache::read(uint32_t at, std::span<std::byte> out) const {
    const std::lock_guard lock(mutex_);
    std::ranges::fill(out, std::byte{0});
    if (at < content_.size()) {
        const size_t present = std::min(out.size(), content_.size() - at);
        std::copy_n(content_.begin() + at, present, out.begin());
    }
}

bool ConfigCache::write(uint32_t at, std::span<const std::byte> in) {
    const std::lock_guard lock(mutex_);
    if (at >= content_.size()) {
        return false;
    }
    const size_t present = std::min(in.size(), content_.size() - at);
    const bool told_all = written_.none();
    for (size_t i = 0; i < present; ++i) {
        content_[at + i] = in[i];
        written_.set(at + i);
        of_driver_.set(at + i);
    }
    return told_all && present > 0;
}

std::optional<ConfigCache::Write> ConfigCache::take_write() {
    const std::lock_guard lock(mutex_);
    size_t begin = 0;
    while (begin < content_.size() && !written_.test(begin)) {
        ++begin;
    }
    if (begin >= content_.size()) {
        return std::nullopt;
    }
    Write write{.offset = static_cast<uint32_t>(begin)};
    for (size_t i = begin; i < content_.size() && written_.test(i); ++i) {
        write.bytes.push_back(content_[i]);
        written_.reset(i);
    }
    return write;
}

bool ConfigCache::update(std::span<const std::byte> content) {
    const std::lock_guard lock(mutex_);
    OUTRIGGER_ASSERT(content.size() == content_.size());
    bool changed = false;
    for (size_t i = 0; i < content.size(); ++i) {
        if (!written_.test(i) && content_[i] != content[i]) {
            content_[i] = content[i];
            changed = true;
        }
    }
    generation_ = static_cast<uint8_t>(generation_ + (changed ? 1 : 0));
    return changed;
}

void ConfigCache::tell_again() {
    const std::lock_guard lock(mutex_);
    written_ |= of_driver_;
}

void ConfigCache::forget_driver() {
    const std::lock_guard lock(mutex_);
    written_.reset();
    of_driver_.reset();
}

uint8_t ConfigCache::generation() const {
    const std::lock_guard lock(mutex_);
    return generation_;
}

}  // namespace outrigger::vmm
