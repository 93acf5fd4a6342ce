// SPDX-License-Identifier: Apache-2.0
/// One running queue of a block device: takes requests off the ring, hands them to the image, and
/// answers them as the image finishes, in any order.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "vhost-user-backend/device.h"
#include "vhost-user-backend/guest/memory_snapshot.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/blk_counters.h"
#include "devices/blk/blk_request.h"
#include "devices/blk/blk_settings.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

/// What is noted of a zone append (DeviceIdentity::outcome_bytes): the offset of its data.
inline constexpr uint16_t kBlkOutcomeBytes = 8;

/// What the queues of a device share. Outlives them.
struct BlkShared {
    std::array<std::byte, 20> serial{};  ///< padded with NULs, not terminated
    /// Writes are stable before they are answered. Set by the control thread, read once for each
    /// request; a plain value, so relaxed: the driver's own ordering of configuration and requests
    /// comes with the kick.
    std::atomic<bool> write_through = false;

    // Of the error policy. Plain values, too: whoever changes them has a task run on each worker,
    // or is the worker.
    std::atomic<bool> stopped = false;  ///< nothing is begun: a request is held
    std::atomic<int> stop_error = 0;    ///< errno of the first
    std::atomic<uint64_t> held = 0;     ///< requests that are
};

/// Thread-bound: the queue's worker. Nothing is allocated or locked after construction.
class BlkQueue final {
  public:
    /// Requests in flight: as many as the ring can hold, up to this.
    static constexpr uint32_t kRequestsMax = 1024;
    /// No request is taken while those in flight cover this many bytes, so that what the host
    /// pins and queues for them stays bounded.
    static constexpr uint64_t kBytesMax = uint64_t{64} << 20;
    /// Then what is done is published, and the worker's other queues have their turn. Few, so that
    /// a driver takes up the first answers while the rest is served, rather than wait for all: a
    /// null disk serves 1.6 times as many at depth 32 with 16 as with 256.
    static constexpr uint32_t kBatchMax = 16;
    /// The same for requests that the image does not answer at once. They go to the kernel
    /// together, and what it finds in the page cache it copies then and there: with 8 for 256 a
    /// driver that sleeps gets twice as many at depth 32, for half of the processor time each.
    static constexpr uint32_t kSubmitMax = 8;

    /// What a queue is made of. All is borrowed but `image` and `settings`; `image` serves
    /// requests_for(queue) at a time.
    struct Parts {
        Virtqueue& queue;
        Worker& worker;
        std::unique_ptr<ImageQueue> image;
        BlkSettings settings;
        BlkShared& shared;
        BlkCounters& counters;
    };

    explicit BlkQueue(Parts parts);
    BlkQueue(const BlkQueue&) = delete;
    BlkQueue& operator=(const BlkQueue&) = delete;
    ~BlkQueue();

    [[nodiscard]] static uint32_t requests_for(const Virtqueue& queue);

    [[nodiscard]] Worker& worker() { return worker_; }

    [[nodiscard]] QueueProgress process();

    /// Calls `drained` when nothing is in flight any more: at once or from the last completion.
    /// What waits for a limit is begun now; what the error policy holds is answered with its error.
    /// The object stays, idle, until it is destroyed.
    void stop(std::move_only_function<void()> drained);

    /// The same, but what waits for a limit or for the operator stays unanswered: see
    /// Device::suspend_queue().
    void suspend(std::move_only_function<void()> drained);

    /// See Device. When it has stopped it has none.
    void use_memory(const std::shared_ptr<const MemorySnapshot>& memory);

    /// The same without an end: whoever asks waits for the requests that are in flight now.
    void hurry();

    // --- Changes while it runs. After stop() has called back they do nothing. --------------------

    void apply(const BlkSettings& settings);

    /// Calls `idle` when the image has nothing to do, at once or from the last completion. Before
    /// that the queue was paused: what waits for a limit is begun, and nothing else.
    void when_idle(std::move_only_function<void()> idle);

