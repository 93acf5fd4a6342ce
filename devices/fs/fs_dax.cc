// SPDX-License-Identifier: Apache-2.0
// The DAX window: stretches of files that the guest reads and writes where the front end has mapped
// them, without asking us. VIRTIO 1.3, 5.11.6.4.
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// fuse_setupmapping_in::fh of whoever names the file by its node alone, as Linux does.
constexpr uint64_t kNoHandle = UINT64_MAX;

constexpr uint64_t kKnownFlags = FUSE_SETUPMAPPING_FLAG_READ | FUSE_SETUPMAPPING_FLAG_WRITE;

}  // namespace

/// FUSE_ATTR_DAX for a guest that leaves to us which files it maps.
uint32_t FsServer::attribute_flags(uint32_t mode, uint64_t size) const {
    return S_ISREG(mode) && size >= settings_.dax_file_bytes_min && agreed(FUSE_HAS_INODE_DAX)
               ? FUSE_ATTR_DAX
               : 0;
}

void FsServer::show_in(std::shared_ptr<DaxWindow> window) {
    window_ = std::move(window);
    if (window_ != nullptr) {
        window_->close_by(closer_);
    }
}

/// With no more rights than the handle has; without one, with those that OPEN would give.
Result<DaxWindow::Source, Errno> FsServer::open_for_window(const fuse_setupmapping_in& args,
                                                           uint64_t node) {
    bool is_writable = (args.flags & FUSE_SETUPMAPPING_FLAG_WRITE) != 0;
    const InodeRef inode = OUTRIGGER_TRY(inode_of(node));
    if (inode->type != S_IFREG) {
        return failure(inode->type == S_IFDIR ? EISDIR : ENODEV);
    }
    if (is_writable && settings_.read_only) {
        return failure(EROFS);
    }
    if (args.fh != kNoHandle) {
        // As mmap() has it: whoever writes reads, too.
        const OpenFileRef file = OUTRIGGER_TRY(file_of(args.fh, node));
        const int access = file->flags & O_ACCMODE;
        if (access == O_WRONLY || (is_writable && access != O_RDWR)) {
            return failure(EACCES);
        }
    }
    const auto open = [&](int flags) { return share_.reopen(inode->fd.get(), inode->type, flags); };
    Result<UniqueFd, Errno> opened = failure(EACCES);
    if (!is_writable && !settings_.read_only && args.fh == kNoHandle &&
        inode->writers.load(std::memory_order_relaxed) != 0) {
        // Writing is about to be asked for, and could not be had then without a moment in which the
        // guest sees nothing there.
        opened = open(O_RDWR);
        is_writable = opened.has_value();
    }
    if (!opened) {
        opened = open(is_writable ? O_RDWR : O_RDONLY);
    }
    UniqueFd fd = OUTRIGGER_TRY(std::move(opened));
    if (is_writable) {
        drop_mapped_capabilities(fd.get());
    }
    return DaxWindow::Source{
        .fd = std::move(fd), .node = node, .offset = args.foffset, .writable = is_writable};
}

Verdict FsServer::setup_mapping(Call& call) {
    if (window_ == nullptr || !agreed(FUSE_MAP_ALIGNMENT)) {
        return failed(ENOSYS);
    }
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_setupmapping_in>(call.body));
    const DaxWindow::Range range{.offset = args.moffset, .bytes = args.len};
    if ((args.flags & ~kKnownFlags) != 0 || (args.flags & kKnownFlags) == 0 ||
        !window_->has(range) || args.foffset % DaxWindow::page_bytes() != 0 ||
        args.foffset > INT64_MAX - args.len) {
        return failed(EINVAL);
    }
    OUTRIGGER_FS_TRY(reserve_descriptor());
    DaxWindow::Source source = OUTRIGGER_FS_TRY(open_for_window(args, call.header.node));
    window_->map(range, std::move(source), [answer = call.queue.wait(call)](Errno error) mutable {
        answer(failed(error));
    });
    return Verdict::kLater;
}

Verdict FsServer::remove_mapping(Call& call) {
    if (window_ == nullptr || !agreed(FUSE_MAP_ALIGNMENT)) {
        return failed(ENOSYS);
    }
    const auto mappings = OUTRIGGER_FS_TRY(parse_removemapping(call.body));
    std::vector<DaxWindow::Range> ranges;
    ranges.reserve(mappings.size());
    for (const auto& [offset, bytes] : mappings) {
        ranges.push_back({.offset = offset, .bytes = bytes});
        if (!window_->has(ranges.back())) {
            return failed(EINVAL);
        }
    }
    window_->unmap(std::move(ranges), [answer = call.queue.wait(call)](Errno error) mutable {
        answer(failed(error));
    });
    return Verdict::kLater;
}

}  // namespace outrigger::fs
