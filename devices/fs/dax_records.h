// SPDX-License-Identifier: Apache-2.0
/// What is mapped into a share's DAX window, as records in memory that the keeper has: the next
/// process reads them once and trusts none of them. Whoever wrote there may be hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/device_keeper.h"

namespace outrigger::fs {

/// A stretch of a file that the front end has, or may have.
struct KeptPiece {
    uint64_t offset = 0;  ///< in the window
    uint64_t bytes = 0;
    uint64_t node = 0;
    uint64_t file_offset = 0;
    bool writable = false;
    bool is_certain = false;  ///< false: the front end was asked, and had not answered
};

/// Thread: whoever has the window's lock.
class DaxRecords final {
  public:
    /// As many as there may be pieces, and some for those on their way.
    static constexpr uint32_t kPlaces = 34'816;

    [[nodiscard]] static Result<std::unique_ptr<DaxRecords>> open(DeviceKeeper& keeper);

    explicit DaxRecords(Mapping memory);

    /// Once, before anything else: what another process left, whatever it says. Its places are
    /// taken until remove().
    struct Found {
        uint32_t place = 0;
        KeptPiece piece{};
    };

    [[nodiscard]] std::vector<Found> read();

    /// A piece that is not certain, before the front end is asked for it. Nothing: no place is
    /// free.
    [[nodiscard]] std::optional<uint32_t> add(const KeptPiece& piece);
    void note_certain(uint32_t place, bool is_certain);
    void remove(uint32_t place);

  private:
    struct Record;

    [[nodiscard]] std::byte* at(uint32_t place) const;

    Mapping memory_;
    std::vector<uint32_t> free_;
    uint32_t end_ = 0;  // places that were used
};

}  // namespace outrigger::fs
