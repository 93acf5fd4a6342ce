// SPDX-License-Identifier: Apache-2.0
// What becomes of a read that waits for its file system when its ring stops, its guest goes, its
// daemon ends or is killed, or its memory is gone.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fs/fs_test.h"
#include "tests/fs/held_file.h"
#include "tests/support/metrics_samples.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

class FsCold : public FsTest {
  protected:
    static constexpr uint32_t kSize = 3 * 4096;

    FsCold() {
        for (uint32_t i = 0; i < kSize; ++i) {
            content_.push_back(static_cast<char>('a' + i / 512 % 23));
        }
    }

    /// A daemon of a share with a file in it whose reads can be held.
    void begin(const Options& options, HeldFile::Locks locks = HeldFile::Locks::kKernel) {
        std::filesystem::create_directory(in_share("slow"));
        held_ = HeldFile::mount(in_share("slow"), content_, locks);
        if (held_ == nullptr) {
            GTEST_SKIP() << "this needs root and /dev/fuse";
        }
        serve(options);
        node_ = node_of("f", node_of("slow"));
        ASSERT_NE(node_, 0U) << daemon().complained();
    }

    uint64_t open(int flags = O_RDONLY) {
        const FuseAnswer opened = call(ask::open(node_, static_cast<uint32_t>(flags)));
        EXPECT_EQ(opened.error(), 0) << daemon().complained();
        return opened.as<fuse_open_out>().fh;
    }

    /// A read of all of it, which waits.
    size_t ask_held(uint64_t fh) {
        held_->hold();
        const auto slot = guest().submit(ask::read(node_, fh, 0, kSize));
        EXPECT_TRUE(slot);
        EXPECT_TRUE(eventually([&] { return held_->held_count() > 0; }));
        return slot.value_or(0);
    }

    std::unique_ptr<HeldFile> held_;
    std::string content_;
    uint64_t node_ = 0;
};

TEST_F(FsCold, ARingStopsWhenItsReadHasCome) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    const size_t slot = ask_held(open());
    driver::DriverQueue& ring = guest().device().queues[FuseGuest::kFirst];
    auto stopped =
        std::async(std::launch::async, [&] { return ring.stop(guest().frontend()).has_value(); });
    held_->let_go();
    ASSERT_TRUE(stopped.get());
    // There already: nobody writes to the guest's memory behind the answer to GET_VRING_BASE.
    const auto used = guest().queue(FuseGuest::kFirst).poll();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->slot, slot);
    const auto bytes = guest().queue(FuseGuest::kFirst).writable(slot).first(used->length);
    ASSERT_EQ(bytes.size(), sizeof(fuse_out_header) + kSize);
    EXPECT_EQ(std::memcmp(bytes.data() + sizeof(fuse_out_header), content_.data(), kSize), 0);
}

TEST_F(FsCold, AGuestThatGoesMeanwhileLeavesTheDaemonToTheNext) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    (void)ask_held(open());
    guest_.reset();
    held_->let_go();
    connect({});
    node_ = node_of("f", node_of("slow"));
    EXPECT_EQ(call(ask::read(node_, open(), 0, kSize)).text(), content_);
}

TEST_F(FsCold, ADaemonThatIsToEndMeanwhileEnds) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    (void)ask_held(open());
    daemon().send_signal(SIGTERM);
    held_->let_go();
    EXPECT_EQ(daemon().wait().value_or(Ended{}), (Ended{.status = 0})) << daemon().complained();
    daemon_.reset();
}

TEST_F(FsCold, MemoryThatIsGoneMeanwhileBreaksTheRing) {
    begin({.guest = {.truncatable = true}});
    if (IsSkipped()) {
        return;
    }
    const size_t slot = ask_held(open());
    driver::GuestMemory& memory = guest().memory();
    const driver::RegionId region = memory.regions().front();
    const GuestAddr begin{0x10000};
    // The header and the first page stay, and the rings; what the rest would go to does not.
    const std::byte* const kept = guest().queue(FuseGuest::kFirst).writable(slot).data() +
                                  sizeof(fuse_out_header) + FuseQueue::kPageBytes;
    ASSERT_EQ(::ftruncate(memory.fd(region), kept - memory.data(begin, 1)), 0);
    held_->let_go();
    driver::DriverQueue& ring = guest().device().queues[FuseGuest::kFirst];
    EXPECT_TRUE(ring.wait_error(driver::after(kPatience))) << daemon().complained();
    connect({});
    expect_alive();
}

