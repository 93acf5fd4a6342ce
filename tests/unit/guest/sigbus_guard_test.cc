// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/sigbus_guard.h"

#include <array>
#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {
namespace {

constexpr size_t kBytes = 1 << 20;

/// A file that can be truncated, and where it is mapped.
struct MappedFile {
    UniqueFd fd;
    Mapping mapping;

    MappedFile() {
        std::string path = testing::TempDir() + "/guarded-XXXXXX";
        fd.reset(::mkstemp(path.data()));
        ::unlink(path.c_str());
        EXPECT_EQ(::ftruncate(fd.get(), kBytes), 0);
        mapping = Mapping::map_file(fd.get(), 0, kBytes).value();
        mapping.data()[kBytes / 2] = std::byte{1};
    }

    [[nodiscard]] GuardedRange guard() const {
        return {mapping.whole().data(), mapping.whole().size()};
    }

    void truncate() const { EXPECT_EQ(::ftruncate(fd.get(), 0), 0); }

    [[nodiscard]] std::byte read(size_t offset) const {
        return static_cast<volatile std::byte*>(mapping.data())[offset];
    }
};

bool no_huge_page_is_free() {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("HugePages_Free:")) {
            return line.ends_with(" 0");
        }
    }
    return true;
}

TEST(SigbusGuard, ATruncatedRegionReadsAsZeroesAndIsLost) {
    const MappedFile file;
    const GuardedRange guard = file.guard();
    const uint32_t before = sigbus_guard::lost_count();
    file.truncate();
    EXPECT_FALSE(guard.lost());
    EXPECT_EQ(file.read(kBytes / 2), std::byte{0});
    EXPECT_TRUE(guard.lost());
    EXPECT_EQ(sigbus_guard::lost_count(), before + 1);
}

TEST(SigbusGuard, ALostRegionCanBeWrittenAndRaisesNoOtherSignal) {
    const MappedFile file;
    const GuardedRange guard = file.guard();
    const uint32_t before = sigbus_guard::lost_count();
    file.truncate();
    file.mapping.data()[0] = std::byte{7};
    file.mapping.data()[kBytes - 1] = std::byte{8};
    EXPECT_EQ(file.read(0), std::byte{7});
    EXPECT_EQ(sigbus_guard::lost_count(), before + 1);
}

/// Would a system call find memory there?
bool kernel_finds(const std::byte* memory) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    const ssize_t count = ::write(writer.get(), memory, 16);
    EXPECT_TRUE(count == 16 || errno == EFAULT);
    return count == 16;
}

// The kernel still fails where requests in flight read the rest: nothing becomes zeroes by itself.
TEST(SigbusGuard, OnlyTheTouchedPageBecomesZeroes) {
    const MappedFile file;
    const GuardedRange guard = file.guard();
    file.truncate();
    (void)file.read(0);
    EXPECT_TRUE(kernel_finds(file.mapping.data()));
    EXPECT_FALSE(kernel_finds(file.mapping.data() + kBytes / 2));
}

TEST(SigbusGuard, LookingTouchesNothing) {
    const MappedFile file;
    const GuardedRange guard = file.guard();
    file.truncate();
    const iovec buffer = {.iov_base = file.mapping.data(), .iov_len = 512};
    sigbus_guard::look_for_loss(std::array{buffer});
    EXPECT_TRUE(guard.lost());
    if (!kPortableBuild) {
        EXPECT_FALSE(kernel_finds(file.mapping.data()));
    }
}

// A signal for each of 2^40 pages would be a way to keep a worker busy.
TEST(SigbusGuard, BehindManyPagesTheRestGoesAtOnce) {
    constexpr size_t kPage = 4096;
    constexpr size_t kPages = 300;
    std::string path = testing::TempDir() + "/guarded-XXXXXX";
    const UniqueFd fd(::mkstemp(path.data()));
    ::unlink(path.c_str());
    ASSERT_EQ(::ftruncate(fd.get(), kPages * kPage), 0);
    const auto mapping = Mapping::map_file(fd.get(), 0, kPages * kPage).value();
    const GuardedRange guard(mapping.whole().data(), mapping.whole().size());
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    for (size_t page = 0; page < 257; ++page) {
        (void)*static_cast<volatile std::byte*>(mapping.data() + page * kPage);
    }
    EXPECT_TRUE(kernel_finds(mapping.data() + 299 * kPage));
}

