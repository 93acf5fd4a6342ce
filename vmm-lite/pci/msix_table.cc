// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/pci/msix_table.h"

#include <algorithm>
#include <cstring>

#include <poll.h>
#include <sys/eventfd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/notifier.h"

namespace outrigger::vmm {
namespace {

// An entry's four words.
constexpr uint64_t kAddressLow = 0;
constexpr uint64_t kAddressHigh = 1;
constexpr uint64_t kData = 2;
constexpr uint64_t kControl = 3;
constexpr uint32_t kMasked = 1;

constexpr size_t kPendingPerDword = 32;

bool is_table_access(uint64_t offset, size_t bytes) {
    return (bytes == 4 || bytes == 8) && offset % bytes == 0;
}

}  // namespace

Result<MsixTable> MsixTable::create(MessageInterrupts& interrupts, uint16_t vectors) {
    std::vector<Vector> table(vectors);
    for (Vector& vector : table) {
        vector.eventfd.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!vector.eventfd.valid()) {
            return failure(error_from_errno("cannot create an eventfd"));
        }
    }
    return MsixTable(interrupts, std::move(table));
}

MsixTable::~MsixTable() {
    set_control(false, false);
    for (Vector& vector : vectors_) {
        if (vector.gsi) {
            interrupts_->release(*vector.gsi);
        }
    }
}

void MsixTable::read(uint64_t offset, std::span<std::byte> out) const {
    if (!is_table_access(offset, out.size())) {
        return;
    }
    for (size_t i = 0; i < out.size(); i += 4) {
        const uint32_t value = read_dword(offset + i);
        std::memcpy(out.data() + i, &value, sizeof(value));
    }
}

void MsixTable::write(uint64_t offset, std::span<const std::byte> in) {
    if (!is_table_access(offset, in.size())) {
        return;
    }
    for (size_t i = 0; i < in.size(); i += 4) {
        uint32_t value = 0;
        std::memcpy(&value, in.data() + i, sizeof(value));
        write_dword(offset + i, value);
    }
}

void MsixTable::read_pending(uint64_t offset, std::span<std::byte> out) const {
    if (!is_table_access(offset, out.size())) {
        return;
    }
    for (size_t i = 0; i < out.size(); i += 4) {
        uint32_t bits = 0;
        const uint64_t first = (offset + i) * 8;
        for (size_t bit = 0; bit < kPendingPerDword && first + bit < vectors_.size(); ++bit) {
            bits |= is_pending(vectors_[first + bit]) ? 1U << bit : 0U;
        }
        std::memcpy(out.data() + i, &bits, sizeof(bits));
    }
}

void MsixTable::set_control(bool enabled, bool function_masked) {
    enabled_ = enabled;
    function_masked_ = function_masked;
    for (Vector& vector : vectors_) {
        update(vector);
    }
}

int MsixTable::eventfd(uint16_t vector) const {
    return vector < vectors_.size() ? vectors_[vector].eventfd.get() : -1;
}

void MsixTable::signal(uint16_t vector) const {
    if (vector < vectors_.size()) {
        (void)send_notification(vectors_[vector].eventfd.get());
    }
}

uint32_t MsixTable::read_dword(uint64_t offset) const {
    const uint64_t index = offset / kEntryBytes;
    if (index >= vectors_.size()) {
        return 0;
    }
    const Vector& vector = vectors_[index];
    switch (offset % kEntryBytes / 4) {
        case kAddressLow:
            return static_cast<uint32_t>(vector.message.address);
        case kAddressHigh:
            return static_cast<uint32_t>(vector.message.address >> 32U);
        case kData:
            return vector.message.data;
        default:
            return vector.masked ? kMasked : 0;
    }
}

void MsixTable::write_dword(uint64_t offset, uint32_t value) {
    const uint64_t index = offset / kEntryBytes;
    if (index >= vectors_.size()) {
        return;
    }
    Vector& vector = vectors_[index];
    MsiMessage& message = vector.message;
    switch (offset % kEntryBytes / 4) {
        case kAddressLow:
            message.address = (message.address & ~uint64_t{UINT32_MAX}) | (value & ~3U);
            break;
        case kAddressHigh:
            message.address = (message.address & UINT32_MAX) | (uint64_t{value} << 32U);
            break;
        case kData:
            message.data = value;
            break;
        case kControl:
            vector.masked = (value & kMasked) != 0;
            break;
        default:
            break;
    }
    update(vector);
}

bool MsixTable::is_pending(const Vector& vector) const {
    pollfd poll = {.fd = vector.eventfd.get(), .events = POLLIN, .revents = 0};
    return !vector.connected && ::poll(&poll, 1, 0) == 1;
}

void MsixTable::update(Vector& vector) {
    const bool wanted = enabled_ && !function_masked_ && !vector.masked;
    if (!wanted) {
        if (vector.connected) {
            vector.connected = false;
            interrupts_->disconnect(*vector.gsi, vector.eventfd.get());
        }
        return;
    }
    if (const auto connected = connect(vector); !connected) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning,
                    "an interrupt of the guest is not delivered: {}",
                    connected.error().message);
    }
}

Result<void> MsixTable::connect(Vector& vector) {
    if (!vector.gsi) {
        vector.gsi = OUTRIGGER_TRY(interrupts_->allocate());
    }
    // The route first: KVM connects to what a number means at that moment.
    OUTRIGGER_TRY(interrupts_->route(*vector.gsi, vector.message));
    if (!vector.connected) {
        OUTRIGGER_TRY(interrupts_->connect(*vector.gsi, vector.eventfd.get()));
        vector.connected = true;
    }
    return {};
}

}  // namespace outrigger::vmm
