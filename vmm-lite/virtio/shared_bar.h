// SPDX-License-Identifier: Apache-2.0
/// The BAR behind which the guest finds a device's shared memory regions: keeps what is mapped in
/// them, and shows it to the guest where the BAR is. VIRTIO 1.3, 2.10 and 4.1.4.7.
///
/// Each piece has a memory slot of its own. So what is not mapped reads as ones and takes no
/// writes, and so does what is read-only when it is written: the guest cannot fault on it.
///
/// A page that the file of a piece does not have, or has lost, is in no slot: KVM would have the
/// guest wait for it for ever. Access to it is tried here, because the file may have become longer
/// since, and fails with an alarm.
///
/// A back end replaces a piece in two steps, because it may not map over what is mapped: it takes
/// the old one away and maps the new one. A vCPU that comes in between waits for a moment.
///
/// Thread: it locks. Pieces come from the loop, the BAR's place and accesses from vCPUs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/log.h"
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
    /// `memory_lost` is called when the guest has used a page that its file does not have, on the
    /// thread of its vCPU.
    [[nodiscard]] static Result<std::unique_ptr<SharedBar>> create(
        DeviceProxy& device, MemorySlots& slots, std::function<void()> memory_lost = {});
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

    /// What is in no slot. All ones where nothing is mapped; writes there go nowhere.
    void read(uint64_t offset, std::span<std::byte> out);
    void write(uint64_t offset, std::span<const std::byte> in);

    [[nodiscard]] Result<void> on_mapped(const DeviceProxy::SharedPiece& piece) override;
    void on_resized(uint8_t region, uint64_t offset, uint64_t bytes_there) override;
    void on_unmapping(uint8_t region, uint64_t offset) override;

  private:
    struct Piece {
        std::span<std::byte> memory;
        uint64_t bytes_there = 0;
        bool writable = false;
        std::optional<uint32_t> slot{};
    };

    using Pieces = std::map<uint64_t, Piece>;  // by their offset in the BAR
    using Clock = std::chrono::steady_clock;

    /// Where a piece was that may be about to be replaced.
    struct Hole {
        uint64_t offset = 0;
        uint64_t bytes = 0;
        Clock::time_point until{};
    };

    /// Where an access of the guest goes.
    struct Target {
        std::byte* memory = nullptr;
        bool writable = false;
    };

    SharedBar(DeviceProxy& device, MemorySlots& slots, std::function<void()> memory_lost);

    [[nodiscard]] std::optional<uint64_t> offset_of(uint8_t region) const;
    [[nodiscard]] std::optional<Target> find(uint64_t offset, size_t bytes) const;
    [[nodiscard]] std::optional<Target> find_soon(uint64_t offset, size_t bytes);
    void tell_lost(uint64_t offset, size_t bytes);
    [[nodiscard]] Result<void> show(uint64_t offset, Piece& piece);
    void hide(Piece& piece);

    DeviceProxy& device_;
    MemorySlots& slots_;
    const std::function<void()> memory_lost_;
    std::vector<Region> regions_;
    uint64_t bytes_ = 0;

    std::mutex mutex_;  // what follows
    std::condition_variable mapped_;
    std::optional<uint64_t> address_;
    Pieces pieces_;
    std::deque<Hole> holes_;  // the latest last
    LogLimiter slow_;
};

}  // namespace outrigger::vmm
