// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_queue.h"

#include <algorithm>
#include <new>
#include <utility>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/qcow2/qcow2_transfer.h"

namespace outrigger::blk {
namespace {

size_t largest_cluster(std::span<const ImageLayer> layers) {
    size_t largest = size_t{1} << 9;
    for (const ImageLayer& layer : layers) {
        if (!layer.raw) {
            largest = std::max<size_t>(largest, layer.geometry.cluster_bytes());
        }
    }
    return largest;
}

}  // namespace

Qcow2Queue::Qcow2Queue(std::span<const ImageLayer> layers,
                       std::vector<std::unique_ptr<IoEngine>> engines,
                       std::unique_ptr<IoEngine> decompressor,
                       EventLoop& loop,
                       Qcow2QueueLimits limits)
    : memory_(std::move(limits.memory)),
      layers_(layers),
      engines_(std::move(engines)),
      decompressor_(std::move(decompressor)),
      loop_(loop),
      cluster_bytes_max_(largest_cluster(layers)),
      tables_(Qcow2Geometry::kSliceBytesMax, memory_->memory().tables),
      clusters_(cluster_bytes_max_, memory_->memory().clusters),
      input_buffer_bytes_(2 * cluster_bytes_max_),  // see Qcow2Run::host_bytes
      input_buffers_max_(
          std::clamp<size_t>(memory_->memory().inputs / input_buffer_bytes_, 1, kInputBuffersMax)),
      transfers_(std::make_unique<Qcow2Transfer[]>(limits.requests_max)) {
    OUTRIGGER_ASSERT(engines_.size() == layers_.size());
    free_.reserve(limits.requests_max);
    for (uint32_t i = 0; i < limits.requests_max; ++i) {
        free_.push_back(&transfers_[i]);
    }
}

Qcow2Queue::~Qcow2Queue() = default;

int32_t (*Qcow2Queue::decompression_call())(int fd, IoOperation& operation) {
    return [](int /*fd*/, IoOperation& operation) {
        return static_cast<Qcow2Transfer&>(operation).decompress();
    };
}

void Qcow2Queue::retire() {
    for (const auto& engine : engines_) {
        engine->retire();
    }
}

void Qcow2Queue::submit(ImageRequest& request) {
    OUTRIGGER_ASSERT(!free_.empty());  // the caller agreed on a limit
    Qcow2Transfer* const transfer = free_.back();
    free_.pop_back();
    transfer->begin(*this, request);
}

void Qcow2Queue::finish(Qcow2Transfer& transfer, int os_error) {
    ImageRequest& request = transfer.request();
    free_.push_back(&transfer);
    // Last, because it may submit the next request.
    request.on_image_done(os_error);
}

void Qcow2Queue::end_load(BlockCache& cache, BlockCache::Block& block, bool succeeded) {
    BlockCache::Woken woken = cache.finish_load(block, succeeded);
    // Those who want this very block first: the others may put theirs in its place.
    for (IoOperationList* const list : {&woken.for_block, &woken.for_room}) {
        while (IoOperation* const waiting = list->pop()) {
            static_cast<Qcow2Transfer*>(waiting)->go_on();
        }
    }
}

std::span<std::byte> Qcow2Queue::take_input(Qcow2Transfer& transfer, bool& out_of_memory) {
    if (inputs_free_ == 0 && inputs_made_ < input_buffers_max_) {
        inputs_[inputs_made_].reset(new (std::nothrow) std::byte[input_buffer_bytes_]);
        if (inputs_[inputs_made_]) {
            free_inputs_[inputs_free_++] = inputs_[inputs_made_++].get();
        }
    }
    out_of_memory = inputs_free_ == 0 && inputs_made_ == 0;
    if (inputs_free_ == 0) {
        if (!out_of_memory) {
            waiting_for_input_.push(transfer);
        }
        return {};
    }
    return {free_inputs_[--inputs_free_], input_buffer_bytes_};
}

void Qcow2Queue::give_back_input(std::span<std::byte> buffer) {
    free_inputs_[inputs_free_++] = buffer.data();
    if (IoOperation* const waiting = waiting_for_input_.pop()) {
        static_cast<Qcow2Transfer*>(waiting)->go_on();
    }
}

}  // namespace outrigger::blk
