// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/polled_rings.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/uring_witness.h"

namespace outrigger::blk {
namespace {

/// Requests of a queue that may be polled for at a time. What is more goes the usual way.
constexpr unsigned kEntries = 128;

/// What the kernel transfers at most in one call.
constexpr size_t kTransferBytesMax = 0x7fff'f000;

constexpr std::array<uint8_t, 4> kOperations = {
    IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV};

/// One io_uring, used by one queue after another.
class PolledRing final {
  public:
    PolledRing() = default;
    PolledRing(const PolledRing&) = delete;
    PolledRing& operator=(const PolledRing&) = delete;

    ~PolledRing() {
        if (open_) {
            io_uring_queue_exit(&ring_);
        }
    }

    [[nodiscard]] Result<void> open() {
        io_uring_params params{};
        params.flags = IORING_SETUP_IOPOLL | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP;
        const int result = io_uring_queue_init_params(kEntries, &ring_, &params);
        if (result < 0) {
            return failure(error_from_code("the kernel refuses an io_uring that polls", -result));
        }
        open_ = true;
        if (const int witness = uring_witness();
            witness >= 0 && io_uring_register_files(&ring_, &witness, 1) < 0) {
            return failure(Error{.message = "the kernel registers no file in an io_uring"});
        }
        return restrict();
    }

    [[nodiscard]] io_uring& get() { return ring_; }

  private:
    /// As UringLoop's: no flags, no operation but these, no registration.
    [[nodiscard]] Result<void> restrict() {
        std::vector<io_uring_restriction> restrictions;
        for (const uint8_t opcode : kOperations) {
            io_uring_restriction restriction{};
            restriction.opcode = IORING_RESTRICTION_SQE_OP;
            restriction.sqe_op = opcode;
            restrictions.push_back(restriction);
        }
        // liburing 2.3 declares functions for these two, but its shared library lacks them.
        if (::syscall(__NR_io_uring_register,
                      ring_.ring_fd,
                      IORING_REGISTER_RESTRICTIONS,
                      restrictions.data(),
                      static_cast<unsigned>(restrictions.size())) < 0 ||
            ::syscall(
                __NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
                0) {
            return failure(error_from_errno("the kernel does not restrict io_uring"));
        }
        return {};
    }

    io_uring ring_{};
    bool open_ = false;
};

class RingPool final : public PolledRings {
  public:
    [[nodiscard]] Result<void> fill(size_t count) {
        for (size_t i = 0; i < count; ++i) {
            auto ring = std::make_unique<PolledRing>();
            OUTRIGGER_TRY(ring->open());
            rings_.push_back(std::move(ring));
        }
        return {};
    }

    [[nodiscard]] std::unique_ptr<IoEngine> engine_over(std::unique_ptr<IoEngine> rest,
                                                        int fd,
                                                        Worker& worker) override;

    void give_back(std::unique_ptr<PolledRing> ring) {
        const std::lock_guard lock(mutex_);
        rings_.push_back(std::move(ring));
    }

    /// Does the host, for all that is known?
    [[nodiscard]] bool polls() const { return polls_.load(std::memory_order_relaxed); }

    void on_refusal() {
        if (polls_.exchange(false, std::memory_order_relaxed)) {
            log(LogLevel::kWarning,
                "blk: the host cannot be polled for the ends of this image's requests: it "
                "interrupts instead");
        }
    }

  private:
    std::atomic<bool> polls_ = true;  // a hint: who finds it old asks the host once more
    std::mutex mutex_;
    std::vector<std::unique_ptr<PolledRing>> rings_;  // guarded by mutex_
};

class PolledEngine final : public IoEngine, private WorkSource {
  public:
    PolledEngine(RingPool& pool,
                 std::unique_ptr<PolledRing> ring,
                 std::unique_ptr<IoEngine> rest,
                 int fd,
                 Worker& worker)
        : pool_(pool), ring_(std::move(ring)), rest_(std::move(rest)), fd_(fd), worker_(worker) {
        worker_.add_source(*this);
    }

    PolledEngine(const PolledEngine&) = delete;
    PolledEngine& operator=(const PolledEngine&) = delete;

    ~PolledEngine() override { give_back_ring(); }

    void submit(IoOperation& operation) override {
        if (!try_submit(operation)) {
            rest_->submit(operation);
        }
    }

