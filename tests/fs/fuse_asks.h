// SPDX-License-Identifier: Apache-2.0
/// Well-formed requests of FUSE, one function an operation: what a kernel would send. A test that
/// wants a malformed one changes what it gets.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "tests/fs/fuse_guest.h"

namespace outrigger::testing::ask {

inline constexpr uint32_t kEntryRoom = sizeof(fuse_entry_out);
inline constexpr uint32_t kCreateRoom = sizeof(fuse_entry_out) + sizeof(fuse_open_out);

[[nodiscard]] FuseRequest lookup(uint64_t parent, std::string_view name);
[[nodiscard]] FuseRequest forget(uint64_t node, uint64_t count);
[[nodiscard]] FuseRequest batch_forget(std::span<const fuse_forget_one> nodes);
[[nodiscard]] FuseRequest getattr(uint64_t node);
[[nodiscard]] FuseRequest setattr(uint64_t node, const fuse_setattr_in& in);
[[nodiscard]] FuseRequest readlink(uint64_t node);
[[nodiscard]] FuseRequest symlink(uint64_t parent, std::string_view name, std::string_view target);
[[nodiscard]] FuseRequest mknod(uint64_t parent,
                                std::string_view name,
                                uint32_t mode,
                                uint32_t rdev = 0);
[[nodiscard]] FuseRequest mkdir(uint64_t parent, std::string_view name, uint32_t mode = 0755);
[[nodiscard]] FuseRequest unlink(uint64_t parent, std::string_view name);
[[nodiscard]] FuseRequest rmdir(uint64_t parent, std::string_view name);
[[nodiscard]] FuseRequest rename(uint64_t parent,
                                 std::string_view name,
                                 uint64_t new_parent,
                                 std::string_view new_name);
[[nodiscard]] FuseRequest rename2(uint64_t parent,
                                  std::string_view name,
                                  uint64_t new_parent,
                                  std::string_view new_name,
                                  uint32_t flags);
[[nodiscard]] FuseRequest link(uint64_t node, uint64_t new_parent, std::string_view new_name);
[[nodiscard]] FuseRequest open(uint64_t node, uint32_t flags);
[[nodiscard]] FuseRequest opendir(uint64_t node);
[[nodiscard]] FuseRequest create(uint64_t parent,
                                 std::string_view name,
                                 uint32_t flags,
                                 uint32_t mode = 0644);
[[nodiscard]] FuseRequest tmpfile(uint64_t parent, uint32_t flags, uint32_t mode = 0600);
[[nodiscard]] FuseRequest read(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size);
[[nodiscard]] FuseRequest write(
    uint64_t node, uint64_t fh, uint64_t offset, std::string_view data, uint32_t write_flags = 0);
[[nodiscard]] FuseRequest readdir(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size);
[[nodiscard]] FuseRequest readdirplus(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size);
[[nodiscard]] FuseRequest flush(uint64_t node, uint64_t fh, uint64_t lock_owner = 0);
[[nodiscard]] FuseRequest release(uint64_t node, uint64_t fh);
[[nodiscard]] FuseRequest releasedir(uint64_t node, uint64_t fh);
[[nodiscard]] FuseRequest fsync(uint64_t node, uint64_t fh);
[[nodiscard]] FuseRequest statfs(uint64_t node);
[[nodiscard]] FuseRequest access(uint64_t node, uint32_t mask);
/// `extended`: the longer structure of SETXATTR_EXT.
[[nodiscard]] FuseRequest setxattr(uint64_t node,
                                   std::string_view name,
                                   std::string_view value,
                                   bool extended,
                                   uint32_t flags = 0);
[[nodiscard]] FuseRequest getxattr(uint64_t node, std::string_view name, uint32_t size);
[[nodiscard]] FuseRequest listxattr(uint64_t node, uint32_t size);
[[nodiscard]] FuseRequest removexattr(uint64_t node, std::string_view name);
[[nodiscard]] FuseRequest lseek(uint64_t node, uint64_t fh, uint64_t offset, uint32_t whence);
[[nodiscard]] FuseRequest fallocate(
    uint64_t node, uint64_t fh, uint64_t offset, uint64_t length, uint32_t mode = 0);
[[nodiscard]] FuseRequest copy_file_range(const fuse_copy_file_range_in& in, uint64_t node);
/// A lock of `opcode`: FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW.
[[nodiscard]] FuseRequest lock(uint32_t opcode,
                               uint64_t node,
                               uint64_t fh,
                               uint64_t owner,
                               const fuse_file_lock& lock,
                               uint32_t flags = 0);
[[nodiscard]] FuseRequest interrupt(uint64_t unique);
[[nodiscard]] FuseRequest syncfs(uint64_t node);
[[nodiscard]] FuseRequest destroy();
/// The request with a security context (7.36) behind its arguments.
[[nodiscard]] FuseRequest labelled(FuseRequest request,
                                   std::string_view name,
                                   std::string_view label);

}  // namespace outrigger::testing::ask
