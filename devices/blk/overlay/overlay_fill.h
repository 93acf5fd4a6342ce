// SPDX-License-Identifier: Apache-2.0
/// Copies what the layer lacks from the base in the background, until the base is not needed any
/// more. The bitmap is its progress: after a restart it goes on where the last commit was.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/background_fill.h"
#include "devices/blk/image.h"
#include "devices/blk/overlay/overlay_shared.h"
#include "devices/blk/overlay/waiter.h"

namespace outrigger::blk {

class OverlayFill final : public BackgroundFill {
  public:
    /// `shared` outlives it. Makes the loop, so before the sandbox is closed.
    [[nodiscard]] static Result<std::unique_ptr<OverlayFill>> create(const OverlayShared& shared);

    OverlayFill(const OverlayFill&) = delete;
    OverlayFill& operator=(const OverlayFill&) = delete;
    /// Waits for the copies under way.
    ~OverlayFill();

    /// Starts the thread, which rests until start(). On a queue's worker, behind the committer's
    /// start; once.
    [[nodiscard]] Result<void> launch(Image& base, Image& layer);

    // Any thread, also before launch().

    void start() override;
    void stop() override;
    void set_rate(uint64_t bytes_per_second) override;
    [[nodiscard]] FillState state() const override;

  private:
    class Copy;

    /// Is told when a commit has ended.
    class CommitWait final : public Waiter {
      public:
        explicit CommitWait(OverlayFill& fill) : fill_(fill) {}

        void resume() override { fill_.on_commit_done(wait_result); }

      private:
        OverlayFill& fill_;
    };

    using Clock = EventLoop::Clock;

    static constexpr size_t kCopies = 4;  ///< under way at a time

    OverlayFill(const OverlayShared& shared, std::unique_ptr<Worker> worker);

    void run();
    void poke();

    // On its own thread.
    void pump();
    void begin_copies();
    [[nodiscard]] Copy* free_copy();
    [[nodiscard]] bool begin_next_copy(Copy& copy);
    [[nodiscard]] bool may_copy_now();
    [[nodiscard]] bool may_commit_now();
    void wait_until(Clock::time_point when);
    void on_copy_done(Copy& copy, int os_error);
    void charge(uint64_t bytes);
    void commit();
    void on_commit_done(int os_error);
    [[nodiscard]] bool is_complete() const;

    const OverlayShared& shared_;
    std::unique_ptr<Worker> worker_;  // threadless: the thread below turns its loop

    std::atomic<bool> wanted_ = false;
    std::atomic<uint64_t> rate_ = 0;
    std::atomic<int> last_error_ = 0;
    std::atomic<bool> poked_ = false;  // a task for pump() waits: one will do
    std::atomic<bool> rate_changed_ = false;

    // Of the thread, once it runs.
    ResumeInbox inbox_;
    CommitWait commit_wait_;
    std::unique_ptr<ImageQueue> base_;
    std::unique_ptr<ImageQueue> layer_;
    std::unique_ptr<Copy[]> copies_;
    size_t copies_under_way_ = 0;
    uint64_t next_cluster_ = 0;
    uint64_t uncommitted_bytes_ = 0;
    bool committing_ = false;
    bool completed_ = false;  // and committed, and said so
    bool timer_runs_ = false;
    Clock::time_point next_copy_at_{};
    Clock::time_point commit_again_at_{};  // behind one that failed
    bool stopping_ = false;
    bool ended_ = false;

    std::thread thread_;
};

}  // namespace outrigger::blk
