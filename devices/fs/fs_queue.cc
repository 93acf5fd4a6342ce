// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_queue.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <liburing.h>

namespace outrigger::fs {
namespace {

/// Requests that are taken before they are published, and the worker's other queues have their
/// turn: few, so that the driver takes up the first answers meanwhile (ARCHITECTURE.md, decision
/// 26), and fewer where they have much to move.
constexpr size_t kBatch = 16;
constexpr uint64_t kBatchBytes = uint64_t{256} * 1024;

/// The largest request but for what WRITE and BATCH_FORGET carry: SETXATTR of 64 KiB.
constexpr size_t kBodyBytesMax = size_t{72} * 1024;

/// How often a lock that somebody else has is tried: often at first.
constexpr auto kLockDelayMin = std::chrono::milliseconds(1);
constexpr auto kLockDelayMax = std::chrono::milliseconds(50);

/// What who waits for a lock is told where nobody can wait any longer. Linux makes "begin again" of
/// EINTR for whoever was not interrupted, which reaches programs as the error 512.
constexpr Verdict kCannotWait = failed(ENOLCK);

/// Requests that wait for a lock may have an eighth of the ring: without indirect descriptors each
/// takes four, and they are half of it then.
constexpr size_t kRingPartOfLockWaiters = 8;

/// A front end that is asked for something while it waits for the ring to stop answers at once, or
/// not before the ring has stopped.
constexpr auto kOutsideWaitMax = std::chrono::milliseconds(500);

bool is_silent(uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

}  // namespace

FsQueue::FsQueue(const Environment& environment)
    : environment_(environment),
      finished_(environment.worker, [](BlockingJob& job) { job.queue->finish(job); }),
      body_(std::make_unique_for_overwrite<std::byte[]>(kBodyBytesMax)) {}

FsQueue::~FsQueue() {
    OUTRIGGER_ASSERT(under_way_ == 0 && lock_waiters_.empty());
    if (outside_timer_) {
        environment_.worker.loop().cancel_timer(*outside_timer_);
    }
}

// With all that runs for each request inside, for what host_call.h says of returns.
[[gnu::flatten]] QueueProgress FsQueue::process() {
    // All are fetched before the first is read, so that the cache misses of one do not wait for
    // those of another.
    std::array<std::optional<DescriptorChain>, kBatch> chains;
    size_t count = 0;
    uint64_t bytes = 0;
    while (count < kBatch && bytes < kBatchBytes && (chains[count] = environment_.queue.pop())) {
        const DescriptorChain& chain = *chains[count++];
        chain.prefetch_readable();
        bytes += chain.readable_bytes() + chain.writable_bytes();
    }
    for (size_t i = 0; i < count; ++i) {
        serve(*std::move(chains[i]));
    }
    const bool is_full = count == kBatch || bytes >= kBatchBytes;
    return is_full ? QueueProgress::kMore : QueueProgress::kDrained;
}

void FsQueue::serve(DescriptorChain chain) {
    ChainReader reader = chain.take_reader();
    const auto head = reader.read_object<InHeader>();
    const bool can_answer = reply_.begin(chain, head ? head->unique : 0);
    if (!can_answer && !(head && is_silent(head->opcode))) {
        // Nothing was done, and there is no way to say why.
        environment_.counters.unanswerable.add();
        chain.complete(0);
        return;
    }
    chain_ = &chain;
    reader_ = &reader;
    Verdict verdict = head ? carry_out(*head) : failed(Malformed(EINVAL));
    chain_ = nullptr;
    reader_ = nullptr;
    if (verdict == Verdict::kLater) {
        return;
    }
    if (head && is_silent(head->opcode)) {
        // Nobody waits to hear of it.
        if (is_malformed(verdict)) {
            environment_.counters.malformed.add();
        }
        verdict = Verdict::kSilent;
    }
    if (!can_answer && verdict != Verdict::kSilent) {
        environment_.counters.unanswerable.add();
        chain.complete(0);
        return;
    }
    answer(chain, reply_, verdict);
}

Verdict FsQueue::carry_out(const InHeader& head) {
    const auto header = parse_header(head, reader_->remaining() + sizeof head);
    if (!header) {
        return failed(header.error());
    }
    FsCounters& counters = environment_.counters;
    counters.operations[header->opcode < kOpcodeCount ? header->opcode : 0].add();
    reply_.set_opcode(header->opcode);
    Call call{.header = *header, .body = {}, .payload = {}, .reply = reply_, .queue = *this};
    call.again = chain_->is_replayed();
    if (call.again) [[unlikely]] {
        counters.replays.add();
    }
    if (environment_.next_request != nullptr) {
        call.request = (*environment_.next_request)++;
    }
    size_t body_bytes = header->body_bytes;
    if (header->opcode == FUSE_WRITE) {
        body_bytes = sizeof(fuse_write_in);
    } else if (header->opcode == FUSE_BATCH_FORGET) {
        body_bytes = sizeof(fuse_batch_forget_in);
    }
    if (body_bytes > header->body_bytes || body_bytes > kBodyBytesMax) {
        return failed(Malformed(EINVAL));
    }
    const std::span body(body_.get(), body_bytes);
    reader_->read(body);
    call.body = body;
    if (header->opcode == FUSE_WRITE && !take_payload(*header, call)) {
        return failed(Malformed(EINVAL));
    }
    return environment_.server.serve(call);
}

/// As many bytes as the arguments say, of what is left of the chain. False: there are fewer.
bool FsQueue::take_payload(const RequestHeader& /*header*/, Call& call) {
    fuse_write_in args{};
    std::memcpy(&args, call.body.data(), sizeof args);
    uint64_t left = args.size;
    if (left > reader_->remaining()) {
        return false;
    }
    payload_.clear();
    for (iovec piece : reader_->take_iovecs()) {
        if (left == 0) {
            break;
        }
        piece.iov_len = std::min<uint64_t>(piece.iov_len, left);
        left -= piece.iov_len;
        payload_.push_back(piece);
    }
    call.payload = payload_;
    return true;
}

void FsQueue::answer(DescriptorChain& chain, ReplyWriter& reply, Verdict verdict) {
    switch (verdict) {
        case Verdict::kSilent:
            chain.complete(0);
            return;
        case Verdict::kAnswered:
            count_bytes(reply);
            chain.complete(reply.finish());
            return;
        case Verdict::kLater:
        case Verdict::kGivenUp:
            break;
    }
    FsCounters& counters = environment_.counters;
    if (is_malformed(verdict)) {
        counters.malformed.add();
        verdict = without_malformed(verdict);
    }
    // The guest's own limit is not meant: here they have run out.
    verdict = verdict == failed(EMFILE) ? failed(ENFILE) : verdict;
    const auto error = static_cast<size_t>(verdict);
    counters.errors[error < FsCounters::kErrorsMax ? error : 0].add();
    chain.complete(reply.finish_with_error(static_cast<int>(verdict)));
}

void FsQueue::count_bytes(const ReplyWriter& reply) {
    FsCounters& counters = environment_.counters;
    switch (reply.opcode()) {
        case FUSE_READ:
            counters.bytes_read.add(reply.payload_bytes());
            break;
        case FUSE_WRITE:
            counters.bytes_written.add(reply.taken_bytes());
            break;
        case FUSE_COPY_FILE_RANGE:
        case kCopyFileRange64:
            counters.bytes_copied.add(reply.taken_bytes());
            break;
        default:
            break;
    }
}

size_t FsQueue::read_more(std::span<std::byte> out) {
    return reader_->read(out);
}

EarlierRun FsQueue::earlier_run() {
    return chain_->earlier_run();
}

void FsQueue::note_intent(std::span<const std::byte> intent) {
    chain_->note_intent(intent);
}

void FsQueue::on_fault(std::span<const iovec> buffers) {
    (void)environment_.queue.buffers_were_lost(buffers);
}

/// The request in hand as a job of its own.
BlockingJob& FsQueue::take_over() {
    if (free_jobs_.empty()) {
        jobs_.push_back(std::make_unique<BlockingJob>());
        free_jobs_.push_back(jobs_.back().get());
        jobs_.back()->queue = this;
        jobs_.back()->finished = &finished_;
    }
    BlockingJob& job = *free_jobs_.back();
    free_jobs_.pop_back();
    job.chain.emplace(std::move(*chain_));
    // Spans into these that the work has taken stay what they are.
    std::swap(job.reply, reply_);
    std::swap(job.payload, payload_);
    return job;
}

void FsQueue::put_back(BlockingJob& job) {
    job.chain.reset();
    job.work = nullptr;
    if (job.outside != nullptr) {
        std::erase(outside_waiters_, &job);
        job.outside.reset();
    }
    free_jobs_.push_back(&job);
}

void FsQueue::defer(Call& /*call*/, Call::Work work) {
    BlockingJob& job = take_over();
    job.work = std::move(work);
    environment_.counters.pool_jobs.add();
    ++under_way_;
    environment_.pool.submit(job);
}

void FsQueue::read(Call& /*call*/, const FileRead& read, Call::Work work) {
    BlockingJob& job = take_over();
    job.work = std::move(work);
    ++under_way_;
    if (submit_read(job, read)) {
        environment_.counters.uring_reads.add();
    } else {
        environment_.counters.pool_jobs.add();
        environment_.pool.submit(job);
    }
}

/// False: there is no io_uring, or it takes nothing.
bool FsQueue::submit_read(BlockingJob& job, const FileRead& read) {
    Uring* const uring = environment_.worker.loop().uring();
    io_uring_sqe* const sqe = uring != nullptr ? uring->next_sqe() : nullptr;
    if (sqe == nullptr) {
        return false;
    }
    job.wanted_bytes = 0;
    for (const iovec& segment : read.segments) {
        job.wanted_bytes += segment.iov_len;
    }
    if (read.segments.size() == 1) {
        // Without the vector, whose import costs the kernel a copy.
        const iovec& only = read.segments.front();
        io_uring_prep_read(
            sqe, read.fd, only.iov_base, static_cast<unsigned>(only.iov_len), read.offset);
    } else {
        // More than the kernel takes are refused, and read by the pool.
        io_uring_prep_readv(sqe,
                            read.fd,
                            read.segments.data(),
                            static_cast<unsigned>(read.segments.size()),
                            read.offset);
    }
    uring->bind(sqe, job);
    return true;
}

/// A part may be the file's last one, or not: who reads once more knows.
void FsQueue::finish_read(BlockingJob& job, int32_t result) {
    const bool is_whole = result >= 0 && static_cast<size_t>(result) == job.wanted_bytes;
    if (!is_whole && result != 0) {
        environment_.counters.pool_jobs.add();
        environment_.pool.submit(job);
        return;
    }
    job.reply.note_written(static_cast<size_t>(result));
    job.verdict = Verdict::kAnswered;
    finish(job);
}

void BlockingJob::on_complete(int32_t result, uint32_t /*cqe_flags*/) {
    queue->finish_read(*this, result);
}

void FsQueue::finish(BlockingJob& job) {
    --under_way_;
    if (job.verdict == failed(EFAULT)) {
        (void)environment_.queue.memory_was_lost();
    }
    if (job.verdict == Verdict::kGivenUp && is_suspending_) {
        job.chain->set_aside();
    } else {
        answer(
            *job.chain, job.reply, job.verdict == Verdict::kGivenUp ? failed(EAGAIN) : job.verdict);
    }
    put_back(job);
    check_drained();
}

Call::Queue::Answer FsQueue::wait(Call& /*call*/) {
    BlockingJob& job = take_over();
    job.outside = std::make_shared<OutsideWait>();
    job.outside->job = &job;
    outside_waiters_.push_back(&job);
    ++under_way_;
    return [outside = job.outside](Verdict verdict) {
        const std::lock_guard lock(outside->mutex);
        if (BlockingJob* const waiting = std::exchange(outside->job, nullptr)) {
            waiting->verdict = verdict;
            waiting->finished->give(*waiting);
        }
    };
}

/// Those that nobody outside has answered, nor will. The others are about to come.
std::vector<BlockingJob*> FsQueue::take_outside_waiters() {
    std::vector<BlockingJob*> taken;
    for (BlockingJob* const job : outside_waiters_) {
        const std::lock_guard lock(job->outside->mutex);
        if (std::exchange(job->outside->job, nullptr) != nullptr) {
            taken.push_back(job);
        }
    }
    under_way_ -= taken.size();
    return taken;
}

void FsQueue::limit_outside_waits() {
    if (outside_timer_ || outside_waiters_.empty()) {
        return;
    }
    outside_timer_ =
        environment_.worker.loop().start_timer(EventLoop::Clock::now() + kOutsideWaitMax, [this] {
            outside_timer_.reset();
            for (BlockingJob* const job : take_outside_waiters()) {
                answer(*job->chain, job->reply, failed(EIO));
                put_back(*job);
            }
            check_drained();
        });
}

void FsQueue::retry(Call& /*call*/, Call::Work attempt) {
    BlockingJob& job = take_over();
    job.work = std::move(attempt);
    job.verdict = job.work(job.reply);
    // Nobody waits for a lock while the ring goes: whoever has it may be a guest that waits for us.
    const bool is_leaving = drained_ || environment_.queue.is_ending();
    // And not so many that the request by which somebody lets go finds no room in the ring.
    const bool are_many =
        lock_waiters_.size() >= environment_.queue.size() / kRingPartOfLockWaiters;
    if (job.verdict == failed(EAGAIN) && (is_leaving || are_many)) {
        job.verdict = kCannotWait;
    }
    if (job.verdict != failed(EAGAIN)) {
        answer(*job.chain, job.reply, job.verdict);
        put_back(job);
        return;
    }
    environment_.counters.lock_waits.add();
    lock_waiters_.push_back(&job);
    lock_delay_ = kLockDelayMin;
    start_lock_timer();
}

void FsQueue::start_lock_timer() {
    if (!lock_timer_ && !lock_waiters_.empty()) {
        lock_timer_ =
            environment_.worker.loop().start_timer(EventLoop::Clock::now() + lock_delay_, [this] {
                lock_timer_.reset();
                try_locks();
            });
    }
}

void FsQueue::try_locks() {
    const auto is_done = [this](BlockingJob* job) {
        job->verdict = environment_.server.take_interrupt(job->reply.unique())
                           ? failed(EINTR)
                           : job->work(job->reply);
        if (job->verdict == failed(EAGAIN)) {
            return false;
        }
        answer(*job->chain, job->reply, job->verdict);
        put_back(*job);
        return true;
    };
    std::erase_if(lock_waiters_, is_done);
    lock_delay_ = std::min(lock_delay_ * 2, kLockDelayMax);
    start_lock_timer();
}

void FsQueue::hurry() {
    hurries_.fetch_add(1, std::memory_order_relaxed);
    if (lock_timer_) {
        environment_.worker.loop().cancel_timer(*std::exchange(lock_timer_, std::nullopt));
    }
    for (BlockingJob* const job : std::exchange(lock_waiters_, {})) {
        answer(*job->chain, job->reply, kCannotWait);
        put_back(*job);
    }
    limit_outside_waits();
}

void FsQueue::suspend(std::move_only_function<void()> drained) {
    is_suspending_ = true;
    for (BlockingJob* const job : take_outside_waiters()) {
        job->chain->set_aside();
        put_back(*job);
    }
    for (BlockingJob* const job : std::exchange(lock_waiters_, {})) {
        job->chain->set_aside();
        put_back(*job);
    }
    stop(std::move(drained));
}

void FsQueue::stop(std::move_only_function<void()> drained) {
    hurry();
    drained_ = std::move(drained);
    check_drained();
}

void FsQueue::check_drained() {
    if (drained_ && under_way_ == 0) {
        // The last access to this: the callee may destroy it.
        std::exchange(drained_, nullptr)();
    }
}

}  // namespace outrigger::fs
