// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/uring_tables.h"

#include <cerrno>
#include <string_view>

#include <liburing.h>
#include <sys/uio.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/uring_witness.h"

namespace outrigger {
namespace {

/// The slot is not used again, so only what was in it stays.
void report_kept(std::string_view what, int result) {
    static LogLimiter limiter;
    limiter.log(LogLevel::kWarning,
                "{}",
                error_from_code(fmt::format("io_uring keeps {} until its thread ends", what),
                                result < 0 ? -result : EIO)
                    .message);
}

}  // namespace

std::optional<uint32_t> UringTables::Slots::take() {
    if (!free_.empty()) {
        const uint32_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    return used_ < count_ ? std::optional(used_++) : std::nullopt;
}

void UringTables::open(io_uring& ring, UringTableKinds kinds) {
    ring_ = &ring;
    if (kinds.files && io_uring_register_files_sparse(&ring, kFilesMax) >= 0) {
        file_slots_ = Slots(kFilesMax);
    }
    if (kinds.files) {
        hold_witness();
    }
    if (kinds.buffers && io_uring_register_buffers_sparse(&ring, kBuffersMax) >= 0) {
        buffer_slots_ = Slots(kBuffersMax);
    }
}

/// The kernel lets go of registered files when it has ended all operations, and not before.
void UringTables::hold_witness() {
    const int witness = uring_witness();
    if (witness < 0 || register_file(witness)) {
        return;
    }
    // No empty tables: one that is full.
    if (const int result = io_uring_register_files(ring_, &witness, 1); result < 0) {
        log(LogLevel::kWarning,
            "{}",
            error_from_code("a process that goes on with this one's sessions will not know when "
                            "its I/O has ended",
                            -result)
                .message);
    }
}

std::optional<uint32_t> UringTables::register_file(int fd) {
    const std::optional<uint32_t> slot = file_slots_.take();
    if (slot && io_uring_register_files_update(ring_, *slot, &fd, 1) != 1) {
        file_slots_.give_back(*slot);
        return std::nullopt;
    }
    return slot;
}

void UringTables::unregister_file(uint32_t slot) {
    const int none = -1;
    const int result = io_uring_register_files_update(ring_, slot, &none, 1);
    if (result == 1) {
        file_slots_.give_back(slot);
    } else {
        report_kept("a file open", result);
    }
}

int UringTables::update_buffer(uint32_t slot, std::span<std::byte> memory) {
    const iovec range{.iov_base = memory.data(), .iov_len = memory.size()};
    return io_uring_register_buffers_update_tag(ring_, slot, &range, nullptr, 1);
}

Result<uint32_t> UringTables::register_buffer(std::span<std::byte> memory) {
    if (const auto known = slot_of_.find(memory.data()); known != slot_of_.end()) {
        Buffer& buffer = buffers_[known->second];
        if (buffer.memory.size() != memory.size()) {
            return failure(error_from_code("the memory is registered in another size", EEXIST));
        }
        ++buffer.users;
        return known->second;
    }
    const std::optional<uint32_t> slot = buffer_slots_.take();
    if (!slot) {
        return failure(error_from_code("the ring has no room for registered memory", ENOSPC));
    }
    if (const int result = update_buffer(*slot, memory); result != 1) {
        buffer_slots_.give_back(*slot);
        return failure(error_from_code("the kernel does not register memory", -result));
    }
    if (*slot >= buffers_.size()) {
        buffers_.resize(*slot + 1);
    }
    buffers_[*slot] = {.memory = memory, .users = 1};
    slot_of_.emplace(memory.data(), *slot);
    return *slot;
}

void UringTables::unregister_buffer(uint32_t slot) {
    Buffer& buffer = buffers_[slot];
    if (--buffer.users > 0) {
        return;
    }
    slot_of_.erase(buffer.memory.data());
    buffer = {};
    // Operations under way keep the memory pinned until they have ended.
    const int result = update_buffer(slot, {});
    if (result == 1) {
        buffer_slots_.give_back(slot);
    } else {
        report_kept("memory pinned", result);
    }
}

}  // namespace outrigger
