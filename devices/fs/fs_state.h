// SPDX-License-Identifier: Apache-2.0
/// What of a share follows its guest to another process: what INIT agreed on, the node ids and
/// handles that the guest knows, and where their files are. Pure: bytes to values and back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/state/section.h"

#include "devices/fs/saved_nodes.h"

namespace outrigger::fs {

inline constexpr StateSectionKind kSessionSection{.id = 1, .name = "session"};
inline constexpr StateSectionKind kNodesSection{.id = 2, .name = "nodes", .version = 2};
inline constexpr StateSectionKind kFilesSection{.id = 3, .name = "files"};
inline constexpr StateSectionKind kRemovedSection{.id = 4, .name = "removed"};
inline constexpr StateSectionKind kLocksSection{.id = 5, .name = "locks"};
/// Who does not know it loses what the guest has forgotten.
inline constexpr StateSectionKind kForgottenSection{
    .id = 6, .name = "forgotten", .critical = false};

struct SavedFile {
    uint64_t handle = 0;
    uint64_t node = 0;
    uint32_t flags = 0;  ///< of open(): how it may be read and written, and how that waits

    friend bool operator==(const SavedFile&, const SavedFile&) = default;
};

/// A file without a name any more, which its file system finds by its handle.
struct SavedRemoved {
    uint64_t id = 0;
    uint64_t lookups = 0;
    uint32_t type = 0;
    std::vector<std::byte> handle{};

    friend bool operator==(const SavedRemoved&, const SavedRemoved&) = default;
};

/// Bytes that an owner has locked, or a whole file by flock().
struct SavedLock {
    uint64_t node = 0;
    uint64_t owner = 0;   ///< 0 for flock()
    uint64_t handle = 0;  ///< by which the file is open
    uint64_t start = 0;
    uint64_t end = 0;
    uint32_t pid = 0;   ///< in the guest
    uint32_t type = 0;  ///< F_RDLCK or F_WRLCK
    bool is_flock = false;

    friend bool operator==(const SavedLock&, const SavedLock&) = default;
};

struct FsState {
    bool initialized = false;
    uint64_t agreed = 0;           ///< flags of INIT
    uint32_t node_generation = 0;  ///< the newest that any node id has had
    uint32_t file_generation = 0;
    SavedNodes nodes{};  ///< without the root
    std::vector<SavedFile> files{};
    std::vector<SavedRemoved> removed{};
    std::vector<SavedLock> locks{};
    /// With --nfs-export, the one that was forgotten last first.
    SavedNodes forgotten = SavedNodes(SavedNodes::Kind::kForgotten);

    friend bool operator==(const FsState&, const FsState&) = default;
};

/// How long its sections are.
[[nodiscard]] size_t section_bytes(const FsState& state);

[[nodiscard]] std::vector<StateSection> write_fs_state(const FsState& state);

/// Anybody may have written the sections: paths that lead out of the share, ids of no slot, sizes
/// that lie are errors.
[[nodiscard]] Result<FsState> read_fs_state(std::span<const StateSection> sections);

}  // namespace outrigger::fs
