// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/vsock_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

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

}  // namespace

VsockDevice::VsockDevice(const VsockOptions& options, std::unique_ptr<VsockEngine> engine)
    : guest_cid_(options.guest_cid), engine_(std::move(engine)) {}

DeviceIdentity VsockDevice::identity() const {
    return {.virtio_id = kVirtioIdVsock,
            .name = "vsock",
            .queue_count = kQueueCount,
            .config_bytes = sizeof(Le64),
            .one_worker = true};
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
    const Le64 cid = guest_cid_;
    const auto bytes = std::as_bytes(std::span(&cid, 1));
    std::ranges::copy(bytes.subspan(static_cast<size_t>(at), out.size()), out.begin());
}

/// A driver that has begun anew, without a reset that we were told of (a front end may stop and
/// start the rings of a machine that reboots, and say no more), has a ring at its beginning where
/// one had run.
bool VsockDevice::is_of_new_driver(QueueIndex index, const Virtqueue& queue) const {
    const uint32_t fresh = queue.config().packed ? kFreshPacked : kFreshSplit;
    return has_run_[to_number(index)] && queue.base().raw == fresh;
}

Result<void> VsockDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t number = to_number(index);
    if (running_ == 0) {
        if (is_of_new_driver(index, queue)) {
            forget_connections();
            has_run_ = {};
        } else if (!has_run_[number] && queue.base().raw != kFreshSplit &&
                   queue.base().raw != kFreshPacked) {
            // Another process served this driver before, and its connections are gone.
            reset_is_due_ = true;
        }
        engine_->attach(worker.loop());
    }
    ++running_;
    queues_[number] = &queue;
    has_run_[number] = true;
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
    return {};
}

QueueProgress VsockDevice::process_queue(QueueIndex index) {
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
    if (!reset_is_due_) {
        return QueueProgress::kWaiting;
    }
    std::optional<DescriptorChain> chain = queue.pop();
    if (!chain) {
        return QueueProgress::kDrained;
    }
    ChainWriter writer = chain->take_writer();
    const size_t written = writer.write(std::as_bytes(std::span(&kTransportReset, 1)));
    chain->complete(static_cast<uint32_t>(written));
    reset_is_due_ = false;
    engine_->note_transport_reset();
    return QueueProgress::kWaiting;
}

void VsockDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    const uint16_t number = to_number(index);
    switch (number) {
        case kReceive:
            engine_->set_receive_queue(nullptr);
            break;
        case kTransmit:
            engine_->set_transmit_queue(nullptr);
            break;
        default:
            break;
    }
    queues_[number] = nullptr;
    if (--running_ == 0) {
        engine_->detach();
    }
    // No chain is ever held between two calls of process_queue().
    drained();
}

void VsockDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    has_frontend_ = frontend != nullptr;
}

/// Closes them on the host. A guest that has not rebooted after all (QEMU also resets the device
/// when it pauses a machine) is told of each when its rings run again; one that has does not know
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
    has_run_ = {};
    reset_is_due_ = false;
    stream_ = true;
    seqpacket_ = false;
}

Result<void> VsockDevice::keep_memory(KeptMemory& memory) {
    const UniqueFd fd = OUTRIGGER_TRY(memory.keep("connections", engine_->kept_bytes()));
    return engine_->keep_connections(fd.get());
}

std::span<const StateSectionKind> VsockDevice::state_sections() const {
    return kVsockSections;
}

Result<std::vector<StateSection>> VsockDevice::save_state() const {
    return write_vsock_state({.guest_cid = guest_cid_,
                              .next_port = engine_->next_port(),
                              .connections = engine_->open_keys()});
}

Result<void> VsockDevice::load_state(std::span<const StateSection> sections) {
    const VsockState state = OUTRIGGER_TRY(read_vsock_state(sections));
    if (state.guest_cid != guest_cid_) {
        return failure(Error{.message = "the guest's CID was " + std::to_string(state.guest_cid) +
                                        ", and is " + std::to_string(guest_cid_) + " here"});
    }
    engine_->forget_guest();
    engine_->set_next_port(state.next_port);
    engine_->reset_later(state.connections);
    reset_is_due_ = true;
    return {};
}

}  // namespace outrigger::vsock