/// What the host could not write back before the guest asked; once, as by syncfs().
TEST_F(FsCold, ASyncTellsWhatFailedBefore) {
    held_ = HeldFile::mount(share(), content_);
    if (held_ == nullptr) {
        GTEST_SKIP() << "this needs root and /dev/fuse";
    }
    serve();
    const UniqueFd file(::open(in_share("f").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(file.valid());
    void* const mapped = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    static_cast<char*>(mapped)[0] = 'x';
    EXPECT_NE(::msync(mapped, kSize, MS_SYNC), 0);
    ::munmap(mapped, kSize);
    // Who was told of it first keeps it from nobody who was there before.
    EXPECT_NE(::syncfs(file.get()), 0);
    EXPECT_EQ(error_of(ask::syncfs(FUSE_ROOT_ID)), EIO);
    EXPECT_EQ(error_of(ask::syncfs(FUSE_ROOT_ID)), 0);
}

/// Below a share whose own file system has nothing to tell then.
TEST_F(FsCold, AFlushTellsWhatACloseDoes) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    EXPECT_EQ(error_of(ask::flush(node_, open(), 0)), EIO);
    expect_alive();
}

/// On the thread that all front ends of the process wait for.
TEST_F(FsCold, AResetAsksNothingOfTheServerOfTheShare) {
    held_ = HeldFile::mount(share(), content_);
    if (held_ == nullptr) {
        GTEST_SKIP() << "this needs root and /dev/fuse";
    }
    serve();
    held_->hold_directory();
    connect({});
    expect_alive();
    EXPECT_EQ(held_->held_count(), 0U);
}

/// Of what the guest left open its server is told by a thread that may wait, and nobody else waits
/// for that thread, or has another one started.
TEST_F(FsCold, AResetWaitsForNoServerThatIsToldOfCloses) {
    begin({.arguments = {"--metrics=unix:" + (home_ / "metrics"), "--name=share"}});
    if (IsSkipped()) {
        return;
    }
    const auto descriptors = [&] {
        return std::stoul(
            read_metrics(home_ / "metrics")["outrigger_fs_descriptors{device=\"share\"}"]);
    };
    held_->hold_closes();
    (void)open();
    connect({});
    ASSERT_TRUE(eventually([&] { return held_->held_count() == 1; }));
    const size_t threads = ProcessCounts::of(daemon().pid()).threads;
    const size_t before = descriptors();
    constexpr size_t kResets = 5;
    for (size_t i = 0; i < kResets; ++i) {
        node_ = node_of("f", node_of("slow"));
        (void)open();
        connect({});
        expect_alive();
    }
    EXPECT_EQ(held_->held_count(), 1U) << "one after the other";
    EXPECT_EQ(ProcessCounts::of(daemon().pid()).threads, threads);
    EXPECT_EQ(descriptors(), before + kResets) << "they count as long as they are open";
    held_->let_go();
    EXPECT_TRUE(eventually([&] { return descriptors() == before - 1; })) << descriptors();
}

/// Which somebody else on the host may wait for.
TEST_F(FsCold, LocksGoWithAResetThoughFilesAreClosedLater) {
    const Options options{.arguments = {"--flock", "--posix-lock"}};
    begin(options);
    if (IsSkipped()) {
        return;
    }
    fuse_file_lock whole{.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 1};
    const uint64_t fh = open(O_RDWR);
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 1, whole)), 0);
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 1, whole, FUSE_LK_FLOCK)), 0);
    const UniqueFd host(::open(in_share("slow/f").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(host.valid());
    // Whose own close is one of those that wait.
    const std::shared_ptr<void> before_that(nullptr, [&](void*) { held_->let_go(); });
    struct flock wanted = {};
    wanted.l_type = F_WRLCK;
    wanted.l_whence = SEEK_SET;
    EXPECT_NE(::fcntl(host.get(), F_OFD_SETLK, &wanted), 0);
    EXPECT_NE(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
    held_->hold_closes();
    connect(options);
    EXPECT_EQ(::fcntl(host.get(), F_OFD_SETLK, &wanted), 0);
    EXPECT_EQ(::flock(host.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_TRUE(eventually([&] { return held_->held_count() == 1; }));
}

/// The keeper's descriptor of one that has locks is closed later than the reset.
TEST_F(FsCold, AServerThatKeepsLocksIsAskedToUnlockOnceAndOnlyWhatIsLocked) {
    const Options options{.arguments = {"--posix-lock"}, .keeper = true};
    begin(options, HeldFile::Locks::kServer);
    if (IsSkipped()) {
        return;
    }
    fuse_file_lock whole{.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 1};
    const uint64_t fh = open(O_RDWR);
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 1, whole)), 0);
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 2, whole)), 0);
    whole.type = F_UNLCK;
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 2, whole)), 0);
    const size_t before = held_->locks_asked();
    EXPECT_EQ(before, 3U);
    connect(options);
    expect_alive();
    EXPECT_EQ(held_->locks_asked(), before + 1) << "the first owner's";
}

