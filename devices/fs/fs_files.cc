// SPDX-License-Identifier: Apache-2.0
// Files: opening, closing, and what is done with them by handle.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vhost-user-backend/guest/sigbus_guard.h"

#include "devices/fs/file_transfer.h"
#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

bool cannot_now(Errno error) {
    return error == EAGAIN;
}

/// This file knows no reads or writes that must not wait.
bool never_can(Errno error) {
    return error == EOPNOTSUPP;
}

bool lies_in_a_file(uint64_t offset, uint64_t bytes) {
    return offset <= INT64_MAX && bytes <= INT64_MAX - offset;
}

Verdict answer_write(ReplyWriter& reply, uint64_t bytes) {
    reply.set_taken(bytes);
    const fuse_write_out out{.size = static_cast<uint32_t>(bytes), .padding = 0};
    return reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

/// Past the page cache some file systems (bcachefs) refuse to say that nothing is behind the last
/// bytes of a file, because those end in the midst of a sector.
bool ends_at(const OpenFile& file, uint64_t offset) {
    struct stat status;
    return (file.flags & O_DIRECT) != 0 && read_attributes(file.fd.get(), status) &&
           offset >= static_cast<uint64_t>(status.st_size);
}

/// The guest takes a short answer for the end of the file: what fails half way is an error.
Verdict end_read(const OpenFile& file, uint64_t offset, uint64_t done, Errno error) {
    const bool is_end = error == EINVAL && done > 0 && ends_at(file, offset + done);
    return error == 0 || is_end ? Verdict::kAnswered : failed(error);
}

/// A program is told how many bytes were written before the error. Of what its cache writes back
/// (`is_cached`) the guest only looks at the error.
Verdict end_write(ReplyWriter& reply, uint64_t done, Errno error, bool is_cached) {
    return error == 0 || (done > 0 && !is_cached) ? answer_write(reply, done) : failed(error);
}

bool waits_for_the_disk(int flags) {
    return (flags & (O_DIRECT | O_DSYNC | O_SYNC)) != 0;
}

/// On a thread that may wait: the front end may have truncated the memory of `rest`. The queue
/// finds out when the request comes back to it.
void look_for_loss(const Transfer& transfer, std::span<const iovec> rest) {
    if (transfer.error == EFAULT) {
        sigbus_guard::look_for_loss(rest);
    }
}

}  // namespace

/// The flags of a guest's open() that are for the host's.
Result<int, Errno> FsServer::host_flags(uint32_t flags) const {
    // The guest's numbers are those of its kernel; these are the same wherever we run.
    constexpr uint32_t kPassed = O_ACCMODE | O_TRUNC | O_DSYNC | O_SYNC;
    auto host = static_cast<int>(flags & kPassed);
    if ((host & O_ACCMODE) == O_ACCMODE) {
        return failure(EINVAL);
    }
    if (settings_.allow_direct_io) {
        host |= static_cast<int>(flags) & O_DIRECT;
    }
    if (settings_.preserve_noatime) {
        host |= static_cast<int>(flags) & O_NOATIME;
    }
    if (settings_.writeback && (host & O_ACCMODE) == O_WRONLY) {
        // The guest's page cache reads what it changes a part of.
        host = (host & ~O_ACCMODE) | O_RDWR;
    }
    if (settings_.read_only && ((host & O_ACCMODE) != O_RDONLY || (host & O_TRUNC) != 0)) {
        return failure(EROFS);
    }
    return host;
}

fuse_open_out FsServer::make_open(const OpenFileRef& file) const {
    fuse_open_out out{};
    out.fh = file.id();
    const bool is_directory = file->is_directory();
    switch (settings_.cache) {
        case CachePolicy::kNever:
            out.open_flags = is_directory ? 0 : FOPEN_DIRECT_IO;
            break;
        case CachePolicy::kMetadata:
            out.open_flags = is_directory ? FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE : FOPEN_DIRECT_IO;
            break;
        case CachePolicy::kAuto:
            break;
        case CachePolicy::kAlways:
            out.open_flags = FOPEN_KEEP_CACHE | (is_directory ? FOPEN_CACHE_DIR : 0);
            break;
    }
    if (!is_directory && (out.open_flags & FOPEN_DIRECT_IO) != 0) {
        out.open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
    }
    // Who only reads has nothing to flush when he closes, but for the locks that he gives back.
    if (!is_directory && (file->flags & O_ACCMODE) == O_RDONLY && !settings_.posix_locks) {
        out.open_flags |= FOPEN_NOFLUSH;
    }
    return out;
}

