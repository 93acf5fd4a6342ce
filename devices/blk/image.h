// SPDX-License-Identifier: Apache-2.0
/// What stands behind a disk. An image knows bytes and nothing of virtio: one file per kind.
///
/// Threads: an Image is shared by all queues of a device, and its members may be called from any
/// thread. An ImageQueue belongs to one worker.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include <sys/uio.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/blk/zones.h"

namespace outrigger {
class MemorySnapshot;
class Worker;
}  // namespace outrigger

namespace outrigger::blk {

class BackgroundFill;
class SyncMark;

/// What the disk tells its guest about itself. Sizes in bytes; block sizes are powers of two.
struct ImageProperties {
    uint64_t size_bytes = 0;               ///< a multiple of block_bytes
    uint32_t block_bytes = 512;            ///< smallest unit that can be accessed, at least 512
    uint32_t physical_block_bytes = 512;   ///< smallest unit written without read-modify-write
    uint32_t alignment_offset_bytes = 0;   ///< where the first physical block begins
    uint32_t minimum_io_bytes = 0;         ///< preferred granularity; 0: not known
    uint32_t optimal_io_bytes = 0;         ///< preferred size for streaming; 0: not known
    uint32_t discard_alignment_bytes = 0;  ///< granularity of deallocation; 0: not known
    bool read_only = false;
    bool can_write_zeroes = true;   ///< anywhere: not so where zones are written in order
    bool can_discard = false;       ///< deallocates on request
    bool can_unmap_zeroes = false;  ///< can deallocate so that zeroes are read
    bool can_secure_erase = false;  ///< destroys data so that nothing reads it from the medium
    bool tells_lifetime = false;    ///< knows how worn its medium is
    ImageZoning zoning{};           ///< what a guest may know of its zones
};

/// How worn a medium is: the values of JEDEC's eMMC and UFS standards, 0 where not known.
struct ImageLifetime {
    uint16_t pre_end_of_life = 0;  ///< spare blocks: 1 normal, 2 80 % used, 3 90 % used
    uint16_t estimate_a = 0;       ///< tenths of the life of type A cells that are gone; 11: over
    uint16_t estimate_b = 0;       ///< the same of type B cells
};

enum class ImageCommand : uint8_t {
    kRead,
    kWrite,
    kFlush,
    kDiscard,
    kWriteZeroes,
    kSecureErase,  ///< images whose properties have can_secure_erase
    kGetLifetime,  ///< images whose properties have tells_lifetime
    kZone,         ///< images whose properties have a zoning: see ImageRequest::zone_command
};

/// One segment of a discard, write-zeroes or secure erase request.
struct ImageRange {
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    bool unmap = false;  ///< write-zeroes: may deallocate
};

/// One request. Owned by the caller; it, `data` and `ranges` stay in place until on_image_done().
/// The caller has checked every bound: offsets and lengths are multiples of block_bytes and lie
/// inside the image, and nothing that would change it comes to a read-only image.
class ImageRequest {
  public:
    /// The request has ended: 0, or an errno value. Called once, on the queue's worker, possibly
    /// before submit() returns. The request may be used again afterwards.
    virtual void on_image_done(int os_error) = 0;

    /// Was memory of the request lost, so that zeroes may stand in place of `data`, or of what
    /// `ranges` were read from? Asked around each write, and before each piece of a range; the
    /// request then ends with EFAULT.
    [[nodiscard]] virtual bool data_was_lost() { return false; }

    /// ZoneCommand::kReport: here are the next zones, in order, `zones_max` of them in all at most.
    /// On the queue's worker.
    virtual void on_zones(std::span<const ImageZone> /*zones*/) {}

    /// ZoneCommand::kAppend: the data is about to be written here, and nowhere before this returns.
    /// Again where that is tried again. On the queue's worker.
    virtual void on_append_place(uint64_t /*place*/) {}

