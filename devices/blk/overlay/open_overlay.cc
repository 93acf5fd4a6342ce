// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/open_overlay.h"

#include <cerrno>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

Result<void> create_when_missing(const BaseIdentity& base, const OverlayOptions& options) {
    if (::access(options.layer.path.c_str(), F_OK) == 0 || errno != ENOENT) {
        return {};
    }
    if (!options.create || options.layer.read_only) {
        return failure(Error{.message = fmt::format("there is no overlay layer {}: add "
                                                    "--overlay-create to make one",
                                                    options.layer.path)});
    }
    const uint64_t disk_bytes = options.size_bytes.value_or(base.size_bytes);
    if (disk_bytes < base.size_bytes) {
        return failure(Error{.message = fmt::format("--overlay-size must be at least the size of "
                                                    "the base, {} bytes",
                                                    base.size_bytes)});
    }
    auto created =
        create_layer_file({.path = options.layer.path,
                           .disk_bytes = disk_bytes,
                           .cluster_bytes = options.cluster_bytes.value_or(kClusterBytesDefault),
                           .base = base});
    if (!created && created.error().os_error == EEXIST) {
        return {};  // somebody else made one just now: it is opened, or its lock refuses us
    }
    return created;
}

Result<void> check_sizes(const LayerHeader& header, const OverlayOptions& options) {
    if (options.size_bytes && *options.size_bytes != header.disk_bytes) {
        return failure(Error{.message = fmt::format("overlay layer {} was made with a disk of {} "
                                                    "bytes, which --overlay-size cannot change",
                                                    options.layer.path,
                                                    header.disk_bytes)});
    }
    if (options.cluster_bytes && *options.cluster_bytes != header.cluster_bytes) {
        return failure(Error{.message = fmt::format("overlay layer {} was made with clusters of {} "
                                                    "bytes, which --overlay-cluster cannot change",
                                                    options.layer.path,
                                                    header.cluster_bytes)});
    }
    if (header.committing) {
        return failure(Error{
            .message = fmt::format("a commit of overlay layer {} was interrupted, and its base is "
                                   "neither old nor new: finish it with outrigger-blk overlay "
                                   "commit {}",
                                   options.layer.path,
                                   options.layer.path)});
    }
    return {};
}

Result<void> check_base(LayerJournal& journal,
                        const BaseIdentity& base,
                        const OverlayOptions& options) {
    const auto mismatch = describe_mismatch(journal.header(), base);
    if (!mismatch) {
        return {};
    }
    if (!options.accept_base || options.layer.read_only) {
        return failure(Error{
            .message = fmt::format("overlay layer {} does not fit its base: {}; the disk would be "
                                   "a mix of both. Give the right base, or accept this one for "
                                   "good with --overlay-accept-base",
                                   options.layer.path,
                                   *mismatch)});
    }
    if (base.path.size() > kBasePathBytesMax) {
        return failure(Error{.message = "the path of the overlay's base is too long"});
    }
    LayerHeader header = journal.header();
    header.base = base;
    const int os_error = journal.update_header(header);
    if (os_error != 0) {
        return failure(error_from_code(
            fmt::format("cannot write the header of overlay layer {}", options.layer.path),
            os_error));
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<OverlayImage>> open_overlay(std::unique_ptr<Image> base,
                                                   const BaseIdentity& identity,
                                                   const OverlayOptions& options) {
    OUTRIGGER_TRY(create_when_missing(identity, options));
    OpenLayer layer = OUTRIGGER_TRY(open_layer_file(options.layer));
    OUTRIGGER_TRY(check_sizes(layer.journal->header(), options));
    OUTRIGGER_TRY(check_base(*layer.journal, identity, options));
    return OverlayImage::create(
        {.base = std::move(base),
         .layer = std::make_unique<FileImage>(std::move(layer.file), options.engine),
         .store = std::move(layer.store),
         .journal = std::move(layer.journal)},
        options.settings);
}

}  // namespace outrigger::blk
