// SPDX-License-Identifier: Apache-2.0
// Locks: POSIX ones by owner, and flock() ones by open file. Nothing here waits.
#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/log.h"

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// The end of a lock without an end, as FUSE says it.
constexpr uint64_t kOffsetMax = INT64_MAX;

Result<struct flock, Errno> host_lock(const fuse_file_lock& wish) {
    if (wish.start > wish.end || wish.end > kOffsetMax ||
        (wish.type != F_RDLCK && wish.type != F_WRLCK && wish.type != F_UNLCK)) {
        return failure(EINVAL);
    }
    struct flock lock = {};
    lock.l_type = static_cast<short>(wish.type);
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(wish.start);
    lock.l_len = wish.end == kOffsetMax ? 0 : static_cast<off_t>(wish.end - wish.start + 1);
    return lock;
}

/// The last byte of it.
uint64_t end_of(const struct flock& lock) {
    return lock.l_len == 0
               ? kOffsetMax
               : static_cast<uint64_t>(lock.l_start) + static_cast<uint64_t>(lock.l_len) - 1;
}

Errno try_flock(OpenFile& file, uint32_t type) {
    const int operation = type == F_UNLCK ? LOCK_UN : type == F_RDLCK ? LOCK_SH : LOCK_EX;
    if (::flock(file.fd.get(), operation | LOCK_NB) != 0) {
        const Errno error = errno;
        if (error == EWOULDBLOCK && file.flock.load(std::memory_order_relaxed) != type) {
            // The kernel lets go of the other kind before it looks for who has this one.
            file.flock.store(F_UNLCK, std::memory_order_relaxed);
        }
        return error;
    }
    file.flock.store(type, std::memory_order_relaxed);
    return 0;
}

Errno try_lock(LockOwners::OpenDescription& description, struct flock& lock) {
    const std::lock_guard guard(description.mutex);
    HeldRanges next = description.held;
    next.set({.start = static_cast<uint64_t>(lock.l_start),
              .end = end_of(lock),
              .type = static_cast<uint32_t>(lock.l_type)});
    const size_t before = description.held.all().size();
    const size_t behind = next.all().size();
    if (!description.reserve(before, behind)) {
        return ENOLCK;
    }
    if (::fcntl(description.fd.get(), F_OFD_SETLK, &lock) != 0) {
        const Errno error = errno;
        description.resize(behind, before);
        // The C library of the guest knows both numbers for "somebody has it".
        return error == EACCES ? EAGAIN : error;
    }
    description.resize(before, behind);
    description.held = std::move(next);
    return 0;
}

}  // namespace

/// A description of the file for this owner, that can be locked either way where it may be written.
Result<LockOwners::Description, Errno> FsServer::description_of(uint64_t node,
                                                                const fuse_lk_in& args) {
    const InodeRef inode = OUTRIGGER_TRY(inode_of(node));
    return lock_owners_.find_or_open(
        {.node = node, .owner = args.owner},
        args.fh,
        args.lk.pid,
        [&]() -> Result<UniqueFd, Errno> {
            OUTRIGGER_TRY(reserve_descriptor());
            auto fd = share_.reopen(
                inode->fd.get(), inode->type, settings_.read_only ? O_RDONLY : O_RDWR);
            if (!fd) {
                fd = share_.reopen(inode->fd.get(), inode->type, O_RDONLY);
            }
            return fd;
        });
}

/// The guest's process that has this lock, which stands in the way of another one: the host knows
/// it by our descriptor. 0: nobody of this guest has it, or several have.
uint32_t FsServer::holder_of(const LockOwners::Key& asks, const struct flock& lock) {
    uint32_t pid = 0;
    const auto start = static_cast<uint64_t>(lock.l_start);
    for (const LockOwners::Description& other : lock_owners_.others(asks)) {
        const std::lock_guard guard(other->mutex);
        if (other->held.has_any(start, end_of(lock))) {
            if (pid != 0) {
                return 0;
            }
            pid = other->pid;
        }
    }
    return pid;
}

Verdict FsServer::getlk(Call& call) {
    if (!settings_.posix_locks) {
        return failed(ENOSYS);
    }
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_lk_in>(call.body));
    OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    struct flock lock = OUTRIGGER_FS_TRY(host_lock(args.lk));
    const auto description = OUTRIGGER_FS_TRY(description_of(call.header.node, args));
    if (::fcntl(description->fd.get(), F_OFD_GETLK, &lock) != 0) {
        return failed(errno);
    }
    fuse_lk_out out{};
    out.lk.type = static_cast<uint32_t>(lock.l_type);
    if (lock.l_type != F_UNLCK) {
        out.lk.start = static_cast<uint64_t>(lock.l_start);
        out.lk.end = end_of(lock);
        out.lk.pid = holder_of({.node = call.header.node, .owner = args.owner}, lock);
    }
    return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
}

