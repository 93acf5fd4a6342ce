// SPDX-License-Identifier: Apache-2.0
// Requests that must not be carried out twice. What tells whether an earlier process did is noted
// before (Intent) and looked at when the request comes again; the room's README says for each how.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "devices/fs/file_transfer.h"
#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_MNT_ID | STATX_BTIME;

/// Takes so many bytes away from the front.
void consume(std::span<iovec>& segments, uint64_t bytes) {
    while (!segments.empty() && bytes > 0) {
        iovec& first = segments.front();
        const uint64_t taken = std::min<uint64_t>(bytes, first.iov_len);
        first.iov_base = static_cast<std::byte*>(first.iov_base) + taken;
        first.iov_len -= taken;
        bytes -= taken;
        if (first.iov_len == 0) {
            segments = segments.subspan(1);
        }
    }
}

}  // namespace

/// What an earlier process had noted of it. Where that had not begun, it is a request like any.
void FsServer::begin_once(Call& call, bool notes) const {
    if (call.again) [[unlikely]] {
        const EarlierRun run = call.queue.earlier_run();
        call.again = run.progress == EarlierProgress::kIntent && run.bytes.size() == sizeof(Intent);
        if (call.again) {
            Intent noted;
            std::memcpy(&noted, run.bytes.data(), sizeof noted);
            call.request = noted.request;
            call.earlier = noted;
            return;
        }
    }
    if (notes) {
        const Intent begun{.request = call.request};
        call.queue.note_intent(std::as_bytes(std::span(&begun, 1)));
    }
}

std::optional<Intent> FsServer::earlier_intent(const Call& call) {
    return call.again && call.earlier && call.earlier->has_facts != 0 ? call.earlier : std::nullopt;
}

void FsServer::note_intent(Call& call, Intent facts) const {
    if (keeper_ != nullptr) {
        facts.request = call.request;
        facts.has_facts = 1;
        call.queue.note_intent(std::as_bytes(std::span(&facts, 1)));
    }
}

Intent FsServer::intent_of(const struct statx& status) {
    const InodeKey key = key_of(status);
    Intent intent{.device = key.device, .number = key.number};
    if ((status.stx_mask & STATX_BTIME) != 0) {
        intent.seconds = status.stx_btime.tv_sec;
        intent.nanoseconds = status.stx_btime.tv_nsec;
    }
    return intent;
}

/// A name is about to be made that may be there already: whether it was before this request began
/// tells who made it. (When it was made tells less: the clock that says so may be another host's.)
std::optional<Intent> FsServer::begin_making(Call& call,
                                             const Inode& parent,
                                             const Name& name) const {
    if (keeper_ == nullptr) {
        return std::nullopt;
    }
    const auto earlier = earlier_intent(call);
    if (!earlier) {
        const StatResult there = stat_name(parent.fd.get(), name.c_str(), STATX_TYPE);
        note_intent(call, {.count = !there && there.error() == ENOENT ? 1U : 0U});
    }
    return earlier;
}

/// What has the name now, which was free when an earlier process began with the request, may be
/// somebody else's, who came between.
bool FsServer::is_made(const Found& found, const Making& making) {
    const struct statx& status = found.status;
    const uint32_t type = uint32_t{status.stx_mode} & uint32_t{S_IFMT};
    if (type != making.type || status.stx_uid != making.maker ||
        (type != S_IFDIR && status.stx_nlink != 1)) {
        return false;
    }
    if (type == S_IFLNK) {
        std::array<char, PATH_MAX> target;
        const ssize_t bytes = ::readlinkat(found.inode->fd.get(), "", target.data(), target.size());
        return bytes >= 0 &&
               std::string_view(target.data(), static_cast<size_t>(bytes)) == making.target;
    }
    const bool is_device = type == S_IFCHR || type == S_IFBLK;
    return !is_device || ::makedev(status.stx_rdev_major, status.stx_rdev_minor) == making.device;
}

/// False: an earlier process has removed it, whoever has the name now.
bool FsServer::begin_removing(Call& call, const Inode& parent, const Name& name) {
    const StatResult status = stat_name(parent.fd.get(), name.c_str(), kStatMask);
    const auto earlier = earlier_intent(call);
    if (earlier &&
        (status ? !intent_of(*status).is_of_same_file(*earlier) : status.error() == ENOENT)) {
        return false;
    }
    if (status) {
        note_intent(call, intent_of(*status));
        keep_opened(*status);
    }
    return true;
}

/// False: an earlier process has moved it.
bool FsServer::begin_moving(Call& call, const Inode& from, const Inode& to, const Rename& wish) {
    const StatResult source = stat_name(from.fd.get(), wish.from.c_str(), kStatMask);
    const auto earlier = earlier_intent(call);
    if (earlier &&
        (source ? !intent_of(*source).is_of_same_file(*earlier) : source.error() == ENOENT)) {
        return false;
    }
    if (source) {
        note_intent(call, intent_of(*source));
    }
    const StatResult target = stat_name(to.fd.get(), wish.to.c_str(), kStatMask);
    if (target && (wish.flags & RENAME_EXCHANGE) == 0) {
        keep_opened(*target);
    }
    return true;
}

