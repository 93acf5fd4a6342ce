// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/guest/dirty_log.h"

#include <limits>
#include <set>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/guest/sigbus_guard.h"

#include "tests/support/dirty_log_file.h"

namespace outrigger {
namespace {

using testing::DirtyLogFile;
using testing::kLogPage;
using Pages = std::set<uint64_t>;

std::shared_ptr<const DirtyLog> map(const DirtyLogFile& file) {
    return DirtyLog::map({.offset = file.offset(), .size = file.bytes()}, file.fd()).value();
}

GuestAddr page(uint64_t number, uint64_t offset = 0) {
    return GuestAddr{number * kLogPage + offset};
}

TEST(DirtyLog, MarksTheOnePageOfOneByte) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(9, 17), 1));
    EXPECT_EQ(file.pages(), Pages({9}));
}

TEST(DirtyLog, LastByteOfAPageIsNotTheNextPage) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(9), kLogPage));
    EXPECT_EQ(file.pages(), Pages({9}));
}

TEST(DirtyLog, OneByteMoreIsTheNextPage) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(9, 1), kLogPage));
    EXPECT_EQ(file.pages(), Pages({9, 10}));
}

TEST(DirtyLog, RangeOverManyBytesOfTheLog) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(5, 4095), 18 * kLogPage));
    Pages expected;
    for (uint64_t number = 5; number <= 23; ++number) {
        expected.insert(number);
    }
    EXPECT_EQ(file.pages(), expected);
    EXPECT_TRUE(file.margins_are_untouched());
}

TEST(DirtyLog, KeepsWhatIsMarkedBesideIt) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(8), 1));
    EXPECT_TRUE(log->mark(page(10), 1));
    EXPECT_TRUE(log->mark(page(9), 1));
    EXPECT_EQ(file.pages(), Pages({8, 9, 10}));
}

TEST(DirtyLog, EmptyRangeMarksNothing) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(9), 0));
    EXPECT_EQ(file.pages(), Pages());
}

TEST(DirtyLog, FirstAndLastPageOfTheLog) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(0), 1));
    EXPECT_TRUE(log->mark(page(63, 4095), 1));
    EXPECT_EQ(file.pages(), Pages({0, 63}));
    EXPECT_TRUE(file.margins_are_untouched());
}

TEST(DirtyLog, RangeThatLeavesTheLogIsMarkedAsFarAsItGoes) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_FALSE(log->mark(page(62), 3 * kLogPage));
    EXPECT_EQ(file.pages(), Pages({62, 63}));
    EXPECT_TRUE(file.margins_are_untouched());
}

TEST(DirtyLog, RangeBehindTheLogMarksNothing) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_FALSE(log->mark(page(64), 1));
    EXPECT_FALSE(log->mark(GuestAddr{std::numeric_limits<uint64_t>::max()}, 1));
    EXPECT_EQ(file.pages(), Pages());
    EXPECT_TRUE(file.margins_are_untouched());
}

TEST(DirtyLog, RangeThatWrapsDoesNotComeBackAtZero) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    EXPECT_FALSE(log->mark(page(60), std::numeric_limits<uint64_t>::max()));
    EXPECT_EQ(file.pages(), Pages({60, 61, 62, 63}));
}

TEST(DirtyLog, BeginsAtAnyOffsetOfItsFile) {
    const DirtyLogFile file(64, 12345);
    const auto log = map(file);
    EXPECT_TRUE(log->mark(page(0), 1));
    EXPECT_TRUE(log->mark(page(63), 1));
    EXPECT_EQ(file.pages(), Pages({0, 63}));
    EXPECT_TRUE(file.margins_are_untouched());
}

TEST(DirtyLog, ThreadsLoseNoMarkOfEachOther) {
    constexpr uint64_t kPages = 4096;
    const DirtyLogFile file(kPages);
    const auto log = map(file);
    std::vector<std::thread> threads;
    for (uint64_t first = 0; first < 4; ++first) {
        threads.emplace_back([&log, first] {
            for (uint64_t number = first; number < kPages; number += 4) {
                (void)log->mark(page(number), 1);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(file.pages().size(), kPages);
}

TEST(DirtyLog, MarkIsNotLostToAFrontEndThatReadsAndClears) {
    const DirtyLogFile file(64);
    const auto log = map(file);
    Pages taken;
    std::thread worker([&log] {
        for (uint64_t number = 0; number < 64; ++number) {
            (void)log->mark(page(number), 1);
        }
    });
    for (int i = 0; i < 1000; ++i) {
        taken.merge(file.take_pages());
    }
    worker.join();
    taken.merge(file.take_pages());
    EXPECT_EQ(taken.size(), 64U);
}

TEST(DirtyLog, RefusesWhatDoesNotLieInTheFile) {
    const DirtyLogFile file(8 * 4096);
    const uint64_t total = file.bytes() + 64;
    constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
    EXPECT_TRUE(DirtyLog::map({.offset = 0, .size = total}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = 0}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = total + 1}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = 1, .size = total}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = total, .size = 1}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = kMax, .size = 2}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = 4096, .size = kMax - 4095}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = kMax}, file.fd()));
    EXPECT_FALSE(DirtyLog::map({.offset = kMax, .size = kMax}, file.fd()));
}

TEST(DirtyLog, RefusesWhatIsNoFileOrCannotBeWritten) {
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = 8}, pipe_ends[0]));
    ::close(pipe_ends[0]);
    ::close(pipe_ends[1]);
    const UniqueFd read_only(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = 8}, read_only.get()));
    EXPECT_FALSE(DirtyLog::map({.offset = 0, .size = 8}, -1));
}

TEST(DirtyLog, TruncatedFileIsNoticedAndHarmless) {
    DirtyLogFile file(8 * 8192, 0, DirtyLogFile::Kind::kTruncatable);
    const auto log = map(file);
    const uint32_t lost_before = sigbus_guard::lost_count();
    EXPECT_TRUE(log->mark(page(1), 1));
    EXPECT_FALSE(log->lost());
    file.truncate();
    (void)log->mark(page(2), 1);
    EXPECT_TRUE(log->lost());
    EXPECT_NE(sigbus_guard::lost_count(), lost_before);
    (void)log->mark(page(8 * 8000), 1);  // the other page of the log
}

}  // namespace
}  // namespace outrigger
