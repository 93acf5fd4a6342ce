// SPDX-License-Identifier: Apache-2.0
/// A file that the guest is loaded from: kernel or initrd. Reads go straight to where the bytes
/// belong, so that nothing of them stays in this process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {

class KernelFile final {
  public:
    /// `what` names it in errors: "the kernel". Only regular files can be loaded.
    [[nodiscard]] static Result<KernelFile> open(const std::string& path, std::string what);

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

    [[nodiscard]] const std::string& path() const { return path_; }

    [[nodiscard]] int fd() const { return fd_.get(); }

    /// All of `out`, or an error that says that the file is cut short.
    [[nodiscard]] Result<void> read(uint64_t offset, std::span<std::byte> out) const;

    /// An error about this file: "the kernel 'path' <complaint>".
    [[nodiscard]] Error error(std::string_view complaint) const;

  private:
    KernelFile(UniqueFd fd, std::string path, std::string what, uint64_t bytes);

    UniqueFd fd_;
    std::string path_;
    std::string what_;
    uint64_t bytes_ = 0;
};

}  // namespace outrigger::vmm
