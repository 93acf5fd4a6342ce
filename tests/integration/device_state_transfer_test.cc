// SPDX-License-Identifier: Apache-2.0
// The channel of SET_DEVICE_STATE_FD, and a front end that does with it what it likes.
#include <chrono>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/device_state_fixture.h"
#include "tests/support/process_counts.h"

namespace outrigger::testing {
namespace {

using namespace std::chrono_literals;

/// More than any pipe or socket holds.
constexpr size_t kMuch = size_t{4} << 20;

class DeviceStateTransfer : public DeviceStateTest {
  protected:
    DeviceStateTransfer() { take_protocol_features(frontend()); }

    [[nodiscard]] std::string good_state() const {
        return encode_state({.device_id = device_.identity().virtio_id,
                             .sections = {make_section(kEchoSection, std::vector{std::byte{9}})}})
            .value();
    }

    void expect_no_channel(const wire::DeviceStateTransfer& transfer, int fd) {
        const uint64_t before = counters().refused.value(Refusal::kStateChannel);
        EXPECT_NE(begin_transfer(frontend(), transfer, fd), 0U);
        EXPECT_EQ(counters().refused.value(Refusal::kStateChannel), before + 1);
    }

    void expect_working() {
        reset();
        run(with_state());
        expect_echo();
    }

    void reset() { EXPECT_EQ(frontend().reset_device(), Answer::kAccepted); }
};

[[nodiscard]] std::pair<UniqueFd, UniqueFd> socket_pair(int type) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, type, 0, ends), 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

[[nodiscard]] UniqueFd temporary_file() {
    char path[] = "/tmp/outrigger-state-XXXXXX";
    UniqueFd fd(::mkstemp(path));
    ::unlink(path);
    return fd;
}

// --- Kinds of channels --------------------------------------------------------------------------

TEST_F(DeviceStateTransfer, TravelsThroughASocket) {
    auto [ours, theirs] = socket_pair(SOCK_STREAM);
    EXPECT_EQ(begin_transfer(frontend(), kSaveState, theirs.get()), 0U);
    theirs.reset();
    const std::string state = read_to_end(ours.get());
    EXPECT_TRUE(transfer_is_good(frontend()));
    std::tie(ours, theirs) = socket_pair(SOCK_STREAM);
    EXPECT_EQ(begin_transfer(frontend(), kLoadState, theirs.get()), 0U);
    EXPECT_TRUE(write_all(ours.get(), state));
    // The end of a socket can be told without closing it.
    EXPECT_EQ(::shutdown(ours.get(), SHUT_WR), 0);
    EXPECT_TRUE(transfer_is_good(frontend()));
}

TEST_F(DeviceStateTransfer, TravelsThroughAFile) {
    const UniqueFd file = temporary_file();
    EXPECT_EQ(begin_transfer(frontend(), kSaveState, file.get()), 0U);
    EXPECT_TRUE(transfer_is_good(frontend()));
    EXPECT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
    EXPECT_EQ(begin_transfer(frontend(), kLoadState, file.get()), 0U);
    EXPECT_TRUE(transfer_is_good(frontend()));
    EXPECT_EQ(device_.loads(), 1U);
}

TEST_F(DeviceStateTransfer, WhatCannotBeAChannelIsRefused) {
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    expect_no_channel(kSaveState, event.get());
    const UniqueFd folder(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    expect_no_channel(kLoadState, folder.get());
    const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
    expect_no_channel(kLoadState, zero.get());
    const auto [ours, theirs] = socket_pair(SOCK_DGRAM);
    expect_no_channel(kLoadState, theirs.get());
}

TEST_F(DeviceStateTransfer, TheWrongEndIsRefused) {
    const auto pipe = platform::open_pipe().value();
    expect_no_channel(kSaveState, pipe.read_end.get());
    expect_no_channel(kLoadState, pipe.write_end.get());
    const UniqueFd read_only(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    expect_no_channel(kSaveState, read_only.get());
}

// Its end would never be seen: we hold the writer ourselves.
TEST_F(DeviceStateTransfer, BothEndsOfAFifoInOneAreRefused) {
    const auto pipe = platform::open_pipe().value();
    const std::string path = "/proc/self/fd/" + std::to_string(pipe.read_end.get());
    const UniqueFd both(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(both.valid());
    expect_no_channel(kLoadState, both.get());
    expect_no_channel(kSaveState, both.get());
}

// The open file is the front end's, too, which may count on it to block.
TEST_F(DeviceStateTransfer, TheFlagsOfThePipeStayAsTheyAre) {
    const auto pipe = platform::open_pipe().value();
    const int before = ::fcntl(pipe.read_end.get(), F_GETFL);
    EXPECT_EQ(begin_transfer(frontend(), kLoadState, pipe.read_end.get()), 0U);
    EXPECT_TRUE(frontend().get_features());
    give_others_a_moment();
    EXPECT_EQ(::fcntl(pipe.read_end.get(), F_GETFL), before);
    reset();
}

// --- Order --------------------------------------------------------------------------------------

// QEMU reads and writes on the thread that waits for the answer: it must come first.
TEST_F(DeviceStateTransfer, OfMoreThanAPipeHoldsIsAnsweredFirst) {
    device_.set_saved_padding(kMuch);
    const std::string state = save_state(frontend());
    EXPECT_GT(state.size(), kMuch);
    EXPECT_TRUE(load_state(frontend(), state));
    EXPECT_EQ(counters().states_loaded.value(), 1U);
}

TEST_F(DeviceStateTransfer, OtherMessagesAreAnsweredMeanwhile) {
    const UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    EXPECT_TRUE(frontend().get_features());
    EXPECT_EQ(frontend().set_vring_num(0, 256), Answer::kAccepted);
    reset();
}

TEST_F(DeviceStateTransfer, ACheckWaitsForTheEnd) {
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kCheckDeviceState),
                               .flags = wire::kVersion,
                               .size = 0}),
              Answer::kUnasked);
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    EXPECT_TRUE(write_all(pipe.get(), good_state()));
    give_others_a_moment();
    EXPECT_FALSE(frontend().has_input());
    pipe.reset();
    const auto reply = frontend().receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->payload, std::vector<std::byte>(sizeof(uint64_t)));
}

