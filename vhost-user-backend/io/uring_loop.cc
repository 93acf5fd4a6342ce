// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/uring_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include <liburing.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/probe.h"
#include "vhost-user-backend/io/uring.h"
#include "vhost-user-backend/io/uring_tables.h"

namespace outrigger {
namespace {

constexpr unsigned kSubmissionEntries = 1024;
constexpr unsigned kCompletionEntries = 4096;
constexpr unsigned kCompletionBatch = 64;
/// Completions that one turn hands out before posted tasks and timers get their chance.
constexpr unsigned kCompletionsPerTurn = 4096;

/// user_data says who a completion is for. Operations are pointers, whose lowest bit is 0; watches
/// set it, and carry slot and generation; 0 is for nobody (the answer to a cancellation).
constexpr uint64_t kNobody = 0;
constexpr uint64_t kWatchTag = 1;

/// The tables that operations can make use of.
UringTableKinds tables_of(const UringOperations& operations) {
    return {.files = !operations.empty(),
            .buffers = std::ranges::any_of(operations, [](uint8_t opcode) {
                return opcode == IORING_OP_READ_FIXED || opcode == IORING_OP_WRITE_FIXED;
            })};
}

struct Completion {
    uint64_t user_data = 0;
    int32_t result = 0;
    uint32_t flags = 0;
};

class UringLoop final : public EventLoop, public Uring {
  public:
    explicit UringLoop(Notifier wakeup) : EventLoop(std::move(wakeup)) {}

    [[nodiscard]] Result<void> open(const std::optional<UringOperations>& operations);
    ~UringLoop() override;

    [[nodiscard]] WatchId watch_readable(int fd, Task on_readable) override;
    void unwatch(WatchId watch) override;

    [[nodiscard]] Uring* uring() override { return this; }

    [[nodiscard]] const char* name() const override { return "io_uring"; }

    [[nodiscard]] io_uring_sqe* next_sqe() override;
    void bind(io_uring_sqe* sqe, UringOperation& operation) override;
    [[nodiscard]] bool supports(int opcode) const override;

    [[nodiscard]] std::optional<uint32_t> register_file(int fd) override {
        return tables_.register_file(fd);
    }

    void unregister_file(uint32_t slot) override { tables_.unregister_file(slot); }

    [[nodiscard]] Result<uint32_t> register_buffer(std::span<std::byte> memory) override {
        return tables_.register_buffer(memory);
    }

    void unregister_buffer(uint32_t slot) override { tables_.unregister_buffer(slot); }

  private:
    struct Watch {
        int fd = -1;
        uint32_t generation = 0;  // grows when the slot is freed, so that late completions miss
        bool in_use = false;
        bool in_flight = false;  // a poll request of this generation is with the kernel
        Task on_readable;        // empty while it runs
    };

    static uint64_t watch_user_data(uint32_t slot, uint32_t generation) {
        return uint64_t{generation} << 33 | uint64_t{slot} << 1 | kWatchTag;
    }

    [[nodiscard]] Result<void> create_ring(bool restricted);
    [[nodiscard]] Result<void> restrict_to(const UringOperations& operations);
    bool turn(Clock::time_point until) override;
    void arm_watches();
    [[nodiscard]] bool needs_kernel() const;
    void submit_without_sleep();
    void sleep_until(Clock::time_point until);
    void report_submit_result(int result);
    bool stash_completions();
    bool dispatch_completions();
    void dispatch(const Completion& completion);
    void dispatch_watch(uint64_t user_data);
    void cancel_everything();

