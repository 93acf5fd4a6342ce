// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

constexpr uint32_t kVirtioIdNet = 1;

/// Frames before the worker's other queues have their turn.
constexpr size_t kBatch = 64;

constexpr size_t kFetchedTogether = 8;

/// False: there are fewer bytes. Into `header`, and not as a result: for each copy of what was just
/// stored in other pieces the processor would wait.
[[nodiscard]] bool read_header(ChainReader& reader, size_t header_bytes, VnetHeader& header) {
    if (header_bytes == sizeof(header)) [[likely]] {
        return reader.read_object_to(header);
    }
    const auto bytes = std::as_writable_bytes(std::span(&header, 1)).first(header_bytes);
    return reader.read(bytes) == header_bytes;
}

}  // namespace

NetDevice::NetDevice(const NetOptions& options,
                     std::unique_ptr<Port> port,
                     Mapping kept,
                     std::unique_ptr<Capture> capture,
                     std::unique_ptr<PortPolicy> policy)
    : options_(options),
      capture_(std::move(capture)),
      policy_(std::move(policy)),
      port_(std::move(port)),
      mtu_(options.mtu),
      kept_(std::move(kept)),
      rings_(size_t{2} * options.queue_pairs + 1),
      transmit_(options.queue_pairs),
      receive_(options.queue_pairs),
      batch_(port_->takes()) {
    recall_settings();
}

DeviceIdentity NetDevice::identity() const {
    return {.virtio_id = kVirtioIdNet,
            .name = "net",
            .queue_count = static_cast<uint16_t>(2 * options_.queue_pairs + 1),
            .config_bytes = kConfigBytes,
            .one_worker = true,
            .serves_disabled = true};
}

DeviceAbilities NetDevice::abilities() const {
    return {.takes_mtu = true, .announces = true, .keeps_itself = kept_.size() > 0};
}

/// Whatever the port cannot do is done here, so the offer does not depend on it. Most front ends
/// have the control queue themselves, and take what belongs to it from this offer.
FeatureSet NetDevice::offered_features() const {
    FeatureSet offer =
        FeatureSet::of({kChecksumBit,        kGuestChecksumBit,  kMtuBit,
                        kGuestTcp4Bit,       kGuestTcp6Bit,      kGuestEcnBit,
                        kHostTcp4Bit,        kHostTcp6Bit,       kHostEcnBit,
                        kMergedBuffersBit,   kStatusBit,         kControlQueueBit,
                        kControlOffloadsBit, kControlReceiveBit, kControlReceiveExtraBit,
                        kControlVlanBit,     kControlStationBit, kGuestAnnounceBit,
                        kGuestUdp4Bit,       kGuestUdp6Bit,      kHostUdpBit,
                        kGuestFragmentsBit,  kHostFragmentsBit});
    if (options_.mac) {
        offer = offer.with(kMacBit);
    }
    if (options_.queue_pairs > 1) {
        offer = offer.with(kQueuePairsBit);
    }
    return offer;
}

void NetDevice::on_negotiated(FeatureSet agreed) {
    agreed_ = agreed.bits();
}

// --- Queues ------------------------------------------------------------------------------------

void NetDevice::note_started(Worker& worker) {
    if (running_++ == 0) {
        {
            const std::lock_guard lock(worker_mutex_);
            worker_ = &worker;
        }
        port_->set_guest(guest_offloads());
        port_->attach(worker.loop(), *this);
        send_announcement();
    }
}

void NetDevice::note_stopped() {
    if (--running_ == 0) {
        port_->detach();
        looking_again_.cancel();
        giving_up_.cancel();
        has_finished_ = false;
        segmenter_ = {};
        flows_.clear();
    }
}

NetDevice::Role NetDevice::role_of(QueueIndex index) const {
    const FeatureSet agreed(agreed_);
    const size_t pairs = agreed.has(kQueuePairsBit) ? options_.queue_pairs : 1;
    const size_t number = to_number(index);
    if (agreed.has(kControlQueueBit) && number == 2 * pairs) {
        return Role::kControl;
    }
    if (number >= size_t{2} * options_.queue_pairs) {
        return Role::kNone;
    }
    return number % 2 == 0 ? Role::kReceive : Role::kTransmit;
}

Result<void> NetDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t pair = to_number(index) / 2;
    const FeatureSet agreed(agreed_);
    const VirtqueueConfig& config = queue.config();
    // VIRTIO 1.3, 5.1.6.1: legacy drivers have no num_buffers unless they merge buffers.
    const bool merges = agreed.has(kMergedBuffersBit);
    const size_t header_bytes =
        config.version_1 || config.packed || merges ? kVnetHeaderBytes : kLegacyHeaderBytes;
    const Role role = role_of(index);
    rings_[to_number(index)] = {.role = role, .queue = &queue};
    switch (role) {
        case Role::kReceive:
            note_started(worker);
            receive_[pair].start(queue,
                                 {.merges = merges,
                                  .header_bytes = header_bytes,
                                  .checksums = guest_offloads().checksum});
            break;
        case Role::kTransmit:
            note_started(worker);
            transmit_[pair] = {.ring = &queue, .header_bytes = header_bytes};
            break;
        case Role::kControl:
            ++control_rings_;
            ask_for_announcement();
            break;
        case Role::kNone:
            break;
    }
    return {};
}

QueueProgress NetDevice::process_queue(QueueIndex index) {
    const uint16_t pair = to_number(index) / 2;
    const Ring& ring = rings_[to_number(index)];
    switch (ring.role) {
        case Role::kReceive:
            return receive(pair);
        case Role::kTransmit:
            return transmit(pair);
        case Role::kControl:
            return obey_all(*ring.queue);
        case Role::kNone:
            return ignore(*ring.queue);
    }
    return QueueProgress::kWaiting;
}

void NetDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    leave_queue(index, false);
    drained();
}

void NetDevice::suspend_queue(QueueIndex index, std::move_only_function<void()> drained) {
    leave_queue(index, true);
    drained();
}

void NetDevice::leave_queue(QueueIndex index, bool set_aside) {
    const uint16_t pair = to_number(index) / 2;
    switch (std::exchange(rings_[to_number(index)], {}).role) {
        case Role::kReceive:
            if (set_aside) {
                receive_[pair].suspend();
            } else {
                receive_[pair].stop();
            }
            note_stopped();
            break;
        case Role::kTransmit:
            leave_transmit(pair, set_aside);
            note_stopped();
            break;
        case Role::kControl:
            --control_rings_;
            break;
        case Role::kNone:
            break;
    }
}

void NetDevice::hurry_queue(QueueIndex index) {
    const uint16_t pair = to_number(index) / 2;
    const Role role = rings_[to_number(index)].role;
    if (role == Role::kReceive) {
        receive_[pair].return_gathered();
    } else if (role == Role::kTransmit) {
        const size_t lost = batch_.remove(pair, false);
        counters_.dropped_from_guest.add(DropReason::kRingStopped, lost);
    }
}

/// A ring that no feature speaks of. What an earlier process had in hand is answered.
QueueProgress NetDevice::ignore(Virtqueue& ring) {
    while (ring.is_ending()) {
        std::optional<DescriptorChain> chain = ring.pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        chain->complete(0);
    }
    return QueueProgress::kWaiting;
}

/// What the port takes now still goes.
void NetDevice::leave_transmit(uint16_t pair, bool set_aside) {
    (void)batch_.send_to(*port_);
    const size_t lost = batch_.remove(pair, set_aside);
    counters_.dropped_from_guest.add(DropReason::kRingStopped, lost);
    transmit_[pair] = {};
}

// --- From the guest ----------------------------------------------------------------------------

QueueProgress NetDevice::transmit(uint16_t pair) {
    Transmit& queue = transmit_[pair];
    if (!queue.ring->is_enabled()) {
        return discard(queue);
    }
    const Offloads allowed = offloads_of_driver(FeatureSet(agreed_));
    bool is_drained = false;
    for (size_t taken = 0; taken < kBatch && !is_drained;) {
        if (batch_.room() == 0 && !batch_.send_to(*port_)) {
            break;
        }
        // All are fetched before the first is read, so that the cache misses of one do not wait
        // for those of another.
        std::array<std::optional<DescriptorChain>, kFetchedTogether> chains;
        const size_t count_max = std::min({chains.size(), batch_.room(), kBatch - taken});
        size_t count = 0;
        while (count < count_max && !is_drained) {
            chains[count] = queue.ring->pop();
            is_drained = !chains[count];
            if (!is_drained) {
                chains[count++]->prefetch_readable();
            }
        }
        if (!is_drained) {
            queue.ring->prefetch(kFetchedTogether);  // not where the ring was found empty
        }
        for (size_t i = 0; i < count; ++i) {
            take_chain(pair, *std::move(chains[i]), allowed);
        }
        taken += count;
    }
    if (!batch_.empty() && !batch_.send_to(*port_)) {
        if (!queue.ring->is_ending()) {
            return QueueProgress::kWaiting;
        }
        // What an earlier process had in hand must be answered whatever waits.
        counters_.dropped_from_guest.add(DropReason::kRingStopped, batch_.remove(pair, false));
    }
    return is_drained ? QueueProgress::kDrained : QueueProgress::kMore;
}

void NetDevice::take_chain(uint16_t pair, DescriptorChain chain, const Offloads& allowed) {
    ChainReader reader = chain.take_reader();
    VnetHeader header;
    if (!read_header(reader, transmit_[pair].header_bytes, header)) {
        drop_from_guest(DropReason::kNoHeader);
        return;
    }
    Frame frame{.bytes = static_cast<size_t>(reader.remaining()), .from_pair = pair};
    if (!leaves_nothing(header, frame.bytes)) [[unlikely]] {
        const auto offload = parse_vnet_header(header, frame.bytes, allowed);
        if (!offload) {
            drop_from_guest(offload.error());
            return;
        }
        frame.offload = *offload;
    }
    frame.pieces = reader.take_iovecs();
    if (receive_.size() > 1) {
        flows_.note_sent(frame, pair);
    }
    if (const auto reason = batch_.add(std::move(chain), pair, frame)) {
        drop_from_guest(*reason);
        return;
    }
    counters_.frames_from_guest.add();
    counters_.bytes_from_guest.add(frame.bytes);
}

void NetDevice::drop_from_guest(DropReason reason) {
    counters_.dropped_from_guest.add(reason);
    limiter_.log(LogLevel::kWarning, "net: a frame of the guest was dropped: {}", describe(reason));
}

/// vhost-user "Ring states": what is sent on a ring that is not enabled is thrown away.
QueueProgress NetDevice::discard(Transmit& queue) {
    for (size_t i = 0; i < kBatch; ++i) {
        std::optional<DescriptorChain> chain = queue.ring->pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        counters_.dropped_from_guest.add(DropReason::kRingDisabled);
        chain->complete(0);
    }
    return QueueProgress::kMore;
}

void NetDevice::on_room() {
    if (!batch_.empty() && !batch_.send_to(*port_)) {
        return;
    }
    send_announcement();
    for (const Transmit& queue : transmit_) {
        if (queue.ring != nullptr) {
            queue.ring->request_processing();
        }
    }
}

}  // namespace outrigger::net
