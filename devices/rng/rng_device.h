// SPDX-License-Identifier: Apache-2.0
/// The entropy device: fills the driver's buffers with random bytes. VIRTIO 1.3, 5.4.
///
/// The smallest device of the collection, and the one to copy when writing another.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/device.h"

#include "devices/rng/byte_quota.h"
#include "devices/rng/entropy_source.h"

namespace outrigger::rng {

struct RngOptions {
    std::unique_ptr<EntropySource> source;
    /// Bytes within each period; nullopt: as many as the driver asks for.
    std::optional<uint64_t> bytes_max;
    std::chrono::milliseconds period{65'536};
};

/// Written by the queue's worker.
struct RngCounters {
    Counter requests;         ///< buffers filled
    Counter bytes;            ///< random bytes given out
    Counter empty_requests;   ///< buffers without a device-writable byte
    Counter quota_waits;      ///< times the queue waited for its quota
    Counter source_waits;     ///< times the queue waited for the source
    Counter source_failures;  ///< sources that ended; getrandom took over
};

class RngDevice final : public Device {
  public:
    /// A driver gets at most so many bytes for one buffer, however large that is.
    static constexpr size_t kRequestBytesMax = 64 * 1024;

    explicit RngDevice(RngOptions options);

    [[nodiscard]] DeviceIdentity identity() const override;

    [[nodiscard]] FeatureSet offered_features() const override { return {}; }

    void on_negotiated(FeatureSet /*agreed*/) override {}

    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void reset() override;

    /// Any thread.
    [[nodiscard]] const RngCounters& counters() const { return counters_; }

  private:
    [[nodiscard]] size_t allowance();
    [[nodiscard]] bool stage();
    [[nodiscard]] QueueProgress serve_last();
    void serve(DescriptorChain chain, size_t allowed);
    void wait_for_quota();
    void wait_for_source();
    void stop_waiting();
    void wipe_stage();

    std::unique_ptr<EntropySource> source_;
    std::optional<ByteQuota> quota_;
    RngCounters counters_;

    // While the queue runs; touched by its worker only.
    Virtqueue* queue_ = nullptr;
    EventLoop* loop_ = nullptr;
    std::optional<TimerId> timer_;
    std::optional<WatchId> watch_;

    // Bytes read ahead of the requests, each given out once and wiped.
    std::array<std::byte, 4096> stage_{};
    size_t stage_begin_ = 0;
    size_t stage_end_ = 0;
};

}  // namespace outrigger::rng
