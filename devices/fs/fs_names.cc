// SPDX-License-Identifier: Apache-2.0
// Names: making, linking, renaming and removing them.
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS | STATX_MNT_ID;

/// The host's umask becomes the caller's until destruction: it knows whether a default ACL stands
/// in its place.
class ScopedUmask final {
  public:
    ScopedUmask(bool wanted, uint32_t mask) : wanted_(wanted && mask != 0) {
        if (wanted_) {
            ::umask(static_cast<mode_t>(mask & 0777));
        }
    }

    ScopedUmask(const ScopedUmask&) = delete;
    ScopedUmask& operator=(const ScopedUmask&) = delete;

    ~ScopedUmask() {
        if (wanted_) {
            ::umask(0);
        }
    }

  private:
    const bool wanted_;
};

}  // namespace

/// Root of the guest may do what root does, whoever that is here. And access lists are looked at by
/// the guest: it names one group of the user's, and lists name others.
bool FsServer::is_checked_by_host(const Call& call) const {
    return agreed(kInitCreateSuppGroup) && call.header.uid != 0 && !agreed(FUSE_POSIX_ACL);
}

Result<GuestUser, Errno> FsServer::user_of(const Call& call, const Extensions& extensions) const {
    // The kernel of the guest says -1 where it does not say who it is.
    if (call.header.uid == UINT32_MAX || call.header.gid == UINT32_MAX ||
        extensions.group == UINT32_MAX) {
        return failure(EINVAL);
    }
    GuestUser user{.uid = OUTRIGGER_TRY(settings_.uids.to_host(call.header.uid)),
                   .gid = OUTRIGGER_TRY(settings_.gids.to_host(call.header.gid)),
                   .group = {},
                   .checks_access = is_checked_by_host(call)};
    if (extensions.group) {
        user.group = OUTRIGGER_TRY(settings_.gids.to_host(*extensions.group));
    }
    return user;
}

Verdict FsServer::finish_creation(Call& call,
                                  const Inode& parent,
                                  const Name& name,
                                  const Extensions& extensions,
                                  const Making& making) {
    // What is new the guest does not know. What an earlier process made it may.
    const Found found = OUTRIGGER_FS_TRY(call.again ? find_or_pin(asker_of(call), parent, name)
                                                    : pin_found(asker_of(call), parent, name));
    if (making.was_there && !is_made(found, making)) {
        inodes_.take_back(found.inode.id());
        return failed(EEXIST);
    }
    if (const Errno error = label(*found.inode, extensions); error != 0) {
        inodes_.take_back(found.inode.id());
        if (!making.was_there) {  // or it may be somebody else's, for all that is known
            (void)::unlinkat(
                parent.fd.get(), name.c_str(), found.inode->type == S_IFDIR ? AT_REMOVEDIR : 0);
        }
        return failed(error);
    }
    return answer_entry(call, make_entry(parent, found));
}

Verdict FsServer::mkdir(Call& call) {
    const auto wish = OUTRIGGER_FS_TRY(parse_mkdir(call.body, form_of(call.header)));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    OUTRIGGER_FS_TRY(reserve_inode());
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, wish.extensions));
    const auto earlier = begin_making(call, *parent, wish.name);
    Errno error = 0;
    {
        const ScopedUser as(capabilities_, user);
        if (!as.holds()) {
            return failed(EOVERFLOW);
        }
        const ScopedUmask mask(agreed(FUSE_DONT_MASK), wish.args.umask);
        if (::mkdirat(parent->fd.get(), wish.name.c_str(), wish.args.mode & 07777) != 0) {
            error = errno;
        }
    }
    if (error != 0 && (error != EEXIST || !was_free(earlier))) {
        return failed(error);
    }
    return finish_creation(call,
                           *parent,
                           wish.name,
                           wish.extensions,
                           {.type = S_IFDIR, .maker = maker_of(user), .was_there = error != 0});
}

Verdict FsServer::mknod(Call& call) {
    const auto wish = OUTRIGGER_FS_TRY(parse_mknod(call.body, form_of(call.header)));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    OUTRIGGER_FS_TRY(reserve_inode());
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, wish.extensions));
    const auto earlier = begin_making(call, *parent, wish.name);
    Errno error = 0;
    {
        const ScopedUser as(capabilities_, user);
        if (!as.holds()) {
            return failed(EOVERFLOW);
        }
        const ScopedUmask mask(agreed(FUSE_DONT_MASK), wish.args.umask);
        if (::mknodat(parent->fd.get(),
                      wish.name.c_str(),
                      wish.args.mode,
                      decode_device(wish.args.rdev)) != 0) {
            error = errno;
        }
    }
    const uint32_t type = (wish.args.mode & S_IFMT) != 0 ? wish.args.mode & S_IFMT : S_IFREG;
    if (error != 0 && (error != EEXIST || !was_free(earlier))) {
        return failed(error);
    }
    return finish_creation(call,
                           *parent,
                           wish.name,
                           wish.extensions,
                           {.type = type,
                            .maker = maker_of(user),
                            .device = decode_device(wish.args.rdev),
                            .was_there = error != 0});
}

