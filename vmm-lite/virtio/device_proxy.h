// SPDX-License-Identifier: Apache-2.0
/// What a virtio transport sees of a device that lives in another process. The front end implements
/// it (frontend/), the transport (virtio/) calls it, and neither knows more of the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"

namespace outrigger::vmm {

/// No call blocks: vCPU threads make them. Thread: any, one call at a time per device (the
/// transport locks).
class DeviceProxy {
  public:
    /// A queue that the driver has enabled. Its addresses are guest physical, and each of its three
    /// areas lies in one region of guest memory: the transport has looked.
    struct QueueSetup {
        uint16_t size = 0;  ///< entries
        GuestAddr descriptors{};
        GuestAddr driver{};
        GuestAddr device{};
        int kick_fd = -1;  ///< borrowed: an eventfd that KVM signals
        int call_fd = -1;  ///< borrowed: the irqfd of the vector, or one that nobody reads
    };

    /// Both are called on the loop's thread, and never from within a call of the transport's.
    class Observer {
      public:
        virtual ~Observer() = default;
        /// The configuration space has changed at the back end, and the cache with it.
        virtual void on_config_changed() = 0;
        /// The device is lost for good: DEVICE_NEEDS_RESET.
        virtual void on_needs_reset() = 0;
    };

    /// A stretch of a shared memory region (VIRTIO 1.3, 2.10) with memory behind it.
    struct SharedPiece {
        uint8_t region = 0;   ///< its id
        uint64_t offset = 0;  ///< of its first byte, in the region
        std::span<std::byte> memory{};
        /// As many bytes of it, whole pages, as the file behind it has: access to others faults.
        uint64_t bytes_there = 0;
        bool writable = false;
    };

    /// Both are called on the loop's thread, or while the loop does not run. Offsets and lengths
    /// are of whole pages and lie in the region, and no two pieces overlap.
    class SharedMemoryObserver {
      public:
        virtual ~SharedMemoryObserver() = default;
        /// From now on the guest may use it. Error: it cannot, and the piece is not there.
        [[nodiscard]] virtual Result<void> on_mapped(const SharedPiece& piece) = 0;
        /// Its file has become longer or shorter; it may have done so some time ago. One that is
        /// not known is no error.
        virtual void on_resized(uint8_t region, uint64_t offset, uint64_t bytes_there) = 0;
        /// Its memory goes as soon as this returns. One that is not known is no error.
        virtual void on_unmapping(uint8_t region, uint64_t offset) = 0;
    };

    virtual ~DeviceProxy() = default;

    /// VIRTIO 1.3, 5: 2 is a disk.
    [[nodiscard]] virtual uint16_t virtio_id() const = 0;
    /// Of the device, with the transport's bits; what the front end cannot carry is not in it.
    [[nodiscard]] virtual uint64_t offered_features() const = 0;
    /// Known before the guest starts, and constant.
    [[nodiscard]] virtual uint16_t queue_count() const = 0;
    /// A power of two.
    [[nodiscard]] virtual uint16_t queue_size_max() const = 0;
    [[nodiscard]] virtual uint32_t config_bytes() const = 0;

    /// From the cache; zeroes behind the end.
    virtual void read_config(uint32_t at, std::span<std::byte> out) const = 0;
    /// Into the cache, then posted to the back end.
    virtual void write_config(uint32_t at, std::span<const std::byte> in) = 0;
    [[nodiscard]] virtual uint8_t config_generation() const = 0;

    /// DRIVER_OK. Begins at the back end on the loop's thread; kicks meanwhile stay in their
    /// eventfds. An empty element is a queue that the driver has not enabled.
    virtual void activate(uint64_t agreed_features,
                          std::span<const std::optional<QueueSetup>> queues) = 0;
    /// The call descriptor of a queue has changed: another vector, or it was masked.
    virtual void set_call(uint16_t queue, int call_fd) = 0;
    /// Status 0 was written. `done` runs on the loop's thread when the back end has let go of all
    /// rings; until then the transport shows the old status.
    virtual void reset(std::move_only_function<void()> done) = 0;

    /// One observer at most; nullptr takes it away. It outlives the proxy or is taken away.
    virtual void observe(Observer* observer) = 0;

    /// Bytes of each region of shared memory, by id; 0 where there is none. Constant.
    [[nodiscard]] virtual std::span<const uint64_t> shared_memory() const = 0;
    /// As observe(), while the loop does not run. What is mapped already is told at once.
    virtual void observe_shared_memory(SharedMemoryObserver* observer) = 0;
};

}  // namespace outrigger::vmm
