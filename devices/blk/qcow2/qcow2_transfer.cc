// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_transfer.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/qcow2/image_chain.h"
#include "devices/blk/qcow2/qcow2_decompress.h"
#include "devices/blk/qcow2/qcow2_queue.h"

namespace outrigger::blk {
namespace {

/// UIO_MAXIOV: the kernel refuses more segments in one call.
constexpr uint32_t kSegmentsPerCallMax = 1024;

/// What the worker copies or fills with zeroes for one request before others have their turn.
constexpr uint64_t kInlineBytesMax = uint64_t{1} << 20;
/// Looking at a layer counts like this many bytes.
constexpr uint64_t kLookBytes = 256;

LogLimiter damages;

}  // namespace

const ImageLayer& Qcow2Transfer::layer() const {
    return queue_->layers_[layer_];
}

uint64_t Qcow2Transfer::position() const {
    return request_->offset_bytes + (request_->length_bytes - cursor_.remaining());
}

void Qcow2Transfer::begin(Qcow2Queue& queue, ImageRequest& request) {
    queue_ = &queue;
    request_ = &request;
    error_ = 0;
    retry_.reset();
    switch (request.command) {
        case ImageCommand::kRead:
            break;
        case ImageCommand::kFlush:
            finish(0);
            return;
        case ImageCommand::kWrite:
        case ImageCommand::kDiscard:
        case ImageCommand::kWriteZeroes:
        case ImageCommand::kSecureErase:
        case ImageCommand::kGetLifetime:
        case ImageCommand::kZone:
            finish(EROFS);
            return;
    }
    cursor_ = SegmentCursor(request.data, request.length_bytes);
    piece_ = {};
    consume(0);
    go_on();
}

void Qcow2Transfer::go_on() {
    inline_bytes_ = 0;
    bool more = true;
    // Each turn ends a piece of the request, goes a layer down, or is the last one.
    while (more) {
        if (error_ != 0 || cursor_.remaining() == 0) {
            finish(error_);
            return;
        }
        if (inline_bytes_ > kInlineBytesMax) {
            queue_->loop_.post([this] { go_on(); });
            return;
        }
        switch (phase_) {
            case Phase::kLocate:
                more = locate();
                break;
            case Phase::kZero:
                more = write_zeroes();
                break;
            case Phase::kData:
                more = read_data();
                break;
            case Phase::kCluster:
                more = use_cluster();
                break;
            case Phase::kInput:
                more = read_input();
                break;
            case Phase::kTable:
            case Phase::kDecompress:
                abort_on_bug("a call is under way", __FILE__, __LINE__);
        }
    }
}

void Qcow2Transfer::on_complete(int32_t result, uint32_t /*cqe_flags*/) {
    if (IoRetry::is_for(result)) {
        retry();
        return;
    }
    retry_.reset();
    switch (phase_) {
        case Phase::kTable:
            on_table(result);
            if (phase_ == Phase::kTable) {
                submit_call();
                return;
            }
            break;
        case Phase::kData:
            on_data(result);
            break;
        case Phase::kInput:
            on_input(result);
            if (phase_ == Phase::kDecompress) {
                submit_call();
                return;
            }
            break;
        case Phase::kDecompress:
            on_decompressed(result);
            break;
        case Phase::kLocate:
        case Phase::kZero:
        case Phase::kCluster:
            abort_on_bug("no call is under way", __FILE__, __LINE__);
    }
    go_on();
}

void Qcow2Transfer::retry() {
    const auto pause = retry_.next();
    if (!pause) {
        on_complete(-EIO, 0);
    } else if (pause->count() == 0) {
        submit_call();
    } else {
        queue_->loop_.start_timer(EventLoop::Clock::now() + *pause, [this] { submit_call(); });
    }
}

void Qcow2Transfer::submit_call() {
    IoEngine& engine =
        phase_ == Phase::kDecompress ? *queue_->decompressor_ : *queue_->engines_[layer_];
    engine.submit(*this);
}

/// Always false, for the phases.
bool Qcow2Transfer::finish(int os_error) {
    queue_->finish(*this, os_error);
    return false;
}

void Qcow2Transfer::fail_damaged() {
    damages.log(LogLevel::kWarning,
                "blk: image {} is damaged: what it says of byte {} of the disk is not possible; "
                "qemu-img check tells more",
                layer().path,
                position());
    error_ = EIO;
}

/// Moves on by `bytes` of the piece; at its end the next one is looked for.
void Qcow2Transfer::consume(uint64_t bytes) {
    piece_.length_bytes -= std::min(bytes, piece_.length_bytes);
    piece_.host_offset += bytes;
    if (piece_.length_bytes == 0) {
        phase_ = Phase::kLocate;
        layer_ = 0;
        reach_ = request_->offset_bytes + request_->length_bytes;
    }
}

// --- Where the next piece stands -----------------------------------------------------------------

bool Qcow2Transfer::locate() {
    inline_bytes_ += kLookBytes;
    const uint64_t at = position();
    if (layer_ == queue_->layers_.size() || at >= layer().size_bytes) {
        // Behind the end of a layer nothing counts that is below it.
        piece_ = {.kind = Qcow2RunKind::kZero, .length_bytes = reach_ - at};
        phase_ = Phase::kZero;
        return true;
    }
    reach_ = std::min(reach_, layer().size_bytes);
    if (layer().raw) {
        piece_ = {.kind = Qcow2RunKind::kData, .length_bytes = reach_ - at, .host_offset = at};
        phase_ = Phase::kData;
        return true;
    }
    const Qcow2Geometry& geometry = layer().geometry;
    const uint64_t in_table = at % geometry.l2_span_bytes();
    const uint64_t table = layer().l2_tables[at / geometry.l2_span_bytes()];
    if (table == kDamagedTable) {
        fail_damaged();
        return true;
    }
    if (table == 0) {
        reach_ = std::min(reach_, at - in_table + geometry.l2_span_bytes());
        ++layer_;
        return true;
    }
    const uint64_t slice_offset =
        table + in_table / geometry.slice_span_bytes() * geometry.slice_bytes();
    const BlockCache::Found found = queue_->tables_.find(
        {.layer = layer_, .offset = slice_offset, .bytes = geometry.slice_bytes()}, *this);
    switch (found.state) {
        case BlockCache::State::kReady:
            block_bytes_ = found.bytes.first(geometry.slice_bytes());
            offset_in_block_ = in_table % geometry.slice_span_bytes();
            set_piece(map_qcow2_run(geometry, block_bytes_, offset_in_block_, reach_ - at));
            return true;
        case BlockCache::State::kMustLoad:
            break;
        case BlockCache::State::kWaits:
            return false;
        case BlockCache::State::kOutOfMemory:
            return finish(ENOMEM);
    }
    block_ = found.block;
    block_bytes_ = found.bytes.first(geometry.slice_bytes());
    offset_in_block_ = in_table % geometry.slice_span_bytes();
    phase_ = Phase::kTable;
    opcode = IoOpcode::kRead;
    offset_bytes = slice_offset;
    single_ = {.iov_base = block_bytes_.data(), .iov_len = block_bytes_.size()};
    segments = &single_;
    segment_count = 1;
    submit_call();
    return false;
}

void Qcow2Transfer::on_table(int32_t result) {
    const size_t count = result > 0 ? static_cast<size_t>(result) : 0;
    if (count > 0 && count < single_.iov_len) {
        // The kernel may stop short anywhere, and says at the rest why, if it must.
        single_ = {.iov_base = static_cast<std::byte*>(single_.iov_base) + count,
                   .iov_len = single_.iov_len - count};
        offset_bytes += count;
        return;
    }
    phase_ = Phase::kLocate;
    // All of it was inside the file when that was opened: 0 says that it is shorter now.
    const bool read = count > 0;
    if (read) {
        set_piece(
            map_qcow2_run(layer().geometry, block_bytes_, offset_in_block_, reach_ - position()));
    } else {
        error_ = result < 0 ? -result : EIO;
    }
    end_load(queue_->tables_, read);
}

void Qcow2Transfer::set_piece(const Qcow2Run& run) {
    piece_ = run;
    switch (run.kind) {
        case Qcow2RunKind::kUnallocated:
            reach_ = position() + run.length_bytes;
            ++layer_;
            phase_ = Phase::kLocate;
            return;
        case Qcow2RunKind::kZero:
            phase_ = Phase::kZero;
            return;
        case Qcow2RunKind::kData:
            phase_ = Phase::kData;
            return;
        case Qcow2RunKind::kCompressed:
            phase_ = Phase::kCluster;
            return;
        case Qcow2RunKind::kDamaged:
            fail_damaged();
            return;
    }
}

/// Who waits for the block, or for its place, goes on; we have what we wanted of it.
void Qcow2Transfer::end_load(BlockCache& cache, bool succeeded) {
    BlockCache::Block& block = *std::exchange(block_, nullptr);
    queue_->end_load(cache, block, succeeded);
}

// --- Zeroes and data -----------------------------------------------------------------------------

bool Qcow2Transfer::write_zeroes() {
    const uint64_t bytes = std::min(piece_.length_bytes, kInlineBytesMax);
    cursor_.zero(bytes);
    inline_bytes_ += bytes;
    consume(bytes);
    return true;
}

bool Qcow2Transfer::read_data() {
    const uint64_t file_bytes = layer().geometry.file_bytes;
    if (piece_.host_offset >= file_bytes) {
        // The rest of the last cluster, which nobody wrote.
        phase_ = Phase::kZero;
        return true;
    }
    const SegmentCursor::Run run =
        cursor_.next_run_within(std::min(piece_.length_bytes, file_bytes - piece_.host_offset),
                                kSegmentsPerCallMax,
                                single_);
    opcode = IoOpcode::kRead;
    offset_bytes = piece_.host_offset;
    segments = run.segments;
    segment_count = run.count;
    submit_call();
    return false;
}

void Qcow2Transfer::on_data(int32_t result) {
    if (result <= 0) {
        // 0: the file is shorter than it was. What was there is lost, and zeroes would hide that.
        error_ = result < 0 ? -result : EIO;
        return;
    }
    const auto count = std::min<uint64_t>(static_cast<uint64_t>(result), piece_.length_bytes);
    cursor_.advance(count);
    consume(count);
}

// --- Compressed clusters -------------------------------------------------------------------------

bool Qcow2Transfer::use_cluster() {
    const BlockCache::Found found = queue_->clusters_.find(
        {.layer = layer_, .offset = piece_.host_offset, .bytes = piece_.host_bytes}, *this);
    const uint64_t cluster_bytes = layer().geometry.cluster_bytes();
    offset_in_block_ = position() % cluster_bytes;
    switch (found.state) {
        case BlockCache::State::kReady:
            cursor_.scatter(found.bytes.subspan(offset_in_block_, piece_.length_bytes));
            inline_bytes_ += piece_.length_bytes;
            consume(piece_.length_bytes);
            return true;
        case BlockCache::State::kMustLoad:
            break;
        case BlockCache::State::kWaits:
            return false;
        case BlockCache::State::kOutOfMemory:
            return finish(ENOMEM);
    }
    block_ = found.block;
    block_bytes_ = found.bytes.first(cluster_bytes);
    input_count_ = 0;
    phase_ = Phase::kInput;
    return true;
}

bool Qcow2Transfer::read_input() {
    if (input_.empty()) {
        bool out_of_memory = false;
        input_ = queue_->take_input(*this, out_of_memory);
        if (out_of_memory) {
            error_ = ENOMEM;
            end_load(queue_->clusters_, false);
            return true;
        }
        if (input_.empty()) {
            return false;
        }
    }
    opcode = IoOpcode::kRead;
    offset_bytes = piece_.host_offset + input_count_;
    single_ = {.iov_base = input_.data() + input_count_,
               .iov_len = static_cast<size_t>(piece_.host_bytes) - input_count_};
    segments = &single_;
    segment_count = 1;
    submit_call();
    return false;
}

void Qcow2Transfer::on_input(int32_t result) {
    if (result > 0) {
        input_count_ += static_cast<size_t>(result);
        if (input_count_ < piece_.host_bytes) {
            return;  // go_on() reads the rest
        }
        phase_ = Phase::kDecompress;
        return;
    }
    on_decompressed(result < 0 ? result : -EIO);
}

int32_t Qcow2Transfer::decompress() {
    return -decompress_qcow2_cluster(layer().compression, input_.first(input_count_), block_bytes_);
}

void Qcow2Transfer::on_decompressed(int32_t result) {
    const bool expanded = result == 0;
    if (expanded) {
        cursor_.scatter(block_bytes_.subspan(offset_in_block_, piece_.length_bytes));
        inline_bytes_ += piece_.length_bytes;
        consume(piece_.length_bytes);
    } else {
        error_ = -result;
        phase_ = Phase::kLocate;
    }
    queue_->give_back_input(std::exchange(input_, {}));
    end_load(queue_->clusters_, expanded);
}

}  // namespace outrigger::blk
