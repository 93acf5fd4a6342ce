// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/mapping.h"
#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger {
namespace {

TEST(CheckedMath, AdditionStopsAtTheTypeMaximum) {
    EXPECT_EQ(checked_add<uint32_t>(UINT32_MAX - 1, 1), UINT32_MAX);
    EXPECT_FALSE(checked_add<uint32_t>(UINT32_MAX, 1).has_value());
}

TEST(CheckedMath, RangeFitsCannotBeFooledByWrapping) {
    EXPECT_TRUE(range_fits<uint64_t>(10, 10, 20));
    EXPECT_FALSE(range_fits<uint64_t>(10, 11, 20));
    EXPECT_FALSE(range_fits<uint64_t>(UINT64_MAX, 2, 20));
    EXPECT_FALSE(range_fits<uint64_t>(21, 0, 20));
}

TEST(CheckedMath, AlignUpReportsOverflow) {
    EXPECT_EQ(align_up<uint64_t>(4097, 4096), 8192U);
    EXPECT_EQ(align_up<uint64_t>(4096, 4096), 4096U);
    EXPECT_FALSE(align_up<uint64_t>(UINT64_MAX, 4096).has_value());
}

TEST(LittleEndian, IsLittleEndianInMemory) {
    const Le32 value(0x0403'0201);
    std::array<uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), &value, sizeof value);
    EXPECT_EQ(bytes, (std::array<uint8_t, 4>{1, 2, 3, 4}));
    EXPECT_EQ(value.value(), 0x0403'0201U);
}

TEST(FeatureSet, KnowsItsBits) {
    const FeatureSet set = FeatureSet::of({0, 63});
    EXPECT_TRUE(set.has(0));
    EXPECT_TRUE(set.has(63));
    EXPECT_FALSE(set.has(62));
    EXPECT_TRUE(set.contains(FeatureSet::of({63})));
    EXPECT_FALSE(set.contains(FeatureSet::of({1, 63})));
}

TEST(SharedMemory, CannotBeTruncated) {
    if (kPortableBuild) {
        GTEST_SKIP() << "POSIX shared memory cannot be sealed";
    }
    const UniqueFd fd = create_shared_memory("test", 8192).value();
    EXPECT_NE(::ftruncate(fd.get(), 4096), 0);
}

class SharedMemoryKinds : public testing::TestWithParam<SharedMemoryKind> {};

INSTANTIATE_TEST_SUITE_P(DefaultAndPosix,
                         SharedMemoryKinds,
                         testing::Values(SharedMemoryKind::kDefault,
                                         SharedMemoryKind::kPosixObject));

TEST_P(SharedMemoryKinds, IsZeroedAndClosedOnExec) {
    const UniqueFd fd = create_shared_memory("test", 8192, GetParam()).value();
    EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
    const Mapping mapping = Mapping::map_file(fd.get(), 0, 8192).value();
    EXPECT_TRUE(std::all_of(mapping.data(), mapping.data() + 8192, [](std::byte byte) {
        return byte == std::byte{0};
    }));
}

TEST_P(SharedMemoryKinds, HasNoNameThatAnotherProcessCouldOpen) {
    const UniqueFd fd = create_shared_memory("test", 8192, GetParam()).value();

    struct stat status {};

    ASSERT_EQ(::fstat(fd.get(), &status), 0);
    EXPECT_EQ(status.st_nlink, 0U);
}

TEST_P(SharedMemoryKinds, EachIsMemoryOfItsOwn) {
    const UniqueFd first = create_shared_memory("test", 4096, GetParam()).value();
    const UniqueFd second = create_shared_memory("test", 4096, GetParam()).value();
    ASSERT_EQ(::pwrite(first.get(), "x", 1, 0), 1);
    char byte = 'y';
    ASSERT_EQ(::pread(second.get(), &byte, 1, 0), 1);
    EXPECT_EQ(byte, 0);
}

#ifdef MFD_HUGETLB
size_t mappings_of(std::string_view name) {
    std::ifstream maps("/proc/self/maps");
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        count += line.find(name) != std::string::npos ? 1U : 0U;
    }
    return count;
}

