// SPDX-License-Identifier: Apache-2.0
/// One region of guest memory: a file descriptor of the front end, mapped here.
/// vhost-user "Memory region description".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"
#include "vhost-user-backend/guest/sigbus_guard.h"

namespace outrigger {

/// What the front end says of a region. All in bytes.
struct MemoryRegionLayout {
    GuestAddr guest_address{};
    uint64_t size = 0;
    FrontendAddr frontend_address{};
    uint64_t mmap_offset = 0;

    friend bool operator==(const MemoryRegionLayout&, const MemoryRegionLayout&) = default;
};

/// Which file a descriptor leads to: the same for all descriptors of one file.
struct FileIdentity {
    uint64_t device = 0;
    uint64_t inode = 0;

    /// Nothing when the kernel does not say.
    [[nodiscard]] static std::optional<FileIdentity> of(int fd);

    friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

/// Immutable. Unmaps when the last snapshot that holds it is gone.
class MemoryRegion final {
  public:
    /// Checks that no end wraps and that the file covers the range, then maps it. `fd` is borrowed.
    [[nodiscard]] static Result<MemoryRegion> map(const MemoryRegionLayout& layout, int fd);

    [[nodiscard]] const MemoryRegionLayout& layout() const { return layout_; }

    [[nodiscard]] const FileIdentity& file() const { return file_; }

    /// First byte of the region here.
    [[nodiscard]] std::byte* data() const { return mapping_.data(); }

    /// All that is mapped for it: whole pages, with whatever of the file lies around the region.
    [[nodiscard]] std::span<std::byte> pages() const { return mapping_.whole(); }

    /// The front end truncated the file: what is here now is zeroes of our own. Any thread.
    [[nodiscard]] bool lost() const { return guard_.lost(); }

  private:
    MemoryRegion(const MemoryRegionLayout& layout, const FileIdentity& file, Mapping mapping);

    MemoryRegionLayout layout_;
    FileIdentity file_;
    Mapping mapping_;
    GuardedRange guard_;  // behind the mapping: it goes first
};

}  // namespace outrigger
