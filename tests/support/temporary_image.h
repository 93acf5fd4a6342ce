// SPDX-License-Identifier: Apache-2.0
/// An image file for one test, gone with it.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {

class TemporaryImage final {
  public:
    /// Lies in TMPDIR, or in /var/tmp: a real disk more often than /tmp, so that direct I/O works.
    explicit TemporaryImage(uint64_t size_bytes) {
        const char* const directory = std::getenv("TMPDIR");
        path_ = std::string(directory != nullptr ? directory : "/var/tmp") + "/outrigger-XXXXXX";
        fd_.reset(::mkostemp(path_.data(), O_CLOEXEC));
        EXPECT_TRUE(fd_.valid()) << path_;
        EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size_bytes)), 0);
    }

    TemporaryImage(const TemporaryImage&) = delete;
    TemporaryImage& operator=(const TemporaryImage&) = delete;

    ~TemporaryImage() { ::unlink(path_.c_str()); }

    [[nodiscard]] const std::string& path() const { return path_; }

    [[nodiscard]] int fd() const { return fd_.get(); }

    void fill(uint64_t offset, size_t size, int value) const {
        const std::vector<char> bytes(size, static_cast<char>(value));
        EXPECT_EQ(::pwrite(fd_.get(), bytes.data(), size, static_cast<off_t>(offset)),
                  static_cast<ssize_t>(size));
    }

    /// Does every byte of that range have that value?
    [[nodiscard]] bool holds(uint64_t offset, size_t size, int value) const {
        std::vector<char> bytes(size);
        if (::pread(fd_.get(), bytes.data(), size, static_cast<off_t>(offset)) !=
            static_cast<ssize_t>(size)) {
            return false;
        }
        return bytes == std::vector<char>(size, static_cast<char>(value));
    }

    [[nodiscard]] uint64_t size() const { return static_cast<uint64_t>(status().st_size); }

    /// Bytes of disk space in use.
    [[nodiscard]] uint64_t allocated() const {
        return static_cast<uint64_t>(status().st_blocks) * 512;
    }

  private:
    [[nodiscard]] struct stat status() const {
        struct stat status = {};
        EXPECT_EQ(::fstat(fd_.get(), &status), 0);
        return status;
    }

    std::string path_;
    UniqueFd fd_;
};

}  // namespace outrigger
