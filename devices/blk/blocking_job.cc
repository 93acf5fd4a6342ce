// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blocking_job.h"

#include <latch>
#include <thread>
#include <utility>

#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger::blk {

struct BlockingJob::State {
    std::move_only_function<void()> job;
    std::move_only_function<void(Result<void>)> done;
    std::latch started{1};  // `thread` is written
    std::thread thread;
};

BlockingJob::~BlockingJob() {
    if (state_ != nullptr && state_->thread.joinable()) {
        state_->thread.join();
    }
}

void BlockingJob::run(Worker& worker,
                      EventLoop& control_loop,
                      std::move_only_function<void()> job,
                      std::move_only_function<void(Result<void>)> done) {
    state_ = std::make_shared<State>();
    state_->job = std::move(job);
    state_->done = std::move(done);
    worker.post([state = state_, &control_loop] {
        auto thread = start_helper_thread("blk-change", [state, &control_loop] {
            state->job();
            state->job = nullptr;
            state->started.wait();
            control_loop.post([state] {
                state->thread.join();
                std::exchange(state->done, nullptr)({});
            });
        });
        if (thread) {
            state->thread = *std::move(thread);
            state->started.count_down();
        } else {
            control_loop.post([state, error = std::move(thread).error()]() mutable {
                std::exchange(state->done, nullptr)(failure(std::move(error)));
            });
        }
    });
}

}  // namespace outrigger::blk
