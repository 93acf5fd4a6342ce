// SPDX-License-Identifier: Apache-2.0
/// What a file system calls a file for as long as that exists, whatever its names: with it a file
/// is found again that nobody holds open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "devices/fs/fuse_request.h"

namespace outrigger::fs {

/// Move-only. Empty: there is none.
class FileHandle final {
  public:
    FileHandle() = default;

    /// Of what `fd` has open or pins. EOPNOTSUPP: its file system has no handles.
    [[nodiscard]] static Result<FileHandle, Errno> of(int fd);

    [[nodiscard]] bool is_empty() const { return bytes_ == nullptr; }

    /// Pins the file (O_PATH). `mount_fd`: something open, and not only pinned, on the same mount.
    /// ESTALE: it does not exist any more. Needs CAP_DAC_READ_SEARCH.
    [[nodiscard]] Result<UniqueFd, Errno> pin(int mount_fd) const;

    [[nodiscard]] bool is_same(const FileHandle& other) const;

    /// All of it, for from_bytes() of another process.
    [[nodiscard]] std::span<const std::byte> all() const;

    /// Nothing where the bytes are no handle. Which file it is, if any, nobody has looked.
    [[nodiscard]] static std::optional<FileHandle> from_bytes(std::span<const std::byte> bytes);

  private:
    std::unique_ptr<std::byte[]> bytes_;  // struct file_handle
};

}  // namespace outrigger::fs
