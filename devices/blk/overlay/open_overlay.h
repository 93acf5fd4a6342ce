// SPDX-License-Identifier: Apache-2.0
/// From what the command line says to an overlay: creates and opens the layer, and refuses a base
/// that is not the layer's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/file_image.h"
#include "devices/blk/overlay/layer_file.h"
#include "devices/blk/overlay/overlay_image.h"

namespace outrigger::blk {

struct OverlayOptions {
    LayerFileOptions layer{};
    bool create = false;       ///< make the layer when there is none
    bool accept_base = false;  ///< take a base that differs from the layer's, from now on
    std::optional<uint64_t> size_bytes{};     ///< of the disk; default: that of the base
    std::optional<uint32_t> cluster_bytes{};  ///< of a new layer
    IoEngineKind engine = IoEngineKind::kAuto;
    OverlaySettings settings{};
};

/// `base` is open for reading, and `identity` says what it is.
[[nodiscard]] Result<std::unique_ptr<OverlayImage>> open_overlay(std::unique_ptr<Image> base,
                                                                 const BaseIdentity& identity,
                                                                 const OverlayOptions& options);

}  // namespace outrigger::blk
