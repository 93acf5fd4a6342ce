// SPDX-License-Identifier: Apache-2.0
/// Moves queues of a session from worker to worker all the time, as no balancer would.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <random>
#include <thread>

#include "tests/support/session_host.h"

namespace outrigger::testing {

class RestlessMover final {
  public:
    /// Which queues, and between how many workers.
    struct Options {
        size_t queue_count = 1;
        size_t worker_count = 2;
    };

    RestlessMover(SessionHost& host, const Options& options)
        : thread_([this, &host, options] { run(host, options); }) {}

    RestlessMover(const RestlessMover&) = delete;
    RestlessMover& operator=(const RestlessMover&) = delete;

    ~RestlessMover() {
        stopping_.store(true, std::memory_order_relaxed);
        thread_.join();
    }

    [[nodiscard]] uint64_t moves() const { return moves_.load(std::memory_order_relaxed); }

  private:
    void run(SessionHost& host, const Options& options) {
        std::minstd_rand random(7);
        while (!stopping_.load(std::memory_order_relaxed)) {
            if (host.move_queue(random() % options.queue_count, random() % options.worker_count)) {
                moves_.fetch_add(1, std::memory_order_relaxed);
            }
        }
    }

    std::atomic<bool> stopping_ = false;
    std::atomic<uint64_t> moves_ = 0;
    std::thread thread_;  // last: it uses the others
};

}  // namespace outrigger::testing
