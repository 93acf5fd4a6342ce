// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/event_loop.h"

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/loops.h"

namespace outrigger {
namespace {

using namespace std::chrono_literals;
using Clock = EventLoop::Clock;

constexpr auto kNever = Clock::time_point::max();
constexpr auto kNoSleep = Clock::time_point::min();

struct Pipe {
    Pipe() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
        read_end.reset(ends[0]);
        write_end.reset(ends[1]);
    }

    void write_byte() const { EXPECT_EQ(::write(write_end.get(), "x", 1), 1); }

    void read_byte() const {
        char byte;
        EXPECT_EQ(::read(read_end.get(), &byte, 1), 1);
    }

    UniqueFd read_end;
    UniqueFd write_end;
};

class EventLoopTest : public testing::TestWithParam<LoopKind> {
  protected:
    void SetUp() override {
        auto loop = create_event_loop(GetParam());
        if (!loop && GetParam() == LoopKind::kUring) {
            GTEST_SKIP() << loop.error().message;
        }
        ASSERT_TRUE(loop) << loop.error().message;
        loop_ = *std::move(loop);
    }

    /// Turns until `done`, each without sleeping: for what must come without another event.
    template <class Done>
    void turn_until(Done done) {
        constexpr int kTurnsMax = 1'000'000;
        for (int i = 0; i < kTurnsMax && !done(); ++i) {
            (void)loop_->run_once(kNoSleep);
        }
        ASSERT_TRUE(done());
    }

    std::unique_ptr<EventLoop> loop_;
};

INSTANTIATE_TEST_SUITE_P(Loops,
                         EventLoopTest,
                         testing::ValuesIn(loops_of_this_build()),
                         [](const auto& row) {
                             return row.param == LoopKind::kUring ? "Uring" : "Asio";
                         });

TEST_P(EventLoopTest, DoesNothingWhenNothingIsReady) {
    (void)loop_->run_once(kNoSleep);

    EXPECT_FALSE(loop_->run_once(kNoSleep));
}

TEST_P(EventLoopTest, SleepEndsAtItsDeadline) {
    const auto deadline = Clock::now() + 5ms;
    while (Clock::now() < deadline) {
        EXPECT_FALSE(loop_->run_once(deadline));
    }
}

TEST_P(EventLoopTest, RunsTasksInOrderOfPosting) {
    std::vector<int> order;
    loop_->post([&] { order.push_back(1); });
    loop_->post([&] { order.push_back(2); });
    loop_->post([&] { order.push_back(3); });

    EXPECT_TRUE(loop_->run_once(kNever));

    EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST_P(EventLoopTest, TaskPostedByATaskRunsOnTheNextTurn) {
    int runs = 0;
    loop_->post([&] {
        ++runs;
        loop_->post([&] { ++runs; });
    });

    (void)loop_->run_once(kNoSleep);
    EXPECT_EQ(runs, 1);

    (void)loop_->run_once(kNoSleep);
    EXPECT_EQ(runs, 2);
}

TEST_P(EventLoopTest, PostFromAnotherThreadEndsASleep) {
    bool ran = false;
    std::thread poster([&] { loop_->post([&] { ran = true; }); });

    while (!ran) {
        (void)loop_->run_once(kNever);
    }
    poster.join();
}

TEST_P(EventLoopTest, NoPostIsLostWhileTheLoopFallsAsleep) {
    constexpr int kPosts = 20'000;
    int ran = 0;
    // Each post waits for the one before it, so the loop is about to sleep, asleep, or waking when
    // the post arrives. A lost wake-up leaves this test hanging.
    std::atomic<int> seen = 0;
    std::thread poster([&] {
        for (int i = 0; i < kPosts; ++i) {
            while (seen.load(std::memory_order_acquire) != i) {
                std::this_thread::yield();
            }
            loop_->post([&] {
                ++ran;
                seen.store(ran, std::memory_order_release);
            });
        }
    });

    while (ran < kPosts) {
        (void)loop_->run_once(kNever);
    }
    poster.join();

    EXPECT_EQ(ran, kPosts);
}

TEST_P(EventLoopTest, DropsTasksThatWereNotRun) {
    auto token = std::make_shared<int>(0);
    loop_->post([token] {});
    (void)loop_->start_timer(Clock::now() + 1h, [token] {});
    (void)loop_->watch_readable(STDIN_FILENO, [token] {});

    loop_.reset();

    EXPECT_EQ(token.use_count(), 1);
}

TEST_P(EventLoopTest, WatchCallsBackWhileReadable) {
    const Pipe pipe;
    int calls = 0;
    (void)loop_->watch_readable(pipe.read_end.get(), [&] { ++calls; });
    pipe.write_byte();

    // Level-triggered: nothing is read, so it is called turn after turn.
    turn_until([&] { return calls >= 3; });
    pipe.read_byte();
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);
    const int settled = calls;
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, settled);
}

TEST_P(EventLoopTest, WatchDoesNotCallBackBeforeReadable) {
    const Pipe pipe;
    int calls = 0;
    (void)loop_->watch_readable(pipe.read_end.get(), [&] { ++calls; });

    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, 0);
}