Verdict FsServer::symlink(Call& call) {
    const Symlink wish = OUTRIGGER_FS_TRY(parse_symlink(call.body, form_of(call.header)));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    OUTRIGGER_FS_TRY(reserve_inode());
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, wish.extensions));
    const auto earlier = begin_making(call, *parent, wish.name);
    Errno error = 0;
    {
        const ScopedUser as(capabilities_, user);
        if (!as.holds()) {
            return failed(EOVERFLOW);
        }
        if (::symlinkat(wish.target, parent->fd.get(), wish.name.c_str()) != 0) {
            error = errno;
        }
    }
    if (error != 0 && (error != EEXIST || !was_free(earlier))) {
        return failed(error);
    }
    return finish_creation(
        call,
        *parent,
        wish.name,
        wish.extensions,
        {.type = S_IFLNK, .maker = maker_of(user), .target = wish.target, .was_there = error != 0});
}

Verdict FsServer::link(Call& call) {
    const auto wish = OUTRIGGER_FS_TRY(parse_link(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(wish.args.oldnodeid));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    if (inode->type == S_IFDIR) {
        return failed(EPERM);
    }
    const auto earlier = begin_making(call, *parent, wish.name);
    if (::linkat(share_.proc_fd(),
                 FdName(inode->fd.get()).c_str(),
                 parent->fd.get(),
                 wish.name.c_str(),
                 AT_SYMLINK_FOLLOW) != 0) {
        const Errno error = errno;
        const auto there = stat_name(parent->fd.get(), wish.name.c_str(), kStatMask);
        if (error != EEXIST || !earlier || earlier->count == 0 || !there ||
            key_of(*there) != inode->key) {
            return failed(error);
        }
    }
    return look_up_and_answer(call, *parent, wish.name);
}

Verdict FsServer::remove(Call& call, int flags) {
    const Name name = OUTRIGGER_FS_TRY(parse_name(call.body));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    if (keeper_ != nullptr && !begin_removing(call, *parent, name)) {
        return Verdict::kAnswered;
    }
    return ::unlinkat(parent->fd.get(), name.c_str(), flags) == 0 ? Verdict::kAnswered
                                                                  : failed(errno);
}

Verdict FsServer::unlink(Call& call) {
    return remove(call, 0);
}

Verdict FsServer::rmdir(Call& call) {
    return remove(call, AT_REMOVEDIR);
}

Verdict FsServer::move(Call& call, const Rename& wish) {
    const InodeRef from = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    const InodeRef to = OUTRIGGER_FS_TRY(directory_of(wish.new_parent));
    if (keeper_ != nullptr && !begin_moving(call, *from, *to, wish)) {
        return Verdict::kAnswered;
    }
    // Not by the C library, which makes another call of it where there are no flags.
    return ::syscall(SYS_renameat2,
                     from->fd.get(),
                     wish.from.c_str(),
                     to->fd.get(),
                     wish.to.c_str(),
                     wish.flags) == 0
               ? Verdict::kAnswered
               : failed(errno);
}

Verdict FsServer::rename(Call& call) {
    const Rename wish = OUTRIGGER_FS_TRY(parse_rename(call.body, false));
    return move(call, wish);
}

Verdict FsServer::rename2(Call& call) {
    const Rename wish = OUTRIGGER_FS_TRY(parse_rename(call.body, true));
    return move(call, wish);
}

Verdict FsServer::answer_creation(
    Call& call, const Inode& parent, Found found, UniqueFd fd, int flags, bool has_no_name) {
    if (call.reply.room() < sizeof(fuse_entry_out) + sizeof(fuse_open_out)) {
        inodes_.take_back(found.inode.id());
        return failed(EINVAL);
    }
    const OpenFileRef file = add_file(call, std::move(fd), found.inode, flags, has_no_name);
    if (!file) {
        inodes_.take_back(found.inode.id());
        return failed(ENFILE);
    }
    (void)call.reply.append_object(make_entry(parent, found));
    (void)call.reply.append_object(make_open(file));
    return Verdict::kAnswered;
}

/// Opens what CREATE has found in the place of what it was to make. The guest has not looked
/// whether its user may, and takes our word for it.
Result<UniqueFd, Errno> FsServer::open_for(const Call& call,
                                           const GuestUser& user,
                                           const Found& found,
                                           const fuse_create_in& wish) {
    const int flags = OUTRIGGER_TRY(host_flags(wish.flags));
    const ScopedUser as(capabilities_,
                        GuestUser{.uid = user.uid,
                                  .gid = user.gid,
                                  .group = user.group,
                                  .checks_access = call.header.uid != 0});
    if (!as.holds()) {
        return failure(EOVERFLOW);
    }
    // Anybody else has lost CAP_FSETID already.
    const ScopedWithoutFsetid killing(
        capabilities_, user.uid == 0 && (wish.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0);
    return share_.reopen(found.inode->fd.get(), found.inode->type, flags);
}

Verdict FsServer::create(Call& call) {
    const auto wish = OUTRIGGER_FS_TRY(parse_create(call.body, form_of(call.header)));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    const int flags = OUTRIGGER_FS_TRY(host_flags(wish.args.flags));
    OUTRIGGER_FS_TRY(reserve_inode());
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, wish.extensions));
    if (const OpenFileRef file = made_before(call)) {
        return answer_again(call, file, true);
    }
    const auto earlier = begin_making(call, *parent, wish.name);
    UniqueFd fd;
    int error = 0;
    {
        const ScopedUser as(capabilities_, user);
        if (!as.holds()) {
            return failed(EOVERFLOW);
        }
        const ScopedUmask mask(agreed(FUSE_DONT_MASK), wish.args.umask);
        fd = UniqueFd(::openat(parent->fd.get(),
                               wish.name.c_str(),
                               flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                               wish.args.mode & 07777));
        error = errno;
    }
    const bool is_new = fd.valid();
    if (!is_new && error == EEXIST && was_free(earlier)) {
        // By this request, whose process was killed: so its user may have it open, as from there.
        // Unless it is somebody else's, who came between: then it is one that was found.
        const Found made = OUTRIGGER_FS_TRY(find_or_pin(asker_of(call), *parent, wish.name));
        if (is_made(made, {.type = S_IFREG, .maker = maker_of(user)})) {
            auto opened = share_.reopen(made.inode->fd.get(), made.inode->type, flags);
            inodes_.take_back(made.inode.id());
            fd = OUTRIGGER_FS_TRY(std::move(opened));
        } else {
            inodes_.take_back(made.inode.id());
        }
    }
    if (!fd.valid() && error == EEXIST && (wish.args.flags & O_EXCL) == 0) {
        // It was made on the host meanwhile, and may be anything.
        Found found = OUTRIGGER_FS_TRY(find_or_pin(asker_of(call), *parent, wish.name));
        auto opened = open_for(call, user, found, wish.args);
        if (!opened) {
            inodes_.take_back(found.inode.id());
            return failed(opened.error());
        }
        return answer_creation(call, *parent, std::move(found), *std::move(opened), flags);
    }
    if (!fd.valid()) {
        return failed(error);
    }
    auto found = pin_opened(asker_of(call), fd);
    if (found) {
        error = label(*found->inode, wish.extensions);
        if (error == 0) {
            return answer_creation(call, *parent, *std::move(found), std::move(fd), flags);
        }
        inodes_.take_back(found->inode.id());
    } else {
        error = found.error();
    }
    if (is_new) {
        (void)::unlinkat(parent->fd.get(), wish.name.c_str(), 0);
    }
    return failed(error);
}

