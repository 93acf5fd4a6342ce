// SPDX-License-Identifier: Apache-2.0
/// What the command line says of a share.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "devices/fs/attribute_map.h"
#include "devices/fs/descriptor_budget.h"
#include "devices/fs/id_map.h"

namespace outrigger::fs {

/// What the guest may keep, and for how long.
enum class CachePolicy : uint8_t { kNever, kMetadata, kAuto, kAlways };

/// Something that is off, on where the driver can do it, or on or not at all.
enum class Demand : uint8_t { kNever, kAuto, kAlways };

/// Are inodes kept by file handle, or by a descriptor each?
enum class HandlePolicy : uint8_t { kNever, kPrefer, kMandatory };

struct FsSettings {
    std::string shared_dir;
    std::string tag;  ///< at most 36 bytes; empty: the device has no configuration space
    uint16_t request_queues = 8;
    CachePolicy cache = CachePolicy::kAuto;
    std::chrono::nanoseconds timeout{std::chrono::seconds(1)};  ///< of names and attributes
    uint64_t pool_threads = 4;
    uint64_t descriptors_max = 1024;  ///< that the guests of all shares may make us hold
    /// Of all shares of the process; null: this one has descriptors_max for itself.
    std::shared_ptr<DescriptorBudget> budget{};
    /// That a guest may know, which with handles no descriptor bounds: some 300 bytes each, with
    /// the handle and what a keeper has of it. Linux forgets only when its memory is short.
    size_t inodes_max = size_t{8} * 1024 * 1024;
    HandlePolicy handles = HandlePolicy::kNever;
    bool forgives_lost_files = false;  ///< --migration-on-error=guest-error
    bool writeback = false;
    bool allow_direct_io = false;
    bool allow_mmap = false;
    bool readdirplus = true;
    bool preserve_noatime = false;
    bool read_only = false;
    bool announce_submounts = true;
    bool xattr = false;
    bool killpriv_v2 = false;
    bool posix_locks = false;
    bool flock = false;
    bool nfs_export = false;  ///< with handles: node ids outlast their FORGET
    IdMap uids{};             ///< that we translate ourselves
    IdMap gids{};
    /// Lines of a user namespace's maps (IdMap::namespace_lines()), where the share's mount
    /// translates; otherwise empty.
    std::string mount_uids{};
    std::string mount_gids{};
    AttributeMap attributes{};
    /// What "security.capability" of the guest is called on the host, when that is something else.
    std::string capabilities_name{};
    Demand posix_acl = Demand::kNever;
    Demand security_label = Demand::kNever;
    uint64_t dax_window_bytes = 0;    ///< 0: there is none
    uint64_t dax_file_bytes_min = 0;  ///< a guest that leaves the choice to us maps longer files
};

}  // namespace outrigger::fs
