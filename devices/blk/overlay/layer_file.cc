// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/layer_file.h"

#include <cerrno>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

int64_t modified_ns(const struct stat& status) {
#if defined(__APPLE__)
    const struct timespec& time = status.st_mtimespec;
#else
    const struct timespec& time = status.st_mtim;
#endif
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

Error layer_error(std::string_view what, std::string_view path, int os_error) {
    return error_from_code(fmt::format("{} overlay layer {}", what, path), os_error);
}

uint64_t random_id() {
    std::random_device source;
    return uint64_t{source()} << 32 | source();
}

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

/// A file that has no name yet that anybody knows; it goes when it gets none.
class UnfinishedFile final {
  public:
    explicit UnfinishedFile(const std::string& path) : name_(path + ".XXXXXX") {
        fd_.reset(::mkostemp(name_.data(), O_CLOEXEC));
    }

    UnfinishedFile(const UnfinishedFile&) = delete;
    UnfinishedFile& operator=(const UnfinishedFile&) = delete;

    ~UnfinishedFile() {
        if (fd_.valid()) {
            ::unlink(name_.c_str());
        }
    }

    [[nodiscard]] const UniqueFd& fd() const { return fd_; }

    [[nodiscard]] UniqueFd take_fd() { return UniqueFd(::dup(fd_.get())); }

    /// False with errno: EEXIST when `path` exists.
    [[nodiscard]] bool give_name(const std::string& path) const {
        if (::link(name_.c_str(), path.c_str()) != 0) {
            return false;
        }
        const UniqueFd folder(::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        return folder.valid() && ::fsync(folder.get()) == 0;
    }

  private:
    std::string name_;
    UniqueFd fd_;
};

/// The locks of a process that was killed go only when the kernel has ended its io_uring, some
/// milliseconds behind it: who starts the next one at once should not be refused for that.
Result<std::unique_ptr<ImageFile>> open_and_lock(const LayerFileOptions& options) {
    constexpr int kTriesMax = 20;
    constexpr std::chrono::milliseconds kPause{50};
    for (int tries = 1;; ++tries) {
        auto file = ImageFile::open({.path = options.path,
                                     .read_only = options.read_only,
                                     .direct = options.direct,
                                     .lock = options.lock,
                                     .block_bytes = {}});
        if (file || file.error().os_error != EAGAIN || tries == kTriesMax) {
            return file;
        }
        std::this_thread::sleep_for(kPause);
    }
}

/// The same file once more, for the metadata: through the page cache, whatever the data does.
Result<UniqueFd> open_again(const LayerFileOptions& options, const ImageFile& file) {
    UniqueFd fd(::open(options.path.c_str(),
                       (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY));
    struct stat again = {};
    struct stat first = {};
    if (!fd.valid() || ::fstat(fd.get(), &again) != 0 || ::fstat(file.fd.get(), &first) != 0) {
        return failure(layer_error("cannot open", options.path, errno));
    }
    if (again.st_dev != first.st_dev || again.st_ino != first.st_ino) {
        return failure(Error{.message = fmt::format("overlay layer {} was replaced while it was "
                                                    "opened",
                                                    options.path)});
    }
    return fd;
}

}  // namespace

BaseIdentity identify_base(std::string kind, std::string path, uint64_t size_bytes) {
    BaseIdentity base{.kind = std::move(kind), .path = std::move(path), .size_bytes = size_bytes};
    struct stat status = {};
    if (::stat(base.path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
        base.modified_ns = modified_ns(status);
    }
    return base;
}

Result<void> create_layer_file(const NewLayer& layer) {
    const auto geometry = layer_geometry(layer.disk_bytes, layer.cluster_bytes);
    if (!geometry) {
        return failure(Error{
            .message = fmt::format("an overlay of {} bytes with clusters of {} is too large: use "
                                   "larger clusters",
                                   layer.disk_bytes,
                                   layer.cluster_bytes)});
    }
    if (layer.base.path.size() > kBasePathBytesMax) {
        return failure(Error{.message = "the path of the overlay's base is too long"});
    }
    UnfinishedFile file(layer.path);
    if (!file.fd().valid() ||
        ::ftruncate(file.fd().get(), static_cast<off_t>(geometry->file_bytes)) != 0) {
        return failure(layer_error("cannot create", layer.path, errno));
    }
    LayerFileStore store(file.take_fd(), geometry->file_bytes, nullptr);
    const int os_error = LayerJournal::format(store,
                                              {.layer_id = random_id(),
                                               .cluster_bytes = layer.cluster_bytes,
                                               .disk_bytes = layer.disk_bytes,
                                               .base = layer.base});
    if (os_error != 0) {
        return failure(layer_error("cannot create", layer.path, os_error));
    }
    if (::fsync(file.fd().get()) != 0 || !file.give_name(layer.path)) {
        return failure(layer_error("cannot create", layer.path, errno));
    }
    return {};
}

Result<OpenLayer> open_layer_file(const LayerFileOptions& options) {
    struct stat status = {};
    if (::stat(options.path.c_str(), &status) != 0) {
        return failure(layer_error("cannot open", options.path, errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(
            Error{.message = fmt::format("overlay layer {} is no regular file", options.path)});
    }
    OpenLayer layer;
    layer.file = OUTRIGGER_TRY(open_and_lock(options));
    layer.store = std::make_unique<LayerFileStore>(OUTRIGGER_TRY(open_again(options, *layer.file)),
                                                   layer.file->properties.size_bytes,
                                                   layer.file.get());
    layer.journal = OUTRIGGER_TRY(LayerJournal::open(*layer.store, options.path));
    return layer;
}

std::optional<std::string> describe_mismatch(const LayerHeader& header, const BaseIdentity& base) {
    const BaseIdentity& made_over = header.base;
    if (made_over.size_bytes != base.size_bytes) {
        return fmt::format("{} has {} bytes, and the layer was made over {} of {} bytes",
                           base.path,
                           base.size_bytes,
                           made_over.path,
                           made_over.size_bytes);
    }
    if (made_over.kind != base.kind) {
        return fmt::format("{} is opened as {}, and the layer was made over {} as {}",
                           base.path,
                           base.kind,
                           made_over.path,
                           made_over.kind);
    }
    if (made_over.modified_ns != base.modified_ns) {
        return fmt::format(
            "{} was modified since the layer was made over {}", base.path, made_over.path);
    }
    return std::nullopt;
}

}  // namespace outrigger::blk