TEST_P(EventLoopTest, WatchCallsBackAgainAfterDraining) {
    const Notifier notifier = Notifier::create().value();
    int calls = 0;
    (void)loop_->watch_readable(notifier.read_fd(), [&] {
        notifier.drain();
        ++calls;
    });

    notifier.signal();
    while (calls < 1) {
        (void)loop_->run_once(kNever);
    }
    notifier.signal();
    while (calls < 2) {
        (void)loop_->run_once(kNever);
    }

    EXPECT_EQ(calls, 2);
}

TEST_P(EventLoopTest, WatchTellsWhenThePeerHangsUp) {
    Pipe pipe;
    int calls = 0;
    (void)loop_->watch_readable(pipe.read_end.get(), [&] { ++calls; });

    pipe.write_end.reset();

    turn_until([&] { return calls >= 2; });
}

TEST_P(EventLoopTest, UnwatchedHangUpLetsTheLoopSleep) {
    Pipe pipe;
    std::optional<WatchId> watch;
    watch = loop_->watch_readable(pipe.read_end.get(), [&] { loop_->unwatch(*watch); });
    pipe.write_end.reset();
    (void)loop_->run_once(kNever);
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_FALSE(loop_->run_once(kNoSleep));
}

TEST_P(EventLoopTest, UnwatchBeforeTheFirstTurnLeavesNoTrace) {
    const Pipe pipe;
    pipe.write_byte();
    int calls = 0;
    loop_->unwatch(loop_->watch_readable(pipe.read_end.get(), [&] { ++calls; }));

    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, 0);
}

TEST_P(EventLoopTest, UnwatchFromItsOwnCallbackIsTheLastCall) {
    const Pipe pipe;
    pipe.write_byte();
    int calls = 0;
    std::optional<WatchId> watch;
    watch = loop_->watch_readable(pipe.read_end.get(), [&] {
        ++calls;
        loop_->unwatch(*watch);
    });

    turn_until([&] { return calls > 0; });
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, 1);
}

TEST_P(EventLoopTest, UnwatchFromAnotherCallbackOfTheSameTurnHolds) {
    const Pipe first;
    const Pipe second;
    first.write_byte();
    second.write_byte();
    int calls = 0;
    std::optional<WatchId> first_watch;
    std::optional<WatchId> second_watch;
    const auto unwatch_both = [&] {
        ++calls;
        loop_->unwatch(*first_watch);
        loop_->unwatch(*second_watch);
    };
    first_watch = loop_->watch_readable(first.read_end.get(), unwatch_both);
    second_watch = loop_->watch_readable(second.read_end.get(), unwatch_both);

    turn_until([&] { return calls > 0; });
    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, 1);
}

TEST_P(EventLoopTest, UnwatchTwiceLeavesTheSuccessorAlone) {
    const Pipe first;
    const Pipe second;
    int calls = 0;
    const auto stale = loop_->watch_readable(first.read_end.get(), [] {});
    (void)loop_->run_once(kNoSleep);
    loop_->unwatch(stale);
    (void)loop_->watch_readable(second.read_end.get(), [&] {
        second.read_byte();
        ++calls;
    });

    loop_->unwatch(stale);
    second.write_byte();

    turn_until([&] { return calls == 1; });
}

TEST_P(EventLoopTest, ReplacedDescriptorOfTheSameNumberIsWatchedAnew) {
    auto first = std::make_optional<Pipe>();
    const int number = first->read_end.get();
    const auto watch = loop_->watch_readable(number, [] { FAIL() << "the old watch was called"; });
    (void)loop_->run_once(kNoSleep);
    loop_->unwatch(watch);
    first.reset();
    const Pipe second;
    ASSERT_EQ(second.read_end.get(), number);
    int calls = 0;
    (void)loop_->watch_readable(number, [&] {
        second.read_byte();
        ++calls;
    });

    second.write_byte();

    turn_until([&] { return calls == 1; });
}

TEST_P(EventLoopTest, UnwatchDoesNotCloseTheDescriptor) {
    const Pipe pipe;
    loop_->unwatch(loop_->watch_readable(pipe.read_end.get(), [] {}));
    const auto watch = loop_->watch_readable(pipe.read_end.get(), [] {});
    (void)loop_->run_once(kNoSleep);
    loop_->unwatch(watch);

    EXPECT_NE(::fcntl(pipe.read_end.get(), F_GETFD), -1);
}

TEST_P(EventLoopTest, DestructionDoesNotCloseWatchedDescriptors) {
    const Pipe pipe;
    (void)loop_->watch_readable(pipe.read_end.get(), [] {});
    (void)loop_->run_once(kNoSleep);

    loop_.reset();

    EXPECT_NE(::fcntl(pipe.read_end.get(), F_GETFD), -1);
}

