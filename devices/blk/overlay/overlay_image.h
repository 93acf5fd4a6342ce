// SPDX-License-Identifier: Apache-2.0
/// The image kind for a base that is never written, with a local file for what differs from it.
/// docs/overlay-format.md describes the file, and why it survives what it survives.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "devices/blk/image.h"
#include "devices/blk/overlay/cluster_map.h"
#include "devices/blk/overlay/kept_bits.h"
#include "devices/blk/overlay/layer_committer.h"
#include "devices/blk/overlay/layer_journal.h"
#include "devices/blk/overlay/layer_store.h"
#include "devices/blk/overlay/overlay_fill.h"
#include "devices/blk/overlay/overlay_shared.h"

namespace outrigger::blk {

/// What an overlay is made of.
struct OverlayParts {
    std::unique_ptr<Image> base;   ///< of whatever kind; only read
    std::unique_ptr<Image> layer;  ///< the layer's file as an image, from the file's first byte
    std::unique_ptr<LayerStore> store;      ///< the same file, for the metadata
    std::unique_ptr<LayerJournal> journal;  ///< on `store`, opened and not loaded
};

struct OverlaySettings {
    bool read_only = false;  ///< nothing is written to the layer
    bool copy_on_read = false;
    bool fill = false;       ///< from the first queue on
    uint64_t fill_rate = 0;  ///< bytes per second; 0: no limit
    /// The smallest unit that the guest may use; at least what base and layer ask for.
    std::optional<uint32_t> block_bytes{};
};

class OverlayImage final : public Image {
  public:
    /// Reads the bitmap. Errors: damage, or sizes that do not go together.
    [[nodiscard]] static Result<std::unique_ptr<OverlayImage>> create(
        OverlayParts parts, const OverlaySettings& settings);

    /// Commits and closes the layer.
    ~OverlayImage() override;

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    /// The first queue starts the threads of commits and of the fill.
    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

    /// A read-only overlay has none.
    [[nodiscard]] BackgroundFill* fill() override { return fill_.get(); }

    /// Takes up the bits of clusters that a process before wrote and did not commit. A read-only
    /// overlay has none.
    [[nodiscard]] Result<void> keep_memory(DeviceKeeper& keeper) override;

    /// The layer's: a base is not written.
    [[nodiscard]] SyncMark* sync_mark() override { return parts_.layer->sync_mark(); }

    [[nodiscard]] const OverlayCounters& counters() const { return counters_; }

    [[nodiscard]] const ClusterMap& map() const { return map_; }

  private:
    OverlayImage(OverlayParts parts, const OverlaySettings& settings);

    [[nodiscard]] Result<void> set_up(const OverlaySettings& settings);
    [[nodiscard]] Result<void> settle_properties(const OverlaySettings& settings);
    [[nodiscard]] Result<void> start_threads();

    OverlayParts parts_;
    ImageProperties properties_;
    OverlayCounters counters_;
    std::optional<KeptBits> kept_bits_;  // of map_
    ClusterMap map_;
    std::unique_ptr<LayerCommitter> committer_;  // null: read-only
    OverlayShared shared_;
    std::mutex mutex_;
    bool threads_started_ = false;       // guarded by mutex_
    std::unique_ptr<OverlayFill> fill_;  // null: read-only. Last: ends first
};

}  // namespace outrigger::blk
