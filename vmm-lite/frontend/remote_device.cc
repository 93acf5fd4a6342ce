// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/remote_device.h"

#include <utility>

#include <fcntl.h>

#include "vhost-user-backend/base/log.h"

#include "vmm-lite/frontend/vring_base.h"

namespace outrigger::vmm {

RemoteDevice::RemoteDevice(EventLoop& loop, std::span<const MemoryRegion> memory, Options options)
    : loop_(loop),
      options_(std::move(options)),
      pause_(options_.reconnect.first_pause),
      self_(std::make_shared<RemoteDevice*>(this)) {
    for (const MemoryRegion& region : memory) {
        // Borrowed from the guest's memory, which outlives every device: no descriptor of our own.
        auto fd = duplicate(region.fd);
        memory_.push_back({.region = region, .fd = fd ? *std::move(fd) : share(UniqueFd())});
        if (memory_.back().fd->valid()) {
            memory_.back().region.fd = memory_.back().fd->get();
        }
    }
}

RemoteDevice::~RemoteDevice() = default;

void RemoteDevice::post(std::move_only_function<void(RemoteDevice&)> task) {
    loop_.post([self = std::weak_ptr<RemoteDevice*>(self_), task = std::move(task)]() mutable {
        if (const auto there = self.lock()) {
            task(**there);
        }
    });
}

// --- The configuration space ---------------------------------------------------------------------

void RemoteDevice::write_config(uint32_t at, std::span<const std::byte> in) {
    if (config_.write(at, in)) {
        post([](RemoteDevice& device) { device.tell_writes(); });
    }
}

/// One message at a time: what the driver writes meanwhile goes with the next.
void RemoteDevice::tell_writes() {
    if (link_ == nullptr || telling_ || phase_ == Phase::kAway || phase_ == Phase::kConnecting) {
        return;  // told when the next back end is there
    }
    auto write = config_.take_write();
    if (!write || !link_->offer().has_config) {
        return;
    }
    telling_ = std::move(write);
    link_->set_config(telling_->offset, telling_->bytes, [this](bool taken) {
        telling_.reset();
        if (!taken) {
            refresh_config();  // the driver shall see what holds
        }
        tell_writes();
    });
}

/// CONFIG_CHANGE_MSG, however often: one question at a time.
void RemoteDevice::refresh_config() {
    if (link_ == nullptr || !link_->offer().has_config) {
        return;
    }
    if (config_asked_) {
        config_stale_ = true;
        return;
    }
    config_asked_ = true;
    link_->get_config(config_.bytes(), [this](const std::vector<std::byte>& config) {
        config_asked_ = false;
        if (!config.empty()) {
            take_config(config);
        }
        if (std::exchange(config_stale_, false)) {
            refresh_config();
        }
    });
}

void RemoteDevice::take_config(const std::vector<std::byte>& config) {
    if (!config_.update(config)) {
        return;
    }
    // Posted: the observer may call us, and the link is on the stack.
    post([](RemoteDevice& device) {
        if (Observer* const observer = device.observer_; observer != nullptr) {
            observer->on_config_changed();
        }
    });
}

// --- Pause and migration -------------------------------------------------------------------------

void RemoteDevice::suspend(Done done) {
    switch (phase_) {
        case Phase::kStarting:
            on_suspended_ = std::move(done);
            return;
        case Phase::kRunning:
            on_suspended_ = std::move(done);
            stop_rings([this] { end_stop({}); });
            return;
        case Phase::kReady:
            suspended_ = true;
            done({});
            return;
        case Phase::kConnecting:
        case Phase::kStopping:
        case Phase::kAway:
        case Phase::kLost:
            done(failure(Error{.message = options_.name + ": cannot stop a device that is " +
                                          std::string(describe(phase_))}));
            return;
    }
}

void RemoteDevice::resume(Done done) {
    if (!std::exchange(suspended_, false) || !active_) {
        done({});
        return;
    }
    on_resumed_ = std::move(done);
    if (phase_ == Phase::kReady) {
        start_rings();
    } else if (phase_ == Phase::kLost) {
        std::exchange(on_resumed_,
                      nullptr)(failure(Error{.message = options_.name + ": its back end is gone"}));
    }
}

void RemoteDevice::save_state(OnState done) {
    const bool able = link_ != nullptr && link_->offer().has(wire::ProtocolFeature::kDeviceState);
    if (phase_ != Phase::kReady || !able || transfer_ != nullptr) {
        done(failure(Error{.message = options_.name +
                                      (able ? ": is not suspended" : ": cannot give its state")}));
        return;
    }
    transfer_ = std::make_unique<StateTransfer>(
        loop_,
        link_->channel(),
        options_.deadlines,
        [self = std::weak_ptr<RemoteDevice*>(self_),
         done = std::move(done)](Result<std::vector<std::byte>> state) mutable {
            if (const auto there = self.lock()) {
                (*there)->transfer_.reset();
                done(std::move(state));
            }
        });
    transfer_->save();
}

void RemoteDevice::load_state(std::vector<std::byte> state, Done done) {
    const bool able = link_ != nullptr && link_->offer().has(wire::ProtocolFeature::kDeviceState);
    if (phase_ != Phase::kReady || !able || transfer_ != nullptr) {
        done(failure(Error{.message = options_.name +
                                      (able ? ": is not suspended" : ": cannot take a state")}));
        return;
    }
    transfer_ = std::make_unique<StateTransfer>(
        loop_,
        link_->channel(),
        options_.deadlines,
        [self = std::weak_ptr<RemoteDevice*>(self_),
         done = std::move(done)](Result<std::vector<std::byte>> loaded) mutable {
            if (const auto there = self.lock()) {
                (*there)->transfer_.reset();
                done(loaded ? Result<void>{} : failure(std::move(loaded).error()));
            }
        });
    transfer_->load(std::move(state));
}

std::vector<RingStart> RemoteDevice::ring_addresses() const {
    std::vector<RingStart> rings;
    std::vector<MemoryRegion> memory;
    for (const SharedRegion& shared : memory_) {
        memory.push_back(shared.region);
    }
    const auto address = [&](GuestAddr guest) {
        const Place place = find_place(memory, guest, 1);
        return place.region != nullptr ? place.region->frontend_address + place.offset : 0;
    };
    for (const auto& [index, ring] : active_->rings) {
        rings.push_back({.index = index,
                         .size = ring.setup.size,
                         .descriptors = address(ring.setup.descriptors),
                         .driver = address(ring.setup.driver),
                         .device = address(ring.setup.device),
                         .device_guest_address = ring.setup.device});
    }
    return rings;
}

void RemoteDevice::set_log(std::optional<DirtyLog> log, Done done) {
    const bool able = first_offer_known_ && first_offer_.has(wire::ProtocolFeature::kLogShmfd) &&
                      first_offer_.backend_features.has(wire::kLogAllBit);
    if (log && !able) {
        done(failure(Error{.message = options_.name + ": cannot log what it writes"}));
        return;
    }
    log_ = std::move(log);
    if (phase_ != Phase::kRunning) {
        done({});  // with the next start
        return;
    }
    link_->set_log(log_, active_->features, ring_addresses(), [done = std::move(done)]() mutable {
        done({});
    });
}

RemoteDevice::Status RemoteDevice::status() const {
    const bool running = phase_ == Phase::kRunning && active_;
    return {.name = options_.name,
            .kind = std::string(options_.kind.name),
            .source = options_.source->describe(),
            .phase = phase_,
            .queues_running = static_cast<uint16_t>(running ? active_->rings.size() : 0),
            .losses = losses_,
            .last_loss = last_loss_};
}

}  // namespace outrigger::vmm
