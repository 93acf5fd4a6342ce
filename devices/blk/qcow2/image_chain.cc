// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/qcow2/image_chain.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/log.h"

#include "devices/blk/qcow2/big_endian.h"
#include "devices/blk/qcow2/open_beneath.h"

namespace outrigger::blk {
namespace {

namespace fs = std::filesystem;

/// What the L1 tables of one disk may take in memory. 4 TiB of 64 KiB clusters take 64 KiB.
constexpr size_t kL1EntriesMax = (size_t{64} << 20) / sizeof(uint64_t);

/// Opens the layers one below the other.
class ChainOpener final {
  public:
    explicit ChainOpener(const ImageChainOptions& options) : options_(options) {}

    Result<std::vector<ImageLayer>> run();

  private:
    /// What a layer says stands below it.
    struct Below {
        std::string path{};  ///< empty: nothing
        bool raw = false;
        UniqueFd fd{};  ///< of it; none: it is opened by its path
    };

    Result<Below> open_layer(Below what);
    Result<void> check_loop(const std::string& path, int fd);
    Result<void> load_l1(const std::string& path, const Qcow2Header& header, ImageLayer& layer);
    Result<Below> locate_below(const std::string& path, const Qcow2Header& header);
    Result<Below> open_confined(const std::string& path, const fs::path& wanted);

