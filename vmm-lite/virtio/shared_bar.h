// SPDX-License-Identifier: Apache-2.0
/// The BAR behind which the guest finds a device's shared memory regions: keeps what is mapped in
/// them, and shows it to the guest where the BAR is. VIRTIO 1.3, 2.10 and 4.1.4.7.
///
/// Each piece has a memory slot of its own. So what is not mapped reads as ones and takes no
/// writes, and so does what is read-only when it is written: the guest cannot fault on it. What it
/// can do is reach for a page that the file behind it has lost: KVM has it wait, and nobody else.
///
/// Thread: it locks. Pieces come from the loop, the BAR's place from vCPUs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/kvm/connections.h"
#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

class SharedBar final : public DeviceProxy::SharedMemoryObserver {
  public:
    /// As many as configuration space has room for.
    static constexpr size_t kRegionsMax = 3;
    /// DAX maps by pages of 2 MiB where places allow it.
    static constexpr uint64_t kAlignment = 2ULL << 20U;

    struct Region {
        uint8_t id = 0;
        uint64_t offset = 0;  ///< in the BAR
        uint64_t bytes = 0;
    };

    /// Both outlive this. Null for a device without shared memory. Error: too many regions.
    [[nodiscard]] static Result<std::unique_ptr<SharedBar>> create(DeviceProxy& device,
                                                                   MemorySlots& slots);
    SharedBar(const SharedBar&) = delete;
    SharedBar& operator=(const SharedBar&) = delete;
    ~SharedBar() override;

    /// What a BAR for regions of these sizes takes, a power of two; 0 without any. Each size is at
    /// most 2^38, and there are at most 256.
    [[nodiscard]] static uint64_t bytes_for(std::span<const uint64_t> sizes);

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

    [[nodiscard]] std::span<const Region> regions() const { return regions_; }

    /// Where the BAR is now; nothing: nowhere.
    void place(std::optional<uint64_t> address);

    [[nodiscard]] Result<void> on_mapped(const DeviceProxy::SharedPiece& piece) override;
    void on_unmapping(uint8_t region, uint64_t offset) override;

  private:
    struct Piece {
        std::span<std::byte> memory;
        bool writable = false;
        std::optional<uint32_t> slot{};
    };

    using Pieces = std::map<uint64_t, Piece>;  // by their offset in the BAR

    SharedBar(DeviceProxy& device, MemorySlots& slots);

    [[nodiscard]] std::optional<uint64_t> offset_of(uint8_t region) const;
    [[nodiscard]] Result<void> show(uint64_t offset, Piece& piece);
    void hide(Piece& piece);

    DeviceProxy& device_;
    MemorySlots& slots_;
    std::vector<Region> regions_;
    uint64_t bytes_ = 0;

    std::mutex mutex_;  // what follows
    std::optional<uint64_t> address_;
    Pieces pieces_;
};

}  // namespace outrigger::vmm
