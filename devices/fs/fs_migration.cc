// SPDX-License-Identifier: Apache-2.0
// A share that moves to another process: files are found again by their paths below the root.
#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/log.h"

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// What the kernel calls the file of a descriptor; nothing when it has no such name any more.
std::optional<std::string> name_of(int proc_fd, int fd) {
    std::array<char, PATH_MAX + 1> text;
    const ssize_t bytes = ::readlinkat(proc_fd, FdName(fd).c_str(), text.data(), text.size());
    if (bytes <= 0 || static_cast<size_t>(bytes) == text.size()) {
        return std::nullopt;
    }
    return std::string(text.data(), static_cast<size_t>(bytes));
}

}  // namespace

/// From the root of the share; nothing where the file cannot be found there, because its name was
/// removed, or another file has it now.
std::optional<std::string> FsServer::path_of(const Inode& inode, const std::string& root) const {
    auto path = name_of(share_.proc_fd(), inode.fd.get());
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
    return status && key_of(*status) == inode.key ? path : std::nullopt;
}

Result<FsState> FsServer::save() const {
    if (settings_.flock || lock_owners_.size() > 0) {
        return failure(Error{.message = "locks on the host's files cannot move with the guest"});
    }
    std::string root = name_of(share_.proc_fd(), share_.root_fd()).value_or("/");
    if (root == "/") {
        root.clear();
    }
    FsState state{.initialized = initialized_.load(std::memory_order_relaxed),
                  .agreed = agreed_.load(std::memory_order_relaxed),
                  .node_generation = inodes_.newest_generation(),
                  .file_generation = files_.newest_generation()};
    size_t removed_count = 0;
    inodes_.for_each([&](InodeRef& inode) {
        if (inode.id() == InodeTable::kRootId) {
            return;
        }
        if (auto path = handles_.open(inode) ? path_of(*inode, root) : std::nullopt) {
            state.nodes.push_back({.id = inode.id(),
                                   .lookups = inode->lookups.load(std::memory_order_relaxed),
                                   .type = inode->type,
                                   .path = *std::move(path)});
        } else {
            ++removed_count;
        }
    });
    std::ranges::sort(state.nodes, {}, &SavedNode::id);
    Result<void> outcome;
    files_.for_each([&](OpenFileRef& file) {
        const bool is_found =
            file->node == InodeTable::kRootId ||
            std::ranges::binary_search(state.nodes, file->node, {}, &SavedNode::id);
        if (!is_found) {
            outcome = failure(Error{.message = "the guest has a file open that was removed"});
        }
        state.files.push_back(
            {.handle = file.id(), .node = file->node, .flags = static_cast<uint32_t>(file->flags)});
    });
    OUTRIGGER_TRY(std::move(outcome));
    if (removed_count > 0) {
        log(LogLevel::kInfo,
            "fs: {} files that were removed, and that the guest has not forgotten, do not move",
            removed_count);
    }
    return state;
}

Result<void> FsServer::load(const FsState& state) {
    // All of it or nothing: what fails on the way leaves an empty table, as it was.
    reset();
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
    return {};
}

Result<void> FsServer::load_all(const FsState& state) {
    const size_t held = state.files.size() + (handles_.are_used() ? 0 : state.nodes.size());
    if (held >= settings_.descriptors_max - opened_by_handle_max_) {
        return failure(Error{.message = "the guest has more files than there are descriptors for"});
    }
    for (const SavedNode& node : state.nodes) {
        const auto lost = [&node](Errno error) {
            return failure(error_from_code(
                fmt::format("what the guest knows as '{}' is not here", node.path), error));
        };
        auto fd = share_.pin_path(node.path);
        if (!fd) {
            return lost(fd.error());
        }
        const StatResult status = stat_fd(fd->get(), STATX_BASIC_STATS | STATX_MNT_ID);
        if (!status) {
            return lost(status.error());
        }
        if ((uint32_t{status->stx_mode} & uint32_t{S_IFMT}) != node.type) {
            return lost(ESTALE);
        }
        const InodeKey key = key_of(*status);
        auto handle = handles_.make(*fd, key, node.type);
        if (!handle) {
            return lost(handle.error());
        }
        if (!inodes_.restore(
                node.id, key, *std::move(fd), node.type, node.lookups, *std::move(handle))) {
            return failure(Error{.message = fmt::format(
                                     "the node id {:#x} is impossible, or there twice", node.id)});
        }
        if (const InodeRef inode = inodes_.find(node.id); !inode->handle.is_empty()) {
            handles_.note_open(inode);
        }
    }
    for (const SavedFile& saved : state.files) {
        const auto inode = inode_of(saved.node);
        const auto flags = static_cast<int>(saved.flags);
        const bool is_directory = (flags & O_DIRECTORY) != 0;
        if (!inode || is_directory != ((*inode)->type == S_IFDIR)) {
            return failure(Error{.message = "a file is open whose node is not there"});
        }
        auto fd = share_.reopen((*inode)->fd.get(), (*inode)->type, flags);
        if (!fd) {
            return failure(error_from_code("cannot open a file of the guest again", fd.error()));
        }
        if (!files_.restore(saved.handle, *std::move(fd), saved.node, flags, is_directory)) {
            return failure(Error{.message = "a handle is impossible, or there twice"});
        }
    }
    return {};
}

}  // namespace outrigger::fs