    const ImageChainOptions& options_;
    std::vector<ImageLayer> layers_;
    std::vector<std::pair<dev_t, ino_t>> files_;  // of layers_, to find loops
    size_t l1_entries_ = 0;                       // of layers_, together
};

std::unexpected<Error> refuse(const std::string& path, std::string_view what) {
    return failure(Error{.message = fmt::format("image {} {}", path, what)});
}

/// Reads `bytes` from the file's place `offset`, blocking. False: an error, or the file ends.
bool read_fully(int fd, std::span<std::byte> bytes, uint64_t offset) {
    while (!bytes.empty()) {
        const ssize_t count = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        bytes = bytes.subspan(static_cast<size_t>(count));
        offset += static_cast<uint64_t>(count);
    }
    return true;
}

Result<std::vector<ImageLayer>> ChainOpener::run() {
    Below next = {.path = options_.path};
    while (!next.path.empty()) {
        if (layers_.size() == kImageLayersMax) {
            return refuse(options_.path,
                          fmt::format("has more than {} layers: join some with qemu-img commit or "
                                      "qemu-img rebase",
                                      kImageLayersMax));
        }
        next = OUTRIGGER_TRY(open_layer(std::move(next)));
    }
    return std::move(layers_);
}

Result<ChainOpener::Below> ChainOpener::open_layer(Below what) {
    const std::string& path = what.path;
    const ImageFileOptions file = {
        .path = path, .read_only = true, .lock = options_.lock, .any_size = true};
    ImageLayer layer;
    layer.path = path;
    layer.file = OUTRIGGER_TRY(what.fd.valid() ? ImageFile::adopt(std::move(what.fd), file)
                                               : ImageFile::open(file));
    layer.raw = what.raw;
    layer.size_bytes = layer.file->properties.size_bytes;
    layer.geometry.file_bytes = layer.size_bytes;
    const int fd = layer.file->fd.get();
    OUTRIGGER_TRY(check_loop(path, fd));
    if (what.raw) {
        layers_.push_back(std::move(layer));
        return Below{};
    }
    const uint64_t file_bytes = layer.size_bytes;
    std::vector<std::byte> head(std::min(file_bytes, kQcow2HeadBytesMax));
    if (!read_fully(fd, head, 0)) {
        return refuse(path, "cannot be read at its beginning");
    }
    auto header = parse_qcow2_header(head, file_bytes);
    if (!header) {
        return refuse(path, header.error().message);
    }
    layer.size_bytes = header->size_bytes;
    layer.geometry = {
        .version = header->version, .cluster_bits = header->cluster_bits, .file_bytes = file_bytes};
    layer.compression = header->compression;
    OUTRIGGER_TRY(load_l1(path, *header, layer));
    layers_.push_back(std::move(layer));
    return locate_below(path, *header);
}

Result<void> ChainOpener::check_loop(const std::string& path, int fd) {
    struct stat status = {};
    if (::fstat(fd, &status) != 0) {
        return failure(error_from_errno(fmt::format("cannot examine image {}", path)));
    }
    // Two device nodes of one device are two files here; the limit of layers ends that loop.
    const std::pair file(status.st_dev, status.st_ino);
    if (std::ranges::find(files_, file) != files_.end()) {
        return refuse(path, "is its own backing file: repair the chain with qemu-img rebase -u");
    }
    files_.push_back(file);
    return {};
}

Result<void> ChainOpener::load_l1(const std::string& path,
                                  const Qcow2Header& header,
                                  ImageLayer& layer) {
    l1_entries_ += header.l1_entries;
    if (l1_entries_ > kL1EntriesMax) {
        return refuse(options_.path, "needs more than 64 MiB for the L1 tables of its layers");
    }
    std::vector<std::byte> table(size_t{header.l1_entries} * 8);
    if (!read_fully(layer.file->fd.get(), table, header.l1_offset_bytes)) {
        return refuse(path, "cannot be read where its L1 table is");
    }
    layer.l2_tables.reserve(header.l1_entries);
    size_t damaged = 0;
    for (size_t i = 0; i < header.l1_entries; ++i) {
        const auto offset = qcow2_l2_table(layer.geometry, load_big_endian<uint64_t>(table, i * 8));
        damaged += offset ? 0U : 1U;
        layer.l2_tables.push_back(offset.value_or(kDamagedTable));
    }
    if (damaged > 0) {
        // What the other entries lead to can still be read, perhaps to save it.
        log(LogLevel::kWarning,
            "blk: image {} is damaged: {} entries of its L1 table are not possible; reads of what "
            "they stand for will fail",
            path,
            damaged);
    }
    return {};
}

Result<ChainOpener::Below> ChainOpener::locate_below(const std::string& path,
                                                     const Qcow2Header& header) {
    if (header.backing_name.empty()) {
        return Below{};
    }
    const std::string name = printable(header.backing_name);
    if (!options_.backing_directory) {
        return refuse(path,
                      fmt::format("is based on the file {}: allow its directory with "
                                  "--allow-backing=DIR",
                                  name));
    }
    // A backing file whose format is not said would have to be guessed from what a guest wrote.
    const std::string& format = header.backing_format;
    if (format != "raw" && format != "qcow2") {
        return refuse(
            path,
            format.empty()
                ? fmt::format("does not say the format of its backing file {}: set it with "
                              "qemu-img rebase -u -F FORMAT",
                              name)
                : fmt::format("has a backing file of format {}; raw and qcow2 are served",
                              printable(format)));
    }
    // QEMU takes "word:" before the first slash for a protocol or a description.
    const std::string_view start =
        std::string_view(header.backing_name).substr(0, header.backing_name.find('/'));
    if (start.contains(':')) {
        return refuse(path, fmt::format("is based on {}, which is not a path of a file", name));
    }
    // Relative to the directory of the image itself, not of a link to it; an absolute name
    // replaces all that.
    std::error_code error;
    const fs::path itself = fs::canonical(path, error);
    if (error) {
        return failure(error_from_code(fmt::format("cannot find the directory of image {}", path),
                                       error.value()));
    }
    Below below = OUTRIGGER_TRY(open_confined(path, itself.parent_path() / header.backing_name));
    below.raw = format == "raw";
    return below;
}

/// Resolves the name, and then opens what that gave without following anything any more: names in
/// the directory may change in between.
Result<ChainOpener::Below> ChainOpener::open_confined(const std::string& path,
                                                      const fs::path& wanted) {
    std::error_code error;
    const fs::path allowed = fs::canonical(*options_.backing_directory, error);
    if (error) {
        return failure(error_from_code(
            fmt::format("cannot use --allow-backing={}", *options_.backing_directory),
            error.value()));
    }
    const fs::path real = fs::canonical(wanted, error);
    if (error) {
        return failure(error_from_code(
            fmt::format(
                "cannot find {}, the backing file of image {}", printable(wanted.string()), path),
            error.value()));
    }
    const auto [in_allowed, in_real] = std::ranges::mismatch(allowed, real);
    if (in_allowed != allowed.end() || in_real == real.end()) {
        return refuse(path,
                      fmt::format("is based on {}, which is not inside --allow-backing={}",
                                  printable(real.string()),
                                  *options_.backing_directory));
    }
    const UniqueFd directory = OUTRIGGER_TRY(open_directory(allowed));
    fs::path relative;
    for (auto name = in_real; name != real.end(); ++name) {
        relative /= *name;
    }
    auto fd = open_beneath(directory.get(), relative);
    if (!fd) {
        return failure(error_from_code(
            fmt::format(
                "cannot open {}, the backing file of image {}", printable(real.string()), path),
            fd.error().os_error));
    }
    return Below{.path = real.string(), .fd = *std::move(fd)};
}

}  // namespace

Result<std::vector<ImageLayer>> open_image_chain(const ImageChainOptions& options) {
    return ChainOpener(options).run();
}

}  // namespace outrigger::blk
