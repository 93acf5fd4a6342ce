// SPDX-License-Identifier: Apache-2.0
// Rows 16 to 22 of the catalogue: SET_VRING_* and the descriptors of rings.
#include <array>

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/integration/catalogue.h"

namespace outrigger::testing {
namespace {

using driver::DriverQueue;

class CatalogueRingSetup : public Catalogue {
  protected:
    // Features and memory are known, and a ring that nobody was told of.
    void prepare(const driver::BringUpOptions& options = {}) {
        negotiate(options);
        ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
        queues().push_back(driver::create_queue(memory_, running_.agreement, options, 0).value());
    }

    void expect_good_ring() {
        EXPECT_EQ(queue().start(frontend(), memory_), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
        expect_echo();
    }

    void expect_kick_refused(int fd) {
        prepare();
        EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
        EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
        expect_refusal(Refusal::kNotificationFd, [&] { return frontend().set_vring_kick(0, fd); });
        expect_good_ring();
    }

    // A worker that spins never comes to the point where it goes to sleep.
    void expect_no_spinning() {
        const WorkerCounters& worker = host_->worker_counters(0);
        const uint64_t sleeps = worker.sleeps.value();
        // Wakes the worker, which must then find its way back to sleep.
        EXPECT_EQ(frontend().set_vring_err(0, queue().error_fd()), Answer::kAccepted);
        EXPECT_TRUE(eventually([&] { return worker.sleeps.value() > sleeps; }));
    }
};

TEST_F(CatalogueRingSetup, Row16RingIndexBeyondTheRingsIsRefused) {
    prepare();
    const int fd = queue().kick_fd();
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_num(2, 64); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_base(0xffff'ffff, 0); });
    auto address = queue().vring_address(memory_);
    address.index = 2;
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_addr(address); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_kick(2, fd); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_call(0xff, fd); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_err(2, fd); });
    expect_refusal(Refusal::kRingIndex, [&] { return frontend().set_vring_enable(0x100, 1); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row16JunkBesideTheIndexOfARingsDescriptorIsRefused) {
    prepare();
    const int fd = queue().kick_fd();
    for (const FrontendRequest request : {FrontendRequest::kSetVringKick,
                                          FrontendRequest::kSetVringCall,
                                          FrontendRequest::kSetVringErr}) {
        for (const unsigned junk_bit : {9U, 31U, 32U, 63U}) {
            const uint64_t payload = uint64_t{1} << junk_bit;
            expect_refusal(Refusal::kRingIndex, [&] {
                return frontend().call(number(request), bytes_of(payload), {&fd, 1});
            });
        }
    }
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row17RingSizesThatCannotBeAreRefused) {
    prepare();
    for (const uint32_t size : {0U, 3U, 1000U, 2048U, 32769U, 65536U, 0x1'0040U, 0xffff'ffffU}) {
        expect_refusal(Refusal::kRingSize, [&] { return frontend().set_vring_num(0, size); });
    }
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row17PackedRingSizesThatCannotBeAreRefused) {
    prepare({.packed = true});
    for (const uint32_t size : {0U, 1025U, 32769U, 0x1'0040U}) {
        expect_refusal(Refusal::kRingSize, [&] { return frontend().set_vring_num(0, size); });
    }
    expect_good_ring();
}

// The size may come before the features: then the start tells.
TEST_F(CatalogueRingSetup, Row17SplitRingOfOddSizeDoesNotStart) {
    EXPECT_EQ(frontend().set_vring_num(0, 100), Answer::kUnasked);
    prepare({.queue_size = 128});
    EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    expect_refusal(Refusal::kRingSize,
                   [&] { return frontend().set_vring_kick(0, queue().kick_fd()); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row18UnalignedAreasAreRefused) {
    prepare();
    const auto good = queue().vring_address(memory_);
    for (const uint64_t off : {1U, 8U}) {
        auto bad = good;
        bad.descriptor += off;
        expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    }
    auto bad = good;
    bad.available += 1;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    bad = good;
    bad.used += 2;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row18UnalignedPackedAreasAreRefused) {
    prepare({.packed = true});
    auto bad = queue().vring_address(memory_);
    bad.available += 2;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row18AreasThatWrapAreRefused) {
    prepare();
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    auto bad = queue().vring_address(memory_);
    bad.descriptor = ~uint64_t{0xf};
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row18AreasAcrossTwoRegionsAreRefused) {
    const auto first = first_region();
    const auto second =
        memory_.add_region({.guest_address = GuestAddr{first.guest_address + first.size},
                            .size = kMemoryBytes,
                            .user_address = FrontendAddr{first.user_address + first.size}});
    ASSERT_TRUE(second);
    prepare();
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    auto bad = queue().vring_address(memory_);
    bad.descriptor = first.user_address + first.size - 16;
    expect_refusal(Refusal::kRingAddress, [&] { return frontend().set_vring_addr(bad); });
    expect_good_ring();
}

// Addresses may come before the memory: then the start tells.
TEST_F(CatalogueRingSetup, Row18AreasOutsideTheMemoryThatComesLaterDoNotStart) {
    negotiate();
    queues().push_back(driver::create_queue(memory_, running_.agreement, {}, 0).value());
    auto bad = queue().vring_address(memory_);
    bad.used += kMemoryBytes;
    EXPECT_EQ(frontend().set_vring_num(0, queue().size()), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_addr(bad), Answer::kAccepted);
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    expect_refusal(Refusal::kRingAddress,
                   [&] { return frontend().set_vring_kick(0, queue().kick_fd()); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row19SplitBaseOfMoreThan16BitsIsRefused) {
    prepare();
    expect_refusal(Refusal::kRingBase, [&] { return frontend().set_vring_base(0, 0x1'0000); });
    EXPECT_EQ(frontend().set_vring_base(0, 0xffff), Answer::kAccepted);
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row19PackedBaseBehindTheRingIsRefused) {
    prepare({.packed = true, .queue_size = 100});
    EXPECT_EQ(frontend().set_vring_num(0, 100), Answer::kAccepted);
    expect_refusal(Refusal::kRingBase,
                   [&] { return frontend().set_vring_base(0, 0x8000'8000 | 100); });
    expect_refusal(Refusal::kRingBase,
                   [&] { return frontend().set_vring_base(0, 0x8000'8000 | 100 << 16); });
    EXPECT_EQ(frontend().set_vring_base(0, 0x8000'8000 | 99), Answer::kAccepted);
    expect_good_ring();
}

// The base may come before the size: then the start tells.
TEST_F(CatalogueRingSetup, Row19PackedBaseBehindASizeThatComesLaterDoesNotStart) {
    prepare({.packed = true, .queue_size = 100});
    EXPECT_EQ(frontend().set_vring_base(0, 0x8064'8064), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_num(0, 100), Answer::kAccepted);
    EXPECT_EQ(frontend().set_vring_addr(queue().vring_address(memory_)), Answer::kAccepted);
    expect_refusal(Refusal::kRingBase,
                   [&] { return frontend().set_vring_kick(0, queue().kick_fd()); });
    expect_good_ring();
}

TEST_F(CatalogueRingSetup, Row20SizeBaseAndPlaceOfARunningRingCannotChange) {
    run();
    expect_refusal(Refusal::kState, [&] { return frontend().set_vring_num(0, 64); });
    expect_refusal(Refusal::kState, [&] { return frontend().set_vring_base(0, 3); });
    auto elsewhere = queue().vring_address(memory_);
    elsewhere.descriptor += 16;
    expect_refusal(Refusal::kState, [&] { return frontend().set_vring_addr(elsewhere); });
    expect_echo();
}

TEST_F(CatalogueRingSetup, Row21KickThatIsTheVhostSocketIsRefused) {
    expect_kick_refused(frontend().socket());
}

TEST_F(CatalogueRingSetup, Row21KickThatIsARegularFileIsRefused) {
    expect_kick_refused(first_region_fd());
}

TEST_F(CatalogueRingSetup, Row21KickThatIsADeviceIsRefused) {
    const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    expect_kick_refused(zero.get());
}

TEST_F(CatalogueRingSetup, Row21KickThatIsADirectoryIsRefused) {
    const UniqueFd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    expect_kick_refused(directory.get());
}

TEST_F(CatalogueRingSetup, Row21KickPipeWhoseWriterIsGoneDoesNotSpinAndTheRingStillRuns) {
    run();
    {
        const auto pipe = Notifier::create(Notifier::Kind::kPipe).value();
        EXPECT_EQ(frontend().set_vring_kick(0, pipe.read_fd()), Answer::kAccepted);
    }
    give_others_a_moment();
    expect_no_spinning();
    EXPECT_EQ(frontend().set_vring_kick(0, queue().kick_fd()), Answer::kAccepted);
    expect_echo();
    EXPECT_EQ(counters().rings_broken.total(), 0U);
}

// An epoll instance has no file type, as an eventfd has none, and cannot be read.
TEST_F(CatalogueRingSetup, Row21KickThatIsReadableAndCannotBeReadBreaksTheRing) {
    run({.queue_count = 2});
    const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    const auto readable = Notifier::create().value();
    readable.signal();
    epoll_event event{.events = EPOLLIN, .data = {.fd = readable.read_fd()}};
    ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, readable.read_fd(), &event), 0);
    EXPECT_EQ(frontend().set_vring_kick(0, epoll.get()), Answer::kAccepted);
    expect_broken(RingError::kKickBroken);
    expect_no_spinning();
    expect_containment_and_recovery();
}

TEST_F(CatalogueRingSetup, Row22FullCallPipeCountsAsSignalled) {
    run();
    const auto pipe = Notifier::create(Notifier::Kind::kPipe).value();
    const std::array<std::byte, 4096> filling{};
    while (::write(pipe.write_fd(), filling.data(), filling.size()) > 0) {
    }
    EXPECT_EQ(frontend().set_vring_call(0, pipe.write_fd()), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    EXPECT_EQ(counters().calls_lost.value(), 0U);
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueRingSetup, Row22CallPipeWhoseReaderIsGoneLosesTheCallAndNothingElse) {
    run();
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    ::close(ends[0]);
    const UniqueFd write_end(ends[1]);
    EXPECT_EQ(frontend().set_vring_call(0, write_end.get()), Answer::kAccepted);
    buffers().fill();
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    EXPECT_TRUE(eventually([&] { return counters().calls_lost.value() >= 1; }));
    EXPECT_EQ(frontend().set_vring_call(0, queue().call_fd()), Answer::kAccepted);
    expect_echo();
}

TEST_F(CatalogueRingSetup, Row22BlockingCallPipeThatIsFullDoesNotBlockTheWorker) {
    run({.queue_count = 2});
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]);
    const UniqueFd write_end(ends[1]);
    ASSERT_EQ(::fcntl(write_end.get(), F_SETFL, O_NONBLOCK), 0);
    const std::array<std::byte, 4096> filling{};
    while (::write(write_end.get(), filling.data(), filling.size()) > 0) {
    }
    ASSERT_EQ(::fcntl(write_end.get(), F_SETFL, 0), 0);
    EXPECT_EQ(frontend().set_vring_call(0, write_end.get()), Answer::kAccepted);
    ASSERT_TRUE(queue().try_add(buffers().chain(), 1));
    queue().publish_and_kick();
    EXPECT_TRUE(eventually([&] { return queue().poll_used().has_value(); }));
    // The same worker serves the other ring.
    expect_echo(1);
}

}  // namespace
}  // namespace outrigger::testing
