// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/shared_bar.h"

#include <bit>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

namespace outrigger::vmm {
namespace {

/// What a region takes in the BAR.
uint64_t room_for(uint64_t bytes) {
    return (bytes + SharedBar::kAlignment - 1) & ~(SharedBar::kAlignment - 1);
}

}  // namespace

uint64_t SharedBar::bytes_for(std::span<const uint64_t> sizes) {
    uint64_t bytes = 0;
    for (const uint64_t size : sizes) {
        bytes += room_for(size);
    }
    return bytes == 0 ? 0 : std::bit_ceil(bytes);
}

Result<std::unique_ptr<SharedBar>> SharedBar::create(DeviceProxy& device, MemorySlots& slots) {
    auto bar = std::unique_ptr<SharedBar>(new SharedBar(device, slots));
    if (bar->regions_.empty()) {
        return std::unique_ptr<SharedBar>();
    }
    if (bar->regions_.size() > kRegionsMax) {
        return failure(Error{
            .message = fmt::format("a device has {} regions of shared memory: at most {} are shown",
                                   bar->regions_.size(),
                                   size_t{kRegionsMax})});
    }
    device.observe_shared_memory(bar.get());
    return bar;
}

SharedBar::SharedBar(DeviceProxy& device, MemorySlots& slots)
    : device_(device), slots_(slots), bytes_(bytes_for(device.shared_memory())) {
    uint64_t offset = 0;
    const auto sizes = device.shared_memory();
    for (size_t id = 0; id < sizes.size(); ++id) {
        if (sizes[id] != 0) {
            regions_.push_back(
                {.id = static_cast<uint8_t>(id), .offset = offset, .bytes = sizes[id]});
            offset += room_for(sizes[id]);
        }
    }
}

SharedBar::~SharedBar() {
    device_.observe_shared_memory(nullptr);
    for (auto& [offset, piece] : pieces_) {
        hide(piece);
    }
}

std::optional<uint64_t> SharedBar::offset_of(uint8_t region) const {
    for (const Region& one : regions_) {
        if (one.id == region) {
            return one.offset;
        }
    }
    return std::nullopt;
}

Result<void> SharedBar::show(uint64_t offset, Piece& piece) {
    if (address_) {
        piece.slot = OUTRIGGER_TRY(slots_.show(*address_ + offset, piece.memory, piece.writable));
    }
    return {};
}

void SharedBar::hide(Piece& piece) {
    if (piece.slot) {
        slots_.hide(*piece.slot);
        piece.slot.reset();
    }
}

void SharedBar::place(std::optional<uint64_t> address) {
    const std::lock_guard lock(mutex_);
    for (auto& [offset, piece] : pieces_) {
        hide(piece);
    }
    address_ = address;
    for (auto& [offset, piece] : pieces_) {
        if (const auto shown = show(offset, piece); !shown) {
            log(LogLevel::kWarning, "shared memory: {}", shown.error().message);
            return;
        }
    }
}

Result<void> SharedBar::on_mapped(const DeviceProxy::SharedPiece& piece) {
    const std::lock_guard lock(mutex_);
    const auto start = offset_of(piece.region);
    if (!start) {
        return failure(Error{.message = "the guest does not see this region"});
    }
    Piece shown{.memory = piece.memory, .writable = piece.writable};
    OUTRIGGER_TRY(show(*start + piece.offset, shown));
    pieces_[*start + piece.offset] = shown;
    return {};
}

void SharedBar::on_unmapping(uint8_t region, uint64_t offset) {
    const std::lock_guard lock(mutex_);
    const auto start = offset_of(region);
    const auto piece = start ? pieces_.find(*start + offset) : pieces_.end();
    if (piece != pieces_.end()) {
        hide(piece->second);
        pieces_.erase(piece);
    }
}

}  // namespace outrigger::vmm
