// SPDX-License-Identifier: Apache-2.0
/// Reads of a qcow2 disk as calls on the files of its layers, with what is worth keeping between
/// them. Knows no engine by name, so that tests can play the kernel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/image.h"
#include "devices/blk/io_engine.h"
#include "devices/blk/qcow2/block_cache.h"
#include "devices/blk/qcow2/image_chain.h"
#include "devices/blk/qcow2/qcow2_memory.h"

namespace outrigger::blk {

class Qcow2Transfer;

struct Qcow2QueueLimits {
    uint32_t requests_max = 0;
    std::unique_ptr<Qcow2Budget::Share> memory;  ///< not null
};

/// Thread-bound: queue worker.
class Qcow2Queue final : public ImageQueue {
  public:
    /// `engines`: one for each layer, in their order. `decompressor` makes decompression_call().
    /// `layers` and `loop` are borrowed and outlive the queue.
    Qcow2Queue(std::span<const ImageLayer> layers,
               std::vector<std::unique_ptr<IoEngine>> engines,
               std::unique_ptr<IoEngine> decompressor,
               EventLoop& loop,
               Qcow2QueueLimits limits);
    ~Qcow2Queue() override;

    /// What is to be done with an operation of this queue away from its worker.
    [[nodiscard]] static int32_t (*decompression_call())(int fd, IoOperation& operation);

    void submit(ImageRequest& request) override;
    void retire() override;

  private:
    friend class Qcow2Transfer;

    static constexpr size_t kInputBuffersMax = 8;

    void finish(Qcow2Transfer& transfer, int os_error);

    /// `block` was filled, or could not be: who waited for it goes on.
    void end_load(BlockCache& cache, BlockCache::Block& block, bool succeeded);

    /// A buffer for a compressed cluster. Empty: the transfer waits, and its go_on() is called
    /// later; or there is no memory, in which case `out_of_memory` is set and it does not wait.
    [[nodiscard]] std::span<std::byte> take_input(Qcow2Transfer& transfer, bool& out_of_memory);
    void give_back_input(std::span<std::byte> buffer);

    const std::unique_ptr<Qcow2Budget::Share> memory_;
    const std::span<const ImageLayer> layers_;
    std::vector<std::unique_ptr<IoEngine>> engines_;
    std::unique_ptr<IoEngine> decompressor_;
    EventLoop& loop_;
    const size_t cluster_bytes_max_;  // of all layers
    BlockCache tables_;
    BlockCache clusters_;
    const size_t input_buffer_bytes_;
    const size_t input_buffers_max_;
    std::array<std::unique_ptr<std::byte[]>, kInputBuffersMax> inputs_;
    std::array<std::byte*, kInputBuffersMax> free_inputs_{};
    size_t inputs_made_ = 0;
    size_t inputs_free_ = 0;
    IoOperationList waiting_for_input_;
    std::unique_ptr<Qcow2Transfer[]> transfers_;
    std::vector<Qcow2Transfer*> free_;  // capacity for all
};

}  // namespace outrigger::blk
