// SPDX-License-Identifier: Apache-2.0
/// Layer files: made whole or not at all, opened for serving or for a command, and matched with
/// their base.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/result.h"

#include "devices/blk/image_file.h"
#include "devices/blk/overlay/layer_format.h"
#include "devices/blk/overlay/layer_journal.h"
#include "devices/blk/overlay/layer_store.h"

namespace outrigger::blk {

/// What is known of the base at `path`, whose image of that kind has `size_bytes`. What is no
/// regular file has no time.
[[nodiscard]] BaseIdentity identify_base(std::string kind, std::string path, uint64_t size_bytes);

struct NewLayer {
    std::string path{};
    uint64_t disk_bytes = 0;
    uint32_t cluster_bytes = kClusterBytesDefault;
    BaseIdentity base{};
};

/// Makes the file, complete and on stable storage, or none; error with EEXIST when there is one.
[[nodiscard]] Result<void> create_layer_file(const NewLayer& layer);

struct OpenLayer {
    std::unique_ptr<ImageFile> file;  ///< locked; for the data
    std::unique_ptr<LayerFileStore> store;
    std::unique_ptr<LayerJournal> journal;
};

struct LayerFileOptions {
    std::string path{};
    bool read_only = false;
    bool direct = false;
    bool lock = true;
};

/// Opens and locks it, and reads the header.
[[nodiscard]] Result<OpenLayer> open_layer_file(const LayerFileOptions& options);

/// Is `base` what the layer was made over? Nothing when it is, else one line that says why not.
[[nodiscard]] std::optional<std::string> describe_mismatch(const LayerHeader& header,
                                                           const BaseIdentity& base);

}  // namespace outrigger::blk