TEST_P(EventLoopTest, PeerSeesTheEndSoonAfterUnwatchAndClose) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
    UniqueFd ours(ends[0]);
    const UniqueFd peer(ends[1]);
    const auto watch = loop_->watch_readable(ours.get(), [] {});
    (void)loop_->run_once(kNoSleep);

    loop_->unwatch(watch);
    ours.reset();

    char byte;
    turn_until([&] { return ::read(peer.get(), &byte, 1) == 0; });
}

TEST_P(EventLoopTest, AnAlwaysReadableWatchDoesNotStarveTheRest) {
    const Pipe pipe;
    pipe.write_byte();
    (void)loop_->watch_readable(pipe.read_end.get(), [] {});
    bool posted_ran = false;
    bool timer_ran = false;
    loop_->post([&] { loop_->post([&] { posted_ran = true; }); });
    (void)loop_->start_timer(Clock::now() + 1ms, [&] { timer_ran = true; });

    turn_until([&] { return posted_ran && timer_ran; });
}

TEST_P(EventLoopTest, RegularFileCountsAsReadable) {
    const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(file.valid());
    int calls = 0;
    (void)loop_->watch_readable(file.get(), [&] { ++calls; });

    while (calls < 2) {
        (void)loop_->run_once(kNever);
    }
}

TEST_P(EventLoopTest, ManyWatchesWork) {
    std::vector<Pipe> pipes(300);
    size_t calls = 0;
    for (const Pipe& pipe : pipes) {
        (void)loop_->watch_readable(pipe.read_end.get(), [&] {
            pipe.read_byte();
            ++calls;
        });
    }
    for (const Pipe& pipe : pipes) {
        pipe.write_byte();
    }

    turn_until([&] { return calls == pipes.size(); });
}

TEST_P(EventLoopTest, TimersRunInOrderOfTheirDeadlines) {
    std::vector<int> order;
    const auto now = Clock::now();
    (void)loop_->start_timer(now + 2ms, [&] { order.push_back(2); });
    (void)loop_->start_timer(now + 1ms, [&] { order.push_back(1); });
    (void)loop_->start_timer(now + 3ms, [&] { order.push_back(3); });

    while (order.size() < 3) {
        (void)loop_->run_once(kNever);
    }

    EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST_P(EventLoopTest, TimersOfOneDeadlineRunInOrderOfStarting) {
    std::vector<int> order;
    const auto deadline = Clock::now();
    (void)loop_->start_timer(deadline, [&] { order.push_back(1); });
    (void)loop_->start_timer(deadline, [&] { order.push_back(2); });
    (void)loop_->start_timer(deadline, [&] { order.push_back(3); });

    (void)loop_->run_once(kNever);

    EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST_P(EventLoopTest, TimerDoesNotRunEarly) {
    const auto deadline = Clock::now() + 3ms;
    std::optional<Clock::time_point> ran_at;
    (void)loop_->start_timer(deadline, [&] { ran_at = Clock::now(); });

    while (!ran_at) {
        (void)loop_->run_once(kNever);
    }

    EXPECT_GE(*ran_at, deadline);
}

TEST_P(EventLoopTest, CancelledTimerDoesNotRun) {
    int calls = 0;
    const auto timer = loop_->start_timer(Clock::now(), [&] { ++calls; });
    bool later_ran = false;
    (void)loop_->start_timer(Clock::now(), [&] { later_ran = true; });

    loop_->cancel_timer(timer);
    while (!later_ran) {
        (void)loop_->run_once(kNever);
    }

    EXPECT_EQ(calls, 0);
}

TEST_P(EventLoopTest, CancellingAnExpiredTimerLeavesOthersAlone) {
    int calls = 0;
    const auto first = loop_->start_timer(Clock::now(), [&] { ++calls; });
    while (calls < 1) {
        (void)loop_->run_once(kNever);
    }
    (void)loop_->start_timer(Clock::now(), [&] { ++calls; });

    loop_->cancel_timer(first);
    while (calls < 2) {
        (void)loop_->run_once(kNever);
    }
}

TEST_P(EventLoopTest, TimerCancelledByAnEarlierOneOfTheSameTurnDoesNotRun) {
    const auto now = Clock::now();
    bool second_ran = false;
    TimerId second{};
    (void)loop_->start_timer(now - 2ms, [&] { loop_->cancel_timer(second); });
    second = loop_->start_timer(now - 1ms, [&] { second_ran = true; });

    (void)loop_->run_once(kNoSleep);
    (void)loop_->run_once(kNoSleep);

    EXPECT_FALSE(second_ran);
}

TEST_P(EventLoopTest, TimerThatRestartsItselfAtOnceRunsOnceATurn) {
    int calls = 0;
    std::function<void()> again = [&] {
        ++calls;
        (void)loop_->start_timer(Clock::now() - 1ms, [&] { again(); });
    };
    (void)loop_->start_timer(Clock::now() - 1ms, [&] { again(); });

    (void)loop_->run_once(kNoSleep);

    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, AutoGivesALoop) {
    EXPECT_TRUE(create_event_loop(LoopKind::kAuto));
}

}  // namespace
}  // namespace outrigger
