// SPDX-License-Identifier: Apache-2.0
// A share that moves to another process: files are found again by their paths below the root.
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/log.h"

#include "devices/fs/fs_server.h"
#include "devices/fs/name_search.h"

namespace outrigger::fs {
namespace {

/// Of what the guest has forgotten (--nfs-export): each takes some 15 us while the guest stands
/// still, and whoever made a state up has no more of them looked for.
constexpr size_t kForgottenMax = size_t{1} << 20;

/// And no longer on either side: the guest stands still meanwhile, and does without the rest.
constexpr auto kForgottenTime = std::chrono::seconds(2);

void log_late() {
    log(LogLevel::kInfo,
        "fs: not all that the guest has forgotten moves: finding it takes too long");
}

/// What the kernel calls the file of a descriptor; nothing when it has no such name any more.
std::optional<std::string> name_of(int proc_fd, int fd) {
    std::array<char, PATH_MAX + 1> text;
    const ssize_t bytes = ::readlinkat(proc_fd, FdName(fd).c_str(), text.data(), text.size());
    if (bytes <= 0 || static_cast<size_t>(bytes) == text.size()) {
        return std::nullopt;
    }
    return std::string(text.data(), static_cast<size_t>(bytes));
}

/// As a log may have it: anybody may have written the path.
std::string shown(std::string_view path) {
    constexpr size_t kShownMax = 256;
    std::string text(path.substr(0, kShownMax));
    std::ranges::replace_if(
        text, [](char letter) { return (letter >= 0 && letter < ' ') || letter == 0x7f; }, '?');
    return path.size() > kShownMax ? text + "..." : text;
}

}  // namespace

Result<void> check_agreed(const FsSettings& settings, uint64_t agreed) {
    struct Need {
        uint64_t flags;
        std::string_view option;
    };

    constexpr Need kNeeds[] = {
        {FUSE_WRITEBACK_CACHE, "--writeback"},
        {FUSE_HANDLE_KILLPRIV_V2, "--killpriv-v2"},
        {FUSE_POSIX_LOCKS, "--posix-lock"},
        {FUSE_FLOCK_LOCKS, "--flock"},
        {FUSE_EXPORT_SUPPORT, "--nfs-export"},
        {FUSE_POSIX_ACL, "--posix-acl"},
        {FUSE_SECURITY_CTX, "--security-label"},
        {FUSE_MAP_ALIGNMENT | FUSE_HAS_INODE_DAX, "--dax-window"},
    };
    // Whether the guest goes on with these costs nobody anything.
    constexpr uint64_t kHarmless = FUSE_CACHE_SYMLINKS | FUSE_DO_READDIRPLUS |
                                   FUSE_READDIRPLUS_AUTO | FUSE_SUBMOUNTS | FUSE_DONT_MASK |
                                   FUSE_SETXATTR_EXT | kInitDirectIoAllowMmap | kInitAllowIdmap;
    const auto possible =
        negotiate(settings, {.major = FUSE_KERNEL_VERSION, .minor = kMinorMax, .flags = agreed});
    if (!possible) {
        return failure(Error{.message = "the guest did not agree on what --posix-acl or "
                                        "--security-label demands here"});
    }
    const uint64_t lacking = agreed & ~possible->flags & ~kHarmless;
    for (const Need& need : kNeeds) {
        if ((lacking & need.flags) != 0) {
            return failure(
                Error{.message = fmt::format("the guest goes by {}, which this side does not have",
                                             need.option)});
        }
    }
    if (lacking != 0) {
        return failure(
            Error{.message = fmt::format("nobody agrees on the INIT flags {:#x}", lacking)});
    }
    return {};
}

/// Without a slash at its end.
std::string FsServer::root_path() const {
    std::string root = name_of(share_.proc_fd(), share_.root_fd()).value_or("/");
    if (root == "/") {
        root.clear();
    }
    return root;
}

/// From the root of the share; nothing where the file cannot be found there, because its name was
/// removed, or another file has it now.
std::optional<std::string> FsServer::path_of(int fd,
                                             const InodeKey& key,
                                             const std::string& root) const {
    auto path = name_of(share_.proc_fd(), fd);
    if (!path || !path->starts_with(root)) {
        return std::nullopt;
    }
    path->erase(0, root.size());
    if (!path->empty() && path->front() == '/') {
        path->erase(0, 1);
    }
    const auto found =
        path->empty() ? Result<UniqueFd, Errno>(failure(ENOENT)) : share_.pin_path(*path);
    const StatResult status =
        found ? stat_fd(found->get(), STATX_BASIC_STATS | STATX_MNT_ID) : failure(ENOENT);
    return status && key_of(*status) == key ? path : std::nullopt;
}

/// Those that are found by nothing, by number.
Result<std::vector<uint64_t>> FsServer::save_nodes(FsState& state, const std::string& root) const {
    const auto save_named = [&](const InodeRef& inode, std::string path) {
        if (state.nodes.bytes().size() <= kStateBytesMax) {  // more is of no use
            state.nodes.add({.id = inode.id(),
                             .lookups = inode->lookups.load(std::memory_order_relaxed),
                             .type = inode->type,
                             .path = std::move(path)});
        }
    };

    struct Nameless {
        uint64_t id;
        bool is_removed;
    };

    std::vector<WantedName> wanted;
    std::vector<Nameless> nameless;
    inodes_.for_each([&](InodeRef& inode) {
        if (inode.id() == InodeTable::kRootId ||
            inode->lookups.load(std::memory_order_relaxed) == 0) {
            return;
        }
        if (auto path =
                handles_.open(inode) ? path_of(inode->fd.get(), inode->key, root) : std::nullopt) {
            save_named(inode, *std::move(path));
            return;
        }
        const StatResult status =
            inode->fd.is_open() ? stat_fd(inode->fd.get(), STATX_NLINK) : failure(ESTALE);
        if (status && status->stx_nlink > 0 && inode->type != S_IFDIR) {
            wanted.push_back({.key = inode->key});
        }
        nameless.push_back({.id = inode.id(), .is_removed = status && status->stx_nlink == 0});
    });
    if (!wanted.empty()) {
        (void)find_names(share_, wanted, TimeLimit());  // the guest needs these
    }
    std::ranges::sort(wanted, {}, &WantedName::key);
    std::vector<uint64_t> left;
    for (const auto& [id, is_removed] : nameless) {
        const InodeRef inode = inodes_.find(id);
        const auto found = std::ranges::lower_bound(wanted, inode->key, {}, &WantedName::key);
        if (found != wanted.end() && found->key == inode->key && found->path) {
            save_named(inode, *found->path);
        } else if (is_removed && !inode->handle.is_empty() && inode->fd.is_open()) {
            const auto handle = inode->handle.all();
            state.removed.push_back({.id = id,
                                     .lookups = inode->lookups.load(std::memory_order_relaxed),
                                     .type = inode->type,
                                     .handle = {handle.begin(), handle.end()}});
        } else {
            left.push_back(id);
        }
    }
    if (state.nodes.bytes().size() > kStateBytesMax) {
        return failure(
            Error{.message = "the guest knows more files than a state can name (--inodes-max)"});
    }
    std::ranges::sort(left);
    return left;
}

/// As many as there is room for behind all that the guest needs to go on.
void FsServer::save_forgotten(FsState& state, const std::string& root) const {
    // For what the framework says beside the sections.
    constexpr size_t kSpareBytes = size_t{64} << 10;
    const size_t bytes = section_bytes(state) + kSpareBytes;
    const size_t room = kStateBytesMax - std::min(bytes, kStateBytesMax);
    // False: there is no room.
    const auto save_named = [&](const Inode& inode, uint64_t id, std::string path) {
        const auto handle = inode.handle.all();
        // The longest that a node's numbers can be.
        constexpr size_t kNumbersBytes = 32;
        if (state.forgotten.bytes().size() + kNumbersBytes + path.size() + handle.size() > room) {
            return false;
        }
        state.forgotten.add({.id = id,
                             .type = inode.type,
                             .path = std::move(path),
                             .handle = {handle.begin(), handle.end()}});
        return true;
    };
    std::vector<WantedName> wanted;
    std::vector<uint64_t> nameless;
    const TimeLimit limit(now_, kForgottenTime);
    for (const uint64_t id : inodes_.forgotten(kForgottenMax)) {
        if (limit.has_passed()) {
            log_late();
            return;  // no search for names, either
        }
        const InodeRef inode = inodes_.find(id);
        // By a descriptor of its own: nobody closes one of the inode's.
        const auto fd = inode ? handles_.pin(*inode) : failure(ESTALE);
        if (!fd) {
            continue;
        }
        if (auto path = path_of(fd->get(), inode->key, root)) {
            if (!save_named(*inode, id, *std::move(path))) {
                return;
            }
            continue;
        }
        const StatResult status = stat_fd(fd->get(), STATX_NLINK);
        if (status && status->stx_nlink > 0 && inode->type != S_IFDIR) {
            wanted.push_back({.key = inode->key});
            nameless.push_back(id);
        }
    }
    if (!wanted.empty() && !find_names(share_, wanted, limit)) {
        log_late();
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
        const InodeRef inode = inodes_.find(nameless[i]);
        if (inode && wanted[i].path && !save_named(*inode, nameless[i], *wanted[i].path)) {
            return;
        }
    }
}

Result<FsState> FsServer::save() const {
    if (agreed(FUSE_MAP_ALIGNMENT)) {
        return failure(Error{.message = "the guest uses a DAX window, and what is mapped there "
                                        "does not move (--dax-window=0)"});
    }
    const std::string root = root_path();
    FsState state{.initialized = initialized_.load(std::memory_order_relaxed),
                  .agreed = agreed_.load(std::memory_order_relaxed),
                  .node_generation = inodes_.newest_generation(),
                  .file_generation = files_.newest_generation()};
    const std::vector<uint64_t> left = OUTRIGGER_TRY(save_nodes(state, root));
    Result<void> outcome;
    files_.for_each([&](OpenFileRef& file) {
        const InodeRef inode = inodes_.find(file->node);
        if (!inode || std::ranges::binary_search(left, file->node)) {
            outcome = failure(Error{.message = "the guest has a file open that was moved out of "
                                               "the share, or removed, which moves by "
                                               "--inode-file-handles alone"});
        } else if (inode.id() != InodeTable::kRootId &&
                   inode->lookups.load(std::memory_order_relaxed) == 0) {
            // What was forgotten may be left out, here or there, and nobody opens a file without.
            outcome = failure(Error{.message = "the guest has a file open that it has forgotten"});
        }
        state.files.push_back(
            {.handle = file.id(), .node = file->node, .flags = static_cast<uint32_t>(file->flags)});
    });
    OUTRIGGER_TRY(std::move(outcome));
    if (!left.empty()) {
        log(LogLevel::kInfo,
            "fs: {} files that were removed, or are nowhere in the share, do not move",
            left.size());
    }
    state.locks = held_locks();
    save_forgotten(state, root);
    let_go_of_locks();
    const std::lock_guard lock(wanted_locks_mutex_);
    wanted_locks_ = state.locks;
    return state;
}

Result<void> FsServer::load(const FsState& state) {
    if ((state.agreed & FUSE_MAP_ALIGNMENT) != 0) {
        return failure(Error{.message = "the guest uses a DAX window, which does not move"});
    }
    if (state.initialized) {
        OUTRIGGER_TRY(check_agreed(settings_, state.agreed));
    }
    // All of it or nothing: what fails on the way leaves an empty table, as it was.
    reset();
    inodes_.set_remembers((state.agreed & FUSE_EXPORT_SUPPORT) != 0);
    Result<void> loaded = load_all(state);
    // Also for what was restored of a state that failed, so that its slots are free again.
    inodes_.finish_restoring(state.node_generation);
    files_.finish_restoring(state.file_generation);
    if (!loaded) {
        reset();
        return loaded;
    }
    agreed_.store(state.agreed, std::memory_order_relaxed);
    initialized_.store(state.initialized, std::memory_order_relaxed);
    if (keeper_ != nullptr) {
        keeper_->note_session({.initialized = state.initialized, .agreed = state.agreed});
    }
    return {};
}

Result<void> FsServer::load_all(const FsState& state) {
    // A little more than that where many were looked up at once.
    constexpr size_t kAtOnceMax = 1024;
    if (state.nodes.size() > settings_.inodes_max + kAtOnceMax) {
        return failure(Error{.message = "the guest knows more files than --inodes-max allows"});
    }
    const size_t count = state.files.size() + (handles_.are_used() ? 0 : state.nodes.size());
    if (!part_.has_room(held_count(), count)) {
        return failure(Error{.message = "the guest has more files than there are descriptors for"});
    }
    lost_count_ = 0;
    Result<void> outcome;
    state.nodes.for_each([&](const SavedNode& node) {
        outcome = load_node(node);
        return outcome.has_value();
    });
    OUTRIGGER_TRY(std::move(outcome));
    for (const SavedRemoved& node : state.removed) {
        OUTRIGGER_TRY(load_removed(node));
    }
    if ((state.agreed & FUSE_EXPORT_SUPPORT) != 0) {
        load_forgotten(state.forgotten);
    }
    if (lost_count_ > 0) {
        log(LogLevel::kWarning,
            "fs: {} files that the guest knows are not here, and it finds out by itself",
            lost_count_);
    }
    for (const SavedFile& file : state.files) {
        OUTRIGGER_TRY(load_file(file));
    }
    OUTRIGGER_TRY(check_locks(state.locks));
    const std::lock_guard lock(wanted_locks_mutex_);
    wanted_locks_ = state.locks;
    return {};
}

void FsServer::load_forgotten(const SavedNodes& nodes) {
    const TimeLimit limit(now_, kForgottenTime);
    size_t left = kForgottenMax;
    nodes.for_each([&](const SavedNode& node) {
        if (limit.has_passed()) {
            log_late();
            return false;
        }
        load_forgotten(node);
        return --left > 0 && inodes_.size() < settings_.inodes_max;
    });
}

Result<void> FsServer::load_node(const SavedNode& node) {
    if (node.lookups == 0) {
        return {};  // forgotten, of a build that knew no section for these: nobody needs it
    }
    return add_restored(node.id,
                        node.lookups,
                        node.type,
                        share_.pin_path(node.path),
                        "what the guest knows as '" + shown(node.path) + "'");
}

/// Of what the guest has forgotten (--nfs-export) whoever has its number yet is told ESTALE where
/// the name leads to nothing, to another file, or to one that the guest knows. The handle leads
/// nowhere: the name says that the file lies in the share.
void FsServer::load_forgotten(const SavedNode& node) {
    const auto wanted = FileHandle::from_bytes(node.handle);
    if (!wanted) {
        return;
    }
    const auto fd = share_.pin_path(node.path);
    const StatResult status = fd ? stat_fd(fd->get(), STATX_BASIC_STATS | STATX_MNT_ID)
                                 : StatResult(failure(Errno{fd.error()}));
    if (!status || (uint32_t{status->stx_mode} & uint32_t{S_IFMT}) != node.type) {
        return;
    }
    const InodeKey key = key_of(*status);
    auto handle = handles_.make(*fd, key, node.type);
    if (handle && handle->is_same(*wanted)) {
        (void)inodes_.restore(node.id, key, UniqueFd(), node.type, 0, *std::move(handle));
    }
}

Result<void> FsServer::load_removed(const SavedRemoved& node) {
    const auto handle = FileHandle::from_bytes(node.handle);
    return add_restored(node.id,
                        node.lookups,
                        node.type,
                        handle ? handles_.pin_removed(*handle) : failure(EINVAL),
                        "a file that was removed while the guest had it open");
}

/// The first by name: whoever made the state up may have lost millions.
void FsServer::log_missing(const Error& lost) {
    constexpr size_t kNamed = 8;
    if (lost_count_++ < kNamed) {
        log(LogLevel::kWarning, "fs: {}", lost.message);
    }
}

/// One inode, or why it is not there; which the guest finds out by itself, if the operator says so.
Result<void> FsServer::add_restored(uint64_t id,
                                    uint64_t lookups,
                                    uint32_t type,
                                    Result<UniqueFd, Errno> fd,
                                    const std::string& what) {
    InodeKey key{.mount = UINT64_MAX, .device = UINT64_MAX, .number = id};  // of a lost one
    Result<FileHandle, Errno> handle = FileHandle();
    Errno error = fd ? 0 : fd.error();
    if (error == 0) {
        const StatResult status = stat_fd(fd->get(), STATX_BASIC_STATS | STATX_MNT_ID);
        error = status ? 0 : status.error();
        if (status && (uint32_t{status->stx_mode} & uint32_t{S_IFMT}) != type) {
            error = ESTALE;
        }
        if (error == 0) {
            key = key_of(*status);
            handle = handles_.make(*fd, key, type);
            error = handle ? 0 : handle.error();
        }
    }
    if (error != 0) {
        Error lost = error_from_code(what + " is not here", error);
        if (!settings_.forgives_lost_files) {
            return failure(std::move(lost));
        }
        log_missing(lost);
        fd = UniqueFd();
    }
    if (lookups == 0 ||
        !inodes_.restore(
            id, key, *std::move(fd), type, lookups, handle ? *std::move(handle) : FileHandle())) {
        return failure(
            Error{.message = fmt::format("the node id {:#x} is impossible, or there twice", id)});
    }
    if (const InodeRef inode = inodes_.find(id); !inode->handle.is_empty()) {
        handles_.note_open(inode);
    }
    return {};
}

Result<void> FsServer::load_file(const SavedFile& saved) {
    const InodeRef inode = inodes_.find(saved.node);
    const auto flags = static_cast<int>(saved.flags);
    const bool is_directory = (flags & O_DIRECTORY) != 0;
    if (!inode || is_directory != (inode->type == S_IFDIR)) {
        return failure(Error{.message = "a file is open whose node is not there"});
    }
    Result<UniqueFd, Errno> fd = failure(ESTALE);
    if (const auto opened = handles_.open(inode); opened && inode->fd.is_open()) {
        fd = share_.reopen(inode->fd.get(), inode->type, flags);
    }
    if (!fd && !settings_.forgives_lost_files) {
        return failure(error_from_code("cannot open a file of the guest again", fd.error()));
    }
    const StatResult status = fd ? stat_fd(fd->get(), STATX_NLINK) : failure(ESTALE);
    inode->opens.fetch_add(1, std::memory_order_relaxed);
    if (!files_.restore(saved.handle,
                        {.fd = fd ? *std::move(fd) : UniqueFd(),
                         .node = saved.node,
                         .flags = flags,
                         .is_directory = is_directory,
                         .made_by = 0,
                         .has_no_name = status && status->stx_nlink == 0})) {
        return failure(Error{.message = "a handle is impossible, or there twice"});
    }
    return {};
}

/// They are taken when the first queue starts: until then the other process may have them.
Result<void> FsServer::check_locks(std::span<const SavedLock> locks) {
    for (const SavedLock& lock : locks) {
        const OpenFileRef file = files_.find(lock.handle);
        if (!file || file->node != lock.node || file->is_directory()) {
            return failure(Error{.message = "a lock of a file that is not open"});
        }
        if (lock.is_flock ? !settings_.flock : !settings_.posix_locks) {
            return failure(Error{.message = lock.is_flock
                                                ? "locks move where --flock is given"
                                                : "locks move where --posix-lock is given"});
        }
    }
    return {};
}

}  // namespace outrigger::fs
