// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/uring_engine.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <liburing.h>
#include <sys/resource.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/io/uring.h"

namespace outrigger::blk {
namespace {

/// What the kernel transfers at most in one call.
constexpr size_t kTransferBytesMax = 0x7fff'f000;

/// All that prepare() and prepare_transfer() use.
constexpr std::array<uint8_t, 6> kOperations = {IORING_OP_READ,
                                                IORING_OP_WRITE,
                                                IORING_OP_READV,
                                                IORING_OP_WRITEV,
                                                IORING_OP_FSYNC,
                                                IORING_OP_FALLOCATE};

constexpr std::array<uint8_t, 2> kFixedMemoryOperations = {IORING_OP_READ_FIXED,
                                                           IORING_OP_WRITE_FIXED};

constexpr std::array<SystemCallRule, 1> kFixedMemorySystemCalls = {SystemCallRule{
    .name = "io_uring_register", .tests = {argument_is(1, IORING_REGISTER_BUFFERS_UPDATE)}}};

/// Prepares `sqe`. One segment goes without the vector, whose import costs the kernel a copy, and
/// if it lies in memory that the ring knows as `slot`, without looking for its pages.
void prepare_transfer(io_uring_sqe* sqe,
                      int fd,
                      const IoOperation& operation,
                      std::optional<uint32_t> slot) {
    const bool write = operation.opcode == IoOpcode::kWrite;
    if (slot) {
        const iovec& only = *operation.segments;
        const auto length = static_cast<unsigned>(only.iov_len);
        const auto index = static_cast<int>(*slot);
        if (write) {
            io_uring_prep_write_fixed(
                sqe, fd, only.iov_base, length, operation.offset_bytes, index);
        } else {
            io_uring_prep_read_fixed(sqe, fd, only.iov_base, length, operation.offset_bytes, index);
        }
    } else if (operation.segment_count == 1) {
        const iovec& only = *operation.segments;
        const auto length = static_cast<unsigned>(std::min(only.iov_len, kTransferBytesMax));
        if (write) {
            io_uring_prep_write(sqe, fd, only.iov_base, length, operation.offset_bytes);
        } else {
            io_uring_prep_read(sqe, fd, only.iov_base, length, operation.offset_bytes);
        }
    } else if (write) {
        io_uring_prep_writev(
            sqe, fd, operation.segments, operation.segment_count, operation.offset_bytes);
    } else {
        io_uring_prep_readv(
            sqe, fd, operation.segments, operation.segment_count, operation.offset_bytes);
    }
    if (write && operation.stable) {
        sqe->rw_flags = RWF_DSYNC;
    }
}

void prepare(io_uring_sqe* sqe,
             int fd,
             const IoOperation& operation,
             std::optional<uint32_t> memory_slot) {
    const auto offset = static_cast<off_t>(operation.offset_bytes);
    const auto length = static_cast<off_t>(operation.length_bytes);
    switch (operation.opcode) {
        case IoOpcode::kRead:
        case IoOpcode::kWrite:
            prepare_transfer(sqe, fd, operation, memory_slot);
            return;
        case IoOpcode::kSync:
            io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
            return;
        case IoOpcode::kPunchHole:
            io_uring_prep_fallocate(
                sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
            return;
        case IoOpcode::kZeroRange:
            io_uring_prep_fallocate(
                sqe, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
            return;
        case IoOpcode::kReadAttribute:
            io_uring_prep_read(sqe,
                               operation.attribute_fd,
                               operation.segments->iov_base,
                               static_cast<unsigned>(operation.segments->iov_len),
                               0);
            return;
        case IoOpcode::kDeviceDiscard:
        case IoOpcode::kDeviceErase:
            abort_on_bug("device calls go to the helper", __FILE__, __LINE__);
    }
}

Uring& ring_of(Worker& worker) {
    Uring* const uring = worker.loop().uring();
    OUTRIGGER_ASSERT(uring != nullptr);
    return *uring;
}

bool can_fix_memory(const Uring& uring) {
    return std::ranges::all_of(kFixedMemoryOperations,
                               [&](uint8_t opcode) { return uring.supports(opcode); });
}

class UringEngine final : public IoEngine {
  public:
    UringEngine(const UringEngineOptions& options, Worker& worker, IoEngine* helper)
        : options_(options),
          worker_(worker),
          uring_(ring_of(worker)),
          helper_(helper),
          slot_(uring_.register_file(options.fd)) {
        if (options.fixed_memory != nullptr && can_fix_memory(uring_)) {
            memory_.emplace(uring_, *options.fixed_memory);
        }
    }

    UringEngine(const UringEngine&) = delete;
    UringEngine& operator=(const UringEngine&) = delete;

    ~UringEngine() override { retire(); }

    void submit(IoOperation& operation) override;
    void use_memory(const MemorySnapshot& memory) override;
    void retire() override;

  private:
    /// False when the kernel takes no entry now.
    [[nodiscard]] bool try_submit(IoOperation& operation);
    [[nodiscard]] std::optional<uint32_t> memory_slot_of(const IoOperation& operation);
    void retry_parked();

    const UringEngineOptions options_;
    Worker& worker_;
    Uring& uring_;
    IoEngine* const helper_;
    std::optional<uint32_t> slot_;  // of the file; none: entries name it by its descriptor
    std::optional<FixedMemory> memory_;
    IoOperationList parked_;  // the kernel refused entries for these; a retry is posted
};

void UringEngine::submit(IoOperation& operation) {
    if (operation.opcode == IoOpcode::kDeviceDiscard ||
        operation.opcode == IoOpcode::kDeviceErase) {
        OUTRIGGER_ASSERT(helper_ != nullptr);
        helper_->submit(operation);
        return;
    }
    if (parked_.empty() && try_submit(operation)) {
        return;
    }
    // The kernel is short of memory or of room for completions. Completions are taken before
    // posted tasks run again, so this makes progress as soon as the kernel can.
    if (parked_.empty()) {
        worker_.post([this] { retry_parked(); });
    }
    parked_.push(operation);
}

bool UringEngine::try_submit(IoOperation& operation) {
    io_uring_sqe* const sqe = uring_.next_sqe();
    if (sqe == nullptr) {
        return false;
    }
    const std::optional<uint32_t> memory_slot = memory_slot_of(operation);
    if (slot_ && operation.opcode != IoOpcode::kReadAttribute) {
        prepare(sqe, static_cast<int>(*slot_), operation, memory_slot);
        sqe->flags |= IOSQE_FIXED_FILE;
    } else {
        prepare(sqe, options_.fd, operation, memory_slot);
    }
    uring_.bind(sqe, operation);
    return true;
}

/// Kernels before 6.15 take one segment at a time this way, and requests with several would pay
/// more for an entry each than the pages cost.
std::optional<uint32_t> UringEngine::memory_slot_of(const IoOperation& operation) {
    const bool moves_data =
        operation.opcode == IoOpcode::kRead || operation.opcode == IoOpcode::kWrite;
    if (!memory_ || !moves_data || operation.segment_count != 1) {
        return std::nullopt;
    }
    return memory_->slot_of(*operation.segments);
}

void UringEngine::use_memory(const MemorySnapshot& memory) {
    if (memory_) {
        memory_->use(memory);
    }
}

void UringEngine::retire() {
    if (memory_) {
        memory_->release();
        memory_.reset();
    }
    if (slot_) {
        // The ring would keep the file open, and so the image locked.
        uring_.unregister_file(*std::exchange(slot_, std::nullopt));
    }
}

void UringEngine::retry_parked() {
    IoOperationList waiting = parked_;
    parked_ = {};
    while (IoOperation* const operation = waiting.pop()) {
        submit(*operation);
    }
}

}  // namespace

bool uring_engine_can_serve(Worker& worker) {
    const Uring* const uring = worker.loop().uring();
    return uring != nullptr && std::ranges::all_of(kOperations, [&](uint8_t opcode) {
               return uring->supports(opcode);
           });
}

std::span<const uint8_t> uring_engine_operations() {
    return kOperations;
}

std::span<const uint8_t> fixed_memory_operations() {
    return kFixedMemoryOperations;
}

std::span<const SystemCallRule> fixed_memory_system_calls() {
    return kFixedMemorySystemCalls;
}

void raise_limit_of_fixed_memory() {
    const rlimit any{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    rlimit limit{};
    if (::setrlimit(RLIMIT_MEMLOCK, &any) == 0 || ::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // Without it the kernel refuses memory sooner, which is counted.
    (void)::setrlimit(RLIMIT_MEMLOCK, &limit);
}

std::unique_ptr<IoEngine> create_uring_engine(const UringEngineOptions& options,
                                              Worker& worker,
                                              IoEngine* helper) {
    return std::make_unique<UringEngine>(options, worker, helper);
}

}  // namespace outrigger::blk
