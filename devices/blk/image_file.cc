// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/image_file.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/direct_io.h"
#include "devices/blk/host_block_device.h"
#include "devices/blk/host_calls.h"
#include "devices/blk/image_lock.h"

namespace outrigger::blk {
namespace {

/// A guest's page cache works in 4 KiB; Linux guests refuse larger blocks.
constexpr uint32_t kPhysicalBlockBytesMax = 4096;

/// Errors with this number may pass: see ImageFileOptions::busy_patience. It is also what open()
/// says of a block device that somebody has for himself.
constexpr int kUsedByNobodyKnown = EBUSY;
constexpr auto kBusyPause = std::chrono::milliseconds(5);
/// Of who waits for its turn with an image: a guest waits with it.
constexpr auto kTurnPause = std::chrono::milliseconds(5);

std::string advice_for_open(int os_error, const ImageFileOptions& options) {
    switch (os_error) {
        case ENOENT:
            // Of a format of its own truncate makes no image.
            return options.any_size
                       ? "; create it first, with qemu-img create"
                       : fmt::format("; create it first, for example with truncate -s 10G {}",
                                     options.path);
        case EACCES:
        case EPERM:
        case EROFS:
            return options.read_only ? "; give the daemon's user access to it"
                                     : "; give the daemon's user access to it, or use --read-only";
        case EBUSY:
            return "; the host has it mounted or made it part of another device: end that first";
        case EINVAL:
            return options.direct ? "; its file system may not support --cache=none: use "
                                    "--cache=writeback"
                                  : "";
        default:
            return "";
    }
}

Error open_error(const ImageFileOptions& options, int os_error) {
    Error error = error_from_code(fmt::format("cannot open image {}", options.path), os_error);
    error.message += advice_for_open(os_error, options);
    return error;
}

Result<void> check_type(const ImageFileOptions& options, const struct stat& status) {
    if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) {
        return {};
    }
    const std::string_view what = S_ISDIR(status.st_mode) ? "a directory" : "a special file";
    return failure(
        Error{.message = fmt::format(
                  "image {} is {}: give an image file or a block device", options.path, what)});
}

Result<UniqueFd> open_descriptor(const ImageFileOptions& options) {
    struct stat status = {};
    if (::stat(options.path.c_str(), &status) != 0) {
        return failure(open_error(options, errno));
    }
    OUTRIGGER_TRY(check_type(options, status));
    const std::optional<int> direct = options.direct ? direct_open_flag() : 0;
    if (!direct) {
        return failure(Error{.message = fmt::format("image {} cannot be opened with --cache=none: "
                                                    "this build cannot bypass the page cache, use "
                                                    "--cache=writeback",
                                                    options.path)});
    }
    // O_NONBLOCK in case it became a FIFO meanwhile; taken off again, because io_uring would
    // answer EAGAIN where it should wait.
    const int flags = (options.read_only ? O_RDONLY : O_RDWR) | *direct;
    // For a block device O_EXCL means: not while it is mounted, or part of another device.
    const bool exclusive =
        S_ISBLK(status.st_mode) && options.lock && !options.lock_in_use && !options.read_only;
    UniqueFd fd(::open(options.path.c_str(),
                       flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (exclusive ? O_EXCL : 0)));
    if (!fd.valid()) {
        return failure(open_error(options, errno));
    }
    if (::fstat(fd.get(), &status) != 0 || ::fcntl(fd.get(), F_SETFL, flags) != 0) {
        return failure(open_error(options, errno));
    }
    OUTRIGGER_TRY(check_type(options, status));
    return fd;
}

Result<void> lock_image(const ImageFileOptions& options, int fd) {
    const ImageLockOutcome outcome = lock_image_file(fd, options.read_only);
    if (outcome.os_error == 0) {
        return {};
    }
    if (outcome.os_error == EAGAIN) {
        return failure(Error{
            .message = fmt::format("image {} is in use by {}, and both together would "
                                   "corrupt it or misread it: stop that one first, or open "
                                   "both with --read-only",
                                   options.path,
                                   outcome.holder.empty() ? "another process" : outcome.holder),
            .os_error = outcome.holder.empty() ? kUsedByNobodyKnown : outcome.os_error});
    }
    Error error =
        error_from_code(fmt::format("cannot lock image {}", options.path), outcome.os_error);
    error.message += "; if nothing else writes it, use --lock=off";
    return failure(std::move(error));
}

/// Regular files have no block device's limits; the file system's block is what counts.
ImageProperties properties_of_file(int fd, const struct stat& status, bool read_only) {
    ImageProperties properties;
    properties.size_bytes = static_cast<uint64_t>(status.st_size);
    const auto file_system_block = static_cast<uint64_t>(std::max<long>(status.st_blksize, 0));
    if (is_power_of_two(file_system_block) && file_system_block >= 512 &&
        file_system_block <= (uint64_t{1} << 30)) {
        const auto block = static_cast<uint32_t>(file_system_block);
        properties.physical_block_bytes = std::min(block, kPhysicalBlockBytesMax);
        properties.minimum_io_bytes = block;
        properties.discard_alignment_bytes = block;
    }
    if (!read_only) {
        properties.can_discard = can_punch_holes(fd, properties.size_bytes);
        properties.can_unmap_zeroes = properties.can_discard;
    }
    return properties;
}

/// Decides the block size, and refuses images whose size it does not divide. A block smaller than
/// what the host can access directly is only taken when it was asked for: its writes are costly.
Result<void> settle_block_size(ImageFile& file, const ImageFileOptions& options) {
    ImageProperties& properties = file.properties;
    const uint32_t least = file.direct ? std::max(properties.block_bytes, file.offset_alignment)
                                       : properties.block_bytes;
    const uint32_t block = options.block_bytes.value_or(least);
    uint32_t unit = block;
    if (file.direct && block < file.offset_alignment) {
        unit = file.offset_alignment;
        file.block_locks = std::make_unique<BlockLocks>();
        // Half a unit cannot be discarded, and its zeroes cannot be written without the rest.
        properties.discard_alignment_bytes =
            std::max(properties.discard_alignment_bytes, file.offset_alignment);
    }
    properties.block_bytes = block;
    properties.physical_block_bytes = std::max(properties.physical_block_bytes, unit);
    if (properties.size_bytes % unit != 0 && !options.any_size) {
        const auto rounded = align_up<uint64_t>(properties.size_bytes, unit);
        return failure(Error{
            .message = fmt::format("the size of image {}, {} bytes, is not a multiple of its block "
                                   "size {}: extend it with truncate -s {} {}",
                                   options.path,
                                   properties.size_bytes,
                                   unit,
                                   rounded.value_or(0),
                                   options.path)});
    }
    return {};
}

/// A host-managed device takes writes only in the order of its zones, and the page cache has one of
/// its own.
Result<void> check_zoning(const ImageZoning& zoning, const ImageFileOptions& options) {
    if (zoning.model != ZoneModel::kHostManaged || options.read_only) {
        return {};
    }
    if (!options.writes_zones) {
        return failure(Error{.message = fmt::format("image {} is a host-managed zoned block "
                                                    "device, which cannot be written here: use it "
                                                    "as --blk-file, or with --read-only",
                                                    options.path)});
    }
    if (!options.direct) {
        return failure(Error{.message = fmt::format("image {} is a host-managed zoned block "
                                                    "device, whose zones the page cache would "
                                                    "write out of order: use --cache=none, or "
                                                    "--read-only",
                                                    options.path)});
    }
    return {};
}

Result<std::unique_ptr<ImageFile>> examine(UniqueFd opened, const ImageFileOptions& options) {
    auto file = std::make_unique<ImageFile>();
    file->fd = std::move(opened);
    file->options = options;
    const int fd = file->fd.get();
    if (options.lock && !options.lock_in_use) {
        OUTRIGGER_TRY(lock_image(options, fd));
    }
    struct stat status = {};
    if (::fstat(fd, &status) != 0) {
        return failure(open_error(options, errno));
    }
    file->is_block_device = S_ISBLK(status.st_mode);
    if (file->is_block_device) {
        file->zoning = zoning_of_device("/sys", fd, status.st_rdev);
        OUTRIGGER_TRY(check_zoning(file->zoning, options));
    }
    file->properties = file->is_block_device
                           ? OUTRIGGER_TRY(properties_of_device(fd, status.st_rdev))
                           : properties_of_file(fd, status, options.read_only);
    file->properties.read_only = options.read_only;
    if (file->is_block_device) {
        file->lifetime = find_lifetime_attributes("/sys", status.st_rdev);
        file->properties.tells_lifetime = !file->lifetime.empty();
    }
    if (options.direct) {
        const DirectIoAlignment alignment =
            OUTRIGGER_TRY(probe_direct_io(fd, file->properties, options.path));
        file->direct = true;
        file->can_poll =
            device_polls("/sys", file->is_block_device ? status.st_rdev : status.st_dev);
        file->address_alignment = alignment.address;
        file->offset_alignment = alignment.offset;
    }
    OUTRIGGER_TRY(settle_block_size(*file, options));
    if (file->block_locks != nullptr && file->zoning.model == ZoneModel::kHostManaged &&
        !options.read_only) {
        return failure(Error{.message = fmt::format("image {} is a host-managed zoned block device "
                                                    "with blocks of {} bytes, and smaller ones "
                                                    "cannot be written: use --blk-size={}",
                                                    options.path,
                                                    file->offset_alignment,
                                                    file->offset_alignment)});
    }
    return file;
}

}  // namespace

