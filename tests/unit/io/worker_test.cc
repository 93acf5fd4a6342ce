// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/worker.h"

#include <array>
#include <atomic>
#include <future>
#include <latch>
#include <optional>
#include <string>
#include <utility>

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/notifier.h"

#include "tests/support/loops.h"

namespace outrigger {
namespace {

using namespace std::chrono_literals;
using Clock = EventLoop::Clock;

/// Runs `task` on the worker and waits for its end.
template <class Task>
void run_on(Worker& worker, Task task) {
    std::promise<void> done;
    worker.post([&] {
        task();
        done.set_value();
    });
    done.get_future().wait();
}

/// A source that always has something to do.
struct BusySource final : WorkSource {
    bool poll() override {
        polls.fetch_add(1, std::memory_order_relaxed);
        return true;
    }

    bool prepare_sleep() override { return false; }

    std::atomic<uint64_t> polls = 0;
};

/// The shape of a queue: a counter that a producer raises, and a kick that is only sent when the
/// consumer asked for it.
struct Mailbox final : WorkSource {
    explicit Mailbox(Notifier notifier) : kick(std::move(notifier)) {}

    bool poll() override {
        kick_wanted.store(false, std::memory_order_relaxed);
        const uint64_t available = sent.load(std::memory_order_acquire);
        if (available == taken.load(std::memory_order_relaxed)) {
            return false;
        }
        taken.store(available, std::memory_order_release);
        return true;
    }

    bool prepare_sleep() override {
        // Pairs with send(): each side writes its word, then reads the other's.
        kick_wanted.store(true, std::memory_order_seq_cst);
        return sent.load(std::memory_order_seq_cst) == taken.load(std::memory_order_relaxed);
    }

    void send() {
        sent.fetch_add(1, std::memory_order_seq_cst);
        if (kick_wanted.load(std::memory_order_seq_cst)) {
            kick.signal();
        }
    }

    Notifier kick;
    std::atomic<bool> kick_wanted = false;
    std::atomic<uint64_t> sent = 0;
    std::atomic<uint64_t> taken = 0;
};

class WorkerTest : public testing::TestWithParam<LoopKind> {
  protected:
    void SetUp() override {
        if (GetParam() == LoopKind::kUring && !create_event_loop(LoopKind::kUring)) {
            GTEST_SKIP() << "io_uring is not available";
        }
    }

    [[nodiscard]] std::unique_ptr<Worker> start(WorkerOptions options = {}) const {
        options.loop = GetParam();
        auto worker = Worker::start(options);
        EXPECT_TRUE(worker) << worker.error().message;
        return *std::move(worker);
    }
};

INSTANTIATE_TEST_SUITE_P(Loops,
                         WorkerTest,
                         testing::ValuesIn(loops_of_this_build()),
                         [](const auto& row) {
                             return row.param == LoopKind::kUring ? "Uring" : "Asio";
                         });

TEST_P(WorkerTest, StartsAndStops) {
    const auto worker = start();
}

TEST_P(WorkerTest, RunsPostedTasksOnItsOwnThread) {
    const auto worker = start();
    std::thread::id ran_on;

    run_on(*worker, [&] { ran_on = std::this_thread::get_id(); });

    EXPECT_NE(ran_on, std::this_thread::get_id());
    EXPECT_NE(ran_on, std::thread::id());
}

TEST_P(WorkerTest, NamesItsThread) {
    const auto worker = start({.thread_name = "queue-7-of-a-very-long-name"});
    std::array<char, 16> name{};

    run_on(*worker, [&] { pthread_getname_np(pthread_self(), name.data(), name.size()); });

    EXPECT_STREQ(name.data(), "queue-7-of-a-ve");
}

TEST_P(WorkerTest, PinsItsThread) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the portable build cannot choose processors";
    }
    const auto worker = start({.cpu = 0});
    cpu_set_t cpus;
    CPU_ZERO(&cpus);

    run_on(*worker, [&] { pthread_getaffinity_np(pthread_self(), sizeof cpus, &cpus); });

    EXPECT_EQ(CPU_COUNT(&cpus), 1);
    EXPECT_TRUE(CPU_ISSET(0, &cpus));
}

