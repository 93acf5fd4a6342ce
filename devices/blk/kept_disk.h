// SPDX-License-Identifier: Apache-2.0
/// What of a disk the next process must know when this one was killed, whatever stands behind it,
/// and no message tells: memory that outlives the process (DeviceKeeper).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_keeper.h"

#include "devices/blk/blk_settings.h"

namespace outrigger::blk {

class KeptDisk final {
  public:
    [[nodiscard]] static Result<std::shared_ptr<KeptDisk>> open(DeviceKeeper& keeper);

    /// Of its SyncMark. Keeps `disk` alive.
    [[nodiscard]] static std::shared_ptr<uint64_t> sync_word(const std::shared_ptr<KeptDisk>& disk);

    /// What an operator chose in place of `given`, the policy of the command line; nothing where
    /// nobody did, or where the command line says something else by now.
    [[nodiscard]] std::optional<ErrorPolicy> policy(ErrorPolicy given) const;

    /// Control thread.
    void store_policy(ErrorPolicy given, ErrorPolicy chosen);

  private:
    /// As they are kept: numbers of ErrorPolicy.
    struct Policy {
        uint8_t given;
        uint8_t chosen;
    };

    explicit KeptDisk(Mapping mapping);

    Mapping mapping_;
    KeptValue<Policy> policy_;
};

}  // namespace outrigger::blk