/// The kernel keeps no list of those locks, so the next process cannot know of them.
TEST_F(FsCold, AServerThatKeepsLocksIsAskedToUnlockBehindAKill) {
    const Options options{.arguments = {"--posix-lock"}, .keeper = true};
    begin(options, HeldFile::Locks::kServer);
    if (IsSkipped()) {
        return;
    }
    const fuse_file_lock whole{.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 1};
    const uint64_t fh = open(O_RDWR);
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, node_, fh, 1, whole)), 0);
    kill();
    expect_alive();
    const size_t before = held_->locks_asked();
    (void)call(ask::flush(node_, fh, 1));
    EXPECT_EQ(held_->locks_asked(), before + 1);
    connect(options);
    expect_alive();
    EXPECT_EQ(held_->locks_asked(), before + 1) << "once is enough";
}

/// The last close of a large file without a name frees its blocks.
TEST_F(FsCold, AResetFreesNoLargeFile) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    write_in_share("large", std::string(size_t{4} << 20, 'x'));
    write_in_share("small", "x");
    ASSERT_NE(node_of("large"), 0U);
    ASSERT_NE(node_of("small"), 0U);
    std::filesystem::remove(in_share("large"));
    std::filesystem::remove(in_share("small"));
    const auto has_open = [&](const std::string& name) {
        const std::filesystem::path links = "/proc/" + std::to_string(daemon().pid()) + "/fd";
        return std::ranges::any_of(std::filesystem::directory_iterator(links),
                                   [&](const auto& link) {
                                       std::error_code gone;
                                       return std::filesystem::read_symlink(link, gone)
                                           .string()
                                           .ends_with("/" + name + " (deleted)");
                                   });
    };
    EXPECT_TRUE(has_open("small"));
    // What is closed behind this one waits for it.
    (void)open();
    held_->hold_closes();
    connect({});
    EXPECT_TRUE(has_open("large"));
    EXPECT_FALSE(has_open("small"));
    held_->let_go();
    EXPECT_TRUE(eventually([&] { return !has_open("large"); }));
}

TEST_F(FsCold, ASyncThatWaitsForItsServerHoldsUpNoOther) {
    begin({});
    if (IsSkipped()) {
        return;
    }
    held_->hold_directory();
    const auto slot = guest().submit(ask::syncfs(node_of("slow")));
    ASSERT_TRUE(slot);
    ASSERT_TRUE(eventually([&] { return held_->held_count() > 0; }));
    EXPECT_EQ(error_of(ask::syncfs(FUSE_ROOT_ID)), 0);
    held_->let_go();
    EXPECT_TRUE(guest().wait(*slot).used);
    expect_alive();
}

/// A READDIR from an offset that no entry carried, of the kind that the host cannot seek to.
constexpr uint64_t kWalk = uint64_t{1} << 63;