Result<std::unique_ptr<ImageFile>> ImageFile::open(const ImageFileOptions& options) {
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + options.busy_patience;
    // Anew each time: what was locked before it failed is not, while it waits.
    const auto attempt = [&]() -> Result<std::unique_ptr<ImageFile>> {
        return examine(OUTRIGGER_TRY(open_descriptor(options)), options);
    };
    bool told = false;
    while (true) {
        auto file = attempt();
        if (file || file.error().os_error != kUsedByNobodyKnown || Clock::now() >= deadline) {
            return file;
        }
        if (!std::exchange(told, true)) {
            log(LogLevel::kInfo,
                "blk: image {} is in use, perhaps by what a killed process began: waiting",
                options.path);
        }
        std::this_thread::sleep_for(kBusyPause);
    }
}

Result<std::unique_ptr<ImageFile>> ImageFile::adopt(UniqueFd fd, ImageFileOptions options) {
    struct stat status = {};
    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno("cannot examine image " + options.path));
    }
    OUTRIGGER_TRY(check_type(options, status));
    const int access = flags & O_ACCMODE;
    const std::optional<int> direct = options.direct ? direct_open_flag() : 0;
    if ((access != O_RDONLY && access != O_RDWR) || !direct) {
        return failure(Error{.message = "image " + options.path +
                                        " is open for writing only: open it to read and write"});
    }
    options.read_only = access == O_RDONLY;
    // Whatever it was opened with: no O_APPEND, which puts every write at the end.
    if (::fcntl(fd.get(), F_SETFL, access | *direct) != 0) {
        return failure(error_from_errno("cannot use image " + options.path));
    }
    return examine(std::move(fd), options);
}

