// SPDX-License-Identifier: Apache-2.0
/// A qcow2 image with the images that it is based on, opened for reading and checked: the layers of
/// a disk, from the top down. All files are open before the sandbox closes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image_file.h"
#include "devices/blk/qcow2/qcow2_header.h"
#include "devices/blk/qcow2/qcow2_map.h"

namespace outrigger::blk {

/// Layers of one disk, the top one included.
inline constexpr size_t kImageLayersMax = 32;

/// In place of an L2 table's place: the L1 entry cannot be right.
inline constexpr uint64_t kDamagedTable = ~uint64_t{0};

/// One file of the chain. Immutable.
struct ImageLayer {
    std::string path;  ///< as it was opened, for messages
    std::unique_ptr<ImageFile> file;
    bool raw = false;  ///< the bytes of the disk; nothing below counts
    uint64_t size_bytes =
        0;                   ///< of the disk as this layer knows it: what is beyond reads as zeroes
    Qcow2Geometry geometry;  ///< of a raw file only `file_bytes` counts
    Qcow2Compression compression = Qcow2Compression::kZlib;
    /// Where they stand, one for each part of the disk; 0: not allocated; or kDamagedTable.
    std::vector<uint64_t> l2_tables;
};

struct ImageChainOptions {
    std::string path;
    /// The directory that the files named by the images must lie in, symbolic links resolved.
    /// Without one an image that has a backing file is refused.
    std::optional<std::string> backing_directory{};
    bool lock = true;
};

/// Every error is one line that names the image and says what to do.
[[nodiscard]] Result<std::vector<ImageLayer>> open_image_chain(const ImageChainOptions& options);

}  // namespace outrigger::blk