class FsColdWalks : public FsCold {
  protected:
    /// More entries than one looks at for whom nobody has time.
    void begin_with_many(Options options) {
        options.arguments.insert(options.arguments.end(), {"--posix-lock", "--thread-pool-size=1"});
        std::filesystem::create_directory(in_share("many"));
        const UniqueFd many(::open(in_share("many").c_str(), O_PATH | O_CLOEXEC));
        for (int i = 0; i < 12'000; ++i) {
            ASSERT_EQ(::mknodat(many.get(), std::to_string(i).c_str(), S_IFREG | 0600, 0), 0);
        }
        begin(options);
        if (!IsSkipped()) {
            many_ = node_of("many");
            many_fh_ = call(ask::opendir(many_)).as<fuse_open_out>().fh;
        }
    }

    [[nodiscard]] FuseRequest walk() const {
        return ask::readdir(many_, many_fh_, kWalk | 5, 4096);
    }

    uint64_t many_ = 0;
    uint64_t many_fh_ = 0;
};

TEST_F(FsColdWalks, EndWhenTheRingStops) {
    begin_with_many({});
    if (IsSkipped()) {
        return;
    }
    EXPECT_EQ(error_of(walk()), EINVAL);
    const OpenFile file = create("locked");
    const fuse_file_lock whole{.start = 0, .end = INT64_MAX, .type = F_WRLCK, .pid = 1};
    ASSERT_EQ(error_of(ask::lock(FUSE_SETLK, file.node, file.fh, 1, whole)), 0);
    // Behind a read, which has the only thread.
    (void)ask_held(open());
    const auto walks = guest().submit(walk());
    const auto locks = guest().submit(ask::lock(FUSE_SETLKW, file.node, file.fh, 2, whole));
    ASSERT_TRUE(walks && locks);
    expect_alive();
    driver::Frontend& frontend = guest().frontend();
    const wire::VringState state{.index = FuseGuest::kFirst, .num = 0};
    const wire::Header header{
        .request = static_cast<uint32_t>(wire::FrontendRequest::kGetVringBase),
        .flags = wire::kVersion,
        .size = sizeof state};
    (void)frontend.send(header, std::as_bytes(std::span(&state, 1)));
    // Whoever waits for the lock is told that the ring stops.
    EXPECT_EQ(guest().wait(*locks).error(), ENOLCK);
    held_->let_go();
    EXPECT_TRUE(frontend.receive());
    EXPECT_EQ(guest().wait(*walks).error(), EAGAIN);
}

TEST_F(FsColdWalks, GoOnBehindATakeOver) {
    begin_with_many({.keeper = true});
    if (IsSkipped()) {
        return;
    }
    std::vector<size_t> walks;
    for (int i = 0; i < 12; ++i) {
        walks.push_back(guest().submit(walk()).value_or(0));
    }
    expect_alive();
    ChildProcess next(std::getenv("OUTRIGGER_FS_PROGRAM"),
                      {.arguments = {"--take-over=" + std::to_string(daemon().pid())}});
    EXPECT_EQ(next.wait().value_or(Ended{}), (Ended{.status = 0})) << next.complained();
    for (const size_t slot : walks) {
        EXPECT_EQ(guest().wait(slot).error(), EINVAL) << slot;
    }
}

/// Through the page cache by a thread, and past it by the kernel.
class FsColdKills : public FsCold, public ::testing::WithParamInterface<bool> {};

TEST_P(FsColdKills, AProcessThatIsKilledMeanwhileLeavesTheReadToTheNext) {
    begin({.arguments = {"--allow-direct-io"}, .keeper = true});
    if (IsSkipped()) {
        return;
    }
    const size_t slot = ask_held(open(GetParam() ? O_RDONLY | O_DIRECT : O_RDONLY));
    const pid_t before = serving();
    ASSERT_GT(before, 0);
    ::kill(before, SIGKILL);
    // Nothing ends a process whose file system has not answered.
    held_->let_go();
    ASSERT_TRUE(eventually([&] { return serving() != before && serving() > 0; }));
    const FuseAnswer answer = guest().wait(slot);
    EXPECT_EQ(answer.error(), 0) << daemon().complained();
    EXPECT_EQ(answer.text(), content_);
    expect_alive();
}

INSTANTIATE_TEST_SUITE_P(Reads, FsColdKills, ::testing::Bool(), [](const auto& row) {
    return row.param ? "direct" : "cached";
});

}  // namespace
}  // namespace outrigger::testing
