// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "devices/vsock/keeping.h"
#include "devices/vsock/vsock_state.h"

namespace outrigger::vsock {
namespace {

constexpr uint32_t kVirtioIdVsock = 19;

// VIRTIO 1.3, 5.10.3.
constexpr unsigned kStreamBit = 0;
constexpr unsigned kSeqpacketBit = 1;
constexpr unsigned kNoImpliedStreamBit = 2;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
constexpr Le32 kTransportReset = 0;

/// What SET_VRING_BASE says of a ring that its driver has just made. Packed: both wrap counters are
/// 1 and both positions 0.
constexpr uint32_t kFreshSplit = 0;
constexpr uint32_t kFreshPacked = 0x8000'8000;

/// How long packets of new connections wait for the event queue to start, where the driver is to be
/// told by it that the old ones are gone: front ends start queues one after the other.
constexpr auto kEventQueueGrace = std::chrono::milliseconds(100);

constexpr uint32_t has_run(uint16_t queue) {
    return kNumberHasRun << queue;
}

constexpr uint32_t runs(uint16_t queue) {
    return kNumberRuns << queue;
}

}  // namespace

Result<void> VsockDevice::open(DeviceKeeper* keeper) {
    Keeping keeping = OUTRIGGER_TRY(open_keeping(options_, keeper));
    HostListeners listeners = OUTRIGGER_TRY(open_listeners(options_, keeper));
    engine_ =
        OUTRIGGER_TRY(VsockEngine::create(options_, std::move(listeners), std::move(keeping)));
    return {};
}

DeviceIdentity VsockDevice::identity() const {
    return {.virtio_id = kVirtioIdVsock,
            .name = "vsock",
            .queue_count = kQueueCount,
            .config_bytes = sizeof(Le64),
            .one_worker = true};
}

DeviceAbilities VsockDevice::abilities() const {
    return {.keeps_itself = true};
}

FeatureSet VsockDevice::offered_features() const {
    return FeatureSet::of({kStreamBit, kSeqpacketBit, kNoImpliedStreamBit});
}

void VsockDevice::on_negotiated(FeatureSet agreed) {
    // VIRTIO 1.3, 5.10.3.2: a driver that takes none of the bits has stream sockets, as before
    // there were any.
    stream_ = agreed.has(kStreamBit) || !agreed.has(kNoImpliedStreamBit);
    seqpacket_ = agreed.has(kSeqpacketBit);
}

void VsockDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    const Le64 cid = options_.guest_cid;
    const auto bytes = std::as_bytes(std::span(&cid, 1));
    std::ranges::copy(bytes.subspan(static_cast<size_t>(at), out.size()), out.begin());
}

/// A driver that has begun anew, without a reset that we were told of (a front end may stop and
/// start the rings of a machine that reboots, and say no more), has a ring at its beginning where
/// one had run and did not stand there when it was stopped, if by another process: positions come
/// round. (If a machine reboots just then, its new driver answers packets of the connections before
/// by RST.)
bool VsockDevice::is_of_new_driver(QueueIndex index, const Virtqueue& queue) const {
    const uint32_t fresh = queue.config().packed ? kFreshPacked : kFreshSplit;
    const uint16_t number = to_number(index);
    return engine_->has_flag(has_run(number)) && queue.base().raw == fresh &&
           engine_->stopped_at(number) != fresh;
}

/// Is the first queue that starts another driver's, or has the driver connections that are gone?
/// (The event queue cannot tell: it stands at its beginning until there is an event.)
void VsockDevice::look_for_new_driver(QueueIndex index, const Virtqueue& queue) {
    if (engine_->has_flag(runs(to_number(index)))) {
        return;  // a process was killed while it ran
    }
    if (is_of_new_driver(index, queue)) {
        forget_connections();
        forget_runs();
    } else if (!engine_->has_flag(has_run(to_number(index))) && queue.base().raw != kFreshSplit &&
               queue.base().raw != kFreshPacked) {
        // Another process served this driver before, and its connections are gone.
        engine_->set_flag(kNumberResetIsDue, true);
    }
}

void VsockDevice::forget_runs() {
    for (uint16_t number = 0; number < kQueueCount; ++number) {
        engine_->set_flag(has_run(number), false);
    }
}

Result<void> VsockDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t number = to_number(index);
    if (number != kEvent && !carries_packets()) {
        look_for_new_driver(index, queue);
        engine_->attach(worker.loop());
    }
    note_event_published();
    queues_[number] = &queue;
    engine_->set_flag(has_run(number) | runs(number), true);
    engine_->set_types({.stream = stream_, .seqpacket = seqpacket_});
    switch (number) {
        case kReceive:
            engine_->set_receive_queue(&queue);
            break;
        case kTransmit:
            engine_->set_transmit_queue(&queue);
            break;
        default:
            break;
    }
    if (engine_->has_flag(kNumberResetIsDue) && carries_packets()) {
        // Not every front end has us run the event queue: then the guest finds out by itself.
        const bool has_events = queues_[kEvent] != nullptr;
        engine_->hold_news(has_events ? options_.event_timeout : kEventQueueGrace);
        if (has_events) {
            queues_[kEvent]->request_processing();
        }
    }
    return {};
}