Result<void> ImageFile::lock_for_use() {
    using Clock = std::chrono::steady_clock;
    if (!options.lock || !options.lock_in_use || locked_for_use) {
        return {};
    }
    const auto deadline = Clock::now() + options.busy_patience;
    while (true) {
        auto locked = lock_image(options, fd.get());
        if (locked) {
            locked_for_use = true;
            return locked;
        }
        // Not to be in the way of who has it, or waits for it as well.
        unlock_image_file(fd.get());
        if (Clock::now() >= deadline) {
            return locked;
        }
        std::this_thread::sleep_for(kTurnPause);
    }
}

void ImageFile::unlock() {
    if (std::exchange(locked_for_use, false)) {
        unlock_image_file(fd.get());
    }
}

void ImageFile::leave() {
    locked_for_use = false;
    if (options.lock) {
        unlock_image_file(fd.get());
    }
}

Result<uint64_t> ImageFile::resize(std::optional<uint64_t> size_bytes) const {
    if (size_bytes && is_block_device) {
        return failure(Error{.message =
                                 "a block device has the size that the host gives it: change "
                                 "it there, then resize without a size"});
    }
    if (size_bytes && ::ftruncate(fd.get(), static_cast<off_t>(*size_bytes)) != 0) {
        return failure(error_from_errno("cannot give the image that size"));
    }
    uint64_t now = 0;
    if (is_block_device) {
        now = OUTRIGGER_TRY(size_of_device(fd.get()));
    } else {
        struct stat status = {};
        if (::fstat(fd.get(), &status) != 0) {
            return failure(error_from_errno("cannot read the size of the image"));
        }
        now = static_cast<uint64_t>(status.st_size);
    }
    return now - now % (block_locks != nullptr ? offset_alignment : properties.block_bytes);
}

}  // namespace outrigger::blk