// Each page that is replaced alone makes two mappings more, and a process may have 65530.
TEST(SigbusGuard, BehindManyPagesOfAllRegionsTheRestGoesAtOnce) {
    constexpr size_t kPage = 4096;
    constexpr size_t kTouched = 250;
    {
        const std::array<MappedFile, 17> files;
        static_assert(kTouched * 17 > 4096);
        std::vector<GuardedRange> guards;
        for (const MappedFile& file : files) {
            guards.push_back(file.guard());
            file.truncate();
            for (size_t page = 0; page < kTouched; ++page) {
                (void)file.read(page * kPage);
            }
        }
        EXPECT_FALSE(kernel_finds(files.front().mapping.data() + kBytes - kPage));
        EXPECT_TRUE(kernel_finds(files.back().mapping.data() + kBytes - kPage));
    }
    // What is unmapped counts no more.
    const MappedFile next;
    const GuardedRange guard = next.guard();
    next.truncate();
    (void)next.read(0);
    EXPECT_TRUE(kernel_finds(next.mapping.data()));
    EXPECT_FALSE(kernel_finds(next.mapping.data() + kBytes - kPage));
}

TEST(SigbusGuard, OtherRegionsStayAsTheyAre) {
    const MappedFile truncated;
    const MappedFile whole;
    const GuardedRange guard = truncated.guard();
    const GuardedRange other = whole.guard();
    truncated.truncate();
    (void)truncated.read(0);
    EXPECT_TRUE(guard.lost());
    EXPECT_FALSE(other.lost());
    EXPECT_EQ(whole.read(kBytes / 2), std::byte{1});
}

TEST(SigbusGuard, ManyRangesAreWatchedAtATime) {
    const MappedFile file;
    std::vector<GuardedRange> others;
    const MappedFile whole;
    for (int i = 0; i < 200; ++i) {
        others.push_back(whole.guard());
    }
    const GuardedRange guard = file.guard();
    file.truncate();
    (void)file.read(0);
    EXPECT_TRUE(guard.lost());
    EXPECT_FALSE(others.back().lost());
}

TEST(SigbusGuard, LookingFindsABufferWhoseEndIsGone) {
    const MappedFile file;
    const GuardedRange guard = file.guard();
    ASSERT_EQ(::ftruncate(file.fd.get(), 8192), 0);
    const uint32_t lost = sigbus_guard::lost_count();
    const iovec there = {.iov_base = file.mapping.data(), .iov_len = 8192};
    const iovec none = {.iov_base = file.mapping.data() + 8192, .iov_len = 0};
    sigbus_guard::look_for_loss(std::array{there, none});
    EXPECT_FALSE(guard.lost());
    const iovec beyond = {.iov_base = file.mapping.data(), .iov_len = 8193};
    sigbus_guard::look_for_loss(std::array{there, beyond});
    EXPECT_TRUE(guard.lost());
    EXPECT_EQ(sigbus_guard::lost_count(), lost + 1);
}

#ifdef MFD_HUGETLB
// A front end may share huge pages that the host does not have, at no cost to itself.
TEST(SigbusGuard, HugePagesThatAreNotThereReadAsZeroes) {
    const UniqueFd fd(::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
    constexpr off_t kLength = 1 << 30;  // a multiple of every huge page size
    if (!fd.valid() || ::ftruncate(fd.get(), kLength) != 0) {
        GTEST_SKIP() << "this system has no huge pages";
    }
    const auto mapping = Mapping::map_file(fd.get(), 0, kBytes).value();
    const GuardedRange guard(mapping.whole().data(), mapping.whole().size());
    const std::byte found = static_cast<volatile std::byte*>(mapping.data())[kBytes / 2];
    EXPECT_EQ(found, std::byte{0});
    EXPECT_EQ(guard.lost(), no_huge_page_is_free());
}
#endif

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// The sanitizers have handlers of their own, which exit otherwise.
TEST(SigbusGuardDeathTest, MemoryThatNobodyGuardsEndsTheProcessAsEver) {
    const MappedFile guarded;
    const GuardedRange guard = guarded.guard();
    const MappedFile file;
    file.truncate();
    EXPECT_EXIT((void)file.read(0), testing::KilledBySignal(SIGBUS), "");
}

TEST(SigbusGuardDeathTest, ARangeIsForgottenWithItsGuard) {
    const MappedFile file;
    { const GuardedRange guard = file.guard(); }
    file.truncate();
    EXPECT_EXIT((void)file.read(0), testing::KilledBySignal(SIGBUS), "");
}
#endif

}  // namespace
}  // namespace outrigger
