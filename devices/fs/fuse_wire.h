// SPDX-License-Identifier: Apache-2.0
/// The FUSE protocol beyond <linux/fuse.h> of Debian 12 (7.38): what later kernels brought, each
/// with the minor version that has it, under the kernel's numbers and layouts.
#pragma once

#include <cstddef>
#include <cstdint>

#include <linux/fuse.h>

namespace outrigger::fs {

/// The newest minor version that we speak; a guest that knows less is answered with its own.
inline constexpr uint32_t kMinorMax = 45;
/// Below it (Linux 4.20, virtio-fs came with 5.4) structs have other sizes, and nobody is left.
inline constexpr uint32_t kMinorMin = 27;

inline constexpr uint32_t kStatx = 52;            // 7.39
inline constexpr uint32_t kCopyFileRange64 = 53;  // 7.45
inline constexpr uint32_t kOpcodeCount = 54;

inline constexpr uint64_t kInitCreateSuppGroup = 1ULL << 34;    // 7.38
inline constexpr uint64_t kInitDirectIoAllowMmap = 1ULL << 36;  // 7.39
inline constexpr uint64_t kInitAllowIdmap = 1ULL << 40;         // 7.41

/// The longest WRITE and listing: what INIT says.
inline constexpr uint32_t kTransferBytesMax = 1 << 20;

/// The longest READ: INIT counts it in pages, which some guests have of 64 KiB.
inline constexpr uint32_t kReadBytesMax = kTransferBytesMax / 4096 * 65536;

/// fuse_in_header as of 7.38, whose total_extlen older kernels leave 0.
struct InHeader {
    uint32_t len;
    uint32_t opcode;
    uint64_t unique;
    uint64_t nodeid;
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;
    uint16_t total_extlen;  ///< of the extensions behind the arguments, in units of 8 bytes
    uint16_t padding;
};

static_assert(sizeof(InHeader) == sizeof(fuse_in_header) && sizeof(InHeader) == 40);

/// fuse_ext_header (7.38). A security context says here how many there are, at most kSecurityMax.
struct ExtensionHeader {
    uint32_t size;  ///< with this header, and filled up to 8 bytes
    uint32_t type;
};

inline constexpr uint32_t kExtensionSecurityMax = 31;
inline constexpr uint32_t kExtensionGroups = 32;

struct StatxIn {
    uint32_t getattr_flags;
    uint32_t reserved;
    uint64_t fh;
    uint32_t sx_flags;
    uint32_t sx_mask;
};

struct StatxTime {
    int64_t seconds;
    uint32_t nanoseconds;
    int32_t reserved;
};

struct StatxAttributes {
    uint32_t mask;
    uint32_t blksize;
    uint64_t attributes;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint16_t mode;
    uint16_t spare0;
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t attributes_mask;
    StatxTime atime;
    StatxTime btime;
    StatxTime ctime;
    StatxTime mtime;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint64_t spare2[14];
};

struct StatxOut {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t flags;
    uint64_t spare[2];
    StatxAttributes stat;
};

static_assert(sizeof(StatxIn) == 24 && sizeof(StatxAttributes) == 256 && sizeof(StatxOut) == 288);

struct CopyFileRangeOut {
    uint64_t bytes_copied;
};

}  // namespace outrigger::fs