Verdict FsServer::lock(Call& call, bool waits) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_lk_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    const bool is_flock = (args.lk_flags & FUSE_LK_FLOCK) != 0;
    if (is_flock ? !settings_.flock : !settings_.posix_locks) {
        return failed(ENOSYS);
    }
    struct flock lock = OUTRIGGER_FS_TRY(host_lock(args.lk));
    LockOwners::Description description;
    if (!is_flock) {
        description = OUTRIGGER_FS_TRY(description_of(call.header.node, args));
    }
    const uint32_t type = args.lk.type;
    if (is_flock && type != F_UNLCK) {
        files_.keep(file);  // the lock lives as long as the open file does
    }
    auto attempt = [file = std::move(file), description = std::move(description), lock, type](
                       ReplyWriter& /*reply*/) mutable {
        const Errno error =
            description == nullptr ? try_flock(*file, type) : try_lock(*description, lock);
        return error == 0 ? Verdict::kAnswered : failed(error);
    };
    if (!waits || type == F_UNLCK) {
        return attempt(call.reply);
    }
    call.queue.retry(call, std::move(attempt));
    return Verdict::kLater;
}

Verdict FsServer::setlk(Call& call) {
    return lock(call, false);
}

Verdict FsServer::setlkw(Call& call) {
    return lock(call, true);
}

/// Only locks wait for longer than the disk does, so nothing else looks for its interruption. An
/// interruption that comes before or behind its request is forgotten when 64 others have come.
Verdict FsServer::interrupt(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_interrupt_in>(call.body));
    const std::lock_guard lock(interrupts_mutex_);
    const size_t place = next_interrupt_++ % interrupts_.size();
    interrupts_[place] = args.unique;
    if (keeper_ != nullptr) {
        keeper_->note_interrupt(place, args.unique);
    }
    return Verdict::kSilent;
}

/// The next guest, or mount, counts its requests anew.
void FsServer::forget_interrupts() {
    const std::lock_guard lock(interrupts_mutex_);
    interrupts_.fill(0);
    for (size_t place = 0; keeper_ != nullptr && place < interrupts_.size(); ++place) {
        keeper_->note_interrupt(place, 0);
    }
}

bool FsServer::take_interrupt(uint64_t unique) {
    const std::lock_guard lock(interrupts_mutex_);
    const auto found = std::ranges::find(interrupts_, unique);
    if (unique == 0 || found == interrupts_.end()) {
        return false;
    }
    *found = 0;
    if (keeper_ != nullptr) {
        keeper_->note_interrupt(static_cast<size_t>(found - interrupts_.begin()), 0);
    }
    return true;
}

/// All that this guest has locked on the host. No request runs.
std::vector<SavedLock> FsServer::held_locks() const {
    {
        const std::lock_guard lock(wanted_locks_mutex_);
        if (!wanted_locks_.empty()) {
            return wanted_locks_;  // no queue has started since
        }
    }
    std::vector<SavedLock> locks;
    lock_owners_.for_each([&](const LockOwners::Key& key, LockOwners::OpenDescription& owner) {
        for (const HeldRanges::Range& range : owner.held.all()) {
            locks.push_back({.node = key.node,
                             .owner = key.owner,
                             .handle = owner.handle,
                             .start = range.start,
                             .end = range.end,
                             .pid = owner.pid,
                             .type = range.type});
        }
    });
    files_.for_each([&](OpenFileRef& file) {
        const uint32_t type = file->flock.load(std::memory_order_relaxed);
        if (type != F_UNLCK) {
            locks.push_back({.node = file->node,
                             .handle = file.id(),
                             .end = kOffsetMax,
                             .type = type,
                             .is_flock = true});
        }
    });
    return locks;
}

/// The other process may be of the same host, and needs them. No request runs.
void FsServer::let_go_of_locks() const {
    lock_owners_.clear(*closer_);
    files_.for_each([](OpenFileRef& file) {
        if (file->flock.load(std::memory_order_relaxed) != F_UNLCK) {
            (void)try_flock(*file, F_UNLCK);
        }
    });
}

Errno FsServer::take_lock(const SavedLock& lock) {
    const auto file = file_of(lock.handle, lock.node);
    if (!file) {
        return file.error();
    }
    if (lock.is_flock) {
        files_.keep(*file);
        return try_flock(**file, lock.type);
    }
    fuse_lk_in args{};
    args.fh = lock.handle;
    args.owner = lock.owner;
    args.lk = {.start = lock.start, .end = lock.end, .type = lock.type, .pid = lock.pid};
    const auto description = description_of(lock.node, args);
    auto wish = host_lock(args.lk);
    if (!description || !wish) {
        return description ? wish.error() : description.error();
    }
    return try_lock(**description, *wish);
}

void FsServer::take_locks() {
    const std::lock_guard lock(wanted_locks_mutex_);
    // One line, because the state of a guest may name as many as it likes.
    size_t lost_count = 0;
    Errno why = 0;
    for (const SavedLock& one : std::exchange(wanted_locks_, {})) {
        if (const Errno error = take_lock(one); error != 0) {
            ++lost_count;
            why = error;
        }
    }
    if (lost_count > 0) {
        log(LogLevel::kError,
            "fs: {}",
            error_from_code(
                fmt::format("{} locks that the guest had cannot be had again", lost_count), why)
                .message);
    }
}

}  // namespace outrigger::fs
