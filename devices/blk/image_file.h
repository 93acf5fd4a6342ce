// SPDX-License-Identifier: Apache-2.0
/// An open image file and what is known of it: facts found at start, failures learnt on the way.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/blk/block_locks.h"
#include "devices/blk/image.h"
#include "devices/blk/medium_lifetime.h"
#include "devices/blk/sync_mark.h"

namespace outrigger::blk {

struct ImageFileOptions {
    std::string path;
    bool read_only = false;
    bool direct = false;  ///< bypass the host's page cache (O_DIRECT)
    bool lock = true;     ///< refuse an image that another process writes
    /// With `lock`: not while it is open, but between lock_for_use() and unlock(), so that another
    /// process may have it open meanwhile.
    bool lock_in_use = false;
    /// How long to wait for an image that is in use by nobody who can be named. The kernel ends
    /// what a killed daemon began (io_uring) after that daemon is gone, and keeps its image locked
    /// until then: who starts it again at once must not be refused.
    std::chrono::milliseconds busy_patience{5000};
    /// Block size to offer; chosen from the host when not given. A power of two, 512 to 65536. One
    /// smaller than what the host can access directly makes `direct` writes of parts of the host's
    /// blocks read them first.
    std::optional<uint32_t> block_bytes{};
    /// The file holds a disk, or a part of one, in a format of its own: its size need not be a
    /// whole number of blocks.
    bool any_size = false;
    /// The caller knows how to write a host-managed zoned device; otherwise one is only read.
    bool writes_zones = false;
};

/// Immutable after open() but for the atomics, which any worker may set.
struct ImageFile {
    /// Opens, locks and examines. Every error is one line that says what to do.
    [[nodiscard]] static Result<std::unique_ptr<ImageFile>> open(const ImageFileOptions& options);

    /// The same for a file that is open already, to read and write or to read alone: `options.path`
    /// is what it is called, `options.read_only` is not looked at. Opens nothing, may block.
    [[nodiscard]] static Result<std::unique_ptr<ImageFile>> adopt(UniqueFd fd,
                                                                  ImageFileOptions options);

    /// See Image::resize().
    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) const;

    /// With lock_in_use, before the first request and again after unlock(). Waits, if need be, for
    /// as long as open() does, whoever it is that has the image: who leaves it may be about to. Any
    /// thread, one at a time. Makes only the system calls that the sandbox lets workers make.
    [[nodiscard]] Result<void> lock_for_use();
    void unlock();

    /// Unlocks it for good, however it is locked: the file stays open for as long as the kernel has
    /// anything to do with it, which is longer than this process lives.
    void leave();

    UniqueFd fd;
    ImageProperties properties;
    ImageFileOptions options;
    bool is_block_device = false;
    bool direct = false;
    bool can_poll = false;           ///< direct I/O: the host's device has queues that are polled
    uint32_t address_alignment = 1;  ///< of memory, for direct I/O
    uint32_t offset_alignment = 1;   ///< of offsets and lengths, for direct I/O

    /// Where the offered block is smaller than offset_alignment; null elsewhere.
    std::unique_ptr<BlockLocks> block_locks;

    /// Of the host's device. What a guest may know of it is up to the image kind, so the properties
    /// say nothing.
    ImageZoning zoning;

    /// None when properties.tells_lifetime is false.
    std::vector<LifetimeAttribute> lifetime;

    /// Discards go to the device's own discard at once, and never to holes.
    bool discards_by_device = false;

    /// A sync failed once, or a stable write after the kernel had taken its data: the kernel may
    /// have dropped what it could not write and would report success next time, so every later
    /// flush fails too.
    SyncMark sync_failed;

    bool locked_for_use = false;  ///< of lock_for_use() and unlock()

    // The host said that it cannot; it is not asked again.
    std::atomic<bool> no_punch_hole = false;
    std::atomic<bool> no_zero_range = false;
    std::atomic<bool> no_device_discard = false;
};

}  // namespace outrigger::blk
