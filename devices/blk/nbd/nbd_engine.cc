// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_engine.h"

#include <algorithm>
#include <cerrno>
#include <future>
#include <limits>
#include <new>
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

/// What it transfers, at most: not all of it when it has 2 GiB or more, as with a system call.
SegmentCursor cursor_of(const IoOperation& operation) {
    return {std::span(operation.segments, operation.segment_count),
            std::min(bytes_of(operation), NbdEngine::kCallBytesMax)};
}

}  // namespace

// --- The peer ------------------------------------------------------------------------------------

Result<std::unique_ptr<NbdPeer>> NbdPeer::start(const NbdTarget& target,
                                                const NbdExport& known,
                                                NbdLedger& ledger,
                                                std::chrono::milliseconds timeout,
                                                NbdHandle handle) {
    // This loop and its thread begin inside the sandbox, which has no room for another io_uring.
    auto peer = std::unique_ptr<NbdPeer>(new NbdPeer(
        OUTRIGGER_TRY(Worker::start({.thread_name = "blk-nbd", .loop = LoopKind::kAsio})), ledger));
    std::promise<Result<std::unique_ptr<NbdConnection>>> made;
    peer->worker_->post([&, &worker = *peer->worker_] {
        made.set_value(NbdConnection::create(
            target, known, peer->account_, worker.loop(), timeout, std::move(handle)));
    });
    peer->connection_ = OUTRIGGER_TRY(made.get_future().get());
    ledger.add(peer->account_);
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
        engine->finished_.give(*this);
    }

    NbdEngine* engine = nullptr;
    IoOperation* operation = nullptr;
    NbdBuffers* buffers = nullptr;  // where `buffer` came from
    NbdPeer* peer = nullptr;        // that has the command, or had it last
    bool flush_behind = false;      // a stable write, and the server has no FUA
    uint32_t rewrites = 0;          // of that
    uint64_t losses_before = 0;     // of its connection
    uint64_t bytes = 0;             // of the transfer
    SegmentCursor cursor;           // in it: what is still to be transferred
    int result = 0;
    Call* next = nullptr;  // of finished_

    // Of kSync.
    NbdLedger::Moment began = 0;
    const NbdLedger::Account* uncovered = nullptr;  // flushed last, behind our own
};

NbdEngine::NbdEngine(
    NbdPeer& peer, const NbdExport& known, NbdLedger& ledger, Worker& worker, uint32_t calls_max)
    : peer_(peer),
      known_(known),
      ledger_(ledger),
      worker_(worker),
      calls_(std::make_unique<Call[]>(calls_max)),
      finished_(worker, [](Call& call) { call.engine->take_up(call); }) {
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
    call.peer = &peer_;
    call.buffers = nullptr;
    call.buffer = nullptr;
    call.fua = false;
    call.unstable = known_.can_flush && operation.opcode != IoOpcode::kRead;
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
            begin_data(call);
            break;
        case IoOpcode::kSync:
            begin_sync(call);
            break;
        case IoOpcode::kPunchHole:
        case IoOpcode::kZeroRange:
            call.may_unmap = operation.opcode == IoOpcode::kPunchHole;
            send(call, NbdCommandKind::kZero);
            break;
        case IoOpcode::kDeviceDiscard:
            call.unstable = false;  // what was discarded may hold anything
            send(call, NbdCommandKind::kTrim);
            break;
        case IoOpcode::kDeviceErase:
        case IoOpcode::kReadAttribute:
            fail_later(call, EOPNOTSUPP);
            break;
    }
    return true;
}

void NbdEngine::begin_data(Call& call) {
    if (call.buffer == nullptr) {
        fail_later(call, ENOMEM);
        return;
    }
    const bool stable = call.operation->opcode == IoOpcode::kWrite && call.operation->stable;
    call.fua = stable && known_.can_fua;
    call.flush_behind = stable && !known_.can_fua && known_.can_flush;
    // These end when they are stable: nobody has to remember them.
    call.unstable = call.unstable && !call.fua && !call.flush_behind;
    call.rewrites = 0;
    call.losses_before = peer_.account().losses();
    next_piece(call);
}

void NbdEngine::begin_sync(Call& call) {
    if (!known_.can_flush) {
        fail_later(call, 0);  // there is nothing that a flush could do
        return;
    }
    if (ledger_.may_lack_writes()) {
        fail_later(call, EIO);
        return;
    }
    // What was answered until now is what it is about.
    call.began = ledger_.now();
    call.uncovered = nullptr;
    send(call, NbdCommandKind::kFlush);
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
    switch (call.operation->opcode) {
        case IoOpcode::kRead:
        case IoOpcode::kWrite:
            return data_is_over(call);
        case IoOpcode::kSync:
            return sync_is_over(call);
        case IoOpcode::kPunchHole:
        case IoOpcode::kZeroRange:
        case IoOpcode::kDeviceDiscard:
        case IoOpcode::kDeviceErase:
        case IoOpcode::kReadAttribute:
            return true;
    }
    return true;
}

bool NbdEngine::data_is_over(Call& call) {
    if (call.kind == NbdCommandKind::kRead) {
        call.cursor.scatter(std::span(call.buffer, static_cast<size_t>(call.length_bytes)));
    } else if (call.kind == NbdCommandKind::kWrite) {
        call.cursor.advance(call.length_bytes);
    } else if (const uint64_t losses = peer_.account().losses(); losses != call.losses_before) {
        // The flush may have come to another server than the data: all of it again.
        if (++call.rewrites > kRewritesMax) {
            call.result = EIO;
            return true;
        }
        call.losses_before = losses;
        call.cursor = cursor_of(*call.operation);
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

/// Our own server has flushed, or another one whose connection that did not cover.
bool NbdEngine::sync_is_over(Call& call) {
    NbdLedger::Account* const next = ledger_.next_uncovered(peer_.account(), call.uncovered);
    if (next != nullptr) {
        call.uncovered = next;
        call.peer = next->peer();
        send(call, NbdCommandKind::kFlush);
        return false;
    }
    if (ledger_.may_lack_writes()) {
        call.result = EIO;
    } else {
        ledger_.note_stable(call.began);
    }
    return true;
}

void NbdEngine::send(Call& call, NbdCommandKind kind) {
    call.kind = kind;
    call.peer->submit(call);
}

/// Not inside submit().
void NbdEngine::fail_later(Call& call, int os_error) {
    call.result = os_error;
    worker_.post([this, &call] { end(call); });
}

void NbdEngine::take_up(Call& call) {
    if (is_over(call)) {
        end(call);
    }
}

void NbdEngine::end(Call& call) {
    IoOperation& operation = *call.operation;
    static_assert(kCallBytesMax <= std::numeric_limits<int32_t>::max());
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
