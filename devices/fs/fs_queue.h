// SPDX-License-Identifier: Apache-2.0
/// One ring of the device while it runs: takes requests out, gives them to the server, and answers.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "vhost-user-backend/device.h"

#include "devices/fs/blocking_pool.h"
#include "devices/fs/fs_counters.h"
#include "devices/fs/fs_server.h"

namespace outrigger::fs {

/// Thread-bound: the queue's worker.
class FsQueue final : private Call::Queue {
  public:
    struct Environment {
        FsServer& server;
        BlockingPool& pool;
        Virtqueue& queue;
        Worker& worker;
        FsCounters& counters;
        uint64_t* next_request = nullptr;  ///< Call::request; null: there is no keeper
    };

    explicit FsQueue(const Environment& environment);
    FsQueue(const FsQueue&) = delete;
    FsQueue& operator=(const FsQueue&) = delete;
    ~FsQueue();

    [[nodiscard]] QueueProgress process();

    /// Whoever waits for a lock is told that there is none to be had (ENOLCK), and who walks
    /// through a long directory to come again (EAGAIN).
    void hurry();

    /// Calls `drained` when the last request is back, perhaps at once. This may go then.
    void stop(std::move_only_function<void()> drained);

    /// The same, and whoever waits for a lock, or walks, goes on at whoever serves the ring next.
    void suspend(std::move_only_function<void()> drained);

  private:
    friend struct BlockingJob;

    // Call::Queue
    [[nodiscard]] Patience patience() const override { return Patience(hurries_); }

    void defer(Call& call, Call::Work work) override;
    void read(Call& call, const FileRead& read, Call::Work work) override;
    void retry(Call& call, Call::Work attempt) override;
    [[nodiscard]] Answer wait(Call& call) override;
    void on_fault(std::span<const iovec> buffers) override;
    [[nodiscard]] size_t read_more(std::span<std::byte> out) override;
    [[nodiscard]] EarlierRun earlier_run() override;
    void note_intent(std::span<const std::byte> intent) override;

    void serve(DescriptorChain chain);
    [[nodiscard]] Verdict carry_out(const InHeader& head);
    [[nodiscard]] bool take_payload(const RequestHeader& header, Call& call);
    void answer(DescriptorChain& chain, ReplyWriter& reply, Verdict verdict);
    void count_bytes(const ReplyWriter& reply);
    [[nodiscard]] BlockingJob& take_over();
    void put_back(BlockingJob& job);
    void finish(BlockingJob& job);
    [[nodiscard]] bool submit_read(BlockingJob& job, const FileRead& read);
    void finish_read(BlockingJob& job, int32_t result);
    void try_locks();
    void start_lock_timer();
    void check_drained();
    [[nodiscard]] std::vector<BlockingJob*> take_outside_waiters();
    void limit_outside_waits();

    const Environment environment_;
    HandOver<BlockingJob> finished_;
    ReplyWriter reply_;
    std::vector<iovec> payload_;
    std::unique_ptr<std::byte[]> body_;

    // While a handler runs.
    DescriptorChain* chain_ = nullptr;
    ChainReader* reader_ = nullptr;

    std::vector<std::unique_ptr<BlockingJob>> jobs_;
    std::vector<BlockingJob*> free_jobs_;
    std::vector<BlockingJob*> lock_waiters_;
    std::optional<TimerId> lock_timer_;
    std::chrono::milliseconds lock_delay_{1};
    std::vector<BlockingJob*> outside_waiters_;
    std::optional<TimerId> outside_timer_;
    std::atomic<uint32_t> hurries_ = 0;  // how often somebody began to wait for all of them
    bool is_suspending_ = false;
    size_t under_way_ = 0;                     // jobs in the pool, or that wait for somebody
    std::move_only_function<void()> drained_;  // null: does not stop
};

}  // namespace outrigger::fs
