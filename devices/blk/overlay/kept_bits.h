// SPDX-License-Identifier: Apache-2.0
/// The bits of an overlay's clusters in memory that outlives the process (DeviceKeeper). A guest
/// that does not notice that its disk's process was killed must find what it wrote, flushed or not;
/// the data is in the layer then, and without its bit nobody would look there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"

#include "devices/blk/overlay/layer_format.h"

namespace outrigger::blk {

class KeptBits final {
  public:
    [[nodiscard]] static size_t bytes(const LayerGeometry& geometry);

    /// `fd` is borrowed and has bytes(). Bits that are of another layer, or of none, are emptied.
    [[nodiscard]] static Result<KeptBits> open(int fd,
                                               const LayerHeader& header,
                                               const LayerGeometry& geometry);

    /// As ClusterMap has them, a word for kClustersPerWord clusters. Any bit may be set.
    [[nodiscard]] std::span<uint64_t> words() const;

  private:
    KeptBits(Mapping mapping, size_t word_count)
        : mapping_(std::move(mapping)), word_count_(word_count) {}

    Mapping mapping_;
    size_t word_count_;
};

}  // namespace outrigger::blk
