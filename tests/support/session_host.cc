// SPDX-License-Identifier: Apache-2.0
#include "tests/support/session_host.h"

#include <csignal>
#include <cstdlib>
#include <future>
#include <string_view>
#include <utility>

#include "vhost-user-backend/base/platform.h"

#include "tests/support/wait.h"

namespace outrigger::testing {

LoopKind loop_under_test() {
    const char* name = std::getenv("OUTRIGGER_TEST_LOOP");
    if (name == nullptr) {
        return LoopKind::kAuto;
    }
    OUTRIGGER_ASSERT(name == std::string_view("uring") || name == std::string_view("asio"));
    return name == std::string_view("uring") ? LoopKind::kUring : LoopKind::kAsio;
}

SessionHost::SessionHost(Device& device, const SessionHostOptions& options)
    : device_(device), options_(options) {
    // As the daemon shell does: a call whose reader is gone is an error code, not a signal.
    (void)std::signal(SIGPIPE, SIG_IGN);
    if (options.worker != nullptr) {
        worker_pointers_.push_back(options.worker);
    }
    for (size_t i = 0; i < options.worker_count && options.worker == nullptr; ++i) {
        auto worker = Worker::start({.thread_name = "test-worker",
                                     .loop = loop_under_test(),
                                     .poll_max = options.poll_max,
                                     .cpu = std::nullopt});
        workers_.push_back(std::move(worker).value());
        worker_pointers_.push_back(workers_.back().get());
    }
    device_.on_serving(worker_pointers_);
    control_ = std::thread([this] { run_control(); });
    OUTRIGGER_ASSERT(eventually([this] { return loop_.load() != nullptr; }));
}

SessionHost::~SessionHost() {
    close_session();
    OUTRIGGER_ASSERT(wait_closed().has_value());
    // The workers first: one of them may still be inside post() of the control loop.
    workers_.clear();
    if (options_.worker != nullptr) {
        std::promise<void> passed;
        options_.worker->post([&passed] { passed.set_value(); });
        passed.get_future().wait();
    }
    loop_.load()->post([this] { stopping_ = true; });
    stop_posted_.count_down();
    control_.join();
}

void SessionHost::run_control() {
    auto loop = create_event_loop(loop_under_test()).value();
    loop_ = loop.get();
    while (!stopping_) {
        (void)loop->run_once(EventLoop::Clock::time_point::max());
        control_turns_.fetch_add(1, std::memory_order_relaxed);
    }
    // post() may still be on its way out of the loop that goes now.
    stop_posted_.wait();
}

void SessionHost::on_control(EventLoop::Task task) {
    std::promise<void> ran;
    loop_.load()->post([&] {
        task();
        ran.set_value();
    });
    ran.get_future().wait();
}

std::future<bool> SessionHost::begin_move(size_t queue, size_t worker) {
    auto outcome = std::make_shared<std::promise<bool>>();
    auto future = outcome->get_future();
    loop_.load()->post([this, queue, worker, outcome] {
        if (session_ == nullptr) {
            outcome->set_value(false);
            return;
        }
        session_->move_queue(queue, worker, [outcome](bool moved) { outcome->set_value(moved); });
    });
    return future;
}

std::vector<std::optional<size_t>> SessionHost::queue_workers() {
    std::vector<std::optional<size_t>> workers;
    on_control([&] {
        if (session_ != nullptr) {
            workers = session_->queue_workers();
        }
    });
    return workers;
}

driver::Frontend SessionHost::connect() {
    auto [frontend, socket] = driver::create_connected_pair().value();
    frontend.set_time_limit(kPatience);
    (void)platform::name_socket(socket.get());
    on_control([this, &socket] {
        OUTRIGGER_ASSERT(session_ == nullptr);
        {
            const std::lock_guard lock(closed_mutex_);
            closed_.reset();
        }
        if (options_.keeper != nullptr && journal_ == nullptr) {
            journal_ = SessionJournal::create(*options_.keeper, kJournalPrefix).value();
        }
        session_ = std::make_unique<Session>(Session::Environment{.device = device_,
                                                                  .control_loop = *loop_,
                                                                  .workers = worker_pointers_,
                                                                  .counters = counters_,
                                                                  .queue_metrics = queue_metrics_,
                                                                  .logs = logs_,
                                                                  .journal = journal_.get()},
                                             std::move(socket),
                                             options_.session,
                                             [this](CloseReason reason) {
                                                 session_.reset();
                                                 const std::lock_guard lock(closed_mutex_);
                                                 closed_ = reason;
                                             });
    });
    return std::move(frontend);
}

std::optional<CloseReason> SessionHost::wait_closed() {
    bool none = false;
    on_control([this, &none] { none = session_ == nullptr && !closed_; });
    if (none) {
        return CloseReason::kPeerClosed;  // there never was one
    }
    (void)eventually([this] {
        const std::lock_guard lock(closed_mutex_);
        return closed_.has_value();
    });
    const std::lock_guard lock(closed_mutex_);
    return closed_;
}

void SessionHost::close_session() {
    with_session([](Session& session) { session.close(); });
}

void SessionHost::with_session(const std::function<void(Session&)>& task) {
    on_control([this, &task] {
        if (session_ != nullptr) {
            task(*session_);
        }
    });
}

}  // namespace outrigger::testing
