// SPDX-License-Identifier: Apache-2.0
/// What the host's own system calls cost that a request to a share cannot do without: the same ones
/// in a plain loop, without guest, rings and daemon. Prints processor microseconds a request. Not a
/// test: `share-calls getattr|lookup|read|readdirplus|create DIRECTORY [BYTES]`; BYTES of a read or
/// a write, default 4096. What it makes in DIRECTORY it removes.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::bench {
namespace {

/// As outrigger-bench asks, and make-performance has it do.
constexpr uint32_t kFiles = 1000;
constexpr uint32_t kDepth = 32;
constexpr uint64_t kDataBytes = 64 << 20;

constexpr int kStatFlags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
constexpr int kSliceSeconds = 1;
constexpr int kTurns = 64;

/// Processor seconds of this thread.
double now() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "share-calls: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

void check(bool good, const char* what) {
    if (!good) {
        fail(what);
    }
}

class Share final {
  public:
    Share(const char* path, size_t block_bytes)
        : directory_(::open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)), block_bytes_(block_bytes) {
        check(directory_.valid(), path);
        // As a guest's memory is: shared, of a file.
        const UniqueFd memory(::memfd_create("share-calls", MFD_CLOEXEC));
        const size_t bytes = block_bytes_ * kDepth;
        check(memory.valid() && ::ftruncate(memory.get(), static_cast<off_t>(bytes)) == 0, "memfd");
        void* const mapped =
            ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
        check(mapped != MAP_FAILED, "mmap");
        memory_ = static_cast<std::byte*>(mapped);
        std::memset(memory_, 'o', bytes);
    }

    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

    ~Share() {
        for (const std::string& name : names_) {
            ::unlinkat(directory_.get(), name.c_str(), 0);
        }
        ::munmap(memory_, block_bytes_ * kDepth);
    }

    void make_files() {
        for (uint32_t i = 0; i < kFiles; ++i) {
            names_.push_back("file-" + std::to_string(i));
            UniqueFd made = create(names_.back().c_str());
            files_.push_back(pin(made));
        }
    }

    void make_data() {
        names_.emplace_back("data");
        data_ = create("data");
        for (uint64_t at = 0; at < kDataBytes; at += block_bytes_) {
            check(::pwrite(data_.get(), memory_, block_bytes_, static_cast<off_t>(at)) ==
                      static_cast<ssize_t>(block_bytes_),
                  "pwrite");
        }
    }

    void getattr() {
        struct stat status;
        check(::syscall(SYS_fstat, files_[random() % kFiles].get(), &status) == 0, "fstat");
    }

    void lookup() { stat_name(names_[random() % kFiles].c_str()); }

    void read() {
        const uint64_t blocks = kDataBytes / block_bytes_;
        const uint64_t block = block_bytes_ > 4096 ? turn_ % blocks : random() % blocks;
        const iovec piece = next_buffer();
        check(::preadv2(
                  data_.get(), &piece, 1, static_cast<off_t>(block * block_bytes_), RWF_NOWAIT) ==
                  static_cast<ssize_t>(block_bytes_),
              "preadv2");
    }

