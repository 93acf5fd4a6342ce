// SPDX-License-Identifier: Apache-2.0
/// One running queue of a block device: takes requests off the ring, hands them to the image, and
/// answers them as the image finishes, in any order.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "vhost-user-backend/device.h"

#include "devices/blk/blk_counters.h"
#include "devices/blk/blk_request.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

/// What the queues of a device share. Outlives them.
struct BlkShared {
    BlkGeometry geometry;
    std::array<std::byte, 20> serial{};  ///< padded with NULs, not terminated
    /// Writes are stable before they are answered. Set by the control thread, read once for each
    /// request; a plain value, so relaxed: the driver's own ordering of configuration and requests
    /// comes with the kick.
    std::atomic<bool> write_through = false;
};

/// Thread-bound: the queue's worker. Nothing is allocated or locked after construction.
class BlkQueue final {
  public:
    /// Requests in flight: as many as the ring can hold, up to this.
    static constexpr uint32_t kRequestsMax = 1024;
    /// No request is taken while those in flight cover this many bytes, so that what the host
    /// pins and queues for them stays bounded.
    static constexpr uint64_t kBytesMax = uint64_t{64} << 20;
    /// Then the worker's other queues have their turn.
    static constexpr uint32_t kBatchMax = 256;

    /// All are borrowed but `image`; `image` serves requests_for(queue) at a time.
    BlkQueue(Virtqueue& queue,
             std::unique_ptr<ImageQueue> image,
             const BlkShared& shared,
             BlkCounters& counters);

    BlkQueue(const BlkQueue&) = delete;
    BlkQueue& operator=(const BlkQueue&) = delete;
    ~BlkQueue();

    [[nodiscard]] static uint32_t requests_for(const Virtqueue& queue);

    [[nodiscard]] QueueProgress process();

    /// Calls `drained` when nothing is in flight any more: at once or from the last completion.
    /// The object stays, idle, until it is destroyed.
    void stop(std::move_only_function<void()> drained);

  private:
    class Slot;

    void serve(DescriptorChain chain);
    void refuse(DescriptorChain& chain, const RefusedBlkRequest& refused);
    void answer_id(DescriptorChain& chain, const BlkRequest& request);
    void submit(Slot& slot, const BlkRequest& request);
    void on_done(Slot& slot, int os_error);
    static void copy_lifetime(const Slot& slot);
    void on_failure(const Slot& slot, int os_error);

    Virtqueue& queue_;
    const BlkShared& shared_;
    BlkCounters& counters_;
    std::unique_ptr<Slot[]> slots_;
    std::vector<Slot*> free_;  // capacity for all
    uint32_t slot_count_;
    uint64_t bytes_in_flight_ = 0;
    bool waiting_ = false;
    std::move_only_function<void()> drained_;
    std::unique_ptr<ImageQueue> image_;  // last: goes before the slots it points to
};

}  // namespace outrigger::blk
