// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/qcow2_image.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/io/worker.h"

#include "devices/blk/qcow2/qcow2_queue.h"
#include "devices/blk/uring_engine.h"

namespace outrigger::blk {
namespace {

constexpr uint32_t kBlockBytes = 512;
/// A guest's page cache works in 4 KiB; Linux guests refuse larger blocks.
constexpr uint32_t kPhysicalBlockBytesMax = 4096;
/// With io_uring threads only decompress, which takes a processor each.
constexpr size_t kDecompressionThreads = 4;

}  // namespace

Result<std::unique_ptr<Qcow2Image>> Qcow2Image::open(const Qcow2ImageOptions& options) {
    std::vector<ImageLayer> layers = OUTRIGGER_TRY(open_image_chain(options.chain));
    const ImageLayer& top = layers.front();
    const uint32_t block = options.block_bytes.value_or(kBlockBytes);
    if (top.size_bytes % block != 0) {
        return failure(
            Error{.message = fmt::format("the size of image {}, {} bytes, is not a multiple of the "
                                         "block size {}: use a smaller --blk-size, or extend it "
                                         "with qemu-img resize",
                                         options.chain.path,
                                         top.size_bytes,
                                         block)});
    }
    const auto cluster = static_cast<uint32_t>(top.geometry.cluster_bytes());
    ImageProperties properties;
    properties.size_bytes = top.size_bytes;
    properties.block_bytes = block;
    properties.physical_block_bytes = std::max(block, std::min(cluster, kPhysicalBlockBytesMax));
    // Less of a compressed cluster is as much work.
    properties.minimum_io_bytes = std::max(cluster, properties.physical_block_bytes);
    properties.read_only = true;
    return std::unique_ptr<Qcow2Image>(
        new Qcow2Image(std::move(layers), properties, options.engine));
}

Result<IoThreadPool*> Qcow2Image::threads(size_t count) {
    const std::lock_guard lock(mutex_);
    if (!threads_) {
        threads_ = OUTRIGGER_TRY(IoThreadPool::start(count));
    }
    return threads_.get();
}

Result<std::unique_ptr<ImageQueue>> Qcow2Image::open_queue(Worker& worker, uint32_t requests_max) {
    const bool use_uring = OUTRIGGER_TRY(choose_uring(engine_, worker));
    IoThreadPool& pool = *OUTRIGGER_TRY(threads(use_uring ? kDecompressionThreads : kIoThreads));
    std::vector<std::unique_ptr<IoEngine>> engines;
    for (const ImageLayer& layer : layers_) {
        const int fd = layer.file->fd.get();
        if (use_uring) {
            engines.push_back(create_uring_engine({.fd = fd}, worker, nullptr));
        } else {
            engines.push_back(std::make_unique<ThreadEngine>(pool, worker, fd));
        }
    }
    auto decompressor =
        std::make_unique<ThreadEngine>(pool, worker, -1, Qcow2Queue::decompression_call());
    return std::make_unique<Qcow2Queue>(
        layers_,
        std::move(engines),
        std::move(decompressor),
        worker.loop(),
        Qcow2QueueLimits{.requests_max = requests_max, .memory = budget_.take_share()});
}

}  // namespace outrigger::blk