Verdict FsServer::answer_open(Call& call, UniqueFd fd, const InodeRef& inode, int flags) {
    if (call.reply.room() < sizeof(fuse_open_out)) {
        return failed(EINVAL);
    }
    const OpenFileRef file = add_file(call, std::move(fd), inode, flags);
    if (!file) {
        return failed(ENFILE);
    }
    (void)call.reply.append_object(make_open(file));
    return Verdict::kAnswered;
}

Verdict FsServer::open(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_open_in>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    if (inode->type == S_IFDIR) {
        return failed(EISDIR);
    }
    const int flags = OUTRIGGER_FS_TRY(host_flags(args.flags));
    if (const OpenFileRef file = made_before(call)) {
        return answer_again(call, file, false);
    }
    OUTRIGGER_FS_TRY(reserve_descriptor());
    const ScopedWithoutFsetid as_user(capabilities_,
                                      (args.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0);
    if ((flags & O_TRUNC) != 0) {
        drop_mapped_capabilities(inode->fd.get());
    }
    UniqueFd fd = OUTRIGGER_FS_TRY(share_.reopen(inode->fd.get(), inode->type, flags));
    return answer_open(call, std::move(fd), inode, flags);
}

Verdict FsServer::release(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_release_in>(call.body));
    int flags = O_RDONLY;
    if (const OpenFileRef file = files_.find(args.fh); file && file->node == call.header.node) {
        flags = file->flags;
    } else {
        if (call.again && !file) {
            return Verdict::kAnswered;
        }
        refusals_.add(FsRefusal::kUnknownHandle);
        return failed(EBADF);
    }
    if (settings_.posix_locks) {
        lock_owners_.forget_handle(call.header.node, args.fh);
    }
    OpenFileRef closed = files_.remove(args.fh);
    if (!closed) {
        return failed(EBADF);
    }
    SlowClose slow(slow_closes_);
    if (handles_.are_used()) {
        slow.take(closed->fd.get());  // without, the inode's descriptor is the last one
    }
    closed.release();
    const bool is_counted = keeper_ != nullptr || window_ != nullptr;
    if (const InodeRef inode = is_counted ? inodes_.find(call.header.node) : InodeRef()) {
        if (keeper_ != nullptr) {
            inode->opens.fetch_sub(1, std::memory_order_relaxed);
        }
        if (window_ != nullptr && (flags & O_ACCMODE) != O_RDONLY) {
            inode->writers.fetch_sub(1, std::memory_order_relaxed);
        }
    }
    return close_later(call, std::move(slow), Verdict::kAnswered);
}

Verdict FsServer::flush(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_flush_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    if (settings_.posix_locks) {
        lock_owners_.forget({.node = call.header.node, .owner = args.lock_owner});
    }
    if (file->ignores_closes) {
        return Verdict::kAnswered;
    }
    // A close() of the guest's is one of the host's, whose error (of a network file system) it is
    // told. Where descriptors have run out that is not worth failing for.
    const int copy = ::fcntl(file->fd.get(), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        return errno == EMFILE || errno == ENFILE ? Verdict::kAnswered : failed(errno);
    }
    return ::close(copy) == 0 || errno == EINTR ? Verdict::kAnswered : failed(errno);
}

