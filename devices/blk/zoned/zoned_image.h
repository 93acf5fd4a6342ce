// SPDX-License-Identifier: Apache-2.0
/// The image kind for zoned block devices: an image that reads and writes, and a host that knows
/// the zones.
#pragma once

#include <memory>
#include <mutex>

#include "devices/blk/image.h"
#include "devices/blk/thread_engine.h"
#include "devices/blk/zoned/zone_host.h"
#include "devices/blk/zoned/zone_table.h"
#include "devices/blk/zoned/zoned_queue.h"

namespace outrigger::blk {

struct ZonedParts {
    std::unique_ptr<ZoneHost> host;
    std::unique_ptr<Image> below;  ///< writes go past the page cache, one system call after another
    ImageZoning zoning;            ///< the host's
    /// Somebody else may write while no queue runs, also before the first one.
    bool takes_turns = false;
};

class ZonedImage final : public Image {
  public:
    /// Reads all zones. Blocking.
    [[nodiscard]] static Result<std::unique_ptr<ZonedImage>> create(ZonedParts parts);

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    void rest() override;

    [[nodiscard]] SyncMark* sync_mark() override { return parts_.below->sync_mark(); }

    void leave() override { parts_.below->leave(); }

    [[nodiscard]] FixedMemoryUse fixed_memory() const override {
        return parts_.below->fixed_memory();
    }

    [[nodiscard]] Result<uint64_t> resize(std::optional<uint64_t> size_bytes) override;

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    ZonedImage(ZonedParts parts,
               const ImageProperties& properties,
               std::unique_ptr<ZoneTable> table)
        : parts_(std::move(parts)),
          properties_(properties),
          table_(std::move(table)),
          shared_{.host = *parts_.host,
                  .table = *table_,
                  .write_granularity_bytes = properties_.zoning.write_granularity_bytes},
          must_forget_(parts_.takes_turns) {}

    /// See FileImage::threads().
    [[nodiscard]] Result<IoThreadPool*> threads();

    void forget_if_first();

    const ZonedParts parts_;
    const ImageProperties properties_;
    const std::unique_ptr<ZoneTable> table_;
    const ZonedShared shared_;
    std::mutex mutex_;
    std::unique_ptr<IoThreadPool> threads_;  // guarded by mutex_
    bool must_forget_;                       // guarded by mutex_; the next queue is the first
};

}  // namespace outrigger::blk