    /// Opens an end of another image, which use_next_image() turns to while this one is idle.
    [[nodiscard]] Result<void> prepare_next_image(Image& next);

    void drop_next_image() { next_image_ = nullptr; }

    void use_next_image();

    /// BlkShared::stopped is not set any more: tries again what is held, and goes on.
    void go_on();

    /// Has stop() called back?
    [[nodiscard]] bool ended() const { return ended_; }

  private:
    class Slot;

    /// First in, first out, linked through the slots.
    struct SlotList {
        Slot* first = nullptr;
        Slot* last = nullptr;

        [[nodiscard]] bool empty() const { return first == nullptr; }

        void push(Slot& slot);
        [[nodiscard]] Slot* pop();  ///< null when empty
    };

    [[nodiscard]] bool is_limited() const { return settings_.limiter->is_limited(); }

    [[nodiscard]] bool begins_nothing() const;
    [[nodiscard]] bool takes_nothing() const;

    void serve(DescriptorChain chain);
    void refuse(DescriptorChain& chain, const RefusedBlkRequest& refused);
    void answer_id(DescriptorChain& chain, const BlkRequest& request);
    void prepare(Slot& slot, const BlkRequest& request);
    void submit(Slot& slot);
    void on_done(Slot& slot, int os_error);
    void finish(Slot& slot, int os_error);
    static void copy_lifetime(const Slot& slot);
    static void finish_zone_command(Slot& slot);
    [[nodiscard]] bool was_appended(Slot& slot);
    void on_failure(const Slot& slot, int os_error);
    void check_ended();

    // Limits.
    [[nodiscard]] bool must_wait(LimitTime now) const;
    [[nodiscard]] LimitTime lane_opens(Direction direction) const;
    void begin_or_wait(Slot& slot);
    void begin_last(Slot& slot);
    void charge(const Slot& slot, LimitTime now);
    void begin_waiting();
    void release_waiting(bool all);
    void wait_for_allowance();
    void on_allowance();
    void stop_timer();

    // Error policy.
    [[nodiscard]] bool must_hold(const Slot& slot, int os_error);
    void hold(Slot& slot, int os_error);
    void report_held();
    void set_aside(Slot& slot);
    void retry_held();
    [[nodiscard]] bool still_fits(const Slot& slot) const;

    Virtqueue& queue_;
    Worker& worker_;
    BlkSettings settings_;
    BlkShared& shared_;
    BlkCounters& counters_;
    std::unique_ptr<Slot[]> slots_;
    std::vector<Slot*> free_;  // capacity for all
    uint32_t slot_count_;
    uint32_t submitted_ = 0;  // requests that the image has
    uint64_t bytes_in_flight_ = 0;
    bool waiting_ = false;     // for a slot, or for bytes in flight
    bool stopping_ = false;    // by stop() or suspend()
    bool suspending_ = false;  // by suspend()
    bool ended_ = false;
    std::move_only_function<void()> drained_;
    std::move_only_function<void()> idle_;

    std::array<SlotList, kDirectionCount> lanes_;  // wait for the allowance of their direction
    std::array<LimitTime, kDirectionCount> lane_opens_{};
    LimitTime both_open_ = INT64_MIN;
    bool ring_waits_ = false;  // the ring may have requests, and none of either direction may pass
    bool releasing_ = false;
    std::optional<TimerId> timer_;
    LimitTime timer_at_ = 0;
    LimitTime throttled_since_ = 0;  // 0: not now

    SlotList held_;  // by the error policy

    std::shared_ptr<const MemorySnapshot> memory_ = MemorySnapshot::empty();
    std::unique_ptr<ImageQueue> next_image_;
    std::unique_ptr<ImageQueue> image_;  // last: goes before the slots it points to
};

}  // namespace outrigger::blk
