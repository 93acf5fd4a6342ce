// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/null_image.h"

#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {
namespace {

class NullQueue final : public ImageQueue {
  public:
    explicit NullQueue(bool read_zeroes) : read_zeroes_(read_zeroes) {}

    void submit(ImageRequest& request) override {
        if (read_zeroes_ && request.command == ImageCommand::kRead) {
            SegmentCursor(request.data, request.length_bytes).zero_rest();
        }
        request.on_image_done(0);
    }

  private:
    const bool read_zeroes_;
};

}  // namespace

NullImage::NullImage(const NullImageOptions& options) : read_zeroes_(options.read_zeroes) {
    properties_.size_bytes = options.size_bytes;
    size_bytes_ = options.size_bytes;
    properties_.block_bytes = options.block_bytes;
    properties_.physical_block_bytes = options.block_bytes;
    properties_.read_only = options.read_only;
    properties_.can_discard = !options.read_only;
    properties_.can_unmap_zeroes = !options.read_only;
}

Result<uint64_t> NullImage::resize(std::optional<uint64_t> size_bytes) {
    size_bytes_ = size_bytes.value_or(size_bytes_);
    return size_bytes_;
}

Result<std::unique_ptr<ImageQueue>> NullImage::open_queue(Worker& /*worker*/,
                                                          uint32_t /*requests_max*/) {
    return std::make_unique<NullQueue>(read_zeroes_);
}

}  // namespace outrigger::blk
