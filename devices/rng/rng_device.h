// SPDX-License-Identifier: Apache-2.0
/// The entropy device: fills the driver's buffers with random bytes. VIRTIO 1.3, 5.4.
///
/// The smallest device of the collection, and the one to copy when writing another.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/device.h"

#include "devices/rng/byte_quota.h"
#include "devices/rng/entropy_limit.h"
#include "devices/rng/entropy_source.h"
#include "devices/rng/rng_control.h"

namespace outrigger::rng {

struct RngOptions {
    std::unique_ptr<EntropySource> source;
    EntropyLimit limit{};
    /// Of KeptLimit::kKeptBytes, which outlive this process; empty: nothing does.
    Mapping kept_limit{};
};

/// Written by the queue's worker.
struct RngCounters {
    Counter requests;         ///< buffers filled
    Counter source_bytes;     ///< random bytes given out, of the source that was given
    Counter kernel_bytes;     ///< of the kernel's generator, be it that one or in its place
    Counter empty_requests;   ///< buffers without a device-writable byte
    Counter quota_waits;      ///< times that requests waited for the quota
    Counter quota_wait_ns;    ///< that these took, when they have ended
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

    [[nodiscard]] control::DeviceControl* control() override { return &control_; }

    /// What holds, or is about to. Control thread.
    [[nodiscard]] const EntropyLimit& limit() const { return limit_.value(); }

    /// `done` is called when it holds, on any thread. Control thread.
    void change_limit(const EntropyLimit& limit, std::move_only_function<void()> done);

    /// Any thread.
    [[nodiscard]] std::string source_name() const;

  private:
    [[nodiscard]] size_t allowance();
    [[nodiscard]] bool stage();
    [[nodiscard]] QueueProgress serve_last();
    void serve(DescriptorChain chain, size_t allowed);
    void take_limit();
    void wait_for_quota();
    void end_quota_wait();
    void wait_for_source();
    void stop_waiting();
    void wipe_stage();

    const std::string given_name_;  // of the source that was given
    std::unique_ptr<EntropySource> source_;
    std::optional<ByteQuota> quota_;
    RngCounters counters_;
    KeptLimit limit_;
    RngControl control_{*this};

    mutable std::mutex wish_mutex_;     // what follows
    std::optional<EntropyLimit> wish_;  // that the queue's worker has not taken up
    Worker* worker_ = nullptr;          // null: the queue does not run

    // While the queue runs; touched by its worker only.
    Virtqueue* queue_ = nullptr;
    EventLoop* loop_ = nullptr;
    bool is_kernel_ = false;  // the bytes that are staged are of getrandom
    std::optional<std::chrono::steady_clock::time_point> quota_wait_since_;
    std::optional<TimerId> timer_;
    std::optional<WatchId> watch_;

    // Bytes read ahead of the requests, each given out once and wiped.
    std::array<std::byte, 4096> stage_{};
    size_t stage_begin_ = 0;
    size_t stage_end_ = 0;
};

}  // namespace outrigger::rng