    /// All of the directory.
    void readdirplus() {
        if (!listing_.valid()) {
            listing_ =
                UniqueFd(::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        }
        check(::lseek(listing_.get(), 0, SEEK_SET) == 0, "lseek");
        for (;;) {
            const ssize_t bytes = ::getdents64(listing_.get(), entries_.data(), entries_.size());
            check(bytes >= 0, "getdents64");
            if (bytes == 0) {
                return;
            }
            for (size_t at = 0; at < static_cast<size_t>(bytes);) {
                uint16_t length = 0;
                std::memcpy(&length, &entries_[at + offsetof(dirent64, d_reclen)], sizeof length);
                const char* const name = &entries_[at + offsetof(dirent64, d_name)];
                if (std::string_view(name) != "." && std::string_view(name) != "..") {
                    stat_name(name);
                }
                at += length;
            }
        }
    }

    /// As many as are in flight, step by step.
    void create_all() {
        std::array<UniqueFd, kDepth> made;
        std::array<UniqueFd, kDepth> pinned;
        for (uint32_t i = 0; i < kDepth; ++i) {
            made[i] = create(new_name(i).data());
            pinned[i] = pin(made[i]);
        }
        for (const UniqueFd& file : made) {
            const iovec piece = next_buffer();
            check(::pwrite(file.get(), piece.iov_base, piece.iov_len, 0) ==
                      static_cast<ssize_t>(block_bytes_),
                  "pwrite");
        }
        // FLUSH asks nothing of a file system of this host.
        for (UniqueFd& file : made) {
            file.reset();
        }
        for (uint32_t i = 0; i < kDepth; ++i) {
            check(::unlinkat(directory_.get(), new_name(i).data(), 0) == 0, "unlinkat");
        }
        for (UniqueFd& file : pinned) {
            file.reset();
        }
    }

  private:
    [[nodiscard]] uint64_t random() {
        // Marsaglia: "Xorshift RNGs" (2003).
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return random_ >> 20;
    }

    [[nodiscard]] iovec next_buffer() {
        return {.iov_base = memory_ + turn_++ % kDepth * block_bytes_, .iov_len = block_bytes_};
    }

    [[nodiscard]] static std::array<char, 16> new_name(uint32_t number) {
        std::array<char, 16> name{};
        std::snprintf(name.data(), name.size(), "new-%u", number);
        return name;
    }

    [[nodiscard]] UniqueFd create(const char* name) {
        UniqueFd file(::openat(
            directory_.get(), name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
        check(file.valid(), name);
        return file;
    }

    /// The inode's own descriptor, and what the guest is told of it.
    [[nodiscard]] UniqueFd pin(const UniqueFd& file) {
        UniqueFd pinned(::open_tree(file.get(), "", unsigned{AT_EMPTY_PATH} | OPEN_TREE_CLOEXEC));
        struct statx status;
        check(pinned.valid() && ::statx(pinned.get(),
                                        "",
                                        kStatFlags | AT_EMPTY_PATH,
                                        STATX_BASIC_STATS | STATX_MNT_ID,
                                        &status) == 0,
              "pin");
        return pinned;
    }

    void stat_name(const char* name) {
        struct statx status;
        check(
            ::statx(
                directory_.get(), name, kStatFlags, STATX_BASIC_STATS | STATX_MNT_ID, &status) == 0,
            name);
    }

    const UniqueFd directory_;
    const size_t block_bytes_;
    std::byte* memory_ = nullptr;
    std::vector<std::string> names_;
    std::vector<UniqueFd> files_;
    UniqueFd data_;
    UniqueFd listing_;
    std::array<char, 32 << 10> entries_;
    uint64_t random_ = 88172645463325252;
    uint64_t turn_ = 0;
};

/// Microseconds of one of `parts` of `work`: the median of some slices, as the rows beside it.
double cost_us(const std::function<void()>& work, double parts) {
    constexpr int kSlices = 9;
    std::vector<double> costs;
    for (int slice = 0; slice < kSlices; ++slice) {
        const double begin = now();
        double spent = 0;
        double done = 0;
        while (spent < static_cast<double>(kSliceSeconds) / kSlices) {
            for (int i = 0; i < kTurns; ++i) {
                work();
            }
            done += kTurns * parts;
            spent = now() - begin;
        }
        costs.push_back(spent / done * 1e6);
    }
    std::ranges::sort(costs);
    return costs[costs.size() / 2];
}

int run(std::string_view kind, const char* directory, size_t bytes) {
    Share share(directory, bytes);
    double cost = 0;
    if (kind == "create") {
        cost = cost_us([&] { share.create_all(); }, kDepth);
    } else if (kind == "read") {
        share.make_data();
        cost = cost_us([&] { share.read(); }, 1);
    } else {
        share.make_files();
        if (kind == "getattr") {
            cost = cost_us([&] { share.getattr(); }, 1);
        } else if (kind == "lookup") {
            cost = cost_us([&] { share.lookup(); }, 1);
        } else if (kind == "readdirplus") {
            cost = cost_us([&] { share.readdirplus(); }, 1);
        } else {
            std::fprintf(stderr, "share-calls: there is no '%s'\n", std::string(kind).c_str());
            return 2;
        }
    }
    std::printf("%.4f\n", cost);
    return 0;
}

}  // namespace
}  // namespace outrigger::bench

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: share-calls KIND DIRECTORY [BYTES]\n");
        return 2;
    }
    const size_t bytes = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 4096;
    return outrigger::bench::run(argv[1], argv[2], std::max<size_t>(bytes, 512));
}
