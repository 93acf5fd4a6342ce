// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_device.h"

#include <algorithm>
#include <utility>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"

#include "devices/blk/blk_control.h"

namespace outrigger::blk {

BlkDevice::BlkDevice(std::unique_ptr<Image> image, const BlkDeviceOptions& options)
    : options_(options),
      features_(make_features(image->properties(), options.shape)),
      config_(make_config_space(image->properties(), options.shape)),
      write_back_wanted_(options.write_back_at_reset),
      settings_{
          .geometry = make_geometry(image->properties(), options.shape),
          .limiter = options.limiter != nullptr ? options.limiter : std::make_shared<RateLimiter>(),
          .error_policy = options.error_policy},
      image_(std::move(image)),
      workers_(options.shape.queue_count),
      counters_(options.shape.queue_count),
      queues_(options.shape.queue_count),
      control_(std::make_unique<BlkControl>(*this)) {
    OUTRIGGER_ASSERT(options.serial.size() <= kSerialBytes);
    std::ranges::copy(std::as_bytes(std::span(options_.serial)), shared_.serial.begin());
    update_write_through();
}

BlkDevice::~BlkDevice() = default;

DeviceIdentity BlkDevice::identity() const {
    const bool appends = image_->properties().zoning.append_bytes_max > 0;
    return {.virtio_id = VIRTIO_ID_BLOCK,
            .name = "blk",
            .queue_count = options_.shape.queue_count,
            .queue_size_max = BlkQueue::kRequestsMax,
            .config_bytes = kBlkConfigBytes,
            .outcome_bytes = appends ? kBlkOutcomeBytes : uint16_t{0}};
}

/// A disk that an operator made read-only says so to the next driver. The other bits stay: a front
/// end that connects again has a driver that took them.
FeatureSet BlkDevice::offered_features() const {
    return settings_.geometry.read_only ? features_.with(VIRTIO_BLK_F_RO) : features_;
}

/// VIRTIO 1.3, 5.2.5.2: a host-managed device is not for a driver that does not know of zones. One
/// that goes on without having its features accepted may read, see blk_request.h.
bool BlkDevice::accepts(FeatureSet wanted) const {
    if (settings_.geometry.writes_need_zones && !wanted.has(kZonedFeature)) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning,
                    "blk: the disk is a host-managed zoned one, and the driver or its front end "
                    "does not take VIRTIO_BLK_F_ZONED: refused; with --read-only it is a disk like "
                    "any other");
        return false;
    }
    return true;
}

control::DeviceControl* BlkDevice::control() {
    return control_.get();
}

void BlkDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    frontend_ = std::move(frontend);
}

void BlkDevice::on_negotiated(FeatureSet agreed) {
    negotiated_ = true;
    agreed_ = agreed;
    set_zoned(agreed.has(kZonedFeature));
    update_write_through();
}

/// VIRTIO 1.3, 5.2.5.2 and 5.2.6.2: a driver that did not take FLUSH cannot make writes stable, so
/// the device must, and says so. Before negotiation it says what it will be for one that does.
bool BlkDevice::write_back() const {
    return write_back_wanted_ && (!negotiated_ || agreed_.has(VIRTIO_BLK_F_FLUSH));
}

void BlkDevice::update_write_through() {
    // Without negotiation nothing may be assumed of the driver.
    shared_.write_through.store(!negotiated_ || !write_back() || keep_write_through_,
                                std::memory_order_relaxed);
}

/// For the queues that start from here on: a front end that sends features while queues run sends
/// the same ones.
void BlkDevice::set_zoned(bool zoned) {
    const std::lock_guard lock(mutex_);
    settings_.geometry.zoned = zoned;
}

void BlkDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    BlkConfigSpace config = config_;
    if (negotiated_ && !agreed_.has(kZonedFeature)) {
        config.zoned = {};
    }
    config.writeback = write_back() ? 1 : 0;
    read_write_through_ = read_write_through_ || !write_back_wanted_;
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
    // The driver knows what it chose.
    keep_write_through_ = false;
    read_write_through_ = value == 0;
    update_write_through();
    return {};
}

