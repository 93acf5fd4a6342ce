// SPDX-License-Identifier: Apache-2.0
// What the driver does with the device: starts its rings, changes their calls, resets it.
#include <algorithm>
#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"

#include "vmm-lite/frontend/remote_device.h"
#include "vmm-lite/frontend/vring_base.h"

namespace outrigger::vmm {
namespace {

/// How long the three areas of a ring are. VIRTIO 1.3, 2.7 and 2.8.
struct AreaBytes {
    uint64_t descriptors;
    uint64_t driver;
    uint64_t device;
};

constexpr AreaBytes area_bytes(uint64_t size, bool packed) {
    return packed ? AreaBytes{.descriptors = 16 * size, .driver = 4, .device = 4}
                  : AreaBytes{
                        .descriptors = 16 * size, .driver = 6 + 2 * size, .device = 6 + 8 * size};
}

void signal(const SharedFd& fd) {
    // A full eventfd is signalled already; one that is gone has nobody who would miss it.
    (void)send_notification(fd->get());
}

}  // namespace

bool RemoteDevice::packed() const {
    return active_ && active_->features.has(kRingPackedBit);
}

// --- Of any thread -------------------------------------------------------------------------------

void RemoteDevice::activate(uint64_t agreed_features,
                            std::span<const std::optional<QueueSetup>> queues) {
    // What is only ours to serve, like the address of a network device, is not the back end's.
    Activation activation{.features = FeatureSet(agreed_features) & first_offer_.backend_features};
    Result<void> complete;
    for (uint16_t index = 0; index < queues.size() && index < queue_count() && complete; ++index) {
        const auto& setup = queues[index];
        if (!setup) {
            continue;
        }
        auto kick = duplicate(setup->kick_fd);
        auto call = duplicate(setup->call_fd);
        auto error = platform::open_eventfd();
        if (!kick || !call || !error.valid()) {
            complete = failure(error_from_errno("cannot duplicate the descriptors of a queue"));
            break;
        }
        activation.rings[index] = ActiveRing{.setup = *setup,
                                             .kick = *std::move(kick),
                                             .call = *std::move(call),
                                             .error = share(std::move(error))};
    }
    {
        const std::lock_guard lock(calls_mutex_);
        activation.generation = pending_calls_.generation + 1;
        pending_calls_ = PendingCalls{.generation = activation.generation};
    }
    post([activation = std::move(activation),
          complete = std::move(complete)](RemoteDevice& device) mutable {
        device.begin_activation(std::move(activation));
        if (!complete) {
            device.tell_needs_reset(complete.error().message);
        }
    });
}

void RemoteDevice::set_call(uint16_t queue, int call_fd) {
    auto call = duplicate(call_fd);
    if (!call) {
        post([why = call.error().message](RemoteDevice& device) { device.tell_needs_reset(why); });
        return;
    }
    const std::lock_guard lock(calls_mutex_);
    // However often a driver changes a vector before the loop looks, it is told once.
    pending_calls_.calls[queue] = *std::move(call);
    if (!std::exchange(pending_calls_.posted, true)) {
        post([generation = pending_calls_.generation](RemoteDevice& device) {
            device.apply_calls(generation);
        });
    }
}

void RemoteDevice::reset(std::move_only_function<void()> done) {
    post([done = std::move(done)](RemoteDevice& device) mutable {
        device.begin_reset(std::move(done));
    });
}

// --- Of the loop's thread ------------------------------------------------------------------------

void RemoteDevice::begin_activation(Activation activation) {
    active_ = std::move(activation);
    for (auto& [index, ring] : active_->rings) {
        ring.base = packed() ? kFreshPackedBase : kFreshSplitBase;
        if (auto watched = watch_errors(index, ring); !watched) {
            tell_needs_reset(watched.error().message);
            return;
        }
    }
    switch (phase_) {
        case Phase::kReady:
            if (!suspended_) {
                start_rings();
            }
            return;
        case Phase::kLost:
            tell_needs_reset("its back end is gone");
            return;
        case Phase::kConnecting:
        case Phase::kAway:  // started when the next back end is there
        case Phase::kStarting:
        case Phase::kRunning:
        case Phase::kStopping:
            return;
    }
}

Result<void> RemoteDevice::watch_errors(uint16_t index, ActiveRing& ring) {
    const int fd = ring.error->get();
    ring.error_watch = OUTRIGGER_TRY(loop_.watch(fd, [this, index, fd] {
        (void)drain_notification(fd);
        tell_needs_reset("queue " + std::to_string(index) + " is in error");
        // Said once; a back end could keep us busy with it.
        if (const auto broken = active_->rings.find(index); broken != active_->rings.end()) {
            broken->second.error_watch = {};
        }
    }));
    return {};
}

Result<uint32_t> RemoteDevice::base_of(uint16_t index, const ActiveRing& ring) const {
    if (ring.base) {
        return *ring.base;
    }
    std::vector<MemoryRegion> memory;
    for (const SharedRegion& shared : memory_) {
        memory.push_back(shared.region);
    }
    if (!packed()) {
        return split_base_after_loss(memory, ring.setup.device);
    }
    if (active_->inflight == nullptr) {
        return failure(Error{.message = "its back end kept no in-flight buffer: nobody knows where "
                                        "its packed rings are"});
    }
    return packed_base_after_loss({.memory = memory,
                                   .descriptor_ring = ring.setup.descriptors,
                                   .size = ring.setup.size,
                                   .inflight_fd = active_->inflight->fd->get(),
                                   .offset = active_->inflight->offset_of(index)});
}

Result<std::vector<RingStart>> RemoteDevice::plan_rings() {
    std::vector<MemoryRegion> memory;
    for (const SharedRegion& shared : memory_) {
        memory.push_back(shared.region);
    }
    std::vector<RingStart> rings;
    for (const auto& [index, ring] : active_->rings) {
        const AreaBytes bytes = area_bytes(ring.setup.size, packed());
        const Place descriptors = find_place(memory, ring.setup.descriptors, bytes.descriptors);
        const Place driver = find_place(memory, ring.setup.driver, bytes.driver);
        const Place device = find_place(memory, ring.setup.device, bytes.device);
        if (ring.setup.size == 0 || descriptors.region == nullptr || driver.region == nullptr ||
            device.region == nullptr) {
            return failure(Error{.message = "queue " + std::to_string(index) +
                                            " does not lie in the guest's memory"});
        }
        rings.push_back({.index = index,
                         .size = ring.setup.size,
                         .descriptors = descriptors.region->frontend_address + descriptors.offset,
                         .driver = driver.region->frontend_address + driver.offset,
                         .device = device.region->frontend_address + device.offset,
                         .device_guest_address = ring.setup.device,
                         .base = OUTRIGGER_TRY(base_of(index, ring)),
                         .kick = ring.kick,
                         .call = ring.call,
                         .error = ring.error});
    }
    return rings;
}

void RemoteDevice::start_rings() {
    auto rings = plan_rings();
    if (!rings) {
        tell_needs_reset(rings.error().message);
        settle();
        if (on_resumed_) {
            std::exchange(on_resumed_, nullptr)(failure(
                Error{.message = options_.name + " cannot go on: " + rings.error().message}));
        }
        return;
    }
    uint16_t largest = 0;
    const bool resumed = std::exchange(active_->started, true);
    for (auto& [index, ring] : active_->rings) {
        largest = std::max(largest, ring.setup.size);
        // From its start until it says where it stopped, only the ring itself tells where it is.
        ring.base.reset();
        ring.told_call = ring.call;
        ring.telling_call = false;
    }
    phase_ = Phase::kStarting;
    link_->start({.features = active_->features,
                  .rings = *std::move(rings),
                  .inflight = active_->inflight,
                  .queue_size_max = largest,
                  .on_inflight =
                      [this](std::shared_ptr<InflightTable> inflight) {
                          active_->inflight = std::move(inflight);
                      },
                  .log = log_},
                 memory_,
                 [this, resumed] { on_started(resumed); });
}

void RemoteDevice::on_started(bool resumed) {
    phase_ = Phase::kRunning;
    for (auto& [index, ring] : active_->rings) {
        // Requests that came before the start are looked for by some back ends only when they are
        // kicked; and a kick or a call that the last back end took may have died with it.
        signal(ring.kick);
        if (resumed) {
            signal(ring.call);
        }
        tell_call(index, ring);
    }
    settle();
    if (on_resumed_) {
        std::exchange(on_resumed_, nullptr)({});
    }
    // What came while the rings were starting.
    if (!on_reset_.empty()) {
        begin_reset(nullptr);
    } else if (on_suspended_) {
        suspend(std::exchange(on_suspended_, nullptr));
    }
}

void RemoteDevice::stop_rings(std::move_only_function<void()> then) {
    phase_ = Phase::kStopping;
    std::vector<uint16_t> indices;
    for (const auto& [index, ring] : active_->rings) {
        indices.push_back(index);
    }
    link_->stop(indices,
                packed(),
                [this, indices, then = std::move(then)](std::vector<uint32_t> bases) mutable {
                    for (size_t i = 0; i < indices.size(); ++i) {
                        active_->rings.at(indices[i]).base = bases[i];
                    }
                    then();
                });
}

/// `done` may be null: then somebody waits already.
void RemoteDevice::begin_reset(std::move_only_function<void()> done) {
    if (done) {
        on_reset_.push_back(std::move(done));
    }
    switch (phase_) {
        case Phase::kConnecting:
        case Phase::kAway:
            if (leave_ == nullptr) {
                end_reset();
            }
            return;
        case Phase::kStarting:  // when it is done
        case Phase::kStopping:
            return;
        case Phase::kLost:
            // The driver begins anew, and so do we.
            end_reset();
            if (first_offer_known_ && options_.source->can_reopen()) {
                phase_ = Phase::kAway;
                away_total_ = {};
                away_since_ = EventLoop::Clock::now();
                pause_ = options_.reconnect.first_pause;
                look_again("the driver has reset the device");
            }
            return;
        case Phase::kReady:
            phase_ = Phase::kStopping;
            link_->reset_device([this] { end_stop({}); });
            return;
        case Phase::kRunning:
            stop_rings([this] { link_->reset_device([this] { end_stop({}); }); });
            return;
    }
}

/// The driver's reset is over: nothing of what it had set up is left.
void RemoteDevice::end_reset() {
    windows_.unmap_all();
    active_.reset();
    config_.forget_driver();
    if (phase_ == Phase::kReady) {
        refresh_config();
    }
    if (on_resumed_) {
        std::exchange(on_resumed_, nullptr)({});  // nothing is left that could
    }
    for (auto& done : std::exchange(on_reset_, {})) {
        done();
    }
}

/// The rings have stopped, or there is nobody any more who would serve them.
void RemoteDevice::end_stop(Result<void> result) {
    if (phase_ == Phase::kStopping) {
        phase_ = Phase::kReady;
    }
    const bool was_suspension = static_cast<bool>(on_suspended_);
    if (was_suspension) {
        suspended_ = result.has_value();
        std::exchange(on_suspended_, nullptr)(std::move(result));
    }
    if (on_reset_.empty() || leave_ != nullptr) {
        return;  // on_let_go() ends it
    }
    if (was_suspension && phase_ == Phase::kReady) {
        begin_reset(nullptr);  // the back end has heard of the first only
    } else {
        end_reset();
    }
}

void RemoteDevice::apply_calls(uint64_t generation) {
    std::map<uint16_t, SharedFd> calls;
    {
        const std::lock_guard lock(calls_mutex_);
        if (pending_calls_.generation != generation) {
            return;  // of rings that are gone
        }
        calls = std::exchange(pending_calls_.calls, {});
        pending_calls_.posted = false;
    }
    if (!active_ || active_->generation != generation) {
        return;
    }
    for (auto& [index, call] : calls) {
        apply_call(index, std::move(call));
    }
}

void RemoteDevice::apply_call(uint16_t index, SharedFd call) {
    const auto ring = active_->rings.find(index);
    if (ring != active_->rings.end()) {
        ring->second.call = std::move(call);
        tell_call(index, ring->second);
    }
}

/// One at a time for each ring: a driver changes its vectors faster than any back end takes them.
/// Not while the ring starts: the start would say the old one behind it.
void RemoteDevice::tell_call(uint16_t index, ActiveRing& ring) {
    if (phase_ != Phase::kRunning || ring.telling_call || ring.call == ring.told_call) {
        return;  // told when it starts, when it has started, or behind the one on its way
    }
    ring.telling_call = true;
    ring.told_call = ring.call;
    link_->set_call(index, ring.call, [this, index, generation = active_->generation] {
        if (!active_ || active_->generation != generation) {
            return;
        }
        ActiveRing& told = active_->rings.at(index);
        told.telling_call = false;
        // A call that the back end made to the old descriptor while this one was on its way is seen
        // by nobody. One too many is not.
        signal(told.told_call);
        tell_call(index, told);
    });
}

void RemoteDevice::tell_needs_reset(const std::string& why) {
    if (!active_ || std::exchange(active_->told_needs_reset, true)) {
        return;
    }
    resets_needed_.log(LogLevel::kError, "{}: needs a reset by its driver: {}", options_.name, why);
    if (Observer* const observer = observer_; observer != nullptr) {
        observer->on_needs_reset();
    }
}

}  // namespace outrigger::vmm
