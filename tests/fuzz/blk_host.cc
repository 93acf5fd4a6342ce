// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/blk_host.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/file_queue.h"
#include "devices/blk/thread_engine.h"

namespace outrigger::fuzz {
namespace {

using blk::IoOpcode;
using blk::IoOperation;

class HostEngine final : public blk::IoEngine {
  public:
    explicit HostEngine(BlkHost& host) : host_(host) {}

    void submit(IoOperation& operation) override { host_.submit(operation); }

  private:
    BlkHost& host_;
};

bool moves_data(const IoOperation& operation) {
    return operation.opcode == IoOpcode::kRead || operation.opcode == IoOpcode::kWrite;
}

uint64_t bytes_of(const IoOperation& operation) {
    uint64_t sum = 0;
    for (const iovec& segment : std::span(operation.segments, operation.segment_count)) {
        sum += segment.iov_len;
    }
    return sum;
}

}  // namespace

BlkHost::BlkHost(EventLoop& loop, uint8_t options) : loop_(loop) {
    file_.fd.reset(::memfd_create("outrigger-fuzz-image", MFD_CLOEXEC));
    OUTRIGGER_ASSERT(file_.fd.valid());
    truncate(kBlkImageBytes);
    blk::ImageProperties& properties = file_.properties;
    properties.size_bytes = kBlkImageBytes;
    properties.block_bytes = (options & BlkOptions::kLargeBlocks) != 0 ? 4096 : 512;
    properties.physical_block_bytes = properties.block_bytes;
    properties.read_only = (options & BlkOptions::kReadOnly) != 0;
    properties.can_discard = !properties.read_only;
    properties.can_unmap_zeroes = !properties.read_only;
    file_.is_block_device = (options & BlkOptions::kBlockDevice) != 0;
    file_.direct = (options & BlkOptions::kDirect) != 0;
    file_.address_alignment = 512;
    file_.offset_alignment = properties.block_bytes;
    properties.can_secure_erase = file_.is_block_device && !properties.read_only;
    if (file_.is_block_device) {
        file_.lifetime.push_back({.kind = blk::LifetimeAttribute::Kind::kEstimates, .fd = {}});
        properties.tells_lifetime = true;
    }
    if (file_.direct && (options & BlkOptions::kLargeHostBlocks) != 0) {
        file_.offset_alignment = 4096;
        if (properties.block_bytes < file_.offset_alignment) {
            file_.block_locks = std::make_unique<blk::BlockLocks>();
            properties.discard_alignment_bytes = file_.offset_alignment;
            own_loop_ = create_event_loop(LoopKind::kAsio).value();
        }
    }
}

void BlkHost::run_own_loop() {
    while (own_loop_ && own_loop_->run_once(EventLoop::Clock::time_point::min())) {
    }
}

void BlkHost::truncate(uint64_t bytes) {
    OUTRIGGER_ASSERT(::ftruncate(file_.fd.get(), static_cast<off_t>(bytes)) == 0);
}

void BlkHost::submit(IoOperation& operation) {
    const uint64_t size = file_.properties.size_bytes;
    if (moves_data(operation)) {
        OUTRIGGER_ASSERT(operation.segment_count > 0 && operation.segment_count <= 1024);
        OUTRIGGER_ASSERT(operation.offset_bytes <= size &&
                         bytes_of(operation) <= size - operation.offset_bytes);
        if (file_.direct) {
            OUTRIGGER_ASSERT(operation.offset_bytes % file_.offset_alignment == 0);
        }
    } else if (operation.opcode == IoOpcode::kReadAttribute) {
        OUTRIGGER_ASSERT(operation.segment_count == 1);
    } else if (operation.opcode != IoOpcode::kSync) {
        OUTRIGGER_ASSERT(operation.offset_bytes <= size && operation.length_bytes > 0 &&
                         operation.length_bytes <= size - operation.offset_bytes);
    }
    OUTRIGGER_ASSERT(!file_.properties.read_only || operation.opcode == IoOpcode::kRead ||
                     operation.opcode == IoOpcode::kSync ||
                     operation.opcode == IoOpcode::kReadAttribute);
    OUTRIGGER_ASSERT(file_.is_block_device || (operation.opcode != IoOpcode::kDeviceDiscard &&
                                               operation.opcode != IoOpcode::kDeviceErase &&
                                               operation.opcode != IoOpcode::kReadAttribute));
    calls_.push_back(&operation);
}

int32_t BlkHost::make_call(IoOperation& operation, size_t bytes_max) {
    if (operation.opcode == IoOpcode::kDeviceDiscard ||
        operation.opcode == IoOpcode::kDeviceErase) {
        return 0;  // a block device does it; this file is not really one
    }
    if (operation.opcode == IoOpcode::kReadAttribute) {
        constexpr std::string_view kText = "0x01 0x0b\n";
        const size_t bytes = std::min({kText.size(), operation.segments->iov_len, bytes_max});
        std::memcpy(operation.segments->iov_base, kText.data(), bytes);
        return static_cast<int32_t>(bytes);
    }
    if (!moves_data(operation) || bytes_of(operation) <= bytes_max) {
        return blk::run_operation(file_.fd.get(), operation);
    }
    // As many bytes as the script wants, from copies of the segments.
    std::vector<iovec> segments;
    for (const iovec& segment : std::span(operation.segments, operation.segment_count)) {
        const size_t bytes = std::min(segment.iov_len, bytes_max);
        if (bytes > 0) {
            segments.push_back({.iov_base = segment.iov_base, .iov_len = bytes});
        }
        bytes_max -= bytes;
    }
    if (segments.empty()) {
        return 0;
    }
    const iovec* const whole = std::exchange(operation.segments, segments.data());
    const uint32_t whole_count =
        std::exchange(operation.segment_count, static_cast<uint32_t>(segments.size()));
    const int32_t result = blk::run_operation(file_.fd.get(), operation);
    operation.segments = whole;
    operation.segment_count = whole_count;
    return result;
}

void BlkHost::answer(size_t which, BlkAnswer answer, uint16_t argument) {
    if (calls_.empty()) {
        return;
    }
    const auto at = calls_.begin() + static_cast<std::ptrdiff_t>(which % calls_.size());
    IoOperation& operation = **at;
    calls_.erase(at);
    int32_t result = 0;
    switch (answer) {
        case BlkAnswer::kDone:
            result = make_call(operation, SIZE_MAX);
            break;
        case BlkAnswer::kShort:
            result = make_call(operation, argument);
            break;
        case BlkAnswer::kNothing:
            break;
        case BlkAnswer::kTryAgain:
        case BlkAnswer::kInterrupted:
            if (retries_left_-- > 0) {
                result = answer == BlkAnswer::kTryAgain ? -EAGAIN : -EINTR;
            } else {
                result = -EIO;
            }
            break;
        case BlkAnswer::kIoError:
            result = -EIO;
            break;
        case BlkAnswer::kNoSpace:
            result = -ENOSPC;
            break;
        case BlkAnswer::kUnsupported:
            result = -EOPNOTSUPP;
            break;
        case BlkAnswer::kInvalid:
            result = -EINVAL;
            break;
        case BlkAnswer::kFault:
            result = -EFAULT;
            break;
        case BlkAnswer::kCount:
            break;
    }
    operation.on_complete(result, 0);
    run_own_loop();
}

void BlkHost::check() const {
    OUTRIGGER_ASSERT(calls_.empty());
    struct stat status = {};
    OUTRIGGER_ASSERT(::fstat(file_.fd.get(), &status) == 0);
    OUTRIGGER_ASSERT(static_cast<uint64_t>(status.st_size) <= file_.properties.size_bytes);
}

Result<std::unique_ptr<blk::ImageQueue>> HostedImage::open_queue(Worker& /*worker*/,
                                                                 uint32_t requests_max) {
    return std::make_unique<blk::FileQueue>(
        host_.file(), nullptr, std::make_unique<HostEngine>(host_), host_.loop(), requests_max);
}

}  // namespace outrigger::fuzz