TEST_F(DeviceStateTransfer, AnotherOneWhileOneIsUnderWayIsRefused) {
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    EXPECT_FALSE(begin_pipe(frontend(), kLoadState).valid());
    EXPECT_FALSE(begin_pipe(frontend(), kSaveState).valid());
    EXPECT_EQ(counters().refused.value(Refusal::kState), 2U);
    EXPECT_TRUE(write_all(pipe.get(), good_state()));
    pipe.reset();
    EXPECT_TRUE(transfer_is_good(frontend()));
}

// A front end that starts a ring before it asked: the ring waits for what it stands on.
TEST_F(DeviceStateTransfer, ARingThatIsToStartMeanwhileWaits) {
    negotiate(with_state());
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    queues().push_back(driver::create_queue(memory_, running_.agreement, with_state(), 0).value());
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    auto started =
        std::async(std::launch::async, [&] { return queue().start(frontend(), memory_); });
    EXPECT_EQ(started.wait_for(50ms), std::future_status::timeout);
    EXPECT_EQ(device_.queues_running(), 0U);
    EXPECT_TRUE(write_all(pipe.get(), good_state()));
    pipe.reset();
    EXPECT_EQ(started.get(), Answer::kAccepted);
    EXPECT_EQ(device_.saved_byte(), 9);
    EXPECT_EQ(frontend().set_vring_enable(0, 1), Answer::kAccepted);
    expect_echo();
}

// --- Bad neighbours -----------------------------------------------------------------------------

TEST_F(DeviceStateTransfer, ThatEndsAtOnceFails) {
    EXPECT_FALSE(load_state(frontend(), ""));
    expect_working();
}

TEST_F(DeviceStateTransfer, ThatEndsTooSoonFails) {
    const std::string state = good_state();
    EXPECT_FALSE(load_state(frontend(), std::string_view(state).substr(0, state.size() - 1)));
    expect_working();
}

