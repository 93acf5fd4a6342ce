// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/shared_bar.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include <sys/uio.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

/// How long a vCPU waits for what is being replaced, and how many such places are known.
constexpr std::chrono::milliseconds kHoleLife{200};
constexpr size_t kHolesMax = 64;

/// What a region takes in the BAR.
uint64_t room_for(uint64_t bytes) {
    return (bytes + SharedBar::kAlignment - 1) & ~(SharedBar::kAlignment - 1);
}

/// Copies between our memory and a piece without a fault: the file behind the piece may end at any
/// moment. False when it has.
bool copy(std::byte* to, const std::byte* from, size_t bytes, bool to_piece) {
    const iovec destination{.iov_base = to, .iov_len = bytes};
    // The system call writes to one side only; the interface has no const.
    const iovec source{.iov_base = const_cast<std::byte*>(from), .iov_len = bytes};
    const ssize_t copied = to_piece
                               ? ::process_vm_writev(::getpid(), &source, 1, &destination, 1, 0)
                               : ::process_vm_readv(::getpid(), &destination, 1, &source, 1, 0);
    return copied == static_cast<ssize_t>(bytes);
}

}  // namespace

uint64_t SharedBar::bytes_for(std::span<const uint64_t> sizes) {
    uint64_t bytes = 0;
    for (const uint64_t size : sizes) {
        bytes += room_for(size);
    }
    return bytes == 0 ? 0 : std::bit_ceil(bytes);
}

Result<std::unique_ptr<SharedBar>> SharedBar::create(DeviceProxy& device,
                                                     MemorySlots& slots,
                                                     std::function<void()> memory_lost) {
    auto bar = std::unique_ptr<SharedBar>(new SharedBar(device, slots, std::move(memory_lost)));
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

SharedBar::SharedBar(DeviceProxy& device, MemorySlots& slots, std::function<void()> memory_lost)
    : device_(device),
      slots_(slots),
      memory_lost_(std::move(memory_lost)),
      bytes_(bytes_for(device.shared_memory())) {
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
    if (address_ && piece.bytes_there != 0) {
        piece.slot = OUTRIGGER_TRY(
            slots_.show(*address_ + offset, piece.memory.first(piece.bytes_there), piece.writable));
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
            // read() and write() take its accesses then, an exit each.
            slow_.log(LogLevel::kWarning, "shared memory is slow: {}", shown.error().message);
        }
    }
}

/// With the lock.
std::optional<SharedBar::Target> SharedBar::find(uint64_t offset, size_t bytes) const {
    const auto behind = pieces_.upper_bound(offset);
    if (behind == pieces_.begin()) {
        return std::nullopt;
    }
    const auto& [start, piece] = *std::prev(behind);
    if (!range_fits<uint64_t>(offset - start, bytes, piece.memory.size())) {
        return std::nullopt;
    }
    return Target{.memory = piece.memory.data() + (offset - start), .writable = piece.writable};
}

std::optional<SharedBar::Target> SharedBar::find_soon(uint64_t offset, size_t bytes) {
    std::unique_lock lock(mutex_);
    auto target = find(offset, bytes);
    if (target) {
        return target;
    }
    const auto hole = std::ranges::find_if(holes_, [&](const Hole& one) {
        return offset >= one.offset && range_fits<uint64_t>(offset - one.offset, bytes, one.bytes);
    });
    if (hole != holes_.end()) {
        const Clock::time_point until = hole->until;
        (void)mapped_.wait_until(lock, until, [&] {
            target = find(offset, bytes);
            return target.has_value();
        });
    }
    return target;
}

/// Without the lock, while a file is read that may be slow: the loop wants it. The addresses stay
/// reserved, and what is mapped there meanwhile is the guest's as well.
void SharedBar::read(uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0xFF});
    const auto target = find_soon(offset, out.size());
    if (target && !copy(out.data(), target->memory, out.size(), false)) {
        std::ranges::fill(out, std::byte{0xFF});
        tell_lost(offset, out.size());
    }
}

void SharedBar::write(uint64_t offset, std::span<const std::byte> in) {
    const auto target = find_soon(offset, in.size());
    if (target && target->writable && !copy(target->memory, in.data(), in.size(), true)) {
        tell_lost(offset, in.size());
    }
}

void SharedBar::tell_lost(uint64_t offset, size_t bytes) {
    // Not when the piece was unmapped while it was used.
    std::unique_lock lock(mutex_);
    const bool is_there = find(offset, bytes).has_value();
    lock.unlock();
    if (is_there && memory_lost_) {
        memory_lost_();
    }
}

Result<void> SharedBar::on_mapped(const DeviceProxy::SharedPiece& piece) {
    const std::lock_guard lock(mutex_);
    const auto start = offset_of(piece.region);
    if (!start) {
        return failure(Error{.message = "the guest does not see this region"});
    }
    Piece shown{
        .memory = piece.memory, .bytes_there = piece.bytes_there, .writable = piece.writable};
    OUTRIGGER_TRY(show(*start + piece.offset, shown));
    pieces_[*start + piece.offset] = shown;
    mapped_.notify_all();
    return {};
}

void SharedBar::on_resized(uint8_t region, uint64_t offset, uint64_t bytes_there) {
    const std::lock_guard lock(mutex_);
    const auto start = offset_of(region);
    const auto piece = start ? pieces_.find(*start + offset) : pieces_.end();
    if (piece == pieces_.end() || piece->second.bytes_there == bytes_there) {
        return;
    }
    hide(piece->second);
    piece->second.bytes_there = bytes_there;
    if (const auto shown = show(piece->first, piece->second); !shown) {
        slow_.log(LogLevel::kWarning, "shared memory is slow: {}", shown.error().message);
    }
}

void SharedBar::on_unmapping(uint8_t region, uint64_t offset) {
    const std::lock_guard lock(mutex_);
    const auto start = offset_of(region);
    const auto piece = start ? pieces_.find(*start + offset) : pieces_.end();
    if (piece != pieces_.end()) {
        hide(piece->second);
        const Clock::time_point now = Clock::now();
        while (!holes_.empty() && (holes_.size() == kHolesMax || holes_.front().until <= now)) {
            holes_.pop_front();
        }
        holes_.push_back({.offset = piece->first,
                          .bytes = piece->second.memory.size(),
                          .until = now + kHoleLife});
        pieces_.erase(piece);
    }
}

}  // namespace outrigger::vmm
