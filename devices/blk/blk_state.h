// SPDX-License-Identifier: Apache-2.0
/// What follows a guest to another process: how its driver believes that writes become stable, and
/// what it read of the disk. docs/state.md has the table. Pure.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/state/section.h"

#include "devices/blk/blk_config.h"

namespace outrigger::blk {

struct BlkState {
    bool write_back = false;          ///< the `writeback` byte, as a driver or an operator left it
    bool read_write_through = false;  ///< a driver may have read there that it need not flush
    bool keep_write_through = false;  ///< for that driver
    bool read_only = false;           ///< writes are refused
    BlkConfigSpace config{};          ///< what a driver may have read
    bool sync_failed = false;         ///< what was answered may be lost: no flush may succeed
};

inline constexpr StateSectionKind kModeSection{
    .id = 1, .name = "mode", .version = 1, .critical = true};
inline constexpr StateSectionKind kConfigSection{
    .id = 2, .name = "configuration", .version = 1, .critical = true};
/// Only where a sync has failed.
inline constexpr StateSectionKind kSyncSection{
    .id = 3, .name = "failed sync", .version = 1, .critical = true};
inline constexpr std::array kBlkSections = {kModeSection, kConfigSection, kSyncSection};

[[nodiscard]] std::vector<StateSection> write_blk_state(const BlkState& state);

/// Anybody may have written them.
[[nodiscard]] Result<BlkState> read_blk_state(std::span<const StateSection> sections);

/// Can a driver that read `seen` go on with a disk that has `here`? An Error names the first field
/// by which it would be misled: the disk may be larger and take more, never less.
[[nodiscard]] Result<void> check_config(const BlkConfigSpace& seen, const BlkConfigSpace& here);

}  // namespace outrigger::blk