TEST_F(DeviceStateTransfer, OfAGibibyteIsCutOff) {
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    const std::string piece(size_t{1} << 20, 'x');
    int written = 0;
    while (written < 1024 && write_all(pipe.get(), piece)) {
        ++written;
    }
    EXPECT_LT(written, 80);
    EXPECT_FALSE(transfer_is_good(frontend()));
    expect_working();
}

TEST_F(DeviceStateTransfer, WhoseReaderGoesAwayFailsAndTheSourceGoesOn) {
    run(with_state());
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    device_.set_saved_padding(kMuch);
    UniqueFd pipe = begin_pipe(frontend(), kSaveState);
    pipe.reset();
    EXPECT_FALSE(transfer_is_good(frontend()));
    start_again();
    expect_echo();
    ASSERT_TRUE(queue().stop(frontend()));
    EXPECT_NE(save_state(frontend()), "");
}

TEST_F(DeviceStateTransfer, AResetGivesItUp) {
    const ProcessCounts before = ProcessCounts::now();
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    reset();
    EXPECT_FALSE(transfer_is_good(frontend()));
    EXPECT_TRUE(eventually([&] { return !write_all(pipe.get(), "x"); }));
    pipe.reset();
    EXPECT_TRUE(eventually([&] { return ProcessCounts::now() == before; }));
    run(with_state());
    expect_echo();
    EXPECT_EQ(device_.loads(), 0U);
}

TEST_F(DeviceStateTransfer, TheEndOfTheSessionGivesItUp) {
    const ProcessCounts before = ProcessCounts::now();
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    EXPECT_TRUE(eventually([&] { return !write_all(pipe.get(), "x"); }));
    pipe.reset();
    EXPECT_TRUE(eventually([&] {
        const ProcessCounts now = ProcessCounts::now();
        // Both ends of the connection were there before.
        return now.threads == before.threads && now.descriptors + 2 == before.descriptors;
    }));
    reconnect();
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateTransfer, AFrontEndThatHangsUpBehindACheckIsNotWaitedFor) {
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    EXPECT_EQ(frontend().send({.request = number(FrontendRequest::kCheckDeviceState),
                               .flags = wire::kVersion,
                               .size = 0}),
              Answer::kUnasked);
    frontend().close();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kPeerClosed);
    reconnect();
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateTransfer, TheDaemonThatEndsBehindAStartIsNotHeldUp) {
    negotiate(with_state());
    ASSERT_TRUE(driver::share_memory(frontend(), memory_, running_.agreement));
    queues().push_back(driver::create_queue(memory_, running_.agreement, with_state(), 0).value());
    UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    auto started =
        std::async(std::launch::async, [&] { return queue().start(frontend(), memory_); });
    EXPECT_EQ(started.wait_for(50ms), std::future_status::timeout);
    host_->close_session();
    EXPECT_EQ(host_->wait_closed(), CloseReason::kShutdown);
    EXPECT_NE(started.get(), Answer::kAccepted);
    EXPECT_EQ(device_.queues_running(), 0U);
}

class DeviceStateTimeLimit : public DeviceStateTest {
  protected:
    DeviceStateTimeLimit()
        : DeviceStateTest(EchoDeviceOptions{},
                          SessionHostOptions{.session = {.state_timeout = 100ms}}) {
        take_protocol_features(frontend());
    }
};

TEST_F(DeviceStateTimeLimit, EndsATransferThatIsNeverClosed) {
    const UniqueFd pipe = begin_pipe(frontend(), kLoadState);
    EXPECT_TRUE(write_all(pipe.get(), "\x09OUTRSTAT"));
    EXPECT_FALSE(transfer_is_good(frontend()));
    EXPECT_EQ(counters().states_failed.value(), 1U);
    EXPECT_EQ(frontend().reset_device(), Answer::kAccepted);
    run(with_state());
    expect_echo();
}

TEST_F(DeviceStateTimeLimit, EndsATransferThatNobodyReads) {
    device_.set_saved_padding(kMuch);
    const UniqueFd pipe = begin_pipe(frontend(), kSaveState);
    EXPECT_FALSE(transfer_is_good(frontend()));
    // What had been written can be read, and then it ends.
    EXPECT_LT(read_to_end(pipe.get()).size(), kMuch);
    run(with_state());
    expect_echo();
}

}  // namespace
}  // namespace outrigger::testing