TEST_P(WorkerTest, RefusesAProcessorThatDoesNotExist) {
    const auto worker = Worker::start({.loop = GetParam(), .cpu = 100'000});

    ASSERT_FALSE(worker);
    EXPECT_NE(worker.error().message.find("100000"), std::string::npos);
}

TEST_P(WorkerTest, LeavesSignalsToTheOthers) {
    const auto worker = start();
    sigset_t blocked;
    sigemptyset(&blocked);

    run_on(*worker, [&] { pthread_sigmask(SIG_SETMASK, nullptr, &blocked); });

    EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
    EXPECT_EQ(sigismember(&blocked, SIGBUS), 0);
}

TEST_P(WorkerTest, PollsAnAddedSourceUntilItIsRemoved) {
    const auto worker = start();
    BusySource source;
    run_on(*worker, [&] { worker->add_source(source); });
    while (source.polls.load() < 100) {
        std::this_thread::yield();
    }

    run_on(*worker, [&] { worker->remove_source(source); });

    const uint64_t settled = source.polls.load();
    run_on(*worker, [] {});
    run_on(*worker, [] {});
    EXPECT_EQ(source.polls.load(), settled);
}

TEST_P(WorkerTest, SourceMayRemoveItselfWhilePolled) {
    struct OneShot final : WorkSource {
        bool poll() override {
            ++polls;
            worker->remove_source(*this);
            return true;
        }

        bool prepare_sleep() override { return true; }

        Worker* worker = nullptr;
        int polls = 0;
    };

    const auto worker = start();
    OneShot source;
    source.worker = worker.get();
    run_on(*worker, [&] { worker->add_source(source); });
    run_on(*worker, [] {});
    int polls = 0;
    run_on(*worker, [&] { polls = source.polls; });

    EXPECT_EQ(polls, 1);
}

TEST_P(WorkerTest, BusySourceDoesNotStarveTasksTimersAndWatches) {
    const auto worker = start();
    BusySource source;
    auto notifier = Notifier::create();
    ASSERT_TRUE(notifier);
    std::promise<void> timer_ran;
    std::promise<void> watch_ran;
    std::optional<WatchId> watch;
    run_on(*worker, [&] {
        worker->add_source(source);
        (void)worker->loop().start_timer(Clock::now() + 1ms, [&] { timer_ran.set_value(); });
        watch = worker->loop().watch_readable(notifier->read_fd(), [&] {
            worker->loop().unwatch(*watch);
            watch_ran.set_value();
        });
    });

    notifier->signal();

    watch_ran.get_future().wait();
    timer_ran.get_future().wait();
    run_on(*worker, [&] { worker->remove_source(source); });
}

TEST_P(WorkerTest, TwoBusySourcesBothGetTheirTurns) {
    const auto worker = start();
    BusySource first;
    BusySource second;
    run_on(*worker, [&] {
        worker->add_source(first);
        worker->add_source(second);
    });

    while (first.polls.load() < 100 || second.polls.load() < 100) {
        std::this_thread::yield();
    }

    run_on(*worker, [&] {
        worker->remove_source(first);
        worker->remove_source(second);
    });
}

/// Sends `count` items, each when the one before was taken: the worker is then looking, arming, or
/// asleep. A lost wake-up leaves the test hanging.
void send_one_by_one(Worker& worker, uint64_t count) {
    auto notifier = Notifier::create();
    ASSERT_TRUE(notifier);
    Mailbox mailbox(*std::move(notifier));
    std::optional<WatchId> watch;
    run_on(worker, [&] {
        worker.add_source(mailbox);
        watch = worker.loop().watch_readable(mailbox.kick.read_fd(), [&] { mailbox.kick.drain(); });
    });

    for (uint64_t i = 1; i <= count; ++i) {
        mailbox.send();
        while (mailbox.taken.load(std::memory_order_acquire) < i) {
            std::this_thread::yield();
        }
    }

    run_on(worker, [&] {
        worker.loop().unwatch(*watch);
        worker.remove_source(mailbox);
    });
    EXPECT_EQ(mailbox.taken.load(), count);
}

TEST_P(WorkerTest, LosesNoWakeUpWithoutPolling) {
    const auto worker = start();

    send_one_by_one(*worker, 20'000);

    EXPECT_EQ(worker->counters().polls_hit.value() + worker->counters().polls_idle.value(), 0U);
    EXPECT_EQ(worker->counters().polling_nanoseconds.value(), 0U);
}

TEST_P(WorkerTest, LosesNoWakeUpWithPolling) {
    const auto worker = start({.poll_max = 20us});

    send_one_by_one(*worker, 20'000);
}

TEST_P(WorkerTest, LosesNoWakeUpWhereLooksAreCutShort) {
    const auto worker = start({.poll_max = 20us, .poll_cpu_percent = 1});

    send_one_by_one(*worker, 20'000);
}

TEST_P(WorkerTest, PollingFindsWorkThatComesSoon) {
    struct EveryFifth final : WorkSource {
        bool poll() override { return ++polls % 5 == 0; }

        bool prepare_sleep() override { return false; }

        int polls = 0;
    };

    const auto worker = start({.poll_max = 1s});
    EveryFifth source;
    run_on(*worker, [&] { worker->add_source(source); });

    while (worker->counters().polls_hit.value() == 0) {
        std::this_thread::yield();
    }

    run_on(*worker, [&] { worker->remove_source(source); });
    EXPECT_GT(worker->counters().polling_nanoseconds.value(), 0U);
}

TEST_P(WorkerTest, IdleWorkerSleeps) {
    const auto worker = start({.poll_max = 100us});
    run_on(*worker, [] {});
    run_on(*worker, [] {});
    while (worker->counters().sleeps.value() == 0) {
        std::this_thread::yield();
    }
}

// Each way to wake it: by a task, by a descriptor, by a timer.
TEST_P(WorkerTest, WhatEndsASleepIsBusyTime) {
    const auto worker = start();
    const auto work = [] {
        const auto end = Clock::now() + 10ms;
        while (Clock::now() < end) {
        }
    };
    // What is posted behind the end of a task runs in the next turn, when the last one counts.
    const auto busy = [&] {
        run_on(*worker, [] {});
        run_on(*worker, [] {});
        return worker->busy_time().until(Clock::now());
    };
    const auto wait_until_asleep = [&] {
        const uint64_t sleeps = worker->counters().sleeps.value();
        const auto end = Clock::now() + 5ms;  // it may have been on its way
        while (worker->counters().sleeps.value() == sleeps && Clock::now() < end) {
            std::this_thread::yield();
        }
        std::this_thread::sleep_for(2ms);
    };

    auto before = busy();
    wait_until_asleep();
    run_on(*worker, work);
    EXPECT_GE(busy() - before, 10ms) << "a task";

    auto notifier = Notifier::create().value();
    std::optional<WatchId> watch;
    std::latch readable{1};
    run_on(*worker, [&] {
        watch = worker->loop().watch_readable(notifier.read_fd(), [&] {
            notifier.drain();
            work();
            readable.count_down();
        });
    });
    before = busy();
    wait_until_asleep();
    notifier.signal();
    readable.wait();
    EXPECT_GE(busy() - before, 10ms) << "a descriptor";
    run_on(*worker, [&] { worker->loop().unwatch(*watch); });

    std::latch expired{1};
    before = busy();
    run_on(*worker, [&] {
        worker->loop().start_timer(Clock::now() + 20ms, [&] {
            work();
            expired.count_down();
        });
    });
    expired.wait();
    EXPECT_GE(busy() - before, 10ms) << "a timer";
}

TEST(ThreadlessWorker, RunsNothingButInItsTurns) {
    struct Source final : WorkSource {
        bool poll() override { return std::exchange(work, false); }

        bool prepare_sleep() override { return ready_to_sleep; }

        bool work = true;
        bool ready_to_sleep = true;
    };

    const auto worker = Worker::create_threadless(LoopKind::kAsio).value();
    Source source;
    bool task_ran = false;
    worker->add_source(source);
    worker->post([&] { task_ran = true; });

    EXPECT_FALSE(task_ran);
    EXPECT_TRUE(source.work);
    EXPECT_TRUE(worker->turn()) << "a task and a source had work";
    EXPECT_TRUE(task_ran);
    EXPECT_FALSE(source.work);
    EXPECT_FALSE(worker->turn()) << "nothing is left";
    source.ready_to_sleep = false;
    EXPECT_TRUE(worker->turn()) << "work came up while notifications were armed";
    worker->remove_source(source);
}

}  // namespace
}  // namespace outrigger
