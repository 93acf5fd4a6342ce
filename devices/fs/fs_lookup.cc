// SPDX-License-Identifier: Apache-2.0
// Nodes: looking them up, by name and by number, and forgetting them.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_MNT_ID;

uint32_t type_of(const struct statx& status) {
    return uint32_t{status.stx_mode} & uint32_t{S_IFMT};
}

}  // namespace

/// `base` leads to the same directory as `parent`.
Result<FsServer::Found, Errno> FsServer::find_or_pin_from(int base,
                                                          const Asker& asker,
                                                          const Inode& parent,
                                                          const Name& name) {
    // A file that the guest knows is not opened again: what its number says is true as long as the
    // table holds it open.
    Result<Found, Errno> found(std::in_place);  // the one that is returned: nothing is copied
    const struct statx& status = found->status;
    if (const auto read = read_status(base, name.c_str(), kStatMask, found->status); !read)
        [[unlikely]] {
        found = failure(Errno{read.error()});
        return found;
    }
    Asker one = asker;
    // A listing counts a file for each of its names: who of them an earlier process had counted
    // nobody knows, and one too many does less harm than one too few.
    one.again = one.again && (status.stx_nlink == 1 || type_of(status) == S_IFDIR);
    found->inode = inodes_.look_up(key_of(status), one);
    if (!found->inode) {
        found = pin_found(one, parent, name);
    }
    return found;
}

Result<FsServer::Found, Errno> FsServer::pin_found(const Asker& asker,
                                                   const Inode& parent,
                                                   const Name& name) {
    OUTRIGGER_TRY(reserve_inode());
    return add(asker, OUTRIGGER_TRY(share_.pin(parent.fd.get(), name)));
}

/// What a descriptor of ours has open, by a second one, which keeps no file open for writing. Not
/// by its name: somebody on the host may have moved another file there meanwhile.
Result<FsServer::Found, Errno> FsServer::pin_opened(const Asker& asker, const UniqueFd& fd) {
    return add(asker, OUTRIGGER_TRY(share_.pin_again(fd.get())));
}

Result<FsServer::Found, Errno> FsServer::add(const Asker& asker, UniqueFd fd) {
    Result<Found, Errno> found(std::in_place);  // the one that is returned, as above
    if (const auto read = read_pinned_status(fd.get(), kStatMask, found->status); !read) {
        found = failure(Errno{read.error()});
        return found;
    }
    const InodeKey key = key_of(found->status);
    const uint32_t type = type_of(found->status);
    FileHandle handle = OUTRIGGER_TRY(handles_.make(fd, key, type));
    const bool has_handle = !handle.is_empty();
    found->inode = inodes_.look_up_or_add(key, fd, type, std::move(handle), asker);
    if (!found->inode) {
        found = failure(ENFILE);
    } else if (has_handle && !fd.valid()) {
        handles_.note_open(found->inode);  // which has taken it
    }
    return found;
}

fuse_entry_out FsServer::make_entry(const Inode& parent, const Found& found) const {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(settings_.timeout);
    fuse_entry_out entry{};
    entry.nodeid = found.inode.id();
    entry.entry_valid = static_cast<uint64_t>(seconds.count());
    entry.attr_valid = entry.entry_valid;
    entry.entry_valid_nsec = static_cast<uint32_t>((settings_.timeout - seconds).count());
    entry.attr_valid_nsec = entry.entry_valid_nsec;
    entry.attr = make_attr(found.status);
    if (agreed(FUSE_SUBMOUNTS) && found.inode->type == S_IFDIR &&
        found.inode->key.mount != parent.key.mount) {
        entry.attr.flags |= FUSE_ATTR_SUBMOUNT;
    }
    return entry;
}

Verdict FsServer::answer_entry(Call& call, const fuse_entry_out& entry) {
    if (call.reply.append_object(entry)) {
        return Verdict::kAnswered;
    }
    inodes_.take_back(entry.nodeid);
    return failed(EINVAL);
}

Verdict FsServer::look_up_and_answer(Call& call, const Inode& parent, const Name& name) {
    const Found found = OUTRIGGER_FS_TRY(find_or_pin(asker_of(call), parent, name));
    return answer_entry(call, make_entry(parent, found));
}

