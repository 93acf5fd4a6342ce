// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/io/worker.h"

#include <algorithm>
#include <future>
#include <utility>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger {
namespace {

using Clock = EventLoop::Clock;

/// A yield costs more than a look does: so many looks, a microsecond or two, share one.
constexpr uint32_t kLooksBetweenYields = 16;

/// Tells the processor that this is a spin, for the sake of its other hyper-thread.
void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Worker::Worker(const WorkerOptions& options)
    : options_(options),
      polling_(options.poll_max),
      allowance_(options.poll_cpu_percent),
      tick_clock_(platform::kernel_counts_ticks()) {}

Result<std::unique_ptr<Worker>> Worker::start(const WorkerOptions& options) {
    std::unique_ptr<Worker> worker(new Worker(options));
    std::promise<Result<void>> started;
    auto outcome = started.get_future();
    try {
        const BlockedSignals inherited;  // signals are for the control thread
        worker->thread_ = std::thread([raw = worker.get(), started = std::move(started)]() mutable {
            auto set_up = raw->set_up_thread();
            const bool ready = set_up.has_value();
            started.set_value(std::move(set_up));
            if (ready) {
                raw->serve();
                // An io_uring ends on the thread that made it, but not under the feet of the
                // post() that told it to stop.
                raw->stop_posted_.wait();
                raw->loop_.reset();
            }
        });
    } catch (const std::system_error& refused) {
        return failure(error_from_code("cannot start a worker thread", refused.code().value()));
    }
    OUTRIGGER_TRY(outcome.get());
    return worker;
}

Result<std::unique_ptr<Worker>> Worker::create_threadless(LoopKind loop) {
    std::unique_ptr<Worker> worker(new Worker({.thread_name = "", .loop = loop}));
    worker->loop_ = OUTRIGGER_TRY(create_event_loop(loop));
    return worker;
}

bool Worker::turn() {
    OUTRIGGER_ASSERT(!thread_.joinable());
    bool worked = loop_->run_once(Clock::time_point::min());
    worked |= poll_sources();
    return worked || !sources_ready_to_sleep();
}

Worker::~Worker() {
    if (thread_.joinable()) {
        stop_thread();
    }
    OUTRIGGER_ASSERT(std::ranges::all_of(sources_, [](auto* source) { return source == nullptr; }));
}

void Worker::stop_thread() {
    // After a failed start there is neither a loop nor anything to stop. The future that start()
    // waited on makes the thread's writes to loop_ visible here.
    if (loop_ != nullptr) {
        loop_->post([this] { stopping_ = true; });
        stop_posted_.count_down();
    }
    thread_.join();
}

Result<void> Worker::set_up_thread() {
    platform::name_this_thread(options_.thread_name);
    if (options_.cpu) {
        OUTRIGGER_TRY(platform::pin_this_thread(*options_.cpu));
    }
    auto loop = create_event_loop(options_.loop, options_.uring_operations);
    if (!loop) {
        return failure(std::move(loop).error());
    }
    loop_ = *std::move(loop);
    return {};
}

void Worker::serve() {
    const bool adapts = polling_.maximum() > AdaptivePolling::Duration::zero();
    bool idle = false;  // nothing was found since `idle_since`: polling adapts to how long it lasts
    Clock::time_point idle_since{};
    busy_time_.begin(Clock::now());
    while (!stopping_) {
        counters_.turns.add();
        bool worked = loop_->run_once(Clock::time_point::min());
        worked |= poll_sources();
        if (worked) {
            if (idle) {
                polling_.on_work_after(Clock::now() - idle_since);
                idle = false;
            }
            continue;
        }
        const auto now = Clock::now();
        note_time(now);
        busy_time_.end(now);
        if (adapts && !idle) {
            idle_since = now;
            idle = !look_for_work(idle_since);
            if (!idle) {
                continue;
            }
        }
        if (sources_ready_to_sleep()) {
            counters_.sleeps.add();
            (void)loop_->run_once(Clock::time_point::max());
            // It has called back already.
            busy_time_.begin(loop_->woke_at());
            note_time(loop_->woke_at());
        } else {
            busy_time_.begin(Clock::now());
        }
    }
    busy_time_.end(Clock::now());
}

/// Spins until something was found and done (true) or the budget is spent. The work began with the
/// look that found it.
bool Worker::look_for_work(Clock::time_point since) {
    const auto budget = std::min(polling_.budget(), allowance_.left(since));
    if (budget == AdaptivePolling::Duration::zero()) {
        return false;
    }
    const auto end = since + budget;
    Clock::time_point now = since;
    uint32_t looks = 0;
    do {
        pause_processor();
        // Whoever sends the next request may be waiting for this very processor: without the
        // yield a spin there costs most of the throughput.
        if (++looks % kLooksBetweenYields == 0) {
            std::this_thread::yield();
        }
        bool worked = poll_sources();
        worked |= loop_->run_once(Clock::time_point::min());
        if (worked) {
            busy_time_.begin(now);
            counters_.polls_hit.add();
            note_looked(now - since);
            return true;
        }
        now = Clock::now();
        note_time(now);
    } while (now < end);
    counters_.polls_idle.add();
    note_looked(now - since);
    return false;
}

void Worker::note_looked(Clock::duration time) {
    allowance_.spend(time);
    counters_.polling_nanoseconds.add(static_cast<uint64_t>(time.count()));
}

bool Worker::poll_sources() {
    bool worked = false;
    ++recent_time_age_;
    // By index: a source may add or remove sources from within its poll().
    for (size_t i = 0; i < sources_.size(); ++i) {
        if (sources_[i] != nullptr) {
            worked |= sources_[i]->poll();
        }
    }
    std::erase(sources_, nullptr);
    return worked;
}

bool Worker::sources_ready_to_sleep() {
    for (size_t i = 0; i < sources_.size(); ++i) {
        if (sources_[i] != nullptr && !sources_[i]->prepare_sleep()) {
            return false;
        }
    }
    return true;
}

void Worker::add_source(WorkSource& source) {
    OUTRIGGER_ASSERT(std::ranges::find(sources_, &source) == sources_.end());
    sources_.push_back(&source);
}

void Worker::remove_source(WorkSource& source) {
    std::ranges::replace(sources_, &source, static_cast<WorkSource*>(nullptr));
}

}  // namespace outrigger
