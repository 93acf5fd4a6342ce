// SPDX-License-Identifier: Apache-2.0
/// The front end's side of a dirty log: a file, and which pages are marked in it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include <stdlib.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

inline constexpr uint64_t kLogPage = 4096;

/// A log that begins at `offset` of its file, with a bit for each page below `pages`, a multiple
/// of 8. The bytes around it in the file are a pattern of their own: see margins_are_untouched().
class DirtyLogFile final {
  public:
    enum class Kind : uint8_t { kSealed, kTruncatable };

    explicit DirtyLogFile(uint64_t pages, uint64_t offset = 0, Kind kind = Kind::kSealed)
        : offset_(offset), bytes_(pages / 8) {
        const uint64_t total = offset_ + bytes_ + kMargin;
        if (kind == Kind::kSealed) {
            fd_ = create_shared_memory("dirty-log-test", total).value();
        } else {
            std::string path = ::testing::TempDir() + "/dirty-log-XXXXXX";
            fd_.reset(::mkstemp(path.data()));
            ::unlink(path.c_str());
            EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(total)), 0);
        }
        mapping_ = Mapping::map_file(fd_.get(), 0, total).value();
    }

    [[nodiscard]] int fd() const { return fd_.get(); }

    [[nodiscard]] uint64_t offset() const { return offset_; }

    [[nodiscard]] uint64_t bytes() const { return bytes_; }

    [[nodiscard]] std::set<uint64_t> pages() const {
        std::set<uint64_t> found;
        for (uint64_t byte = 0; byte < bytes_; ++byte) {
            insert(found, byte, load(offset_ + byte));
        }
        return found;
    }

    /// What is marked, which is then marked no more: each byte in one step, as front ends do.
    [[nodiscard]] std::set<uint64_t> take_pages() const {
        std::set<uint64_t> found;
        for (uint64_t byte = 0; byte < bytes_; ++byte) {
            if (load(offset_ + byte) == 0) {
                continue;
            }
            // Acquire pairs with the device's release: who sees the mark sees the data.
            const unsigned bits = __atomic_exchange_n(at(offset_ + byte), 0, __ATOMIC_ACQ_REL);
            insert(found, byte, bits);
        }
        return found;
    }

    /// Nothing but the log itself was written.
    [[nodiscard]] bool margins_are_untouched() const {
        for (uint64_t byte = 0; byte < mapping_.size(); ++byte) {
            if ((byte < offset_ || byte >= offset_ + bytes_) && load(byte) != 0) {
                return false;
            }
        }
        return true;
    }

    /// The file ends before the log does. Nothing here touches it any more.
    void truncate() { ASSERT_EQ(::ftruncate(fd_.get(), 0), 0); }

  private:
    static constexpr uint64_t kMargin = 64;

    static void insert(std::set<uint64_t>& pages, uint64_t byte, unsigned bits) {
        for (uint64_t bit = 0; bits >> bit != 0; ++bit) {
            if ((bits >> bit & 1) != 0) {
                pages.insert(8 * byte + bit);
            }
        }
    }

    [[nodiscard]] uint8_t* at(uint64_t byte) const {
        // SAFETY: inside the mapping, by all callers; the device writes it too, hence atomics.
        return reinterpret_cast<uint8_t*>(mapping_.data() + byte);
    }

    [[nodiscard]] uint8_t load(uint64_t byte) const {
        // Acquire: as in take_pages().
        return __atomic_load_n(at(byte), __ATOMIC_ACQUIRE);
    }

    uint64_t offset_;
    uint64_t bytes_;
    UniqueFd fd_;
    Mapping mapping_;
};

}  // namespace outrigger::testing
