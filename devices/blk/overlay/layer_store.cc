// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/layer_store.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/thread_engine.h"

namespace outrigger::blk {
namespace {

/// A call that is made at once, on this thread: by the same means as those of the data, so that
/// the sandbox knows it.
class BlockingCall final : public IoOperation {
  public:
    explicit BlockingCall(IoOpcode wanted) { opcode = wanted; }

    void on_complete(int32_t /*result*/, uint32_t /*cqe_flags*/) override {
        abort_on_bug("a blocking call completes nothing", __FILE__, __LINE__);
    }

    /// Transfers all of `memory`. 0 or an errno value.
    [[nodiscard]] int transfer(int fd, uint64_t at, std::span<std::byte> memory) {
        while (!memory.empty()) {
            iovec segment = {.iov_base = memory.data(), .iov_len = memory.size()};
            segments = &segment;
            segment_count = 1;
            offset_bytes = at;
            const int32_t count = run_operation(fd, *this);
            if (count == -EINTR) {
                continue;
            }
            if (count <= 0) {
                return count == 0 ? EIO : -count;
            }
            at += static_cast<uint32_t>(count);
            memory = memory.subspan(static_cast<uint32_t>(count));
        }
        return 0;
    }
};

}  // namespace

int LayerFileStore::read(uint64_t offset_bytes, std::span<std::byte> out) {
    return BlockingCall(IoOpcode::kRead).transfer(fd_.get(), offset_bytes, out);
}

int LayerFileStore::write(uint64_t offset_bytes, std::span<const std::byte> in) {
    // The vector of a system call is not const, although a write leaves its memory alone.
    const std::span memory(const_cast<std::byte*>(in.data()), in.size());
    return BlockingCall(IoOpcode::kWrite).transfer(fd_.get(), offset_bytes, memory);
}

int LayerFileStore::zero(uint64_t offset_bytes, uint64_t length_bytes) {
    BlockingCall call(IoOpcode::kPunchHole);
    call.offset_bytes = offset_bytes;
    call.length_bytes = length_bytes;
    if (run_operation(fd_.get(), call) >= 0) {
        return 0;
    }
    static constexpr std::array<std::byte, 65536> kZeroes{};
    while (length_bytes > 0) {
        const size_t count = std::min<uint64_t>(length_bytes, kZeroes.size());
        if (const int os_error = write(offset_bytes, std::span(kZeroes).first(count));
            os_error != 0) {
            return os_error;
        }
        offset_bytes += count;
        length_bytes -= count;
    }
    return 0;
}

int LayerFileStore::give_back(uint64_t offset_bytes, uint64_t length_bytes) {
    BlockingCall call(IoOpcode::kPunchHole);
    call.offset_bytes = offset_bytes;
    call.length_bytes = length_bytes;
    const int32_t result = run_operation(fd_.get(), call);
    const bool cannot = result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY;
    return result >= 0 || cannot ? 0 : -result;
}

int LayerFileStore::sync() {
    // The kernel reports lost data only once: whoever heard of it tells the others.
    if (data_ != nullptr && data_->sync_failed.is_set()) {
        return EIO;
    }
    BlockingCall call(IoOpcode::kSync);
    int32_t result = -EINTR;
    while (result == -EINTR) {
        result = run_operation(fd_.get(), call);
    }
    if (result < 0 && data_ != nullptr) {
        data_->sync_failed.set();
    }
    if (result >= 0 && data_ != nullptr && data_->sync_failed.is_set()) {
        return EIO;  // a stable write failed meanwhile, and may have taken the report with it
    }
    return result < 0 ? -result : 0;
}

}  // namespace outrigger::blk
