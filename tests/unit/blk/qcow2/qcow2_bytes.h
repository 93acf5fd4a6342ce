// SPDX-License-Identifier: Apache-2.0
/// qcow2 structures written from the specification, for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace outrigger::blk {

/// The bytes of a file, with numbers put in as qcow2 has them.
class Qcow2Bytes final {
  public:
    explicit Qcow2Bytes(size_t size) : bytes_(size) {}

    Qcow2Bytes& u64(size_t offset, uint64_t value) { return put(offset, value, 8); }

    Qcow2Bytes& u32(size_t offset, uint32_t value) { return put(offset, value, 4); }

    Qcow2Bytes& u8(size_t offset, uint8_t value) { return put(offset, value, 1); }

    Qcow2Bytes& text(size_t offset, std::string_view text) {
        for (size_t i = 0; i < text.size(); ++i) {
            bytes_.at(offset + i) = static_cast<std::byte>(text[i]);
        }
        return *this;
    }

    [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

    /// 16 clusters of 4 KiB with a disk of 1 MiB: L1 table in cluster 1, refcount table in 2.
    [[nodiscard]] static Qcow2Bytes sound(uint32_t version) {
        Qcow2Bytes file(16 * 4096);
        file.u32(0, 0x514649fb).u32(4, version).u32(20, 12).u64(24, 1 << 20);
        file.u32(36, 1).u64(40, 4096).u64(48, 8192).u32(56, 1);
        if (version == 3) {
            file.u32(96, 4).u32(100, 112);
        }
        return file;
    }

  private:
    Qcow2Bytes& put(size_t offset, uint64_t value, size_t size) {
        for (size_t i = 0; i < size; ++i) {
            bytes_.at(offset + size - 1 - i) = static_cast<std::byte>(value >> (8 * i));
        }
        return *this;
    }

    std::vector<std::byte> bytes_;
};

}  // namespace outrigger::blk
