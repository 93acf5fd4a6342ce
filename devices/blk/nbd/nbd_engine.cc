// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_engine.h"

#include <algorithm>
#include <cerrno>
#include <future>
#include <new>
#include <thread>
#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {
namespace {

uint64_t bytes_of(const IoOperation& operation) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < operation.segment_count; ++i) {
        bytes += operation.segments[i].iov_len;
    }
    return bytes;
}

SegmentCursor cursor_of(const IoOperation& operation) {
    return {std::span(operation.segments, operation.segment_count), bytes_of(operation)};
}

}  // namespace

// --- The peer ------------------------------------------------------------------------------------

Result<std::unique_ptr<NbdPeer>> NbdPeer::start(const NbdTarget& target,
                                                const NbdExport& known,
                                                std::chrono::milliseconds timeout,
                                                NbdHandle handle) {
    // This loop and its thread begin inside the sandbox, which has no room for another io_uring.
    auto peer = std::unique_ptr<NbdPeer>(new NbdPeer(
        OUTRIGGER_TRY(Worker::start({.thread_name = "blk-nbd", .loop = LoopKind::kAsio}))));
    std::promise<Result<std::unique_ptr<NbdConnection>>> made;
    peer->worker_->post([&, &worker = *peer->worker_] {
        made.set_value(
            NbdConnection::create(target, known, worker.loop(), timeout, std::move(handle)));
    });
    peer->connection_ = OUTRIGGER_TRY(made.get_future().get());
    return peer;
}

NbdPeer::~NbdPeer() {
    std::promise<void> closed;
    worker_->post([&] {
        connection_.reset();
        closed.set_value();
    });
    closed.get_future().wait();
}

void NbdPeer::submit(NbdCommand& command) {
    worker_->post([this, &command] { connection_->submit(command); });
}

// --- Buffers -------------------------------------------------------------------------------------

std::byte* NbdBuffers::take() {
    if (free_.empty() && owned_.size() < count_max_) {
        std::unique_ptr<std::byte[]> made(new (std::nothrow) std::byte[bytes_]);
        if (made) {
            free_.push_back(made.get());
            owned_.push_back(std::move(made));
        }
    }
    if (free_.empty()) {
        return nullptr;
    }
    std::byte* const taken = free_.back();
    free_.pop_back();
    return taken;
}

// --- The engine ----------------------------------------------------------------------------------

/// An operation and its command.
class NbdEngine::Call final : public NbdCommand {
  public:
    void on_nbd_done(int os_error) override {
        result = os_error;
        engine->finish(*this);
    }

    NbdEngine* engine = nullptr;
    IoOperation* operation = nullptr;
    NbdBuffers* buffers = nullptr;  // where `buffer` came from
    bool flush_behind = false;      // a stable write, and the server has no FUA
    uint64_t bytes = 0;             // of the transfer
    SegmentCursor cursor;           // in it: what is still to be transferred
    int result = 0;
    Call* next_finished = nullptr;
};

NbdEngine::NbdEngine(NbdPeer& peer, const NbdExport& known, Worker& worker, uint32_t calls_max)
    : peer_(peer), known_(known), worker_(worker), calls_(std::make_unique<Call[]>(calls_max)) {
    free_.reserve(calls_max);
    for (uint32_t i = 0; i < calls_max; ++i) {
        calls_[i].engine = this;
        free_.push_back(&calls_[i]);
    }
}

NbdEngine::~NbdEngine() {
    OUTRIGGER_ASSERT(small_.all_are_here() && large_.all_are_here());
}

NbdBuffers& NbdEngine::buffers_for(uint64_t bytes) {
    return bytes <= kSmallBytes ? small_ : large_;
}

void NbdEngine::submit(IoOperation& operation) {
    if (!waiting_.empty() || !try_start(operation)) {
        waiting_.push(operation);
    }
}

