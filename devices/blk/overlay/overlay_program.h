// SPDX-License-Identifier: Apache-2.0
/// What the options of the command line say of overlays.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

#include "devices/blk/file_image.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

/// What the table of options cannot say. An error is one of usage.
[[nodiscard]] Result<void> check_overlay_options(const OptionValues& values);

/// Whose command line the values are from says what it opened.
struct OverlayBase {
    std::string kind{};  ///< "raw", "qcow2", ...
    std::string path{};
    IoEngineKind engine = IoEngineKind::kAuto;
    std::optional<uint32_t> block_bytes{};
};

/// For values that have "overlay". `base` was opened for reading.
[[nodiscard]] Result<std::unique_ptr<Image>> put_overlay_over(std::unique_ptr<Image> base,
                                                              const OverlayBase& what,
                                                              const OptionValues& values);

}  // namespace outrigger::blk
