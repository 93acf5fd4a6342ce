// SPDX-License-Identifier: Apache-2.0
/// The virtio block device: feature bits, configuration space, write cache mode, queues.
/// VIRTIO 1.3, 5.2.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/device.h"

#include "devices/blk/blk_config.h"
#include "devices/blk/blk_counters.h"
#include "devices/blk/blk_queue.h"
#include "devices/blk/image.h"

namespace outrigger::blk {

struct BlkDeviceOptions {
    BlkShape shape{};
    std::string serial{};             ///< at most kSerialBytes
    bool write_back_at_reset = true;  ///< what the `writeback` byte is until the driver writes it
};

/// VIRTIO_BLK_ID_BYTES.
inline constexpr size_t kSerialBytes = 20;

class BlkDevice final : public Device {
  public:
    BlkDevice(std::unique_ptr<Image> image, const BlkDeviceOptions& options);
    ~BlkDevice() override;

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] FeatureSet offered_features() const override;
    void on_negotiated(FeatureSet agreed) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void reset() override;

    /// Any thread.
    [[nodiscard]] const BlkCounters& counters(QueueIndex index) const {
        return counters_[to_number(index)];
    }

  private:
    [[nodiscard]] bool write_back() const;
    void update_write_through();

    std::unique_ptr<Image> image_;
    const BlkDeviceOptions options_;
    const FeatureSet features_;
    const BlkConfigSpace config_;
    BlkShared shared_;

    // Of the control thread.
    bool negotiated_ = false;
    FeatureSet agreed_;
    bool write_back_wanted_;

    // Each entry belongs to the worker of its queue.
    std::vector<BlkCounters> counters_;
    std::vector<std::unique_ptr<BlkQueue>> queues_;
};

}  // namespace outrigger::blk