/// False: no buffer is free.
bool NbdEngine::try_start(IoOperation& operation) {
    const bool transfers =
        operation.opcode == IoOpcode::kRead || operation.opcode == IoOpcode::kWrite;
    OUTRIGGER_ASSERT(!free_.empty());
    Call& call = *free_.back();
    call.operation = &operation;
    call.buffers = nullptr;
    call.buffer = nullptr;
    call.fua = false;
    call.flush_behind = false;
    call.offset_bytes = operation.offset_bytes;
    call.length_bytes = operation.length_bytes;
    if (transfers) {
        call.cursor = cursor_of(operation);
        call.bytes = call.cursor.remaining();
        call.buffers = &buffers_for(call.bytes);
        call.buffer = call.buffers->take();
        const bool must_wait = !small_.all_are_here() || !large_.all_are_here();
        if (call.buffer == nullptr && must_wait) {
            return false;
        }
    }
    free_.pop_back();
    switch (operation.opcode) {
        case IoOpcode::kRead:
        case IoOpcode::kWrite:
            if (call.buffer == nullptr) {
                fail_later(call, ENOMEM);
                break;
            }
            call.fua = operation.stable && known_.can_fua;
            call.flush_behind = operation.stable && !known_.can_fua && known_.can_flush;
            next_piece(call);
            break;
        case IoOpcode::kSync:
            if (known_.can_flush) {
                send(call, NbdCommandKind::kFlush);
            } else {
                fail_later(call, 0);  // there is nothing that a flush could do
            }
            break;
        case IoOpcode::kPunchHole:
        case IoOpcode::kZeroRange:
            call.may_unmap = operation.opcode == IoOpcode::kPunchHole;
            send(call, NbdCommandKind::kZero);
            break;
        case IoOpcode::kDeviceDiscard:
            send(call, NbdCommandKind::kTrim);
            break;
        case IoOpcode::kDeviceErase:
        case IoOpcode::kReadAttribute:
            fail_later(call, EOPNOTSUPP);
            break;
    }
    return true;
}

void NbdEngine::next_piece(Call& call) {
    IoOperation& operation = *call.operation;
    call.offset_bytes = operation.offset_bytes + (call.bytes - call.cursor.remaining());
    call.length_bytes = std::min<uint64_t>(
        {call.cursor.remaining(), call.buffers->bytes(), known_.transfer_bytes_max});
    if (operation.opcode == IoOpcode::kRead) {
        send(call, NbdCommandKind::kRead);
        return;
    }
    // A copy of the cursor, which moves when this was written.
    SegmentCursor source = call.cursor;
    source.gather(std::span(call.buffer, static_cast<size_t>(call.length_bytes)));
    if (operation.data_was_lost()) {
        fail_later(call, EFAULT);
        return;
    }
    send(call, NbdCommandKind::kWrite);
}

bool NbdEngine::is_over(Call& call) {
    if (call.result != 0) {
        return true;
    }
    if (call.kind == NbdCommandKind::kRead) {
        call.cursor.scatter(std::span(call.buffer, static_cast<size_t>(call.length_bytes)));
    } else if (call.kind == NbdCommandKind::kWrite) {
        call.cursor.advance(call.length_bytes);
    } else {
        return true;
    }
    if (call.cursor.remaining() > 0) {
        next_piece(call);
        return false;
    }
    if (call.flush_behind) {
        send(call, NbdCommandKind::kFlush);
        return false;
    }
    return true;
}

void NbdEngine::send(Call& call, NbdCommandKind kind) {
    call.kind = kind;
    peer_.submit(call);
}

/// Not inside submit().
void NbdEngine::fail_later(Call& call, int os_error) {
    call.result = os_error;
    worker_.post([this, &call] { end(call); });
}

/// On the peer's thread.
void NbdEngine::finish(Call& call) {
    bool must_post = false;
    {
        const std::lock_guard lock(mutex_);
        call.next_finished = std::exchange(finished_, &call);
        must_post = !std::exchange(delivery_posted_, true);
        if (must_post) {
            posting_.store(true, std::memory_order_relaxed);
        }
    }
    // Without `must_post` a delivery on its way takes the call, and with it perhaps the last reason
    // for this object to exist: touch nothing any more.
    if (must_post) {
        worker_.post([this] { deliver(); });
        // Release: pairs with the acquire in deliver(), which waits for this last access of ours.
        posting_.store(false, std::memory_order_release);
    }
}

void NbdEngine::deliver() {
    // The thread that posted this may not have left post() yet, and what is delivered here may end
    // worker and engine. Acquire: pairs with the release in finish().
    while (posting_.load(std::memory_order_acquire)) {
        std::this_thread::yield();
    }
    Call* call = nullptr;
    {
        const std::lock_guard lock(mutex_);
        call = std::exchange(finished_, nullptr);
        delivery_posted_ = false;
    }
    while (call != nullptr) {
        Call* const next = call->next_finished;
        if (is_over(*call)) {
            end(*call);
        }
        call = next;
    }
}

void NbdEngine::end(Call& call) {
    IoOperation& operation = *call.operation;
    // A request moves 64 MiB at most, so the count fits.
    const bool transferred = call.result == 0 && call.buffer != nullptr;
    const int32_t result = transferred ? static_cast<int32_t>(call.bytes) : -call.result;
    if (call.buffer != nullptr) {
        call.buffers->give_back(call.buffer);
    }
    free_.push_back(&call);
    while (IoOperation* const waiting = waiting_.pop()) {
        if (!try_start(*waiting)) {
            waiting_.push_front(*waiting);
            break;
        }
    }
    // Last, because it may end this object.
    operation.on_complete(result, 0);
}

}  // namespace outrigger::blk
