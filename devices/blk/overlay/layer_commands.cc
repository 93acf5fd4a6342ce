// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

#include "devices/blk/overlay/all_zero.h"
#include "devices/blk/overlay/layer_file.h"
#include "devices/blk/overlay/overlay_command.h"

namespace outrigger::blk {
namespace {

constexpr uint64_t kCopyBytesMax = uint64_t{1} << 20;

/// A layer with its bitmap.
struct LoadedLayer {
    OpenLayer files;
    std::unique_ptr<ClusterMap> map;

    [[nodiscard]] const LayerHeader& header() const { return files.journal->header(); }
};

Error layer_error(const LayerCommand& command, std::string_view what, int os_error) {
    return error_from_code(fmt::format("{} overlay layer {}", what, command.layer), os_error);
}

Result<LoadedLayer> load_layer(const LayerCommand& command, bool read_only) {
    LoadedLayer layer;
    layer.files = OUTRIGGER_TRY(open_layer_file(
        {.path = command.layer, .read_only = read_only, .direct = false, .lock = command.lock}));
    LayerJournal& journal = *layer.files.journal;
    const uint64_t base_bytes = journal.header().base.size_bytes;
    const uint32_t cluster_bytes = journal.header().cluster_bytes;
    layer.map = std::make_unique<ClusterMap>(
        journal.geometry(), base_bytes / cluster_bytes + (base_bytes % cluster_bytes != 0 ? 1 : 0));
    if (const int os_error = journal.load(*layer.map); os_error != 0) {
        return failure(layer_error(command, "cannot read", os_error));
    }
    return layer;
}

Result<LoadedLayer> load_whole_layer(const LayerCommand& command) {
    LoadedLayer layer = OUTRIGGER_TRY(load_layer(command, false));
    const LayerFindings& findings = layer.files.journal->findings();
    if (findings.pages_lost > 0 || findings.bits_beyond_end > 0) {
        return failure(
            Error{.message = fmt::format("overlay layer {} is damaged: see outrigger-blk "
                                         "overlay check",
                                         command.layer)});
    }
    return layer;
}

/// All clusters absent, and their space given back.
Result<void> empty_layer(const LayerCommand& command, LoadedLayer& layer) {
    LayerJournal& journal = *layer.files.journal;
    if (const int os_error = journal.clear(); os_error != 0) {
        return failure(layer_error(command, "cannot empty", os_error));
    }
    // Not before no bit points there any more.
    const LayerGeometry& geometry = journal.geometry();
    const int os_error = layer.files.store->give_back(geometry.data_offset,
                                                      geometry.file_bytes - geometry.data_offset);
    if (os_error != 0) {
        return failure(layer_error(command, "cannot empty", os_error));
    }
    return {};
}

Result<void> write_header(const LayerCommand& command,
                          LayerJournal& journal,
                          const LayerHeader& header) {
    const int os_error = journal.update_header(header);
    if (os_error != 0) {
        return failure(layer_error(command, "cannot write the header of", os_error));
    }
    return {};
}

// --- Commit --------------------------------------------------------------------------------------

struct OpenBase {
    std::string path;
    std::unique_ptr<ImageFile> file;
    std::unique_ptr<LayerFileStore> store;
};

Result<OpenBase> open_base(const LayerCommand& command, const LayerHeader& header) {
    OpenBase base;
    base.path = command.base.empty() ? header.base.path : command.base;
    if (header.base.kind != "raw") {
        return failure(Error{.message = fmt::format("overlay layer {} was made over a base of kind "
                                                    "{}: only raw images can be committed to",
                                                    command.layer,
                                                    header.base.kind)});
    }
    // Before it is opened for writing: what is tried then changes its time.
    BaseIdentity identity = identify_base(header.base.kind, base.path, 0);
    base.file = OUTRIGGER_TRY(
        ImageFile::open({.path = base.path, .lock = command.lock, .block_bytes = {}}));
    const uint64_t size_bytes = base.file->properties.size_bytes;
    identity.size_bytes = size_bytes;
    const auto mismatch = describe_mismatch(header, identity);
    // A commit that was interrupted has changed it.
    if (mismatch && !header.committing && !command.accept_base) {
        return failure(Error{.message = fmt::format("overlay layer {} does not fit its base: {}; "
                                                    "give the right one with --base=PATH, or "
                                                    "write to this one with --accept-base",
                                                    command.layer,
                                                    *mismatch)});
    }
    if (size_bytes < header.disk_bytes && base.file->is_block_device) {
        return failure(Error{.message = fmt::format("{} is smaller than the overlay's disk of {} "
                                                    "bytes",
                                                    base.path,
                                                    header.disk_bytes)});
    }
    base.store = std::make_unique<LayerFileStore>(
        UniqueFd(::dup(base.file->fd.get())), std::max(size_bytes, header.disk_bytes), nullptr);
    return base;
}

Error base_error(const OpenBase& base, int os_error) {
    return error_from_code("cannot write to the overlay's base " + base.path, os_error);
}

Result<void> copy_run(const LoadedLayer& layer,
                      OpenBase& base,
                      ClusterRun run,
                      std::vector<std::byte>& buffer) {
    const LayerHeader& header = layer.header();
    const LayerGeometry& geometry = layer.files.journal->geometry();
    const uint64_t end =
        std::min((run.first + run.count) * header.cluster_bytes, header.disk_bytes);
    uint64_t position = run.first * header.cluster_bytes;
    while (position < end) {
        const auto part = std::span(buffer).first(std::min(end - position, kCopyBytesMax));
        int os_error = layer.files.store->read(geometry.data_offset + position, part);
        if (os_error != 0) {
            return failure(error_from_code("cannot read the overlay's layer", os_error));
        }
        os_error = all_zero(part) ? base.store->zero(position, part.size())
                                  : base.store->write(position, part);
        if (os_error != 0) {
            return failure(base_error(base, os_error));
        }
        position += part.size();
    }
    return {};
}

Result<void> copy_to_base(const LoadedLayer& layer, OpenBase& base) {
    const LayerHeader& header = layer.header();
    const int fd = base.store->fd();
    if (base.file->properties.size_bytes < header.disk_bytes &&
        ::ftruncate(fd, static_cast<off_t>(header.disk_bytes)) != 0) {
        return failure(base_error(base, errno));
    }
    std::vector<std::byte> buffer(kCopyBytesMax);
    const ClusterMap& map = *layer.map;
    uint64_t cluster = 0;
    while (cluster < map.cluster_count()) {
        const uint64_t present = map.count_present(cluster, map.cluster_count());
        if (present > 0) {
            OUTRIGGER_TRY(copy_run(layer, base, {.first = cluster, .count = present}, buffer));
        }
        cluster += present;
        cluster += map.count_absent(cluster, map.cluster_count());
    }
    // Also its time of modification, by which the layer knows it again.
    if (::fsync(fd) != 0) {
        return failure(base_error(base, errno));
    }
    return {};
}

}  // namespace

Result<std::string> commit_layer(const LayerCommand& command) {
    LoadedLayer layer = OUTRIGGER_TRY(load_whole_layer(command));
    OpenBase base = OUTRIGGER_TRY(open_base(command, layer.header()));
    LayerJournal& journal = *layer.files.journal;
    LayerHeader header = journal.header();
    header.committing = true;
    OUTRIGGER_TRY(write_header(command, journal, header));
    OUTRIGGER_TRY(copy_to_base(layer, base));
    // The base has everything now: a layer with some of its bits is as good as one without.
    OUTRIGGER_TRY(empty_layer(command, layer));
    header.committing = false;
    header.in_use = false;
    header.base = identify_base(
        header.base.kind, base.path, std::max(base.file->properties.size_bytes, header.disk_bytes));
    OUTRIGGER_TRY(write_header(command, journal, header));
    return fmt::format("{} clusters of {} bytes were committed to {}\n",
                       layer.map->present_count(),
                       header.cluster_bytes,
                       base.path);
}

Result<std::string> discard_layer(const LayerCommand& command) {
    LoadedLayer layer = OUTRIGGER_TRY(load_layer(command, false));
    LayerHeader header = layer.header();
    if (header.committing) {
        return failure(Error{.message = fmt::format("a commit of overlay layer {} was interrupted: "
                                                    "without the layer its base is neither old nor "
                                                    "new; run the commit again",
                                                    command.layer)});
    }
    OUTRIGGER_TRY(empty_layer(command, layer));
    header.in_use = false;
    OUTRIGGER_TRY(write_header(command, *layer.files.journal, header));
    return fmt::format("{} clusters of {} bytes were discarded\n",
                       layer.map->present_count(),
                       header.cluster_bytes);
}

// --- Looking -------------------------------------------------------------------------------------

Result<std::string> describe_layer(const LayerCommand& command) {
    const LoadedLayer layer = OUTRIGGER_TRY(load_layer(command, true));
    const LayerHeader& header = layer.header();
    const ClusterMap& map = *layer.map;
    return fmt::format(
        "layer: {}\ndisk-bytes: {}\ncluster-bytes: {}\nclusters: {}\nclusters-present: {}\n"
        "base: {}\nbase-kind: {}\nbase-bytes: {}\nbase-clusters: {}\nbase-clusters-present: {}\n"
        "base-needed: {}\nstate: {}\n",
        command.layer,
        header.disk_bytes,
        header.cluster_bytes,
        map.cluster_count(),
        map.present_count(),
        header.base.path,
        header.base.kind,
        header.base.size_bytes,
        map.base_clusters(),
        map.present_in_base(),
        map.present_in_base() == map.base_clusters() ? "no" : "yes",
        header.committing ? "commit interrupted"
        : header.in_use   ? "not closed"
                          : "closed");
}

Result<std::string> check_layer(const LayerCommand& command) {
    const LoadedLayer layer = OUTRIGGER_TRY(load_layer(command, true));
    const LayerFindings& findings = layer.files.journal->findings();
    const bool torn = layer.header().in_use;
    if (findings.pages_lost > 0 || findings.bits_beyond_end > 0 ||
        (findings.copies_damaged > 0 && !torn)) {
        return failure(Error{
            .message = fmt::format("overlay layer {} is damaged: {} pages of its bitmap are lost, "
                                   "{} metadata blocks have one good copy only, {} bits lie behind "
                                   "the disk's end",
                                   command.layer,
                                   findings.pages_lost,
                                   findings.copies_damaged,
                                   findings.bits_beyond_end)});
    }
    return fmt::format("overlay layer {} is consistent: {} clusters present{}\n",
                       command.layer,
                       layer.map->present_count(),
                       findings.copies_damaged > 0
                           ? "; a metadata block was being written when it was last used"
                           : "");
}

}  // namespace outrigger::blk
