// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/virtq/outcome_buffer.h"

#include <utility>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/virtq/outcome_journal.h"

namespace outrigger {
namespace {

size_t part_bytes(const OutcomeBuffer::Shape& shape) {
    return OutcomeJournal::bytes(shape.entries, shape.record_bytes);
}

}  // namespace

Result<std::shared_ptr<const OutcomeBuffer>> OutcomeBuffer::create(const Shape& shape) {
    const size_t bytes = part_bytes(shape) * shape.queue_count;
    auto file = OUTRIGGER_TRY(create_shared_memory("outrigger-outcomes", bytes));
    return map(std::move(file), shape);
}

Result<std::shared_ptr<const OutcomeBuffer>> OutcomeBuffer::map(UniqueFd file, const Shape& shape) {
    OUTRIGGER_ASSERT(shape.queue_count > 0 && shape.record_bytes > 0 &&
                     shape.record_bytes <= kOutcomeBytesMax);
    auto mapping =
        OUTRIGGER_TRY(Mapping::map_file(file.get(), 0, part_bytes(shape) * shape.queue_count));
    return std::make_shared<const OutcomeBuffer>(std::move(file), shape, std::move(mapping));
}

OutcomeBuffer::OutcomeBuffer(UniqueFd file, const Shape& shape, Mapping mapping)
    : file_(std::move(file)),
      shape_(shape),
      mapping_(std::move(mapping)),
      guard_(mapping_.whole().data(), mapping_.whole().size()) {}

std::span<std::byte> OutcomeBuffer::part(uint16_t queue) const {
    if (queue >= shape_.queue_count) {
        return {};
    }
    const size_t bytes = part_bytes(shape_);
    return {mapping_.data() + bytes * queue, bytes};
}

}  // namespace outrigger
