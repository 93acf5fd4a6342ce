// SPDX-License-Identifier: Apache-2.0
/// The device that the session's tests serve: it answers each request with the bytes it was sent.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "vhost-user-backend/device.h"

namespace outrigger::testing {

struct EchoDeviceOptions {
    uint16_t queue_count = 2;
    uint16_t queue_size_max = 1024;
    uint16_t config_bytes = 32;
    FeatureSet features = FeatureSet::of({3, 50});
};

/// The first byte of the configuration space that can be written, and how many.
inline constexpr uint32_t kWritableConfigOffset = 8;
inline constexpr uint32_t kWritableConfigBytes = 8;
/// A value that no writable byte takes.
inline constexpr std::byte kForbiddenConfigValue{0xff};

class EchoDevice final : public Device {
  public:
    explicit EchoDevice(const EchoDeviceOptions& options);

    // --- For tests, on any thread --------------------------------------------------------------

    /// From now on requests are popped and kept, until release_held().
    void hold(bool held) { hold_ = held; }

    /// Answers what is held.
    void release_held(QueueIndex index);

    /// The same, the last one first.
    void release_held_backwards(QueueIndex index);

    /// From now on start_queue() fails.
    void refuse_start(bool refuse) { refuse_start_ = refuse; }

    /// Requests popped and not yet answered, all queues.
    [[nodiscard]] uint32_t held() const { return held_; }

    [[nodiscard]] uint64_t answered() const { return answered_; }

    [[nodiscard]] uint32_t resets() const { return resets_; }

    [[nodiscard]] uint32_t queues_running() const { return queues_running_; }

    [[nodiscard]] FeatureSet negotiated() const { return FeatureSet(negotiated_.load()); }

    // --- Device --------------------------------------------------------------------------------

    [[nodiscard]] DeviceIdentity identity() const override;

    [[nodiscard]] FeatureSet offered_features() const override { return options_.features; }

    void on_negotiated(FeatureSet agreed) override { negotiated_ = agreed.bits(); }

    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;

    void reset() override { ++resets_; }

  private:
    struct Queue {
        Virtqueue* queue = nullptr;
        std::vector<DescriptorChain> held;
        std::move_only_function<void()> drained;
    };

    void answer(DescriptorChain chain);
    void answer_held(Queue& queue);

    EchoDeviceOptions options_;
    std::array<std::byte, 256> config_{};
    std::vector<Queue> queues_;  // each element belongs to its queue's worker
    std::mutex workers_mutex_;
    std::vector<Worker*> workers_;  // by queue; null while it does not run
    std::atomic<bool> hold_ = false;
    std::atomic<bool> refuse_start_ = false;
    std::atomic<uint32_t> held_ = 0;
    std::atomic<uint64_t> answered_ = 0;
    std::atomic<uint32_t> resets_ = 0;
    std::atomic<uint32_t> queues_running_ = 0;
    std::atomic<uint64_t> negotiated_ = 0;
};

/// Byte `offset` of the configuration space, as long as nobody wrote it.
[[nodiscard]] constexpr std::byte initial_config_byte(uint32_t offset) {
    return static_cast<std::byte>(0xa0 + offset);
}

}  // namespace outrigger::testing
