// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_state.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {
namespace {

// Version 1 of each section, but for the nodes. Fields that come to one make a new version, and
// this one is read, too.

struct SessionRecord {
    Le32 initialized;
    Le32 node_generation;
    Le32 file_generation;
    Le32 reserved;
    Le64 agreed;
};

/// Of version 1. The path follows, without an end of its own.
struct NodeRecord {
    Le64 id;
    Le64 lookups;
    Le32 type;
    Le32 path_bytes;
};

struct FileRecord {
    Le64 handle;
    Le64 node;
    Le32 flags;
    Le32 reserved;
};

/// The handle follows.
struct RemovedRecord {
    Le64 id;
    Le64 lookups;
    Le32 type;
    Le32 handle_bytes;
};

struct LockRecord {
    Le64 node;
    Le64 owner;
    Le64 handle;
    Le64 start;
    Le64 end;
    Le32 pid;
    Le32 type;
    Le32 is_flock;
    Le32 reserved;
};

static_assert(sizeof(RemovedRecord) == 24 && sizeof(LockRecord) == 56);
static_assert(sizeof(SessionRecord) == 24 && sizeof(NodeRecord) == 24 && sizeof(FileRecord) == 24);

template <class T>
void append(std::vector<std::byte>& bytes, const T& record) {
    const auto more = std::as_bytes(std::span(&record, 1));
    bytes.insert(bytes.end(), more.begin(), more.end());
}

Error damaged(const StateSection& section) {
    return Error{.message = describe(section) + ", is damaged"};
}

Result<void> read_first_nodes(const StateSection& section, FsState& state) {
    BodyReader reader(section.bytes);
    while (!reader.at_end()) {
        const auto record = reader.take<NodeRecord>();
        const auto path = record ? reader.take_bytes(record->path_bytes) : std::nullopt;
        if (!path || path->size() >= PATH_MAX) {
            return failure(damaged(section));
        }
        SavedNode node{.id = record->id, .lookups = record->lookups, .type = record->type};
        node.path.resize(path->size());
        std::memcpy(node.path.data(), path->data(), path->size());
        if (!is_file_type(node.type) || !is_beneath(node.path)) {
            return failure(damaged(section));
        }
        state.nodes.add(node);
    }
    return {};
}

Result<void> read_nodes(const StateSection& section, FsState& state) {
    if (section.version == 1) {
        return read_first_nodes(section, state);
    }
    auto nodes = SavedNodes::parse(section.bytes);
    if (!nodes) {
        return failure(damaged(section));
    }
    state.nodes = *std::move(nodes);
    return {};
}

Result<void> read_files(const StateSection& section, FsState& state) {
    BodyReader reader(section.bytes);
    constexpr uint32_t kFlags = O_ACCMODE | O_DIRECTORY | O_DIRECT | O_DSYNC | O_SYNC | O_NOATIME;
    while (!reader.at_end()) {
        const auto record = reader.take<FileRecord>();
        if (!record || (record->flags & ~kFlags) != 0 || record->reserved != 0) {
            return failure(damaged(section));
        }
        state.files.push_back(
            {.handle = record->handle, .node = record->node, .flags = record->flags});
    }
    return {};
}

Result<void> read_removed(const StateSection& section, FsState& state) {
    BodyReader reader(section.bytes);
    while (!reader.at_end()) {
        const auto record = reader.take<RemovedRecord>();
        const auto handle = record ? reader.take_bytes(record->handle_bytes) : std::nullopt;
        if (!handle || !is_file_type(record->type)) {
            return failure(damaged(section));
        }
        state.removed.push_back({.id = record->id,
                                 .lookups = record->lookups,
                                 .type = record->type,
                                 .handle = {handle->begin(), handle->end()}});
    }
    return {};
}

Result<void> read_forgotten(const StateSection& section, FsState& state) {
    auto nodes = SavedNodes::parse(section.bytes, SavedNodes::Kind::kForgotten);
    if (!nodes) {
        return failure(damaged(section));
    }
    state.forgotten = *std::move(nodes);
    return {};
}

Result<void> read_locks(const StateSection& section, FsState& state) {
    BodyReader reader(section.bytes);
    while (!reader.at_end()) {
        const auto record = reader.take<LockRecord>();
        if (!record || record->is_flock > 1 || record->reserved != 0 ||
            record->start > record->end || record->end > INT64_MAX ||
            (record->type != F_RDLCK && record->type != F_WRLCK)) {
            return failure(damaged(section));
        }
        state.locks.push_back({.node = record->node,
                               .owner = record->owner,
                               .handle = record->handle,
                               .start = record->start,
                               .end = record->end,
                               .pid = record->pid,
                               .type = record->type,
                               .is_flock = record->is_flock == 1});
    }
    return {};
}

/// These sections are there only when they have something to say: builds without them read the
/// rest.
void write_rest(const FsState& state, std::vector<StateSection>& sections) {
    std::vector<std::byte> removed;
    for (const SavedRemoved& one : state.removed) {
        append(removed,
               RemovedRecord{.id = one.id,
                             .lookups = one.lookups,
                             .type = one.type,
                             .handle_bytes = static_cast<uint32_t>(one.handle.size())});
        removed.insert(removed.end(), one.handle.begin(), one.handle.end());
    }
    if (!removed.empty()) {
        sections.push_back(make_section(kRemovedSection, removed));
    }
    std::vector<std::byte> locks;
    for (const SavedLock& lock : state.locks) {
        append(locks,
               LockRecord{.node = lock.node,
                          .owner = lock.owner,
                          .handle = lock.handle,
                          .start = lock.start,
                          .end = lock.end,
                          .pid = lock.pid,
                          .type = lock.type,
                          .is_flock = lock.is_flock ? 1U : 0U,
                          .reserved = 0U});
    }
    if (!locks.empty()) {
        sections.push_back(make_section(kLocksSection, locks));
    }
    if (!state.forgotten.is_empty()) {
        sections.push_back(make_section(kForgottenSection, state.forgotten.bytes()));
    }
}

}  // namespace