/// A file server in the guest asks for what it knows by number alone: "." is the file itself, of
/// whatever type, and ".." the directory that it lies in, which for the root is the root.
Verdict FsServer::look_up_by_number(Call& call, bool wants_parent) {
    Found found;
    found.inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    if (wants_parent && call.header.node != InodeTable::kRootId) {
        if (found.inode->type != S_IFDIR) {
            return failed(ENOTDIR);
        }
        const auto path = path_of(found.inode->fd.get(), found.inode->key, root_path());
        if (!path) {
            return failed(ESTALE);  // it is not in the share any more
        }
        const size_t slash = path->rfind('/');
        OUTRIGGER_FS_TRY(reserve_inode());
        auto pinned = slash == std::string::npos ? Result<UniqueFd, Errno>(share_.duplicate_root())
                                                 : share_.pin_path(path->substr(0, slash));
        UniqueFd above = OUTRIGGER_FS_TRY(std::move(pinned));
        found = OUTRIGGER_FS_TRY(add(asker_of(call), std::move(above)));
    } else {
        found.status = OUTRIGGER_FS_TRY(stat_fd(found.inode->fd.get(), kStatMask));
        if (found.status.stx_nlink == 0) {
            return failed(ESTALE);  // as of any file system: who has it open does not ask
        }
        if (!inodes_.look_up_again(found.inode, asker_of(call))) {
            return failed(ESTALE);
        }
    }
    return answer_entry(call, make_entry(*found.inode, found));
}

Verdict FsServer::look_up(Call& call) {
    if (const auto dots = agreed(FUSE_EXPORT_SUPPORT) ? parse_dots(call.body) : std::nullopt) {
        return look_up_by_number(call, *dots == Dots::kParent);
    }
    const Name name = OUTRIGGER_FS_TRY(parse_name(call.body));
    InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    auto found = find_or_pin(asker_of(call), *parent, name);
    if (found) {
        const fuse_entry_out entry = make_entry(*parent, *found);
        // Before the answer, as in getattr().
        found->inode.release();
        parent.release();
        return answer_entry(call, entry);
    }
    if (found.error() == ENOENT && settings_.cache == CachePolicy::kAlways) {
        // An entry without a node: the guest remembers that there is none.
        fuse_entry_out entry{};
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(settings_.timeout);
        entry.entry_valid = static_cast<uint64_t>(seconds.count());
        return call.reply.append_object(entry) ? Verdict::kAnswered : failed(EINVAL);
    }
    return failed(found.error());
}

void FsServer::forget(uint64_t node, uint64_t count, SlowClose& slow) {
    if (const InodeRef gone = inodes_.forget(node, count); gone && gone->type == S_IFREG) {
        slow.take(gone->fd.get());
    }
}

/// The queue of high priority, which all others wait for, waits for no disk.
Verdict FsServer::close_later(Call& call, SlowClose slow, Verdict verdict) {
    if (slow.is_empty()) {
        return verdict;
    }
    call.queue.defer(call, [slow = std::move(slow), verdict](ReplyWriter& /*reply*/) mutable {
        slow.close();
        return verdict;
    });
    return Verdict::kLater;
}

Verdict FsServer::forget(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_forget_in>(call.body));
    if (!earlier_intent(call)) {
        note_intent(call, {});
        SlowClose slow(slow_closes_);
        forget(call.header.node, args.nlookup, slow);
        return close_later(call, std::move(slow), Verdict::kSilent);
    }
    return Verdict::kSilent;
}

Verdict FsServer::batch_forget(Call& call) {
    const auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_batch_forget_in>(call.body));
    constexpr size_t kBatch = 64;
    // As many as fit the longest request; whoever says more is not believed, and holds up nobody.
    constexpr size_t kForgetsMax = kTransferBytesMax / sizeof(fuse_forget_one);
    std::array<fuse_forget_one, kBatch> batch;
    size_t left = std::min<size_t>(args.count, kForgetsMax);
    // An earlier process forgot so many: at most the last of them it did not.
    const Intent earlier = earlier_intent(call).value_or(Intent{});
    Intent progress;
    SlowClose slow(slow_closes_);
    while (left > 0) {
        const size_t count = std::min(left, kBatch);
        const auto wanted = std::as_writable_bytes(std::span(batch).first(count));
        // Fewer than the driver said: the chain, which has an end, has come to it.
        const size_t whole = call.queue.read_more(wanted) / sizeof(fuse_forget_one);
        for (const fuse_forget_one& one : std::span(batch).first(whole)) {
            if (++progress.count > earlier.count) {
                note_intent(call, progress);
                forget(one.nodeid, one.nlookup, slow);
            }
        }
        if (whole < count) {
            break;
        }
        left -= count;
    }
    return close_later(call, std::move(slow), Verdict::kSilent);
}

}  // namespace outrigger::fs