// Huge pages cannot be unmapped in part, and a region may be smaller than one.
TEST(Mapping, OfPartOfAHugePageGoesAway) {
    const UniqueFd fd(::memfd_create("huge-part", MFD_CLOEXEC | MFD_HUGETLB));
    constexpr off_t kBytes = 1 << 30;  // a multiple of every huge page size; none is allocated
    if (!fd.valid() || ::ftruncate(fd.get(), kBytes) != 0) {
        GTEST_SKIP() << "this system has no huge pages";
    }
    {
        const auto mapping = Mapping::map_file(fd.get(), 8192, 4096);
        ASSERT_TRUE(mapping) << mapping.error().message;
        EXPECT_EQ(mappings_of("huge-part"), 1U);
    }
    EXPECT_EQ(mappings_of("huge-part"), 0U);
}
#endif

TEST(Mapping, KeepsTheSlackOfAnUnalignedOffset) {
    const UniqueFd fd = create_shared_memory("test", 8192).value();
    const char text[] = "here";
    ASSERT_EQ(::pwrite(fd.get(), text, sizeof text, 4100), static_cast<ssize_t>(sizeof text));
    const Mapping mapping = Mapping::map_file(fd.get(), 4100, 100).value();
    EXPECT_EQ(std::memcmp(mapping.data(), text, sizeof text), 0);
}

TEST(Mapping, MayStandBehindAPageThatTheFileDoesNotHave) {
    constexpr uint64_t kOffset = 65536;  // a multiple of every page size
    const UniqueFd fd = create_shared_memory("test", kOffset + 16).value();
    const Mapping mapping = Mapping::map_file_behind_page(fd.get(), kOffset, 16).value();
    std::memset(mapping.data() - 16, 0x55, 32);
    std::array<std::byte, kOffset + 16> file{};
    ASSERT_EQ(::pread(fd.get(), file.data(), file.size(), 0), static_cast<ssize_t>(file.size()));
    std::array<std::byte, kOffset + 16> expected{};
    std::fill(expected.end() - 16, expected.end(), std::byte{0x55});
    EXPECT_TRUE(file == expected);
    EXPECT_FALSE(Mapping::map_file_behind_page(fd.get(), 8, 16));
    EXPECT_FALSE(Mapping::map_file_behind_page(fd.get(), kOffset, 17));
}

TEST(LogLimiter, LetsOneLineThroughAndCountsTheOthers) {
    LogLimiter limiter;
    uint64_t suppressed = 0;
    EXPECT_TRUE(limiter.allow(suppressed));
    EXPECT_FALSE(limiter.allow(suppressed));
    EXPECT_FALSE(limiter.allow(suppressed));
}

TEST(LogLimiter, LetsAsManyLinesThroughAsItIsToldAndNotOneMore) {
    LogLimiter limiter(3);
    uint64_t suppressed = 0;
    EXPECT_TRUE(limiter.allow(suppressed));
    EXPECT_TRUE(limiter.allow(suppressed));
    EXPECT_TRUE(limiter.allow(suppressed));
    EXPECT_FALSE(limiter.allow(suppressed));
}

NotificationKind check_kind(Notifier::Kind kind) {
    return kind == Notifier::Kind::kPipe || kPortableBuild ? NotificationKind::kPipe
                                                           : NotificationKind::kAnonymous;
}

class NotifierKinds : public testing::TestWithParam<Notifier::Kind> {};

TEST_P(NotifierKinds, SignalsUntilDrained) {
    const Notifier notifier = Notifier::create(GetParam()).value();
    EXPECT_EQ(drain_notification(notifier.read_fd()), DrainResult::kEmpty);
    notifier.signal();
    notifier.signal();
    notifier.drain();
    EXPECT_EQ(drain_notification(notifier.read_fd()), DrainResult::kEmpty);
}

