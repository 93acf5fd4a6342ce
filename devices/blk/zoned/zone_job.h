// SPDX-License-Identifier: Apache-2.0
/// One call to a zoned device that may block, made on a helper thread for a transfer.
#pragma once

#include <cstdint>
#include <span>

#include "devices/blk/io_engine.h"
#include "devices/blk/zoned/zone_host.h"
#include "devices/blk/zoned/zone_table.h"

namespace outrigger::blk {

class ZonedTransfer;

class ZoneJob final : public IoOperation {
  public:
    enum class Kind : uint8_t {
        kReport,    ///< fills `report` from `offset_bytes` on; the result is how many
        kLook,      ///< the one zone at `offset_bytes`, into `zone`
        kChange,    ///< `command` on the zone at `offset_bytes`, and then a look at it
        kResetAll,  ///< and then a look at all of them, for whoever has them all
    };

    explicit ZoneJob(ZonedTransfer& owner) : owner_(owner) {}

    /// On a helper thread. The result is a call's, or -errno.
    [[nodiscard]] int32_t run();

    void on_complete(int32_t result, uint32_t cqe_flags) override;

    Kind kind = Kind::kLook;
    ZoneHost* host = nullptr;
    ZoneTable* table = nullptr;
    ZoneCommand command = ZoneCommand::kOpen;
    std::span<ImageZone> report;

    ImageZone zone;       // kLook, kChange: the answer
    bool looked = false;  // kLook, kChange: `zone` is set

  private:
    void look();

    ZonedTransfer& owner_;
};

/// What helper threads call: see ThreadEngine::Call.
[[nodiscard]] int32_t run_zone_job(int fd, IoOperation& operation);

}  // namespace outrigger::blk