Result<void> BlkDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t number = to_number(index);
    BlkSettings settings;
    std::shared_ptr<Image> image;
    std::shared_ptr<Image> next_image;
    {
        // What changes from here on comes as a task, which runs behind this one.
        const std::lock_guard lock(mutex_);
        workers_[number] = &worker;
        settings = settings_;
        image = image_;
        next_image = next_image_;
    }
    const uint32_t requests = BlkQueue::requests_for(queue);
    auto image_queue = OUTRIGGER_TRY(image->open_queue(worker, requests));
    auto created = std::make_unique<BlkQueue>(BlkQueue::Parts{.queue = queue,
                                                              .worker = worker,
                                                              .image = std::move(image_queue),
                                                              .settings = std::move(settings),
                                                              .shared = shared_,
                                                              .counters = counters_[number]});
    if (next_image != nullptr) {
        if (auto prepared = created->prepare_next_image(*next_image);
            !prepared && !refuse_next_image(next_image, prepared.error())) {
            return prepared;
        }
    }
    queues_[number] = std::move(created);
    return {};
}

/// A queue that starts meanwhile has no end of `next`: then the disk stays with the image that it
/// has, which the queue does have. False when the disk has already turned to it.
bool BlkDevice::refuse_next_image(const std::shared_ptr<Image>& next, const Error& reason) {
    const std::lock_guard lock(mutex_);
    if (next_image_ == next) {
        next_image_refusal_ = reason;
    }
    return image_ != next;
}

QueueProgress BlkDevice::process_queue(QueueIndex index) {
    return queues_[to_number(index)]->process();
}

void BlkDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    const uint16_t number = to_number(index);
    queues_[number]->stop(ending_queue(number, std::move(drained)));
}

void BlkDevice::suspend_queue(QueueIndex index, std::move_only_function<void()> drained) {
    const uint16_t number = to_number(index);
    queues_[number]->suspend(ending_queue(number, std::move(drained)));
}

std::move_only_function<void()> BlkDevice::ending_queue(uint16_t number,
                                                        std::move_only_function<void()> drained) {
    return [this, number, drained = std::move(drained)]() mutable {
        // What the queue has of this worker goes on this worker: the next run may be on another.
        // Not now, because the queue is on the stack; and before whatever follows on `drained`.
        Worker& worker = queues_[number]->worker();
        worker.post([this, number, ended = std::move(queues_[number])]() mutable {
            ended.reset();
            const std::lock_guard lock(mutex_);
            workers_[number] = nullptr;
        });
        drained();
    };
}

void BlkDevice::hurry_queue(QueueIndex index) {
    queues_[to_number(index)]->hurry();
}

void BlkDevice::use_memory(QueueIndex index, const std::shared_ptr<const MemorySnapshot>& memory) {
    // A queue that has called `drained` is gone, and the ring may not know yet.
    if (BlkQueue* const queue = queues_[to_number(index)].get()) {
        queue->use_memory(memory);
    }
}

void BlkDevice::on_suspended() {
    const std::lock_guard lock(mutex_);
    image_->rest();
    if (next_image_ != nullptr) {
        next_image_->rest();
    }
}

void BlkDevice::on_leaving() {
    const std::lock_guard lock(mutex_);
    image_->leave();
    if (next_image_ != nullptr) {
        next_image_->leave();
    }
}

void BlkDevice::reset() {
    // Nothing is held any more, and the next driver begins anew.
    shared_.stopped.store(false, std::memory_order_relaxed);
    shared_.stop_error.store(0, std::memory_order_relaxed);
    negotiated_ = false;
    agreed_ = FeatureSet();
    set_zoned(false);
    // QEMU keeps its own copy of the configuration space over a reset: it would go on to show the
    // 0 that a guest wrote, and a guest that believes in write-through does not flush. So a 0
    // stays.
    write_back_wanted_ = write_back_wanted_ && options_.write_back_at_reset;
    update_write_through();
}

}  // namespace outrigger::blk
