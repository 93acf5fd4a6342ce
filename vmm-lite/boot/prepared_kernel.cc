// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/prepared_kernel.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::vmm {
namespace {

/// Behind the kernel in a file of the cache. All of it must be as expected.
struct CacheTrailer {
    char magic[8] = {'O', 'R', 'K', 'E', 'R', 'N', '0', '1'};
    uint64_t device = 0;
    uint64_t inode = 0;
    uint64_t bytes = 0;
    int64_t modified_s = 0;
    int64_t modified_ns = 0;
    int64_t changed_s = 0;
    int64_t changed_ns = 0;
    uint64_t unpacked_bytes = 0;
};

static_assert(sizeof(CacheTrailer) == 72);

std::optional<CacheTrailer> trailer_of(const KernelFile& file, const PayloadInfo& payload) {
    struct stat status {};

    if (::fstat(file.fd(), &status) != 0) {
        return std::nullopt;
    }
    CacheTrailer trailer;
    trailer.device = status.st_dev;
    trailer.inode = status.st_ino;
    trailer.bytes = static_cast<uint64_t>(status.st_size);
    trailer.modified_s = status.st_mtim.tv_sec;
    trailer.modified_ns = status.st_mtim.tv_nsec;
    trailer.changed_s = status.st_ctim.tv_sec;
    trailer.changed_ns = status.st_ctim.tv_nsec;
    trailer.unpacked_bytes = payload.unpacked_bytes;
    return trailer;
}

std::string cache_name(const CacheTrailer& trailer) {
    return fmt::format("kernel-{:x}-{:x}", trailer.device, trailer.inode);
}

/// One file a kernel's place: a kernel that replaces another replaces its file here, too.
UniqueFd open_directory(const std::string& path) {
    // Its parent is there where there is a home; an operator's own directory is made by the
    // operator.
    (void)::mkdir(path.substr(0, path.rfind('/')).c_str(), 0700);
    (void)::mkdir(path.c_str(), 0700);
    return UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::span<std::byte> find_in_cache(int directory, const CacheTrailer& expected) {
    const UniqueFd fd(::openat(
        directory, cache_name(expected).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));

    struct stat status {};

    const auto bytes = static_cast<size_t>(expected.unpacked_bytes);
    // What others may write is no kernel to run, and what they may shorten raises SIGBUS.
    if (!fd.valid() || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_uid != ::geteuid() || (status.st_mode & 022U) != 0 ||
        static_cast<uint64_t>(status.st_size) != bytes + sizeof(CacheTrailer)) {
        return {};
    }
    CacheTrailer trailer;
    if (::pread(fd.get(), &trailer, sizeof(trailer), static_cast<off_t>(bytes)) !=
            static_cast<ssize_t>(sizeof(trailer)) ||
        std::memcmp(&trailer, &expected, sizeof(trailer)) != 0) {
        return {};
    }
    void* const base = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd.get(), 0);
    if (base == MAP_FAILED) {
        return {};
    }
    return {static_cast<std::byte*>(base), bytes};
}

bool write_all(int fd, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return false;
        }
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return true;
}

void store_in_cache(int directory, const CacheTrailer& trailer, std::span<const std::byte> kernel) {
    const std::string name = cache_name(trailer);
    const std::string temporary = fmt::format("{}.{}", name, ::getpid());
    const UniqueFd fd(::openat(
        directory, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) {
        log(LogLevel::kDebug, "{}", error_from_errno("cannot write to the kernel cache").message);
        return;
    }
    // A machine that loses power keeps the name only with what belongs to it.
    if (!write_all(fd.get(), kernel) ||
        !write_all(fd.get(), std::as_bytes(std::span(&trailer, 1))) || ::fdatasync(fd.get()) != 0 ||
        ::renameat(directory, temporary.c_str(), directory, name.c_str()) != 0) {
        log(LogLevel::kDebug, "{}", error_from_errno("cannot write to the kernel cache").message);
        (void)::unlinkat(directory, temporary.c_str(), 0);
    }
}

}  // namespace

PreparedKernel::PreparedKernel(PreparedKernel&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), from_cache_(other.from_cache_) {}

PreparedKernel::~PreparedKernel() {
    if (!bytes_.empty()) {
        ::munmap(bytes_.data(), bytes_.size());
    }
}

Result<PreparedKernel> PreparedKernel::open(const KernelFile& file,
                                            const BzImage& image,
                                            const PayloadInfo& payload,
                                            const std::string& cache_directory) {
    const auto trailer = trailer_of(file, payload);
    UniqueFd directory;
    if (trailer && !cache_directory.empty()) {
        directory = open_directory(cache_directory);
    }
    if (directory.valid()) {
        const auto found = find_in_cache(directory.get(), *trailer);
        if (!found.empty()) {
            return PreparedKernel(found, true);
        }
    }
    void* const base = ::mmap(nullptr,
                              payload.unpacked_bytes,
                              PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS,
                              -1,
                              0);
    if (base == MAP_FAILED) {
        return failure(error_from_errno("no memory to unpack the kernel"));
    }
    PreparedKernel kernel({static_cast<std::byte*>(base), payload.unpacked_bytes}, false);
    OUTRIGGER_TRY(unpack_payload(file, image, payload.format, kernel.bytes_));
    if (directory.valid()) {
        store_in_cache(directory.get(), *trailer, kernel.bytes_);
    }
    return kernel;
}

std::string default_cache_directory() {
    // Read at start-up, before there are threads that could change the environment.
    const char* const cache = std::getenv("XDG_CACHE_HOME");  // NOLINT(concurrency-mt-unsafe)
    if (cache != nullptr && *cache == '/') {
        return std::string(cache) + "/outrigger";
    }
    const char* const home = std::getenv("HOME");  // NOLINT(concurrency-mt-unsafe)
    if (home != nullptr && *home == '/') {
        return std::string(home) + "/.cache/outrigger";
    }
    return "";
}

}  // namespace outrigger::vmm
