// SPDX-License-Identifier: Apache-2.0
/// Chains for the request parser without a ring: two lists of buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/virtq/chain_reader.h"
#include "vhost-user-backend/virtq/chain_writer.h"

namespace outrigger::blk {

/// Device-readable and device-writable buffers of a chain. Buffers are separate allocations, so
/// that a sanitizer sees every byte beyond one.
class ChainBytes final {
  public:
    /// Adds a device-readable buffer; an empty one disappears, as it does in a real chain.
    ChainBytes& readable(std::span<const std::byte> bytes) {
        return add(readable_, readable_segments_, readable_bytes_, {bytes.begin(), bytes.end()});
    }

    /// Adds a device-writable buffer full of 0xee.
    ChainBytes& writable(size_t size) {
        return add(writable_,
                   writable_segments_,
                   writable_bytes_,
                   std::vector<std::byte>(size, std::byte{0xee}));
    }

    [[nodiscard]] ChainReader reader() { return {readable_segments_, readable_bytes_}; }

    [[nodiscard]] ChainWriter writer() { return {writable_segments_, writable_bytes_}; }

    [[nodiscard]] const std::vector<std::byte>& written(size_t buffer) const {
        return *writable_[buffer];
    }

    [[nodiscard]] bool untouched() const {
        for (const auto& buffer : writable_) {
            for (const std::byte byte : *buffer) {
                if (byte != std::byte{0xee}) {
                    return false;
                }
            }
        }
        return true;
    }

  private:
    using Buffers = std::vector<std::unique_ptr<std::vector<std::byte>>>;

    ChainBytes& add(Buffers& buffers,
                    std::vector<iovec>& segments,
                    uint64_t& total,
                    std::vector<std::byte> bytes) {
        buffers.push_back(std::make_unique<std::vector<std::byte>>(std::move(bytes)));
        std::vector<std::byte>& stored = *buffers.back();
        if (!stored.empty()) {
            segments.push_back({.iov_base = stored.data(), .iov_len = stored.size()});
        }
        total += stored.size();
        return *this;
    }

    Buffers readable_;
    Buffers writable_;
    std::vector<iovec> readable_segments_;
    std::vector<iovec> writable_segments_;
    uint64_t readable_bytes_ = 0;
    uint64_t writable_bytes_ = 0;
};

/// The 16 bytes in front of every request. VIRTIO 1.3, 5.2.6.
inline std::vector<std::byte> header_bytes(uint32_t type, uint64_t sector) {
    std::vector<std::byte> bytes(16);
    std::memcpy(bytes.data(), &type, sizeof type);
    std::memcpy(bytes.data() + 8, &sector, sizeof sector);
    return bytes;
}

/// One segment of a discard or write-zeroes request.
inline std::vector<std::byte> segment_bytes(uint64_t sector, uint32_t count, uint32_t flags) {
    std::vector<std::byte> bytes(16);
    std::memcpy(bytes.data(), &sector, sizeof sector);
    std::memcpy(bytes.data() + 8, &count, sizeof count);
    std::memcpy(bytes.data() + 12, &flags, sizeof flags);
    return bytes;
}

}  // namespace outrigger::blk
