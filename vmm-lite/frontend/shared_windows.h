// SPDX-License-Identifier: Apache-2.0
/// The shared memory regions of a device (VIRTIO 1.3, 2.10), as ranges of our addresses: the
/// machine puts each into a BAR, and the back end maps pieces of files into it (DAX).
///
/// A file may be shorter than what is mapped of it, and become longer or shorter at any time. So
/// this process never touches what is mapped there, and looks at the file's size instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/messages.h"

#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

/// Thread-bound: the loop's, but for region(), which is constant.
class SharedWindows final {
  public:
    /// Pieces that may be mapped at a time in all objects together: 4096, or half as many as this
    /// process may have descriptors, where that is less. Each keeps one, and the kernel's limits on
    /// mappings and descriptors are for the whole process. At start-up.
    [[nodiscard]] static size_t pieces_max();

    /// Reserves addresses of these lengths, by id; nothing is behind them, and access faults.
    [[nodiscard]] static Result<SharedWindows> reserve(std::span<const uint64_t> sizes,
                                                       size_t pieces_max);

    SharedWindows() = default;
    SharedWindows(SharedWindows&& other) noexcept;
    SharedWindows& operator=(SharedWindows&& other) noexcept;
    SharedWindows(const SharedWindows&) = delete;
    SharedWindows& operator=(const SharedWindows&) = delete;
    ~SharedWindows();

    [[nodiscard]] size_t count() const { return regions_.size(); }

    [[nodiscard]] std::span<const uint64_t> sizes() const { return sizes_; }

    /// Is told of every piece that comes and goes, and of those that are there at once; nullptr
    /// takes it away.
    void observe(DeviceProxy::SharedMemoryObserver* observer);

    /// Empty for an id that has none.
    [[nodiscard]] std::span<std::byte> region(size_t id) const;

    /// SHMEM_MAP with `file`. Refuses what does not lie in the region, what the file has nothing
    /// of, what is mapped already, and what the observer refuses.
    [[nodiscard]] Result<void> map(const wire::ShmemMap& request, UniqueFd file);

    /// SHMEM_UNMAP of exactly what was mapped.
    [[nodiscard]] Result<void> unmap(const wire::ShmemMap& request);

    /// The device was reset.
    void unmap_all();

    /// Another back end goes on: what is mapped stays, for the guest may be using it, until it is
    /// mapped again or unmapped.
    void expect_anew();

    /// Tells the observer of files that have become longer or shorter. Asks no server for that.
    void look_at_files();

    [[nodiscard]] size_t pieces() const { return pieces_.size(); }

  private:
    /// Counts the pieces of the process.
    class Place final {
      public:
        Place();
        Place(Place&& other) noexcept;
        Place& operator=(Place&& other) noexcept;
        Place(const Place&) = delete;
        Place& operator=(const Place&) = delete;
        ~Place();

        [[nodiscard]] static size_t taken();

      private:
        bool mine_ = true;
    };

    struct Piece {
        uint64_t length = 0;
        uint64_t bytes_there = 0;
        bool writable = false;
        bool stale = false;  // mapped for a back end that is gone
        uint64_t file_offset = 0;
        UniqueFd file{};
        Place place{};
    };

    using Pieces = std::map<std::pair<uint8_t, uint64_t>, Piece>;

    [[nodiscard]] bool lies_inside(const wire::ShmemMap& request) const;
    [[nodiscard]] bool make_room(const wire::ShmemMap& request);
    [[nodiscard]] bool take_away(uint8_t id, uint64_t offset, uint64_t length);
    [[nodiscard]] Result<void> tell_mapped(uint8_t id, uint64_t offset, const Piece& piece) const;
    void release();

    [[nodiscard]] static std::optional<uint64_t> bytes_there(const Piece& piece);

    std::vector<std::span<std::byte>> regions_;
    std::vector<uint64_t> sizes_;
    size_t pieces_max_ = 0;
    DeviceProxy::SharedMemoryObserver* observer_ = nullptr;
    Pieces pieces_;
};

}  // namespace outrigger::vmm
