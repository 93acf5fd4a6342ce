// SPDX-License-Identifier: Apache-2.0
/// A kernel unpacked before the guest starts, because the guest would take longer, and kept for the
/// next start: the cache.
///
/// A file of the cache is named after the kernel's file (its place, size and times of change), is
/// written under another name and renamed, and belongs to this user alone, or it is not used.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "vhost-user-backend/base/result.h"

#include "vmm-lite/boot/bzimage.h"
#include "vmm-lite/boot/kernel_file.h"
#include "vmm-lite/boot/payload.h"

namespace outrigger::vmm {

class PreparedKernel final {
  public:
    PreparedKernel(PreparedKernel&& other) noexcept;
    PreparedKernel& operator=(PreparedKernel&&) = delete;
    PreparedKernel(const PreparedKernel&) = delete;
    PreparedKernel& operator=(const PreparedKernel&) = delete;
    ~PreparedKernel();

    /// From `cache_directory`, or unpacked and then stored there; "" is no cache. That a cache
    /// cannot be used is no error. Errors: the payload is damaged, or the host out of memory.
    [[nodiscard]] static Result<PreparedKernel> open(const KernelFile& file,
                                                     const BzImage& image,
                                                     const PayloadInfo& payload,
                                                     const std::string& cache_directory);

    /// The ELF file and its relocation table.
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

    [[nodiscard]] bool from_cache() const { return from_cache_; }

  private:
    PreparedKernel(std::span<std::byte> bytes, bool from_cache)
        : bytes_(bytes), from_cache_(from_cache) {}

    std::span<std::byte> bytes_;  // a mapping of our own
    bool from_cache_ = false;
};

/// $XDG_CACHE_HOME/outrigger, ~/.cache/outrigger, or "" where there is neither.
[[nodiscard]] std::string default_cache_directory();

}  // namespace outrigger::vmm