TEST_P(NotifierKinds, IsClosedOnExec) {
    const Notifier notifier = Notifier::create(GetParam()).value();
    EXPECT_NE(::fcntl(notifier.read_fd(), F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_NE(::fcntl(notifier.write_fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Notifier, ThePortableBuildHasPipesOnly) {
    const Notifier notifier = Notifier::create().value();
    EXPECT_EQ(notifier.read_fd() != notifier.write_fd(), kPortableBuild);
}

TEST_P(NotifierKinds, AFullChannelCountsAsSignalled) {
    const Notifier notifier = Notifier::create(GetParam()).value();
    if (notifier.read_fd() == notifier.write_fd()) {  // an eventfd
        const uint64_t almost_full = UINT64_MAX - 1;
        ASSERT_EQ(::write(notifier.write_fd(), &almost_full, sizeof almost_full), 8);
    } else {
        std::array<char, 4096> filler{};
        while (::write(notifier.write_fd(), filler.data(), filler.size()) > 0) {
        }
    }
    EXPECT_EQ(send_notification(notifier.write_fd()), SignalResult::kDelivered);
}

INSTANTIATE_TEST_SUITE_P(EventfdAndPipe,
                         NotifierKinds,
                         testing::Values(Notifier::Kind::kDefault, Notifier::Kind::kPipe));

TEST(Notification, APipeWithoutWritersHasEnded) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reader(ends[0]);
    ::close(ends[1]);
    EXPECT_EQ(drain_notification(reader.get()), DrainResult::kEnded);
}

TEST(Notification, ALostReaderIsNoticed) {
    const auto old_handler = ::signal(SIGPIPE, SIG_IGN);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    ::close(ends[0]);
    const UniqueFd writer(ends[1]);
    EXPECT_EQ(send_notification(writer.get()), SignalResult::kLost);
    ::signal(SIGPIPE, old_handler);
}

TEST(Notification, ADirectoryCannotBeRead) {
    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(drain_notification(directory.get()), DrainResult::kBroken);
}

TEST(NotificationCheck, TakesEventfdsAndPipesAndMakesThemNonBlocking) {
    const UniqueFd event(::eventfd(0, 0));
    ASSERT_TRUE(check_notification_fd(event.get()).has_value());
    EXPECT_NE(::fcntl(event.get(), F_GETFL) & O_NONBLOCK, 0);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    EXPECT_TRUE(check_notification_fd(reader.get()).has_value());
}

TEST(NotificationCheck, TellsPipesFromOthers) {
    const UniqueFd event(::eventfd(0, 0));
    EXPECT_EQ(check_notification_fd(event.get()).value(), NotificationKind::kAnonymous);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    EXPECT_EQ(check_notification_fd(reader.get()).value(), NotificationKind::kPipe);
    EXPECT_EQ(check_notification_fd(writer.get()).value(), NotificationKind::kPipe);
}

// A signalfd yields the signals of whoever reads: ours, which would be gone.
TEST(Notification, ASignalfdTakesNoSignalAway) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigset_t before;
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &set, &before), 0);
    const UniqueFd signals(::signalfd(-1, &set, SFD_NONBLOCK));
    ASSERT_EQ(check_notification_fd(signals.get()).value(), NotificationKind::kAnonymous);
    ASSERT_EQ(::raise(SIGUSR1), 0);

    EXPECT_EQ(drain_notification(signals.get()), DrainResult::kBroken);

    sigset_t pending;
    ASSERT_EQ(::sigpending(&pending), 0);
    EXPECT_EQ(sigismember(&pending, SIGUSR1), 1);
    const timespec now{};
    (void)::sigtimedwait(&set, nullptr, &now);
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
}

TEST(Notification, AFloodInAPipeIsTakenInLargePieces) {
    const Notifier notifier = Notifier::create(Notifier::Kind::kPipe).value();
    for (int i = 0; i < 60; ++i) {
        notifier.signal();
    }
    const int fd = notifier.read_fd();
    EXPECT_EQ(drain_notification(fd, NotificationKind::kPipe), DrainResult::kSignalled);
    EXPECT_EQ(drain_notification(fd, NotificationKind::kPipe), DrainResult::kEmpty);
}

// What follows: who shares the open file takes O_NONBLOCK off, which these would wait for ever by.

void make_blocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    ASSERT_EQ(::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK), 0);
}

TEST_P(NotifierKinds, AReadDoesNotWaitWithoutONonblock) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the system has no such read";
    }
    const Notifier notifier = Notifier::create(GetParam()).value();
    make_blocking(notifier.read_fd());
    const auto kind = check_kind(GetParam());
    EXPECT_EQ(drain_notification(notifier.read_fd(), kind), DrainResult::kEmpty);
}

