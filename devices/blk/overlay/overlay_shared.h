// SPDX-License-Identifier: Apache-2.0
/// What the queues and the fill of one overlay share.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "devices/blk/overlay/cluster_map.h"
#include "devices/blk/overlay/layer_committer.h"

namespace outrigger::blk {

/// Any thread; the counters carry no ordering.
struct OverlayCounters {
    std::atomic<uint64_t> copied_for_writes = 0;  ///< clusters
    std::atomic<uint64_t> copied_for_reads = 0;   ///< clusters
    std::atomic<uint64_t> copies_failed = 0;      ///< that nobody but the counter hears of
};

struct OverlayShared {
    ClusterMap& map;
    LayerCommitter* committer;  ///< null when the overlay is read-only
    uint64_t disk_bytes;
    uint64_t base_bytes;  ///< of the disk, from its beginning; behind it the base reads zeroes
    uint64_t data_offset;
    uint32_t cluster_bytes;
    bool copy_on_read;
    OverlayCounters& counters;

    [[nodiscard]] uint64_t cluster_of(uint64_t position) const {
        return position >> std::countr_zero(cluster_bytes);
    }

    [[nodiscard]] uint64_t start_of(uint64_t cluster) const { return cluster * cluster_bytes; }

    /// The end of a run of clusters, cut at the end of the disk.
    [[nodiscard]] uint64_t end_of(ClusterRun run) const {
        return std::min((run.first + run.count) * cluster_bytes, disk_bytes);
    }
};

}  // namespace outrigger::blk
