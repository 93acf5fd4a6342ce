// SPDX-License-Identifier: Apache-2.0
/// How one system call on an image file is made without blocking the queue: by io_uring or by a
/// pool of threads. An engine knows nothing of requests; it reports what the kernel returned.
#pragma once

#include <cstdint>

#include <sys/uio.h>

#include "vhost-user-backend/io/uring.h"

namespace outrigger {
class MemorySnapshot;
}  // namespace outrigger

namespace outrigger::blk {

enum class IoOpcode : uint8_t {
    kRead,           ///< preadv
    kWrite,          ///< pwritev; when stable, done only once it is on stable storage
    kSync,           ///< fdatasync
    kPunchHole,      ///< fallocate: deallocate, reads give zeroes, size unchanged
    kZeroRange,      ///< fallocate: zeroes, allocated, size unchanged
    kDeviceDiscard,  ///< the BLKDISCARD of block devices; contents undefined afterwards
    kDeviceErase,    ///< their BLKSECDISCARD; contents gone from the medium
    kReadAttribute,  ///< pread from the beginning of `attribute_fd`, not of the image
};

/// One system call. The owner keeps it, the segments and their memory in place until on_complete(),
/// which gets the call's result (>= 0, or -errno) on the queue's worker, never inside submit().
class IoOperation : public UringOperation {
  public:
    /// kWrite: was memory of the segments lost, so that zeroes may stand in it? An engine that
    /// copies them asks afterwards, and then ends with -EFAULT. In submit() only.
    [[nodiscard]] virtual bool data_was_lost() { return false; }

    IoOpcode opcode = IoOpcode::kRead;
    bool stable = false;
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;  // kPunchHole, kZeroRange, kDeviceDiscard, kDeviceErase
    const iovec* segments = nullptr;
    uint32_t segment_count = 0;  // 1 to 1024
    int attribute_fd = -1;       // kReadAttribute: with one segment

    // Of the engine, between submit() and on_complete().
    IoOperation* next = nullptr;
    int32_t call_result = 0;

  protected:
    ~IoOperation() = default;
};

/// Thread-bound: the queue's worker.
class IoEngine {
  public:
    IoEngine() = default;
    IoEngine(const IoEngine&) = delete;
    IoEngine& operator=(const IoEngine&) = delete;
    /// No operation may be under way.
    virtual ~IoEngine() = default;

    virtual void submit(IoOperation& operation) = 0;

    // See ImageQueue.
    virtual void use_memory(const MemorySnapshot& /*memory*/) {}

    virtual void retire() {}
};

/// A first-in first-out list of operations that needs no memory of its own.
class IoOperationList final {
  public:
    [[nodiscard]] bool empty() const { return first_ == nullptr; }

    void push(IoOperation& operation) {
        operation.next = nullptr;
        (first_ == nullptr ? first_ : last_->next) = &operation;
        last_ = &operation;
    }

    /// It is the next to come out.
    void push_front(IoOperation& operation) {
        operation.next = first_;
        last_ = first_ == nullptr ? &operation : last_;
        first_ = &operation;
    }

    /// Null when empty.
    IoOperation* pop() {
        IoOperation* const operation = first_;
        if (operation != nullptr) {
            first_ = operation->next;
            operation->next = nullptr;
        }
        return operation;
    }

  private:
    IoOperation* first_ = nullptr;
    IoOperation* last_ = nullptr;
};

}  // namespace outrigger::blk