/// The last name of a file may go that the guest has open: from then on only the keeper's
/// descriptor brings it back.
void FsServer::keep_opened(const struct statx& status) {
    const InodeRef inode = inodes_.peek(key_of(status));
    if (!inode || inode->handle.is_empty()) {
        return;  // the keeper has a descriptor of the inode
    }
    if (status.stx_nlink <= 1 || inode->type == S_IFDIR) {
        // Before the look at who has it open: add_file() has it the other way around.
        inode->loses_name.store(true, std::memory_order_seq_cst);
    }
    // What is no regular file the guest may have open, or as its working directory, without a word.
    if (inode->type != S_IFREG && status.stx_nlink <= 2 && handles_.open(inode)) {
        inodes_.keep(inode);
    }
    if (inode->opens.load(std::memory_order_seq_cst) == 0) {
        return;
    }
    files_.for_each([&](OpenFileRef& file) {
        if (file->node == inode.id()) {
            files_.keep(file);
        }
    });
}

OpenFileRef FsServer::add_file(
    const Call& call, UniqueFd fd, const InodeRef& inode, int flags, bool has_no_name) {
    // Others are asked: their numbers, of which one may be another's by now, are known of no kind.
    const bool is_of_root = inode->key.device == root_device_;
    OpenFileRef file = files_.add({.fd = std::move(fd),
                                   .node = inode.id(),
                                   .flags = flags & ~O_TRUNC,  // that was done once
                                   .is_directory = (flags & O_DIRECTORY) == O_DIRECTORY,
                                   .made_by = call.request,
                                   .has_no_name = has_no_name,
                                   .kind = is_of_root ? root_kind_ : FileSystemKind{}});
    if (file && inode->key.device == writes_wait_on_.load(std::memory_order_relaxed)) {
        file->writes_wait.store(true, std::memory_order_relaxed);
    }
    if (file && window_ != nullptr && (flags & O_ACCMODE) != O_RDONLY) {
        inode->writers.fetch_add(1, std::memory_order_relaxed);
    }
    if (file && keeper_ != nullptr) {
        // Pairs with keep_opened(): one of the two sees what the other stored.
        inode->opens.fetch_add(1, std::memory_order_seq_cst);
        if (inode->loses_name.load(std::memory_order_seq_cst)) {
            files_.keep(file);
        }
    }
    return file;
}

Verdict FsServer::answer_again(Call& call, const OpenFileRef& file, bool with_entry) {
    if (!with_entry) {
        return call.reply.append_object(make_open(file)) ? Verdict::kAnswered : failed(EINVAL);
    }
    Found found;
    found.inode = OUTRIGGER_FS_TRY(inode_of(file->node));
    found.status = OUTRIGGER_FS_TRY(stat_fd(found.inode->fd.get(), kStatMask));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    if (call.reply.room() < sizeof(fuse_entry_out) + sizeof(fuse_open_out)) {
        return failed(EINVAL);
    }
    (void)call.reply.append_object(make_entry(*parent, found));
    (void)call.reply.append_object(make_open(file));
    return Verdict::kAnswered;
}

/// A range is about to come or to go, which changes the size. False: an earlier process did it.
bool FsServer::begin_shifting(Call& call, int fd) const {
    const StatResult status = stat_fd(fd, STATX_SIZE);
    if (!status) {
        return true;
    }
    const auto earlier = earlier_intent(call);
    if (earlier && earlier->size != status->stx_size) {
        return false;
    }
    note_intent(call, {.size = status->stx_size});
    return true;
}

/// How many of the bytes an earlier process has appended; takes them away from `segments`.
uint64_t FsServer::begin_appending(Call& call, const OpenFile& file, std::span<iovec>& segments) {
    const StatResult status = stat_fd(file.fd.get(), STATX_SIZE);
    if (!status) {
        return 0;
    }
    const auto earlier = earlier_intent(call);
    if (!earlier) {
        note_intent(call, {.size = status->stx_size});
        return 0;
    }
    const uint64_t done = appended_bytes(file, earlier->size, status->stx_size, segments);
    consume(segments, done);
    return done;
}

/// So many bytes of `segments` are what lies between `from` and `end`; 0 where somebody else wrote
/// there.
uint64_t FsServer::appended_bytes(const OpenFile& file,
                                  uint64_t from,
                                  uint64_t end,
                                  std::span<const iovec> segments) {
    const InodeRef inode = inodes_.find(file.node);
    if (!inode || !handles_.open(inode) || !inode->fd.is_open() || from >= end) {
        return 0;
    }
    const auto readable = share_.reopen(inode->fd.get(), inode->type, O_RDONLY);
    if (!readable) {
        return 0;
    }
    uint64_t same = 0;
    std::array<std::byte, 4096> found;
    for (const iovec& segment : segments) {
        for (size_t at = 0; at < segment.iov_len && from + same < end;) {
            const size_t wanted =
                std::min<uint64_t>({segment.iov_len - at, found.size(), end - from - same});
            // By the call that reads for the guest: the sandbox knows no other.
            iovec piece{.iov_base = found.data(), .iov_len = wanted};
            std::span<iovec> pieces(&piece, 1);
            const auto count =
                static_cast<size_t>(read_all(readable->get(), pieces, from + same, 0).done);
            if (count == 0 || std::memcmp(found.data(),
                                          static_cast<const std::byte*>(segment.iov_base) + at,
                                          count) != 0) {
                return 0;
            }
            same += count;
            at += count;
        }
    }
    return same;
}

}  // namespace outrigger::fs
