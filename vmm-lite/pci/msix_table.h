// SPDX-License-Identifier: Apache-2.0
/// The interrupts of a PCI function: each vector is an eventfd, which a back end signals, and which
/// the kernel turns into the guest's message with nobody in between. PCI 3.0, 6.8.2.
///
/// While a vector is masked nothing is connected to its eventfd, which then keeps the signal: that
/// is its pending bit, and connecting it again delivers it. Thread: whoever holds the function's
/// lock, but for eventfd() and signal().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/connections.h"

namespace outrigger::vmm {

class MsixTable final {
  public:
    static constexpr uint16_t kVectorsMax = 2048;
    static constexpr uint64_t kEntryBytes = 16;

    /// `interrupts` outlives this. `vectors` from 1 to kVectorsMax.
    [[nodiscard]] static Result<MsixTable> create(MessageInterrupts& interrupts, uint16_t vectors);
    MsixTable(MsixTable&&) noexcept = default;
    MsixTable& operator=(MsixTable&&) = delete;
    MsixTable(const MsixTable&) = delete;
    MsixTable& operator=(const MsixTable&) = delete;
    ~MsixTable();

    [[nodiscard]] uint16_t vectors() const { return static_cast<uint16_t>(vectors_.size()); }

    /// Only aligned accesses of 4 and 8 bytes do something; what lies behind the table reads
    /// zeroes.
    void read(uint64_t offset, std::span<std::byte> out) const;
    void write(uint64_t offset, std::span<const std::byte> in);
    void read_pending(uint64_t offset, std::span<std::byte> out) const;

    /// The two bits of message control.
    void set_control(bool enabled, bool function_masked);

    /// What raises a vector; -1 when there is none of that number. Any thread.
    [[nodiscard]] int eventfd(uint16_t vector) const;
    /// Any thread; nothing when there is no such vector.
    void signal(uint16_t vector) const;

  private:
    struct Vector {
        UniqueFd eventfd;
        MsiMessage message;
        bool masked = true;
        std::optional<uint32_t> gsi;
        bool connected = false;
    };

    MsixTable(MessageInterrupts& interrupts, std::vector<Vector> vectors)
        : interrupts_(&interrupts), vectors_(std::move(vectors)) {}

    [[nodiscard]] uint32_t read_dword(uint64_t offset) const;
    void write_dword(uint64_t offset, uint32_t value);
    [[nodiscard]] bool is_pending(const Vector& vector) const;
    void update(Vector& vector);
    [[nodiscard]] Result<void> connect(Vector& vector);

    MessageInterrupts* interrupts_;
    std::vector<Vector> vectors_;
    bool enabled_ = false;
    bool function_masked_ = false;
};

}  // namespace outrigger::vmm