    void use_memory(const MemorySnapshot& memory) override { rest_->use_memory(memory); }

    void retire() override {
        give_back_ring();
        rest_->retire();
    }

  private:
    [[nodiscard]] bool poll() override;

    /// Nothing would wake the worker but its own looking.
    [[nodiscard]] bool prepare_sleep() override { return in_flight_ == 0; }

    [[nodiscard]] bool try_submit(IoOperation& operation);
    void finish(IoOperation& operation, int32_t result);

    void give_back_ring() {
        if (ring_ != nullptr) {
            OUTRIGGER_ASSERT(in_flight_ == 0);
            worker_.remove_source(*this);
            pool_.give_back(std::move(ring_));
        }
    }

    RingPool& pool_;
    std::unique_ptr<PolledRing> ring_;  // null: retired
    const std::unique_ptr<IoEngine> rest_;
    const int fd_;
    Worker& worker_;
    unsigned in_flight_ = 0;  // also those that wait for io_uring_submit()
};

bool PolledEngine::try_submit(IoOperation& operation) {
    const bool write = operation.opcode == IoOpcode::kWrite;
    // A stable write may need a flush of the device, and nobody is told of those by polling.
    if ((!write && operation.opcode != IoOpcode::kRead) || operation.stable || !pool_.polls() ||
        in_flight_ == kEntries) {
        return false;
    }
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_->get());
    if (sqe == nullptr) {
        return false;
    }
    if (operation.segment_count == 1) {
        const iovec& only = *operation.segments;
        const auto length = static_cast<unsigned>(std::min(only.iov_len, kTransferBytesMax));
        if (write) {
            io_uring_prep_write(sqe, fd_, only.iov_base, length, operation.offset_bytes);
        } else {
            io_uring_prep_read(sqe, fd_, only.iov_base, length, operation.offset_bytes);
        }
    } else if (write) {
        io_uring_prep_writev(
            sqe, fd_, operation.segments, operation.segment_count, operation.offset_bytes);
    } else {
        io_uring_prep_readv(
            sqe, fd_, operation.segments, operation.segment_count, operation.offset_bytes);
    }
    io_uring_sqe_set_data(sqe, &operation);
    ++in_flight_;
    return true;
}

/// Submits what has gathered, which looks at the device as well, and takes what has ended.
bool PolledEngine::poll() {
    if (in_flight_ == 0) {
        return false;
    }
    // A refusal (the kernel is short of memory) leaves the entries for the next round.
    const int submitted = io_uring_submit(&ring_->get());
    unsigned ended = 0;
    io_uring_cqe* cqe = nullptr;
    while (ended < kEntries && io_uring_peek_cqe(&ring_->get(), &cqe) == 0) {
        auto& operation = *static_cast<IoOperation*>(io_uring_cqe_get_data(cqe));
        const int32_t result = cqe->res;
        io_uring_cqe_seen(&ring_->get(), cqe);
        --in_flight_;
        ++ended;
        finish(operation, result);
        if (ring_ == nullptr) {
            break;  // that was the queue's last
        }
    }
    return submitted > 0 || ended > 0;
}

void PolledEngine::finish(IoOperation& operation, int32_t result) {
    if (result == -EOPNOTSUPP) {
        pool_.on_refusal();
    }
    // EAGAIN: the device takes no more just now, and who polls for it does not wait for room.
    if (result == -EOPNOTSUPP || result == -EAGAIN) {
        rest_->submit(operation);
        return;
    }
    operation.on_complete(result, 0);
}

std::unique_ptr<IoEngine> RingPool::engine_over(std::unique_ptr<IoEngine> rest,
                                                int fd,
                                                Worker& worker) {
    std::unique_ptr<PolledRing> ring;
    {
        const std::lock_guard lock(mutex_);
        if (rings_.empty()) {
            return rest;
        }
        ring = std::move(rings_.back());
        rings_.pop_back();
    }
    return std::make_unique<PolledEngine>(*this, std::move(ring), std::move(rest), fd, worker);
}

}  // namespace

Result<std::unique_ptr<PolledRings>> PolledRings::create(size_t count) {
    auto pool = std::make_unique<RingPool>();
    OUTRIGGER_TRY(pool->fill(count));
    return pool;
}

}  // namespace outrigger::blk