Verdict FsServer::fsync(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_fsync_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    const bool only_data = (args.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
    call.queue.defer(call, [file = std::move(file), only_data](ReplyWriter& /*reply*/) {
        const int result = only_data ? ::fdatasync(file->fd.get()) : ::fsync(file->fd.get());
        return result == 0 ? Verdict::kAnswered : failed(errno);
    });
    return Verdict::kLater;
}

Verdict FsServer::syncfs(Call& call) {
    OUTRIGGER_FS_TRY(parse_fixed<fuse_syncfs_in>(call.body));
    InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    call.queue.defer(call, [this, inode = std::move(inode)](ReplyWriter& /*reply*/) {
        // Here, so that requests which wait hold no descriptor.
        const auto fd = OUTRIGGER_FS_TRY(synced_by(*inode));
        return ::syncfs(fd->get()) == 0 ? Verdict::kAnswered : failed(errno);
    });
    return Verdict::kLater;
}

/// syncfs() refuses O_PATH descriptors, and one that is opened anew knows of no error before.
Result<std::shared_ptr<const UniqueFd>, Errno> FsServer::synced_by(const Inode& inode) {
    // Of mounts below the share; a guest makes none.
    constexpr size_t kMountsMax = 64;
    if (inode.key.mount == root_mount_ && root_sync_ != nullptr) {
        return root_sync_;
    }
    {
        const std::lock_guard lock(syncs_mutex_);
        if (const auto found = syncs_.find(inode.key.mount); found != syncs_.end()) {
            return found->second;
        }
    }
    // Whose server does not answer holds up nobody else.
    auto fd = std::make_shared<const UniqueFd>(
        OUTRIGGER_TRY(share_.reopen(inode.fd.get(), inode.type, O_RDONLY)));
    // A file would not end as long as it is kept, and the host could not unmount what is no part
    // of a mount of our own.
    std::shared_ptr<const UniqueFd> late;
    if (inode.type == S_IFDIR && share_.is_own_mount() && part_.has_room(held_count())) {
        const std::lock_guard lock(syncs_mutex_);
        if (syncs_.size() < kMountsMax) {
            // Who came first has the earlier one; ours is closed behind the lock.
            const auto [place, is_new] = syncs_.try_emplace(inode.key.mount, fd);
            if (!is_new) {
                late = std::exchange(fd, place->second);
            }
            syncs_count_.store(syncs_.size(), std::memory_order_relaxed);
        }
    }
    return fd;
}

/// Closed outside of the lock: that may wait.
void FsServer::forget_syncs() {
    decltype(syncs_) closed;
    const std::lock_guard lock(syncs_mutex_);
    closed.swap(syncs_);
    syncs_count_.store(0, std::memory_order_relaxed);
}

Verdict FsServer::read(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_read_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    if (file->is_directory()) {
        return failed(EISDIR);
    }
    if (args.size > call.reply.room() || args.size > kReadBytesMax) {
        return failed(Malformed(EINVAL));
    }
    if (!lies_in_a_file(args.offset, args.size)) {
        return failed(EINVAL);
    }
    std::span<iovec> segments = call.reply.iovecs(args.size);
    const std::span<const iovec> all = segments;
    uint64_t done = 0;
    if (!file->reads_wait.load(std::memory_order_relaxed)) {
        const int flags = file->is_in_memory.load(std::memory_order_relaxed) ? 0 : int{RWF_NOWAIT};
        Transfer transfer = read_all(file->fd.get(), segments, args.offset, flags);
        if (never_can(transfer.error) && flags != 0 && kind_of(file->fd.get()).is_in_memory) {
            file->is_in_memory.store(true, std::memory_order_relaxed);
            transfer = read_all(file->fd.get(), segments, args.offset, 0);
        }
        done = transfer.done;
        call.reply.note_written(done);
        if (transfer.error == EFAULT) {
            call.queue.on_fault(all);
        }
        if (never_can(transfer.error)) {
            file->reads_wait.store(true, std::memory_order_relaxed);
        } else if (!cannot_now(transfer.error)) {
            return end_read(*file, args.offset, done, transfer.error);
        }
    }
    const bool is_direct = (file->flags & O_DIRECT) != 0;
    const bool copies = is_direct && !are_sectors(segments);
    // What goes past the page cache may reach the guest's memory when this process has been killed:
    // a keeper starts no other before that has ended, and nobody else knows. What goes through it
    // ends with the process; where it cannot be asked without waiting, an io_uring is none the
    // better for it.
    const bool by_kernel =
        !copies &&
        (is_direct ? keeper_ != nullptr : !file->reads_wait.load(std::memory_order_relaxed));
    const FileRead rest = {
        .fd = file->fd.get(), .offset = args.offset + done, .segments = segments};
    auto work = [file = std::move(file), segments, done, copies, offset = args.offset](
                    ReplyWriter& reply) mutable {
        const Transfer transfer = copies ? read_by_copy(file->fd.get(), segments, offset + done)
                                         : read_all(file->fd.get(), segments, offset + done, 0);
        look_for_loss(transfer, segments);
        reply.note_written(transfer.done);
        return end_read(*file, offset, done + transfer.done, transfer.error);
    };
    if (by_kernel) {
        call.queue.read(call, rest, std::move(work));
    } else {
        call.queue.defer(call, std::move(work));
    }
    return Verdict::kLater;
}

/// And so will the next files of the same file system, each of which would be tried in vain.
void FsServer::note_writes_wait(OpenFile& file, Errno error) {
    file.writes_wait.store(true, std::memory_order_relaxed);
    if (const InodeRef inode = never_can(error) ? inodes_.find(file.node) : InodeRef()) {
        writes_wait_on_.store(inode->key.device, std::memory_order_relaxed);
    }
}

Verdict FsServer::write(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_write_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    if (file->is_directory()) {
        return failed(EISDIR);
    }
    if (args.size > kTransferBytesMax || call.reply.room() < sizeof(fuse_write_out)) {
        return failed(Malformed(EINVAL));
    }
    if (!lies_in_a_file(args.offset, args.size)) {
        return failed(EINVAL);
    }
    drop_mapped_capabilities(file->fd.get());
    const bool is_cached = (args.write_flags & FUSE_WRITE_CACHE) != 0;
    const int flags = (args.flags & O_APPEND) != 0 && !is_cached ? RWF_APPEND : 0;
    const bool kills = (args.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    std::span<iovec> segments = call.payload;
    const std::span<const iovec> all = segments;
    const bool is_slow = waits_for_the_disk(file->flags);
    uint64_t done = 0;
    if (flags != 0 && keeper_ != nullptr) {
        done = begin_appending(call, *file, segments);
    }
    Errno error = EAGAIN;
    const bool tries = !file->writes_wait.load(std::memory_order_relaxed);
    if (tries || !is_slow) {
        const ScopedWithoutFsetid as_user(capabilities_, kills);
        Transfer transfer;
        if (tries) {
            transfer = write_all(file->fd.get(), segments, args.offset + done, flags | RWF_NOWAIT);
            // ext4 calls it EINVAL, as it does a write that is not aligned.
            if (never_can(transfer.error) || transfer.error == EINVAL) {
                note_writes_wait(*file, transfer.error);
                transfer.error = is_slow ? EAGAIN : 0;
            }
            done += transfer.done;
        }
        if (!segments.empty() && transfer.error == 0) {
            // Into the page cache, as fast as memory is.
            transfer = write_all(file->fd.get(), segments, args.offset + done, flags);
            done += transfer.done;
        }
        error = transfer.error;
    }
    if (error == EFAULT) {
        call.queue.on_fault(all);
    }
    if (!cannot_now(error)) {
        return end_write(call.reply, done, error, is_cached);
    }
    call.queue.defer(
        call,
        [this,
         file = std::move(file),
         segments,
         done,
         flags,
         kills,
         is_cached,
         offset = args.offset,
         lost_before = sigbus_guard::lost_count()](ReplyWriter& reply) mutable {
            const ScopedWithoutFsetid as_user(capabilities_, kills);
            const bool copies = (file->flags & O_DIRECT) != 0 && !are_sectors(segments);
            const Transfer transfer =
                copies ? write_by_copy(file->fd.get(), segments, offset + done, flags, lost_before)
                       : write_all(file->fd.get(), segments, offset + done, flags);
            look_for_loss(transfer, segments);
            done += transfer.done;
            return end_write(reply, done, transfer.error, is_cached);
        });
    return Verdict::kLater;
}

/// The guest leaves it to us to take set-user-id away, and does not say here who it is for.
bool FsServer::kills_privileges(const Call& call) const {
    return agreed(FUSE_HANDLE_KILLPRIV_V2) && call.header.uid != 0;
}

Verdict FsServer::fallocate(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_fallocate_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    constexpr uint32_t kModes = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
                                FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE |
                                FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
    if ((args.mode & ~kModes) != 0) {
        return failed(EOPNOTSUPP);
    }
    if (!lies_in_a_file(args.offset, args.length)) {
        return failed(EFBIG);
    }
    const bool shifts = (args.mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0;
    if (shifts && keeper_ != nullptr && !begin_shifting(call, file->fd.get())) {
        return Verdict::kAnswered;
    }
    const bool kills = kills_privileges(call);
    drop_mapped_capabilities(file->fd.get());
    call.queue.defer(call, [this, file = std::move(file), args, kills](ReplyWriter& /*reply*/) {
        const ScopedWithoutFsetid as_user(capabilities_, kills);
        int result = 0;
        do {
            result = ::fallocate(file->fd.get(),
                                 static_cast<int>(args.mode),
                                 static_cast<off_t>(args.offset),
                                 static_cast<off_t>(args.length));
        } while (result != 0 && errno == EINTR);
        return result == 0 ? Verdict::kAnswered : failed(errno);
    });
    return Verdict::kLater;
}

Verdict FsServer::lseek(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_lseek_in>(call.body));
    const OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    // A directory's position is that of its listing, and the rest the guest works out by itself.
    if (file->is_directory() || (args.whence != SEEK_DATA && args.whence != SEEK_HOLE)) {
        return failed(EINVAL);
    }
    if (args.offset > INT64_MAX) {
        return failed(ENXIO);
    }
    const off_t found =
        ::lseek(file->fd.get(), static_cast<off_t>(args.offset), static_cast<int>(args.whence));
    if (found < 0) {
        return failed(errno);
    }
    const fuse_lseek_out out{.offset = static_cast<uint64_t>(found)};
    return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

Verdict FsServer::copy(Call& call, bool has_long_reply) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_copy_file_range_in>(call.body));
    OpenFileRef from = OUTRIGGER_FS_TRY(file_of(args.fh_in, call.header.node));
    OpenFileRef to = OUTRIGGER_FS_TRY(file_of(args.fh_out, args.nodeid_out));
    if (args.flags != 0 || from->is_directory() || to->is_directory() ||
        !lies_in_a_file(args.off_in, args.len) || !lies_in_a_file(args.off_out, args.len)) {
        return failed(EINVAL);
    }
    // The short reply counts in 32 bits, and one request should not keep a thread for long:
    // a ring that stops waits for all of them.
    constexpr uint64_t kBytesMax = uint64_t{64} << 20;
    const size_t bytes = std::min(args.len, kBytesMax);
    const bool kills = kills_privileges(call);
    drop_mapped_capabilities(to->fd.get());
    call.queue.defer(
        call,
        [this, from = std::move(from), to = std::move(to), args, bytes, kills, has_long_reply](
            ReplyWriter& reply) {
            const ScopedWithoutFsetid as_user(capabilities_, kills);
            auto in = static_cast<off_t>(args.off_in);
            auto out = static_cast<off_t>(args.off_out);
            const ssize_t copied =
                ::copy_file_range(from->fd.get(), &in, to->fd.get(), &out, bytes, 0);
            if (copied < 0) {
                return failed(errno);
            }
            if (!has_long_reply) {
                return answer_write(reply, static_cast<uint64_t>(copied));
            }
            reply.set_taken(static_cast<uint64_t>(copied));
            const CopyFileRangeOut answer{.bytes_copied = static_cast<uint64_t>(copied)};
            return reply.append_object(answer) ? Verdict::kAnswered : failed(EINVAL);
        });
    return Verdict::kLater;
}

Verdict FsServer::copy_file_range(Call& call) {
    return copy(call, false);
}

Verdict FsServer::copy_file_range_64(Call& call) {
    return copy(call, true);
}

/// The flags of files, as chattr and xfs_io change them; nothing else is passed on.
Verdict FsServer::ioctl(Call& call) {
    const Ioctl wish = OUTRIGGER_FS_TRY(parse_ioctl(call.body));
    const OpenFileRef file = OUTRIGGER_FS_TRY(file_of(wish.args.fh, call.header.node));

    // The kernel reads and writes an int where the number says long.
    union {
        int flags;
        fsxattr attributes;
    } value{};

    size_t bytes = 0;
    bool sets = false;
    const auto command = uint64_t{wish.args.cmd};
    if (command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS) {
        bytes = sizeof value.flags;
        sets = command == FS_IOC_SETFLAGS;
    } else if (command == FS_IOC_FSGETXATTR || command == FS_IOC_FSSETXATTR) {
        bytes = sizeof value.attributes;
        sets = command == FS_IOC_FSSETXATTR;
    } else {
        return failed(ENOTTY);
    }
    if (sets && settings_.read_only) {
        return failed(EROFS);
    }
    if (sets ? wish.input.size() < bytes : wish.args.out_size < bytes) {
        return failed(EINVAL);
    }
    if (sets) {
        std::memcpy(&value, wish.input.data(), bytes);
        // Guests before Linux 5.13 pass on what their kernel does not look at, with the user's
        // name.
        const uint32_t asks = call.header.uid;
        struct stat status;
        OUTRIGGER_FS_TRY(read_attributes(file->fd.get(), status));
        if (asks != 0 && asks != UINT32_MAX && asks != settings_.uids.to_guest(status.st_uid)) {
            return failed(EPERM);
        }
    }
    if (::ioctl(file->fd.get(), command, &value) != 0) {
        return failed(errno);
    }
    if (!call.reply.append_object(fuse_ioctl_out{})) {
        return failed(EINVAL);
    }
    if (!sets && !call.reply.append(std::as_bytes(std::span(&value, 1)).first(bytes))) {
        return failed(EINVAL);
    }
    return Verdict::kAnswered;
}

}  // namespace outrigger::fs
