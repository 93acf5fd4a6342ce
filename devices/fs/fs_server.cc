// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_server.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <sys/sysmacros.h>

namespace outrigger::fs {
namespace {

/// Inodes with a handle that are open at a time: each costs the kernel some 2 KiB.
constexpr uint64_t kOpenedByHandleMax = 65'536;

constexpr bool kChanges = true;
constexpr bool kCreates = true;
constexpr bool kCounts = true;

constexpr std::array<Operation, kOpcodeCount> make_operations() {
    std::array<Operation, kOpcodeCount> table{};
    using S = FsServer;
    table[FUSE_LOOKUP] = {"LOOKUP", &S::look_up, false, false, kCounts};
    table[FUSE_FORGET] = {"FORGET", &S::forget};
    table[FUSE_GETATTR] = {"GETATTR", &S::getattr};
    table[FUSE_SETATTR] = {"SETATTR", &S::setattr, kChanges};
    table[FUSE_READLINK] = {"READLINK", &S::readlink};
    table[FUSE_SYMLINK] = {"SYMLINK", &S::symlink, kChanges, kCreates, kCounts};
    table[FUSE_MKNOD] = {"MKNOD", &S::mknod, kChanges, kCreates, kCounts};
    table[FUSE_MKDIR] = {"MKDIR", &S::mkdir, kChanges, kCreates, kCounts};
    table[FUSE_UNLINK] = {"UNLINK", &S::unlink, kChanges};
    table[FUSE_RMDIR] = {"RMDIR", &S::rmdir, kChanges};
    table[FUSE_RENAME] = {"RENAME", &S::rename, kChanges};
    table[FUSE_LINK] = {"LINK", &S::link, kChanges, false, kCounts};
    table[FUSE_OPEN] = {"OPEN", &S::open, false, false, kCounts};
    table[FUSE_READ] = {"READ", &S::read};
    table[FUSE_WRITE] = {"WRITE", &S::write, kChanges};
    table[FUSE_STATFS] = {"STATFS", &S::statfs};
    table[FUSE_RELEASE] = {"RELEASE", &S::release, false, false, kCounts};
    table[FUSE_FSYNC] = {"FSYNC", &S::fsync};
    table[FUSE_SETXATTR] = {"SETXATTR", &S::setxattr, kChanges};
    table[FUSE_GETXATTR] = {"GETXATTR", &S::getxattr};
    table[FUSE_LISTXATTR] = {"LISTXATTR", &S::listxattr};
    table[FUSE_REMOVEXATTR] = {"REMOVEXATTR", &S::removexattr, kChanges};
    table[FUSE_FLUSH] = {"FLUSH", &S::flush};
    table[FUSE_INIT] = {"INIT", &S::init};
    table[FUSE_OPENDIR] = {"OPENDIR", &S::opendir, false, false, kCounts};
    table[FUSE_READDIR] = {"READDIR", &S::readdir};
    table[FUSE_RELEASEDIR] = {"RELEASEDIR", &S::release, false, false, kCounts};
    table[FUSE_FSYNCDIR] = {"FSYNCDIR", &S::fsync};
    table[FUSE_GETLK] = {"GETLK", &S::getlk};
    table[FUSE_SETLK] = {"SETLK", &S::setlk};
    table[FUSE_SETLKW] = {"SETLKW", &S::setlkw};
    table[FUSE_ACCESS] = {"ACCESS", &S::access};
    table[FUSE_CREATE] = {"CREATE", &S::create, kChanges, kCreates, kCounts};
    table[FUSE_INTERRUPT] = {"INTERRUPT", &S::interrupt};
    table[FUSE_BMAP] = {"BMAP", nullptr};
    table[FUSE_DESTROY] = {"DESTROY", &S::destroy};
    table[FUSE_IOCTL] = {"IOCTL", &S::ioctl};
    table[FUSE_POLL] = {"POLL", nullptr};
    table[FUSE_NOTIFY_REPLY] = {"NOTIFY_REPLY", nullptr};
    table[FUSE_BATCH_FORGET] = {"BATCH_FORGET", &S::batch_forget};
    table[FUSE_FALLOCATE] = {"FALLOCATE", &S::fallocate, kChanges};
    table[FUSE_READDIRPLUS] = {"READDIRPLUS", &S::readdirplus, false, false, kCounts};
    table[FUSE_RENAME2] = {"RENAME2", &S::rename2, kChanges};
    table[FUSE_LSEEK] = {"LSEEK", &S::lseek};
    table[FUSE_COPY_FILE_RANGE] = {"COPY_FILE_RANGE", &S::copy_file_range, kChanges};
    table[FUSE_SETUPMAPPING] = {"SETUPMAPPING", &S::setup_mapping};
    table[FUSE_REMOVEMAPPING] = {"REMOVEMAPPING", &S::remove_mapping};
    table[FUSE_SYNCFS] = {"SYNCFS", &S::syncfs};
    table[FUSE_TMPFILE] = {"TMPFILE", &S::tmpfile, kChanges, kCreates, kCounts};
    table[kStatx] = {"STATX", &S::statx};
    table[kCopyFileRange64] = {"COPY_FILE_RANGE_64", &S::copy_file_range_64, kChanges};
    return table;
}

constexpr std::array<Operation, kOpcodeCount> kOperations = make_operations();

uint64_t number_of(int fd) {
    const StatResult status = stat_fd(fd, STATX_INO);
    return status ? status->stx_ino : 0;
}

}  // namespace

std::span<const Operation> operations() {
    return kOperations;
}

uint32_t encode_device(uint32_t major, uint32_t minor) {
    return (minor & 0xff) | major << 8 | (minor & ~0xffU) << 12;
}

dev_t decode_device(uint32_t encoded) {
    return ::makedev((encoded & 0xfff00) >> 8, (encoded & 0xff) | (encoded >> 12 & 0xfff00));
}

FsServer::FsServer(const FsSettings& settings, Share share)
    : settings_(settings),
      share_(std::move(share)),
      root_number_(number_of(share_.root_fd())),
      root_kind_(kind_of(share_.root_fd())),
      handles_(settings.handles, share_, inodes_, [this] { return opened_by_handle_max(); }),
      budget_(settings.budget ? settings.budget
                              : std::make_shared<DescriptorBudget>(settings.descriptors_max)),
      part_(*budget_, [this] { return held_count(); }) {
    const StatResult status = stat_fd(share_.root_fd(), STATX_BASIC_STATS | STATX_MNT_ID);
    // Share::open() has just asked the same.
    OUTRIGGER_ASSERT(status.has_value());
    root_device_ = key_of(*status).device;
    root_mount_ = key_of(*status).mount;
    // Once, and not for each guest: a guest that syncs the share is told of what failed before it
    // asked, and whoever resets the device waits for no server of the share.
    if (S_ISDIR(status->stx_mode)) {
        if (auto fd = share_.reopen(share_.root_fd(), S_IFDIR, O_RDONLY)) {
            root_sync_ = std::make_shared<const UniqueFd>(*std::move(fd));
        }
    }
    const auto slots_max = static_cast<uint32_t>(
        std::min<uint64_t>(settings.descriptors_max, SlotTable<Inode>::kSlotsMax));
    inodes_.set_slots_max(handles_.are_used() ? SlotTable<Inode>::kSlotsMax : slots_max);
    files_.set_slots_max(slots_max);
    inodes_.set_root(
        share_.duplicate_root(), key_of(*status), uint32_t{status->stx_mode} & uint32_t{S_IFMT});
}

Result<void> FsServer::adopt_thread() {
    std::call_once(capabilities_read_,
                   [this] { capabilities_ = OwnCapabilities::read(share_.own_user()); });
    return share_.adopt_thread();
}

RequestForm FsServer::form() const {
    return {.security_context = agreed(FUSE_SECURITY_CTX),
            .supplementary_group = agreed(kInitCreateSuppGroup),
            .long_setxattr = agreed(FUSE_SETXATTR_EXT)};
}

void FsServer::reset() {
    if (keeper_ != nullptr) {
        keeper_->note_session({});
    }
    initialized_.store(false, std::memory_order_relaxed);
    agreed_.store(0, std::memory_order_relaxed);
    {
        const std::lock_guard lock(wanted_locks_mutex_);
        wanted_locks_.clear();
    }
    forget_interrupts();
    // Who resets the device waits for nothing that is closed here, but for locks to go.
    lock_owners_.clear(*closer_);
    files_.clear(*closer_);
    inodes_.for_each([this](InodeRef& inode) {
        if (inode->type == S_IFREG && SlowClose::is_slow(inode->fd.get())) {
            closer_->close(UniqueFd(::fcntl(inode->fd.get(), F_DUPFD_CLOEXEC, 0)));
        }
    });
    inodes_.clear();
    forget_syncs();
}

Verdict FsServer::serve(Call& call) {
    const RequestHeader& header = call.header;
    if (header.opcode >= kOpcodeCount || kOperations[header.opcode].handle == nullptr) {
        // The kernel never waits for an answer to this one.
        return header.opcode == FUSE_NOTIFY_REPLY ? Verdict::kSilent : failed(ENOSYS);
    }
    const Operation& operation = kOperations[header.opcode];
    const bool is_ready = initialized_.load(std::memory_order_relaxed) ||
                          header.opcode == FUSE_INIT || header.opcode == FUSE_DESTROY;
    if (!is_ready) {
        const bool is_silent = header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET ||
                               header.opcode == FUSE_INTERRUPT;
        return is_silent ? Verdict::kSilent : failed(EIO);
    }
    if (header.extension_bytes != 0 && !operation.creates) {
        return failed(EINVAL);
    }
    if (operation.changes && settings_.read_only) {
        return failed(EROFS);
    }
    if (keeper_ != nullptr) {
        begin_once(call, operation.counts);
    }
    return (this->*operation.handle)(call);
}

Result<InodeRef, Errno> FsServer::inode_of(uint64_t node) {
    InodeRef inode = inodes_.find(node);
    if (!inode) {
        refusals_.add(FsRefusal::kUnknownNode);
        return failure(ESTALE);
    }
    OUTRIGGER_TRY(handles_.open(inode));
    if (!inode->fd.is_open()) [[unlikely]] {
        return failure(ESTALE);  // it was not found when the guest moved here
    }
    return inode;
}

Result<InodeRef, Errno> FsServer::directory_of(uint64_t node) {
    InodeRef inode = OUTRIGGER_TRY(inode_of(node));
    if (inode->type != S_IFDIR) {
        return failure(ENOTDIR);
    }
    return inode;
}

Result<OpenFileRef, Errno> FsServer::file_of(uint64_t handle, uint64_t node) {
    OpenFileRef file = files_.find(handle);
    if (!file || file->node != node) {
        refusals_.add(FsRefusal::kUnknownHandle);
        return failure(EBADF);
    }
    if (!file->fd.valid()) [[unlikely]] {
        return failure(EIO);  // it was not found when the guest moved here
    }
    return file;
}

Result<void, Errno> FsServer::reserve_descriptor() const {
    if (!part_.has_room(held_count())) [[unlikely]] {
        refusals_.add(FsRefusal::kDescriptorLimit);
        return failure(ENFILE);
    }
    return {};
}

Result<void, Errno> FsServer::reserve_inode() const {
    while (inodes_.size() >= settings_.inodes_max)
        [[unlikely]] {
            if (!inodes_.forget_oldest()) {
                refusals_.add(FsRefusal::kNodeLimit);
                return failure(ENFILE);
            }
        }
    return reserve_descriptor();
}

uint64_t FsServer::opened_by_handle_max() const {
    return settings_.handles == HandlePolicy::kNever
               ? 0
               : std::min(part_.size() / 2, kOpenedByHandleMax);
}

uint64_t FsServer::held_count() const {
    return inodes_.held_count() + files_.size() + lock_owners_.size() + opened_by_handle_max() +
           slow_closes_.load(std::memory_order_relaxed) + closer_->count() +
           syncs_count_.load(std::memory_order_relaxed) +
           (window_ == nullptr ? 0 : window_->descriptors());
}

Verdict FsServer::destroy(Call& /*call*/) {
    reset();
    if (window_ != nullptr) {
        window_->unmap_all();
    }
    return Verdict::kAnswered;
}

Verdict FsServer::init(Call& call) {
    const Init offer = OUTRIGGER_FS_TRY(parse_init(call.body));
    fuse_init_out out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = kMinorMax;
    if (offer.major > FUSE_KERNEL_VERSION) {
        // It asks again, with our version.
        return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
    }
    const InitAnswer answer = OUTRIGGER_FS_TRY(negotiate(settings_, offer));
    reset();
    if (window_ != nullptr) {
        window_->unmap_all();
        out.map_alignment = static_cast<uint16_t>(std::countr_zero(DaxWindow::page_bytes()));
    }
    out.minor = answer.minor;
    out.max_readahead = offer.readahead_max;
    out.flags = static_cast<uint32_t>(answer.flags);
    out.flags2 = static_cast<uint32_t>(answer.flags >> 32);
    out.max_background = UINT16_MAX;
    out.congestion_threshold = UINT16_MAX / 4 * 3;
    out.max_write = kTransferBytesMax;
    out.max_pages = kTransferBytesMax / 4096;
    out.time_gran = 1;
    if (!call.reply.append_object(out)) {
        return failed(EINVAL);
    }
    agreed_.store(answer.flags, std::memory_order_relaxed);
    inodes_.set_remembers((answer.flags & FUSE_EXPORT_SUPPORT) != 0);
    initialized_.store(true, std::memory_order_relaxed);
    if (keeper_ != nullptr) {
        keeper_->note_session({.initialized = true, .agreed = answer.flags});
    }
    return Verdict::kAnswered;
}

Result<InitAnswer, Errno> negotiate(const FsSettings& settings, const Init& offer) {
    if (offer.major != FUSE_KERNEL_VERSION || offer.minor < kMinorMin) {
        return failure(EPROTO);
    }
    uint64_t flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC |
                     FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                     FUSE_INIT_EXT | FUSE_CACHE_SYMLINKS | FUSE_HAS_IOCTL_DIR |
                     kInitCreateSuppGroup | kInitAllowIdmap;
    if (settings.cache != CachePolicy::kAlways) {
        flags &= ~uint64_t{FUSE_CACHE_SYMLINKS};
    }
    const auto add_if = [&flags](bool wanted, uint64_t more) {
        if (wanted) {
            flags |= more;
        }
    };
    if (settings.killpriv_v2) {
        // With it the driver does not say any more whose requests are, but for those that make
        // files; then nobody knows whether FALLOCATE comes from root, who keeps set-user-id.
        flags &= ~kInitAllowIdmap;
    }
    add_if(settings.readdirplus, FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO);
    add_if(settings.writeback, FUSE_WRITEBACK_CACHE);
    add_if(settings.announce_submounts, FUSE_SUBMOUNTS);
    add_if(settings.killpriv_v2, FUSE_HANDLE_KILLPRIV_V2);
    add_if(settings.allow_mmap, kInitDirectIoAllowMmap);
    add_if(settings.posix_locks, FUSE_POSIX_LOCKS);
    add_if(settings.flock, FUSE_FLOCK_LOCKS);
    add_if(settings.nfs_export, FUSE_EXPORT_SUPPORT);
    add_if(settings.dax_window_bytes != 0, FUSE_MAP_ALIGNMENT | FUSE_HAS_INODE_DAX);
    constexpr uint64_t kAcl = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT;
    const auto demand = [&](Demand wish, uint64_t needed) -> bool {
        const bool possible = (offer.flags & needed) == needed;
        add_if(wish != Demand::kNever && possible, needed);
        return wish != Demand::kAlways || possible;
    };
    if (!demand(settings.posix_acl, kAcl) || !demand(settings.security_label, FUSE_SECURITY_CTX)) {
        return failure(EPROTO);
    }
    return InitAnswer{.minor = std::min(offer.minor, kMinorMax), .flags = flags & offer.flags};
}

}  // namespace outrigger::fs