Verdict FsServer::tmpfile(Call& call) {
    const Tmpfile wish = OUTRIGGER_FS_TRY(parse_tmpfile(call.body, form_of(call.header)));
    const InodeRef parent = OUTRIGGER_FS_TRY(directory_of(call.header.node));
    const int flags = OUTRIGGER_FS_TRY(host_flags(wish.args.flags));
    OUTRIGGER_FS_TRY(reserve_inode());
    const GuestUser user = OUTRIGGER_FS_TRY(user_of(call, wish.extensions));
    if (const OpenFileRef file = made_before(call)) {
        return answer_again(call, file, true);
    }
    if (call.again) {
        // The earlier process may have made one that it did not come to open for the guest.
        inodes_.take_back_all(call.request);
    }
    UniqueFd fd;
    {
        const ScopedUser as(capabilities_, user);
        if (!as.holds()) {
            return failed(EOVERFLOW);
        }
        const ScopedUmask mask(agreed(FUSE_DONT_MASK), wish.args.umask);
        // With O_EXCL nobody could link it into the share later.
        const int excluding = static_cast<int>(wish.args.flags) & O_EXCL;
        fd = UniqueFd(::openat(parent->fd.get(),
                               ".",
                               (flags & ~O_TRUNC) | excluding | O_TMPFILE | O_CLOEXEC,
                               wish.args.mode & 07777));
        if (!fd.valid()) {
            return failed(errno);
        }
    }
    Found found = OUTRIGGER_FS_TRY(pin_opened(asker_of(call), fd));
    if (const Errno error = label(*found.inode, wish.extensions); error != 0) {
        inodes_.take_back(found.inode.id());
        return failed(error);
    }
    return answer_creation(call, *parent, std::move(found), std::move(fd), flags, true);
}

}  // namespace outrigger::fs
