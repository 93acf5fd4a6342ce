// SPDX-License-Identifier: Apache-2.0
/// One read of a qcow2 disk on its way through the layers, piece by piece: a small state machine
/// that has at most one call under way at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "devices/blk/image.h"
#include "devices/blk/io_engine.h"
#include "devices/blk/io_retry.h"
#include "devices/blk/qcow2/block_cache.h"
#include "devices/blk/qcow2/qcow2_map.h"
#include "devices/blk/segment_cursor.h"

namespace outrigger::blk {

class Qcow2Queue;
struct ImageLayer;

/// Thread-bound: queue worker, but for decompress(). Owned by its queue and used again and again.
class Qcow2Transfer final : public IoOperation {
  public:
    void begin(Qcow2Queue& queue, ImageRequest& request);

    /// Continues after a wait for a block, a buffer or a turn.
    void go_on();

    void on_complete(int32_t result, uint32_t cqe_flags) override;

    /// On a thread of the pool, while the decompressor has this operation: expands the cluster that
    /// was read. 0 or -errno.
    [[nodiscard]] int32_t decompress();

    [[nodiscard]] ImageRequest& request() const { return *request_; }

  private:
    /// What goes on, or goes on next.
    enum class Phase : uint8_t {
        kLocate,      ///< looks where the next piece stands, a layer each turn
        kTable,       ///< a part of an L2 table is read
        kZero,        ///< the piece reads as zeroes
        kData,        ///< the piece is read to its place
        kCluster,     ///< the piece is a part of a compressed cluster, expanded or not
        kInput,       ///< the compressed cluster is read
        kDecompress,  ///< and expanded
    };

    /// Each does its phase's work as far as it can be done at once. False: it goes on later, or the
    /// request has ended.
    [[nodiscard]] bool locate();
    [[nodiscard]] bool write_zeroes();
    [[nodiscard]] bool read_data();
    [[nodiscard]] bool use_cluster();
    [[nodiscard]] bool read_input();

    void on_table(int32_t result);
    void on_data(int32_t result);
    void on_input(int32_t result);
    void on_decompressed(int32_t result);

    void set_piece(const Qcow2Run& run);
    void consume(uint64_t bytes);
    void end_load(BlockCache& cache, bool succeeded);
    void fail_damaged();
    void retry();
    void submit_call();
    bool finish(int os_error);

    [[nodiscard]] const ImageLayer& layer() const;
    [[nodiscard]] uint64_t position() const;

    Qcow2Queue* queue_ = nullptr;
    ImageRequest* request_ = nullptr;
    SegmentCursor cursor_;
    Phase phase_ = Phase::kLocate;
    int error_ = 0;              // found where the request could not end yet
    size_t layer_ = 0;           // where the piece is looked for, or was found
    uint64_t reach_ = 0;         // kLocate: no layer above has anything from position() to there
    Qcow2Run piece_;             // then: where it stands; `length_bytes` is what is left of it
    uint64_t inline_bytes_ = 0;  // moved by the worker itself since the last wait
    BlockCache::Block* block_ = nullptr;  // to be filled by us
    std::span<std::byte> block_bytes_;
    uint64_t offset_in_block_ = 0;  // of position()
    std::span<std::byte> input_;
    size_t input_count_ = 0;
    IoRetry retry_;  // of the call under way
    iovec single_{};
};

}  // namespace outrigger::blk
