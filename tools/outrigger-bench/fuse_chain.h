// SPDX-License-Identifier: Apache-2.0
/// One FUSE request as Linux lays it out in a ring: a segment for the header, for each argument and
/// for the data, and the same of the answer. VIRTIO 1.3, 5.11.6; structures of <linux/fuse.h>.
///
/// Bound to one thread at a time. Nothing but create() allocates.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include <linux/fuse.h>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/guest_memory.h"
#include "tools/driver/ring_types.h"

namespace outrigger::bench {

class FuseChain final {
  public:
    /// Segments of a request at most: CREATE and its answer.
    static constexpr size_t kSegmentsMax = 6;

    /// Guest memory of one of them.
    [[nodiscard]] static uint64_t guest_bytes(uint32_t data_bytes) {
        return 2 * kArgumentBytes + uint64_t{data_bytes} + kPageBytes;
    }

    /// With buffers for arguments, and for so many bytes of data.
    [[nodiscard]] static Result<FuseChain> create(driver::GuestMemory& memory, uint32_t data_bytes);

    /// A request from here on; the user is the one of this process.
    void begin(uint32_t opcode, uint64_t node);

    template <class T>
    void add(const T& argument) {
        static_assert(std::is_trivially_copyable_v<T>);
        add_bytes(std::as_bytes(std::span(&argument, 1)), 0);
    }

    /// With its NUL.
    void add_name(std::string_view name) { add_bytes(std::as_bytes(std::span(name)), 1); }

    /// So many bytes of data().
    void add_data(uint32_t length);

    /// Room for a structure of the answer, behind its header.
    template <class T>
    void expect() {
        expect_bytes(sizeof(T));
    }

    /// Room for so many bytes in data().
    void expect_data(uint32_t length);

    /// The chain. `answered` false: there is nothing to write into, as with FORGET.
    [[nodiscard]] std::span<const driver::Segment> finish(bool answered = true);

    /// What came back, with so many bytes as the device says: 0, an errno, or -1 when that is no
    /// answer to this request.
    [[nodiscard]] int error(uint32_t length) const;

    /// Of an answer without an error: the bytes in data().
    [[nodiscard]] uint32_t data_length(uint32_t length) const {
        return length - static_cast<uint32_t>(sizeof(fuse_out_header)) - out_used_;
    }

    /// What expect() was called for, in that order.
    template <class T>
    [[nodiscard]] T answer_at(size_t index) const {
        T value;
        std::memcpy(&value, out_ + kLineBytes + answer_offsets_[index], sizeof value);
        return value;
    }

    [[nodiscard]] std::byte* data() const { return data_; }

  private:
    static constexpr uint64_t kLineBytes = 64;
    static constexpr uint64_t kPageBytes = 4096;
    /// Of a request's and of an answer's header and arguments.
    static constexpr uint32_t kArgumentBytes = 1024;

    FuseChain() = default;

    void add_bytes(std::span<const std::byte> bytes, uint32_t zeroes);
    void expect_bytes(uint32_t length);
    void put(driver::Segment segment);

    GuestAddr in_address_{};
    GuestAddr out_address_{};
    GuestAddr data_address_{};
    std::byte* in_ = nullptr;
    std::byte* out_ = nullptr;
    std::byte* data_ = nullptr;
    std::array<driver::Segment, kSegmentsMax> segments_{};
    std::array<uint32_t, 2> answer_offsets_{};
    size_t count_ = 0;
    size_t answers_ = 0;
    uint32_t in_used_ = 0;   // of the arguments
    uint32_t out_used_ = 0;  // of the answer's
    uint32_t length_ = 0;    // of the request
    uint32_t expected_data_ = 0;
    uint32_t opcode_ = 0;
    uint64_t node_ = 0;
    uint64_t unique_ = 0;
    uint32_t user_ = 0;
    uint32_t group_ = 0;
};

}  // namespace outrigger::bench
