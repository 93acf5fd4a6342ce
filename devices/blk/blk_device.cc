// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_device.h"

#include <algorithm>
#include <utility>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {

BlkDevice::BlkDevice(std::unique_ptr<Image> image, const BlkDeviceOptions& options)
    : image_(std::move(image)),
      options_(options),
      features_(make_features(image_->properties(), options.shape)),
      config_(make_config_space(image_->properties(), options.shape)),
      write_back_wanted_(options.write_back_at_reset),
      counters_(options.shape.queue_count),
      queues_(options.shape.queue_count) {
    OUTRIGGER_ASSERT(options.serial.size() <= kSerialBytes);
    shared_.geometry = make_geometry(image_->properties(), options.shape);
    std::ranges::copy(std::as_bytes(std::span(options_.serial)), shared_.serial.begin());
    update_write_through();
}

BlkDevice::~BlkDevice() = default;

DeviceIdentity BlkDevice::identity() const {
    return {.virtio_id = VIRTIO_ID_BLOCK,
            .name = "blk",
            .queue_count = options_.shape.queue_count,
            .queue_size_max = BlkQueue::kRequestsMax,
            .config_bytes = kBlkConfigBytes};
}

FeatureSet BlkDevice::offered_features() const {
    return features_;
}

void BlkDevice::on_negotiated(FeatureSet agreed) {
    negotiated_ = true;
    agreed_ = agreed;
    update_write_through();
}

/// VIRTIO 1.3, 5.2.5.2 and 5.2.6.2: a driver that did not take FLUSH cannot make writes stable, so
/// the device must, and says so. Before negotiation it says what it will be for one that does.
bool BlkDevice::write_back() const {
    return write_back_wanted_ && (!negotiated_ || agreed_.has(VIRTIO_BLK_F_FLUSH));
}

void BlkDevice::update_write_through() {
    // Without negotiation nothing may be assumed of the driver.
    shared_.write_through.store(!negotiated_ || !write_back(), std::memory_order_relaxed);
}

void BlkDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    BlkConfigSpace config = config_;
    config.writeback = write_back() ? 1 : 0;
    copy_config(config, static_cast<uint32_t>(at), out);
}

Result<void, ConfigError> BlkDevice::write_config(ConfigOffset at, std::span<const std::byte> in) {
    if (static_cast<uint32_t>(at) != kWritebackOffset || in.size() != 1 ||
        !features_.has(VIRTIO_BLK_F_CONFIG_WCE)) {
        return failure(ConfigError::kReadOnly);
    }
    const auto value = std::to_integer<uint8_t>(in[0]);
    const bool can_flush = !negotiated_ || agreed_.has(VIRTIO_BLK_F_FLUSH);
    if (value > 1 || (value == 1 && !can_flush)) {
        return failure(ConfigError::kValue);
    }
    write_back_wanted_ = value == 1;
    update_write_through();
    return {};
}

Result<void> BlkDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t number = to_number(index);
    // An earlier run's object may still be here: it ended inside its own last call.
    queues_[number] = nullptr;
    auto image_queue = OUTRIGGER_TRY(image_->open_queue(worker, BlkQueue::requests_for(queue)));
    queues_[number] =
        std::make_unique<BlkQueue>(queue, std::move(image_queue), shared_, counters_[number]);
    return {};
}

QueueProgress BlkDevice::process_queue(QueueIndex index) {
    return queues_[to_number(index)]->process();
}

void BlkDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    queues_[to_number(index)]->stop(std::move(drained));
}

void BlkDevice::reset() {
    negotiated_ = false;
    agreed_ = FeatureSet();
    // QEMU keeps its own copy of the configuration space over a reset: it would go on to show the
    // 0 that a guest wrote, and a guest that believes in write-through does not flush. So a 0
    // stays.
    write_back_wanted_ = write_back_wanted_ && options_.write_back_at_reset;
    update_write_through();
}

}  // namespace outrigger::blk
