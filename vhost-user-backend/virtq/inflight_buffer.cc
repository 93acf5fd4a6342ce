// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/inflight_buffer.h"

#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/inflight_layout.h"
#include "vhost-user-backend/virtq/virtqueue_config.h"

namespace outrigger {
namespace {

uint64_t stride_of(const InflightDescription& description) {
    return description.bytes / description.queue_count / kInflightAlignment * kInflightAlignment;
}

}  // namespace

Result<std::shared_ptr<const InflightBuffer>> InflightBuffer::create(uint16_t queue_count,
                                                                     uint16_t entries) {
    OUTRIGGER_ASSERT(queue_count > 0);
    const uint16_t room = std::max(entries, kEntriesAtLeast);
    // Which format the rings will have may not be known yet, so there is room for the larger one.
    const uint64_t bytes =
        std::max(PackedInflight::bytes(room), SplitInflight::bytes(room)) * queue_count;
    auto file = OUTRIGGER_TRY(create_shared_memory("outrigger-inflight", bytes));
    auto mapping = OUTRIGGER_TRY(Mapping::map_file(file.get(), 0, bytes));
    const InflightDescription description{
        .bytes = bytes, .offset = 0, .queue_count = queue_count, .queue_size = entries};
    return std::make_shared<const InflightBuffer>(std::move(file), description, std::move(mapping));
}

Result<std::shared_ptr<const InflightBuffer>, InflightBufferError> InflightBuffer::map(
    UniqueFd file, const InflightDescription& description, uint16_t device_queues) {
    if (description.queue_count == 0 || description.queue_count > device_queues) {
        return failure(InflightBufferError::kQueueCount);
    }
    if (description.queue_size == 0 || description.queue_size > kQueueSizeLimit) {
        return failure(InflightBufferError::kQueueSize);
    }
    if (description.offset % alignof(uint64_t) != 0 ||
        !checked_add(description.offset, description.bytes)) {
        return failure(InflightBufferError::kOffset);
    }
    if (description.bytes > kInflightBytesMax ||
        stride_of(description) < SplitInflight::bytes(description.queue_size)) {
        return failure(InflightBufferError::kSize);
    }
    auto mapping = Mapping::map_file(file.get(), description.offset, description.bytes);
    if (!mapping) {
        return failure(InflightBufferError::kFile);
    }
    return std::make_shared<const InflightBuffer>(
        std::move(file), description, *std::move(mapping));
}

InflightBuffer::InflightBuffer(UniqueFd file,
                               const InflightDescription& description,
                               Mapping mapping)
    : file_(std::move(file)),
      description_(description),
      mapping_(std::move(mapping)),
      guard_(mapping_.whole().data(), mapping_.whole().size()) {}

std::span<std::byte> InflightBuffer::part(uint16_t queue) const {
    if (queue >= description_.queue_count) {
        return {};
    }
    const auto stride = static_cast<size_t>(stride_of(description_));
    return {mapping_.data() + stride * queue, stride};
}

}  // namespace outrigger
