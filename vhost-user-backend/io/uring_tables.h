// SPDX-License-Identifier: Apache-2.0
/// The tables of an io_uring in which files and memory are registered, so that the kernel need not
/// look them up, count them or pin them for each operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "vhost-user-backend/base/result.h"

// Of <liburing.h>.
struct io_uring;

namespace outrigger {

/// What of it a ring is to have.
struct UringTableKinds {
    bool files = false;
    bool buffers = false;
};

/// Thread-bound to the ring's thread.
class UringTables final {
  public:
    static constexpr uint32_t kFilesMax = 256;
    static constexpr uint32_t kBuffersMax = 8192;

    /// Makes the tables, empty, before the ring is enabled. `ring` is borrowed. A kernel that has
    /// no empty tables (before 5.19) leaves it at none, and then nothing can be registered. Where
    /// there are to be files the ring holds uring_witness().
    void open(io_uring& ring, UringTableKinds kinds);

    /// See Uring.
    [[nodiscard]] std::optional<uint32_t> register_file(int fd);
    void unregister_file(uint32_t slot);
    [[nodiscard]] Result<uint32_t> register_buffer(std::span<std::byte> memory);
    void unregister_buffer(uint32_t slot);

  private:
    /// Which slots of a table are free.
    class Slots final {
      public:
        Slots() = default;

        explicit Slots(uint32_t count) : count_(count) {}

        [[nodiscard]] std::optional<uint32_t> take();

        void give_back(uint32_t slot) { free_.push_back(slot); }

      private:
        uint32_t count_ = 0;
        uint32_t used_ = 0;  // slots above were never taken
        std::vector<uint32_t> free_;
    };

    struct Buffer {
        std::span<std::byte> memory;
        uint32_t users = 0;
    };

    void hold_witness();
    [[nodiscard]] int update_buffer(uint32_t slot, std::span<std::byte> memory);

    io_uring* ring_ = nullptr;
    Slots file_slots_;
    Slots buffer_slots_;
    std::vector<Buffer> buffers_;  // by slot, as many as were ever taken
    // Queues of one worker use the same memory: it is pinned once. By its first byte.
    std::unordered_map<const std::byte*, uint32_t> slot_of_;
};

}  // namespace outrigger