    ImageCommand command = ImageCommand::kRead;
    bool stable = false;  ///< kWrite, kWriteZeroes: on stable storage before it ends
    /// It may have been carried out before, in whole or in part, by a process that died or in a try
    /// that failed; the guest has not heard.
    bool replayed = false;
    uint64_t offset_bytes = 0;           // kRead, kWrite
    uint64_t length_bytes = 0;           // kRead, kWrite: the bytes of `data`
    std::span<const iovec> data;         // kRead, kWrite; no empty segments
    std::span<const ImageRange> ranges;  // kDiscard, kWriteZeroes, kSecureErase
    ImageLifetime lifetime;              // kGetLifetime: the answer

    // kZone: kAppend has `data`, its length, and as its offset that of the zone; kReport and those
    // of one zone have an offset.
    ZoneCommand zone_command = ZoneCommand::kReport;
    uint64_t zones_max = 0;            ///< kReport: how many are wanted
    uint64_t append_offset_bytes = 0;  ///< kAppend: the answer, where the data is
    /// kAppend, replayed: the last that on_append_place() was told before. The data is looked for
    /// there.
    std::optional<uint64_t> earlier_append_place;
    /// Of a disk with zones, set before an end with an error: it is the request, not the host.
    ZoneFault zone_fault = ZoneFault::kNone;

  protected:
    ~ImageRequest() = default;
};

/// An image's end for one queue. Thread-bound: the queue's worker.
class ImageQueue {
  public:
    ImageQueue() = default;
    ImageQueue(const ImageQueue&) = delete;
    ImageQueue& operator=(const ImageQueue&) = delete;
    /// No request may be under way.
    virtual ~ImageQueue() = default;

    /// Begins `request`; at most as many at a time as were agreed in open_queue(). Does not block
    /// and does not allocate.
    virtual void submit(ImageRequest& request) = 0;

    /// Requests that come from now on use this memory: see Device.
    virtual void use_memory(const MemorySnapshot& /*memory*/) {}

    /// The end of its run: gives back what it has of the worker, which may be gone before the queue
    /// is. No request is under way, though the last may still be ending, and none follows.
    virtual void retire() {}
};

class Image {
  public:
    Image() = default;
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    /// Every queue is closed.
    virtual ~Image() = default;

    [[nodiscard]] virtual const ImageProperties& properties() const = 0;

    /// Takes on the size that the storage has by now; with `size_bytes`, which is not 0, first
    /// gives it that size. Returns the size that it has, whole blocks. properties() stay as they
    /// were. May block, so on a helper thread, one call at a time; requests may be under way, but
    /// not beyond the end that comes.
    [[nodiscard]] virtual Result<uint64_t> resize(
        [[maybe_unused]] std::optional<uint64_t> size_bytes) {
        return failure(Error{.message = "this kind of image cannot be resized"});
    }

    /// No queue runs any more, though the last may still be closing: the front end has stopped them
    /// all. What keeps others from the storage may go, until open_queue() is called again. Control
    /// thread.
    virtual void rest() {}

    /// Asks for what it has in memory alone and guests count on, so that another process finds it
    /// when this one was killed. Once, before the first queue; where there is a keeper. Main
    /// thread.
    [[nodiscard]] virtual Result<void> keep_memory([[maybe_unused]] DeviceKeeper& keeper) {
        return {};
    }

    /// What a sync that fails is noted in, for good; null where none can fail. Constant.
    [[nodiscard]] virtual SyncMark* sync_mark() { return nullptr; }

    /// Another process opens the image at once, and nothing is begun here any more: no queue runs,
    /// and their requests are back. What keeps it from the storage goes. Control thread.
    ///
    /// The default is for images that have nothing to let go: a qcow2 image is locked for reading,
    /// which many may, and an NBD server's disk by nobody here. An overlay stays locked until its
    /// process has ended, because its fill and its commits write to the layer until then.
    virtual void leave() {}

    /// Of the guest's memory, by all queues, where the image registers it with the kernel.
    struct FixedMemoryUse {
        uint64_t bytes = 0;
        uint64_t refusals = 0;
    };

    [[nodiscard]] virtual FixedMemoryUse fixed_memory() const { return {}; }

    /// What it copies in the background, or null.
    [[nodiscard]] virtual BackgroundFill* fill() { return nullptr; }

    /// Called on `worker`'s thread, which outlives the queue.
    [[nodiscard]] virtual Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                         uint32_t requests_max) = 0;
};

}  // namespace outrigger::blk