TEST(Notification, WhatIsNoEventfdDoesNotWaitEither) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the system has no such read";
    }
    ASSERT_TRUE(Notifier::create());
    const UniqueFd events(::inotify_init1(0));
    ASSERT_EQ(check_notification_fd(events.get()).value(), NotificationKind::kAnonymous);
    make_blocking(events.get());
    EXPECT_EQ(drain_notification(events.get()), DrainResult::kBroken);
}

TEST(Notification, AFullPipeDoesNotWaitWithoutONonblock) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the system has no such write";
    }
    const Notifier notifier = Notifier::create(Notifier::Kind::kPipe).value();
    const std::array<char, 4096> filler{};
    while (::write(notifier.write_fd(), filler.data(), filler.size()) > 0) {
    }
    make_blocking(notifier.write_fd());
    EXPECT_EQ(send_notification(notifier.write_fd(), NotificationKind::kPipe),
              SignalResult::kDelivered);
}

/// An end of a FIFO by open(), which the kernel does not treat as it does an end by pipe().
UniqueFd open_fifo_end(int pipe_end, int flags) {
    return UniqueFd(::open(("/proc/self/fd/" + std::to_string(pipe_end)).c_str(), flags));
}

TEST(Notification, AFifoDoesNotWaitWithoutONonblock) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the system has no such read and write";
    }
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd first_reader(ends[0]);
    const UniqueFd first_writer(ends[1]);
    const UniqueFd reader = open_fifo_end(ends[0], O_RDONLY);
    const UniqueFd writer = open_fifo_end(ends[1], O_WRONLY | O_NONBLOCK);
    EXPECT_EQ(drain_notification(reader.get(), NotificationKind::kPipe), DrainResult::kEmpty);
    ASSERT_EQ(send_notification(writer.get(), NotificationKind::kPipe), SignalResult::kDelivered);
    uint64_t count = 0;
    ASSERT_EQ(::read(reader.get(), &count, sizeof count), 8);
    EXPECT_EQ(count, 1U);
    const std::array<std::byte, 4096> page{};
    while (::write(writer.get(), page.data(), page.size()) > 0) {
    }
    make_blocking(writer.get());
    EXPECT_EQ(send_notification(writer.get(), NotificationKind::kPipe), SignalResult::kDelivered);
    EXPECT_EQ(drain_notification(reader.get(), NotificationKind::kPipe), DrainResult::kSignalled);
}

TEST(NotificationCheck, RefusesBothEndsOfAFifoInOne) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    const UniqueFd both = open_fifo_end(ends[0], O_RDWR);
    EXPECT_FALSE(check_notification_fd(both.get()).has_value());
}

TEST(Notification, ASenderThatSleepsIsReleased) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the system has no such read";
    }
    const UniqueFd event(::eventfd(0, 0));
    const uint64_t full = UINT64_MAX - 1;
    ASSERT_EQ(::write(event.get(), &full, sizeof full), 8);
    std::atomic<bool> sent = false;
    std::thread sender([&] {
        EXPECT_EQ(send_notification(event.get()), SignalResult::kDelivered);
        sent = true;
    });
    // Asleep or about to be: it is released either way.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_FALSE(sent);

    release_sender(event.get(), NotificationKind::kAnonymous);

    sender.join();
    EXPECT_EQ(drain_notification(event.get()), DrainResult::kSignalled);
}

TEST(Notification, AReleaseLeavesSignalsThatWait) {
    const UniqueFd event(::eventfd(3, 0));
    release_sender(event.get(), NotificationKind::kAnonymous);
    uint64_t count = 0;
    ASSERT_EQ(::read(event.get(), &count, sizeof count), 8);
    EXPECT_EQ(count, 3U);
    EXPECT_NE(::fcntl(event.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(NotificationCheck, RefusesWhatIsReadableForEver) {
    const UniqueFd zero(::open("/dev/zero", O_RDWR));
    EXPECT_FALSE(check_notification_fd(zero.get()).has_value());
    const UniqueFd file(::open("/proc/self/exe", O_RDONLY));
    EXPECT_FALSE(check_notification_fd(file.get()).has_value());
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_FALSE(check_notification_fd(socket.get()).has_value());
}

}  // namespace
}  // namespace outrigger