    io_uring ring_{};
    UringTables tables_;
    bool open_ = false;
    bool closing_ = false;
    io_uring_probe* probe_ = nullptr;
    uint64_t operations_in_flight_ = 0;
    std::vector<Watch> watches_;
    std::vector<uint32_t> free_slots_;
    // Slots whose poll request goes out with the next submission. Nothing of a watch is with the
    // kernel before that, so an unwatch until then leaves no trace.
    std::vector<uint32_t> to_arm_;
    // Completions taken out of the ring to make room while a submission was refused.
    std::vector<Completion> stash_;
};

Result<void> UringLoop::create_ring(bool restricted) {
    constexpr unsigned kBase = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    // Kernel 6.1, 5.19, and older: each step costs speed, not function.
    constexpr std::array kFlagSets = {
        kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        kBase,
    };
    int result = -EINVAL;
    for (const unsigned flags : kFlagSets) {
        io_uring_params params{};
        // A ring can be restricted only before it is enabled.
        params.flags = flags | (restricted ? IORING_SETUP_R_DISABLED : 0U);
        params.cq_entries = kCompletionEntries;
        result = io_uring_queue_init_params(kSubmissionEntries, &ring_, &params);
        if (result != -EINVAL) {
            break;
        }
    }
    if (result < 0) {
        return failure(error_from_code("the kernel refuses io_uring", -result));
    }
    open_ = true;
    return {};
}

/// The kernel holds the ring to this for good: no flags of entries (links, provided buffers) but
/// that for registered files, no operation but the loop's and the device's, and no registration but
/// in the tables that it has.
Result<void> UringLoop::restrict_to(const UringOperations& operations) {
    constexpr std::array<uint8_t, 3> kOwnOperations = {
        IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL};
    std::vector<io_uring_restriction> restrictions;
    const auto allow = [&](uint8_t opcode) {
        // One that the kernel does not know would make it refuse the list.
        if (supports(opcode)) {
            io_uring_restriction restriction{};
            restriction.opcode = IORING_RESTRICTION_SQE_OP;
            restriction.sqe_op = opcode;
            restrictions.push_back(restriction);
        }
    };
    std::ranges::for_each(kOwnOperations, allow);
    std::ranges::for_each(operations, allow);
    io_uring_restriction flags{};
    flags.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    flags.sqe_flags = IOSQE_FIXED_FILE;
    restrictions.push_back(flags);
    const auto allow_registration = [&](uint8_t opcode) {
        io_uring_restriction restriction{};
        restriction.opcode = IORING_RESTRICTION_REGISTER_OP;
        restriction.register_op = opcode;
        restrictions.push_back(restriction);
    };
    const UringTableKinds tables = tables_of(operations);
    if (tables.files) {
        allow_registration(IORING_REGISTER_FILES_UPDATE);
    }
    if (tables.buffers) {
        allow_registration(IORING_REGISTER_BUFFERS_UPDATE);
    }
    // liburing 2.3 declares functions for these two, but its shared library does not have them.
    const auto count = static_cast<unsigned>(restrictions.size());
    if (::syscall(__NR_io_uring_register,
                  ring_.ring_fd,
                  IORING_REGISTER_RESTRICTIONS,
                  restrictions.data(),
                  count) < 0 ||
        // Here and not where the ring was made, because this makes the calling thread the only
        // one that may submit.
        ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
            0) {
        return failure(error_from_errno("the kernel does not restrict io_uring"));
    }
    return {};
}

Result<void> UringLoop::open(const std::optional<UringOperations>& operations) {
    OUTRIGGER_TRY(create_ring(operations.has_value()));
    // Before 5.11 a wait with a timeout needs a submission entry of its own, and completions can
    // be lost: not worth a second code path.
    if ((ring_.features & IORING_FEAT_EXT_ARG) == 0 || (ring_.features & IORING_FEAT_NODROP) == 0) {
        return failure(Error{.message = "the kernel's io_uring is older than 5.11"});
    }
    probe_ = io_uring_get_probe_ring(&ring_);
    if (probe_ == nullptr) {
        return failure(
            Error{.message = "the kernel does not tell which io_uring operations it has"});
    }
    tables_.open(
        ring_,
        operations ? tables_of(*operations) : UringTableKinds{.files = true, .buffers = true});
    if (operations) {
        OUTRIGGER_TRY(restrict_to(*operations));
    }
    (void)watch_readable(wakeup_fd(), [this] { on_wakeup(); });
    return {};
}

UringLoop::~UringLoop() {
    drop_tasks();
    if (open_) {
        cancel_everything();
        io_uring_queue_exit(&ring_);
    }
    if (probe_ != nullptr) {
        io_uring_free_probe(probe_);
    }
}

/// Operations may still point into memory that their owners free next, so the loop waits for each
/// of them; its owner hears -ECANCELED or the true result.
void UringLoop::cancel_everything() {
    closing_ = true;
    to_arm_.clear();
    while (operations_in_flight_ > 0) {
        io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
        if (sqe != nullptr) {
            io_uring_prep_cancel(sqe, nullptr, IORING_ASYNC_CANCEL_ANY);
            io_uring_sqe_set_data64(sqe, kNobody);
        }
        // What cannot be cancelled (a disk read under way) ends by itself.
        sleep_until(Clock::now() + std::chrono::milliseconds(100));
        dispatch_completions();
    }
}

WatchId UringLoop::watch_readable(int fd, Task on_readable) {
    uint32_t slot;
    if (free_slots_.empty()) {
        slot = static_cast<uint32_t>(watches_.size());
        watches_.emplace_back();
    } else {
        slot = free_slots_.back();
        free_slots_.pop_back();
    }
    Watch& watch = watches_[slot];
    watch.fd = fd;
    watch.in_use = true;
    watch.in_flight = false;
    watch.on_readable = std::move(on_readable);
    to_arm_.push_back(slot);
    return WatchId{watch_user_data(slot, watch.generation)};
}

void UringLoop::unwatch(WatchId id) {
    const auto user_data = static_cast<uint64_t>(id);
    const auto slot = static_cast<uint32_t>(user_data >> 1);
    if (slot >= watches_.size() || !watches_[slot].in_use ||
        watch_user_data(slot, watches_[slot].generation) != user_data) {
        return;
    }
    // The callback's captures may use the loop when they go, so the table must be whole by then.
    const Task dropped = std::move(watches_[slot].on_readable);
    Watch& watch = watches_[slot];
    watch.in_use = false;
    watch.generation = (watch.generation + 1) & 0x7fff'ffff;
    std::erase(to_arm_, slot);
    free_slots_.push_back(slot);
    if (watch.in_flight) {
        // The kernel holds the file open until the poll request is gone. When there is no room to
        // say so, the request stays until the descriptor becomes readable or the ring closes.
        io_uring_sqe* const sqe = next_sqe();
        if (sqe != nullptr) {
            io_uring_prep_poll_remove(sqe, user_data);
            io_uring_sqe_set_data64(sqe, kNobody);
        }
    }
}

void UringLoop::arm_watches() {
    size_t armed = 0;
    for (; armed < to_arm_.size(); ++armed) {
        Watch& watch = watches_[to_arm_[armed]];
        io_uring_sqe* const sqe = next_sqe();
        if (sqe == nullptr) {
            break;  // the rest goes out with the next turn
        }
        io_uring_prep_poll_add(sqe, watch.fd, POLLIN);
        io_uring_sqe_set_data64(sqe, watch_user_data(to_arm_[armed], watch.generation));
        watch.in_flight = true;
    }
    to_arm_.erase(to_arm_.begin(), to_arm_.begin() + static_cast<std::ptrdiff_t>(armed));
}

io_uring_sqe* UringLoop::next_sqe() {
    if (closing_) {
        return nullptr;
    }
    constexpr int kAttempts = 4;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
        if (sqe != nullptr) {
            *sqe = io_uring_sqe{};
            return sqe;
        }
        const int submitted = io_uring_submit(&ring_);
        if (submitted < 0 && !stash_completions()) {
            report_submit_result(submitted);
            return nullptr;
        }
    }
    return nullptr;
}

void UringLoop::bind(io_uring_sqe* sqe, UringOperation& operation) {
    io_uring_sqe_set_data(sqe, &operation);
    ++operations_in_flight_;
}

bool UringLoop::supports(int opcode) const {
    return io_uring_opcode_supported(probe_, opcode) != 0;
}

bool UringLoop::needs_kernel() const {
    // The kernel sets these bits while it has completions that only a system call brings out.
    // Pairs with nothing: a stale 0 is seen by the next turn, and sleep_until() always asks.
    const unsigned flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
    return io_uring_sq_ready(&ring_) > 0 ||
           (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

void UringLoop::submit_without_sleep() {
    if (needs_kernel()) {
        report_submit_result(io_uring_submit_and_get_events(&ring_));
    }
}

void UringLoop::sleep_until(Clock::time_point until) {
    io_uring_cqe* cqe = nullptr;
    if (until == Clock::time_point::max()) {
        report_submit_result(io_uring_submit_and_wait(&ring_, 1));
        return;
    }
    const auto now = Clock::now();
    const auto wait = until > now ? until - now : Clock::duration::zero();
    const auto seconds = std::chrono::floor<std::chrono::seconds>(wait);
    __kernel_timespec timeout{};
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = std::chrono::nanoseconds(wait - seconds).count();
    report_submit_result(io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr));
}

void UringLoop::report_submit_result(int result) {
    if (result > 0) {
        OUTRIGGER_PROBE(submit, result);
    }
    if (result >= 0 || result == -ETIME || result == -EINTR) {
        return;
    }
    // Out of memory, or completions must be taken first: the entries stay queued and the next turn
    // tries again, a moment later so that a lasting failure does not burn the processor.
    static LogLimiter limiter;
    limiter.log(LogLevel::kWarning,
                "{}",
                error_from_code("io_uring did not take a submission", -result).message);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool UringLoop::stash_completions() {
    std::array<io_uring_cqe*, kCompletionBatch> cqes;
    bool any = false;
    unsigned count;
    while ((count = io_uring_peek_batch_cqe(&ring_, cqes.data(), kCompletionBatch)) > 0) {
        for (unsigned i = 0; i < count; ++i) {
            stash_.push_back({cqes[i]->user_data, cqes[i]->res, cqes[i]->flags});
        }
        io_uring_cq_advance(&ring_, count);
        any = true;
    }
    return any;
}

bool UringLoop::turn(Clock::time_point until) {
    arm_watches();
    const bool ready = !stash_.empty() || io_uring_cq_ready(&ring_) > 0;
    if (ready || !to_arm_.empty() || until == Clock::time_point::min()) {
        submit_without_sleep();
    } else {
        sleep_until(until);
    }
    note_awake();
    return dispatch_completions();
}

bool UringLoop::dispatch_completions() {
    bool any = false;
    if (!stash_.empty()) {
        const std::vector<Completion> stashed = std::exchange(stash_, {});
        for (const Completion& completion : stashed) {
            dispatch(completion);
        }
        any = true;
    }
    std::array<io_uring_cqe*, kCompletionBatch> cqes;
    std::array<Completion, kCompletionBatch> batch;
    for (unsigned done = 0; done < kCompletionsPerTurn;) {
        // Asked first, because an empty peek may enter the kernel.
        if (io_uring_cq_ready(&ring_) == 0) {
            break;
        }
        const unsigned count = io_uring_peek_batch_cqe(&ring_, cqes.data(), kCompletionBatch);
        for (unsigned i = 0; i < count; ++i) {
            batch[i] = {cqes[i]->user_data, cqes[i]->res, cqes[i]->flags};
        }
        // Given back before the callbacks run: they may submit, and may stash what is left.
        io_uring_cq_advance(&ring_, count);
        for (unsigned i = 0; i < count; ++i) {
            dispatch(batch[i]);
        }
        done += count;
        any = true;
    }
    return any;
}

void UringLoop::dispatch(const Completion& completion) {
    if (completion.user_data == kNobody) {
        return;
    }
    if ((completion.user_data & kWatchTag) != 0) {
        dispatch_watch(completion.user_data);
        return;
    }
    if ((completion.flags & IORING_CQE_F_MORE) == 0) {
        --operations_in_flight_;
    }
    // SAFETY: bind() stored the address of an operation that its owner keeps in place until the
    // last on_complete(); only the kernel carried the value in between.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto* const operation = reinterpret_cast<UringOperation*>(completion.user_data);
    OUTRIGGER_PROBE(complete_io, operation, completion.result);
    operation->on_complete(completion.result, completion.flags);
}

void UringLoop::dispatch_watch(uint64_t user_data) {
    const auto slot = static_cast<uint32_t>(user_data >> 1);
    if (closing_ || slot >= watches_.size() || !watches_[slot].in_use ||
        watch_user_data(slot, watches_[slot].generation) != user_data) {
        return;  // unwatched meanwhile
    }
    watches_[slot].in_flight = false;
    // The callback may unwatch itself, so it runs from here and goes back only if still wanted.
    Task callback = std::move(watches_[slot].on_readable);
    callback();
    Watch& watch = watches_[slot];
    if (watch.in_use && watch_user_data(slot, watch.generation) == user_data) {
        watch.on_readable = std::move(callback);
        to_arm_.push_back(slot);
    }
}

}  // namespace

Result<std::unique_ptr<EventLoop>> create_uring_loop(
    const std::optional<UringOperations>& operations) {
    auto loop = std::make_unique<UringLoop>(OUTRIGGER_TRY(Notifier::create()));
    OUTRIGGER_TRY(loop->open(operations));
    return loop;
}

}  // namespace outrigger