bool VsockDevice::carries_packets() const {
    return queues_[kReceive] != nullptr || queues_[kTransmit] != nullptr;
}

/// The worker publishes what a queue has completed before it looks at another one, or stops it. A
/// process that is killed before that leaves an event that is still to be sent: into the same
/// buffer, which the driver has not had back.
void VsockDevice::note_event_published() {
    if (std::exchange(event_is_sent_, false)) {
        engine_->set_flag(kNumberResetIsDue, false);
    }
}

QueueProgress VsockDevice::process_queue(QueueIndex index) {
    note_event_published();
    switch (to_number(index)) {
        case kReceive:
            return engine_->fill_receive_queue();
        case kTransmit:
            return engine_->take_transmit_queue();
        default:
            return send_events();
    }
}

/// Buffers of the event queue stay where they are until there is news: that all connections are
/// gone, and the CID is to be read again. VIRTIO 1.3, 5.10.6.7.
QueueProgress VsockDevice::send_events() {
    Virtqueue& queue = *queues_[kEvent];
    if (queue.is_ending()) [[unlikely]] {
        while (std::optional<DescriptorChain> chain = queue.pop()) {
            chain->complete(0);
        }
        return QueueProgress::kDrained;
    }
    if (!engine_->has_flag(kNumberResetIsDue) || !carries_packets()) {
        return QueueProgress::kWaiting;
    }
    std::optional<DescriptorChain> chain = queue.pop();
    if (!chain) {
        return QueueProgress::kDrained;
    }
    ChainWriter writer = chain->take_writer();
    const size_t written = writer.write(std::as_bytes(std::span(&kTransportReset, 1)));
    chain->complete(static_cast<uint32_t>(written));
    event_is_sent_ = true;
    engine_->note_transport_reset();
    // Linux takes in the event and its packets in any order, and ends all connections that are
    // there by then: those of packets that came after the event, too. It gives the buffer back when
    // that is done.
    engine_->hold_news(options_.event_timeout, [this, before = queue.available_count()] {
        return queues_[kEvent] == nullptr || queues_[kEvent]->available_count() > before;
    });
    return QueueProgress::kWaiting;
}

void VsockDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    note_event_published();
    const uint16_t number = to_number(index);
    switch (number) {
        case kReceive:
            engine_->set_receive_queue(nullptr);
            break;
        case kTransmit:
            engine_->set_transmit_queue(nullptr);
            break;
        default:
            if (carries_packets()) {
                engine_->release_news();
            }
            break;
    }
    engine_->note_stopped(number, queues_[number]->base().raw);
    queues_[number] = nullptr;
    if (number != kEvent && !carries_packets()) {
        engine_->detach();
    }
    // No chain is ever held between two calls of process_queue().
    drained();
}

void VsockDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    has_frontend_ = frontend != nullptr;
}

/// Closes them on the host. A guest that has not rebooted after all (it is for the front end to say
/// when a device is reset) is told of each when its rings run again; one that has does not know
/// them, and takes no notice.
void VsockDevice::forget_connections() {
    const std::vector<ConnectionKey> keys = engine_->open_keys();
    engine_->forget_guest();
    if (has_frontend_) {
        engine_->reset_later(keys);
    }
}

void VsockDevice::reset() {
    forget_connections();
    forget_runs();
    engine_->set_flag(kNumberResetIsDue, false);
    for (uint16_t number = 0; number < kQueueCount; ++number) {
        if (queues_[number] == nullptr) {
            engine_->set_flag(runs(number), false);
        }
    }
    stream_ = true;
    seqpacket_ = false;
}

std::span<const StateSectionKind> VsockDevice::state_sections() const {
    return kVsockSections;
}

Result<std::vector<StateSection>> VsockDevice::save_state() const {
    return write_vsock_state({.guest_cid = options_.guest_cid,
                              .next_port = engine_->next_port(),
                              .connections = engine_->open_keys()});
}

Result<void> VsockDevice::load_state(std::span<const StateSection> sections) {
    const VsockState state = OUTRIGGER_TRY(read_vsock_state(sections));
    if (state.guest_cid != options_.guest_cid) {
        return failure(Error{.message = "the guest's CID was " + std::to_string(state.guest_cid) +
                                        ", and is " + std::to_string(options_.guest_cid) +
                                        " here"});
    }
    if (state.connections.size() > engine_->reset_later_max()) {
        return failure(Error{
            .message = "the guest has " + std::to_string(state.connections.size()) +
                       " connections, which are more than it can be told here "
                       "that they are gone (" +
                       std::to_string(engine_->reset_later_max()) + "): raise --max-connections"});
    }
    engine_->forget_guest();
    engine_->set_next_port(state.next_port);
    engine_->reset_later(state.connections);
    engine_->set_flag(kNumberResetIsDue, true);
    return {};
}

}  // namespace outrigger::vsock
