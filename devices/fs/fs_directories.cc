// SPDX-License-Identifier: Apache-2.0
// Directories: opening and listing them.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <span>
#include <utility>

#include <dirent.h>
#include <fcntl.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

constexpr std::array<std::byte, 8> kPadding{};

constexpr size_t padding_of(size_t bytes) {
    return FUSE_REC_ALIGN(bytes) - bytes;
}

}  // namespace

Verdict FsServer::opendir(Call& call) {
    OUTRIGGER_FS_TRY(parse_fixed<fuse_open_in>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    if (const OpenFileRef file = made_before(call)) {
        return answer_again(call, file, false);
    }
    OUTRIGGER_FS_TRY(reserve_descriptor());
    constexpr int kFlags = O_RDONLY | O_DIRECTORY;
    UniqueFd fd = OUTRIGGER_FS_TRY(share_.reopen(inode->fd.get(), inode->type, kFlags));
    return answer_open(call, std::move(fd), inode, kFlags);
}

/// False: it has no room any more.
bool FsServer::append_entry(ReplyWriter& reply, uint64_t room, const DirectoryEntry& entry) {
    fuse_dirent record{};
    record.ino = entry.number;
    record.off = entry.next;
    record.namelen = static_cast<uint32_t>(entry.name_bytes);
    record.type = entry.type;
    const size_t bytes = FUSE_NAME_OFFSET + entry.name_bytes;
    if (bytes + padding_of(bytes) > room) {
        return false;
    }
    (void)reply.append(std::as_bytes(std::span(&record, 1)).first(FUSE_NAME_OFFSET));
    (void)reply.append(std::as_bytes(std::span(entry.name, entry.name_bytes)));
    (void)reply.append(std::span(kPadding).first(padding_of(bytes)));
    return true;
}

/// False: it has no room any more. What cannot be looked up is listed all the same, without a node.
Result<bool, Errno> FsServer::append_entry_plus(ReplyWriter& reply,
                                                uint64_t room,
                                                const Asker& asker,
                                                const Inode& directory,
                                                NamesBase& base,
                                                const DirectoryEntry& entry) {
    const size_t bytes = FUSE_NAME_OFFSET_DIRENTPLUS + entry.name_bytes;
    if (bytes + padding_of(bytes) > room) {
        return false;
    }
    fuse_entry_out head{};
    if (const auto name = check_name({entry.name, entry.name_bytes})) {
        auto found = find_or_pin_from(base.take(), asker, directory, *name);
        if (found) {
            head = make_entry(directory, *found);
        } else if (found.error() == ENOENT) {
            return true;  // gone since it was listed
        }
    }
    (void)reply.append_object(head);
    (void)append_entry(reply, room - sizeof head, entry);
    return true;
}

Verdict FsServer::list(Call& call, bool plus) {
    auto args = OUTRIGGER_FS_TRY(parse_fixed<fuse_read_in>(call.body));
    OpenFileRef file = OUTRIGGER_FS_TRY(file_of(args.fh, call.header.node));
    InodeRef inode = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    if (!file->is_directory()) {
        return failed(ENOTDIR);
    }
    if (args.size > call.reply.room() || args.size > kReadBytesMax) {
        return failed(Malformed(EINVAL));
    }
    // A part of a listing is an answer, too.
    args.size = std::min(args.size, kTransferBytesMax);
    const Listing listing{
        .args = args, .asker = asker_of(call), .plus = plus, .patience = call.queue.patience()};
    DirectoryStream& stream = *file->directory;
    {
        const std::unique_lock lock(stream.mutex, std::try_to_lock);
        if (lock.owns_lock() && !stream.has_to_scan(args.offset)) {
            return list_from(call.reply, listing, *file, *inode);
        }
    }
    call.queue.defer(
        call,
        [this, listing, file = std::move(file), inode = std::move(inode)](ReplyWriter& reply) {
            // Its working directory is to be its own.
            if (!share_.adopt_thread()) {
                return failed(EIO);
            }
            const std::lock_guard lock(file->directory->mutex);
            return list_from(reply, listing, *file, *inode);
        });
    return Verdict::kLater;
}

/// With the lock of the file's stream.
Verdict FsServer::list_from(ReplyWriter& reply,
                            const Listing& listing,
                            const OpenFile& file,
                            const Inode& directory) {
    const Verdict verdict = list_entries(reply, listing, file, directory);
    file.directory->rest();
    return verdict;
}

Verdict FsServer::list_entries(ReplyWriter& reply,
                               const Listing& listing,
                               const OpenFile& file,
                               const Inode& directory) {
    DirectoryStream& stream = *file.directory;
    const auto found = stream.seek(file.fd.get(), listing.args.offset, listing.patience);
    if (!found) {
        return found.error() == ECANCELED ? Verdict::kGivenUp : failed(found.error());
    }
    const uint64_t end = reply.room() - listing.args.size;  // what the driver does not ask for
    NamesBase base(share_, directory.fd.get());
    bool is_first = true;
    while (true) {
        const auto current = stream.current(file.fd.get());
        if (!current) {
            // What is there already is not lost: the error comes with the next request.
            return is_first ? failed(current.error()) : Verdict::kAnswered;
        }
        if (*current == nullptr) {
            return Verdict::kAnswered;
        }
        DirectoryEntry entry = **current;
        if (file.node == InodeTable::kRootId && entry.name_bytes == 2 && entry.is_dots()) {
            entry.number = root_number_;  // what is above the share is nobody's business
        }
        const uint64_t room = reply.room() - end;
        const bool fits = listing.plus ? OUTRIGGER_FS_TRY(append_entry_plus(
                                             reply, room, listing.asker, directory, base, entry))
                                       : append_entry(reply, room, entry);
        if (!fits) {
            return is_first ? failed(EINVAL) : Verdict::kAnswered;
        }
        is_first = false;
        stream.advance();
    }
}

Verdict FsServer::readdir(Call& call) {
    return list(call, false);
}

Verdict FsServer::readdirplus(Call& call) {
    return list(call, true);
}

}  // namespace outrigger::fs