size_t section_bytes(const FsState& state) {
    size_t bytes = sizeof(SessionRecord) + state.nodes.bytes().size() +
                   state.files.size() * sizeof(FileRecord) +
                   state.locks.size() * sizeof(LockRecord) + state.forgotten.bytes().size();
    for (const SavedRemoved& one : state.removed) {
        bytes += sizeof(RemovedRecord) + one.handle.size();
    }
    return bytes;
}

std::vector<StateSection> write_fs_state(const FsState& state) {
    std::vector<std::byte> session;
    append(session,
           SessionRecord{.initialized = state.initialized ? 1U : 0U,
                         .node_generation = state.node_generation,
                         .file_generation = state.file_generation,
                         .reserved = 0U,
                         .agreed = state.agreed});
    std::vector<std::byte> files;
    for (const SavedFile& file : state.files) {
        append(files,
               FileRecord{
                   .handle = file.handle, .node = file.node, .flags = file.flags, .reserved = 0U});
    }
    std::vector<StateSection> sections = {make_section(kSessionSection, session),
                                          make_section(kNodesSection, state.nodes.bytes()),
                                          make_section(kFilesSection, files)};
    write_rest(state, sections);
    return sections;
}

Result<FsState> read_fs_state(std::span<const StateSection> sections) {
    const StateSection* const session = find_section(sections, kSessionSection.id);
    const StateSection* const nodes = find_section(sections, kNodesSection.id);
    const StateSection* const files = find_section(sections, kFilesSection.id);
    if (session == nullptr || nodes == nullptr || files == nullptr) {
        return failure(Error{.message = "a section of a share is missing"});
    }
    FsState state;
    const auto record = parse_fixed<SessionRecord>(session->bytes);
    if (!record || record->initialized > 1 || record->reserved != 0) {
        return failure(damaged(*session));
    }
    state.initialized = record->initialized == 1;
    state.agreed = record->agreed;
    state.node_generation = record->node_generation;
    state.file_generation = record->file_generation;
    OUTRIGGER_TRY(read_nodes(*nodes, state));
    OUTRIGGER_TRY(read_files(*files, state));
    if (const StateSection* const removed = find_section(sections, kRemovedSection.id)) {
        OUTRIGGER_TRY(read_removed(*removed, state));
    }
    if (const StateSection* const locks = find_section(sections, kLocksSection.id)) {
        OUTRIGGER_TRY(read_locks(*locks, state));
    }
    if (const StateSection* const nodes_forgotten = find_section(sections, kForgottenSection.id)) {
        OUTRIGGER_TRY(read_forgotten(*nodes_forgotten, state));
    }
    return state;
}

}  // namespace outrigger::fs
