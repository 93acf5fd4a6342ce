// SPDX-License-Identifier: Apache-2.0
/// A file system of the kernel's FUSE client that has one file, whose reads and closes (and the
/// opening of its directory) take as long as the test likes, which anybody can lock, and which
/// cannot be written, as whoever closes it is told: for requests that wait for a disk while
/// something else happens.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

/// Unmounted when it goes, and reads that are held are let go of before.
class HeldFile final {
  public:
    /// Who keeps the file's POSIX locks: the kernel, or the file system, which then is asked.
    enum class Locks { kKernel, kServer };

    /// Mounted at `directory`, with one file "f" in it of that content. Null: this process may not
    /// (it is not root, or there is no /dev/fuse).
    [[nodiscard]] static std::unique_ptr<HeldFile> mount(const std::string& directory,
                                                         std::string content,
                                                         Locks locks = Locks::kKernel);

    HeldFile(const HeldFile&) = delete;
    HeldFile& operator=(const HeldFile&) = delete;
    ~HeldFile();

    /// Reads wait from now on.
    void hold();

    /// Whoever opens the directory waits from now on.
    void hold_directory();

    /// Whoever closes the file waits from now on.
    void hold_closes();

    /// How many wait.
    [[nodiscard]] size_t held_count() const;

    void let_go();

    /// How often it was asked to lock or to unlock.
    [[nodiscard]] size_t locks_asked() const { return locks_asked_.load(); }

  private:
    struct Held {
        uint64_t unique = 0;
        uint64_t offset = 0;
        uint32_t size = 0;
    };

    HeldFile(std::string directory, std::string content, Locks locks, UniqueFd fuse, UniqueFd stop);

    void serve();
    void answer_request();
    void answer(uint64_t unique, int error, const void* bytes = nullptr, size_t size = 0) const;
    void answer_read(const Held& read) const;
    void answer_open(uint64_t unique) const;

    const std::string directory_;
    const std::string content_;
    const Locks locks_;
    const UniqueFd fuse_;
    const UniqueFd stop_;  // an eventfd
    mutable std::mutex mutex_;
    bool holds_ = false;            // guarded by it
    bool holds_directory_ = false;  // guarded by it
    bool holds_closes_ = false;     // guarded by it
    std::vector<Held> held_;        // guarded by it
    std::vector<uint64_t> opens_;   // guarded by it: of the directory
    std::vector<uint64_t> closes_;  // guarded by it
    std::atomic<size_t> locks_asked_ = 0;
    std::thread thread_;
};

}  // namespace outrigger::testing
