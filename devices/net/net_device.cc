// SPDX-License-Identifier: Apache-2.0
#include "devices/net/net_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/little_endian.h"

#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

constexpr uint32_t kVirtioIdNet = 1;

/// VIRTIO 1.3, 5.1.4.
struct NetConfig {
    MacAddress mac{};
    Le16 status = 0;
    Le16 max_virtqueue_pairs = 0;
    Le16 mtu = 0;
    Le32 speed = 0xffff'ffff;  // not known
    uint8_t duplex = 0xff;
    uint8_t rss_max_key_size = 0;
    Le16 rss_max_indirection_table_length = 0;
    Le32 supported_hash_types = 0;
};

static_assert(sizeof(NetConfig) == 24);

constexpr uint16_t kLinkUp = 1;

/// Frames before the worker's other queues have their turn.
constexpr int kBatch = 64;

constexpr uint64_t kHasAnnouncement = uint64_t{1} << 48;

/// A reverse ARP request of the guest for itself, which switches learn from. RFC 903.
std::array<std::byte, 60> make_announcement(const MacAddress& mac) {
    std::array<std::byte, 60> frame{};
    const auto at = [&](size_t offset) { return std::span(frame).subspan(offset).begin(); };
    std::fill_n(at(0), mac.size(), std::byte{0xff});
    std::ranges::copy(mac, at(6));
    write_be16(frame, 12, 0x8035);  // RARP
    write_be16(frame, 14, 1);       // Ethernet
    write_be16(frame, 16, 0x0800);  // IPv4
    frame[18] = std::byte{6};
    frame[19] = std::byte{4};
    write_be16(frame, 20, 3);  // request reverse
    std::ranges::copy(mac, at(22));
    std::ranges::copy(mac, at(32));
    return frame;
}

}  // namespace

NetDevice::NetDevice(const NetOptions& options, std::unique_ptr<Port> port)
    : options_(options),
      port_(std::move(port)),
      mtu_(options.mtu),
      transmit_(options.queue_pairs),
      receive_(options.queue_pairs),
      batch_(port_->takes()) {}

DeviceIdentity NetDevice::identity() const {
    return {.virtio_id = kVirtioIdNet,
            .name = "net",
            .queue_count = static_cast<uint16_t>(2 * options_.queue_pairs),
            .config_bytes = sizeof(NetConfig),
            .one_worker = true,
            .serves_disabled = true};
}

DeviceAbilities NetDevice::abilities() const {
    return {.takes_mtu = true, .announces = true};
}

/// Whatever the port cannot do is done here, so the offer does not depend on it.
FeatureSet NetDevice::offered_features() const {
    FeatureSet offer = FeatureSet::of({kChecksumBit,
                                       kGuestChecksumBit,
                                       kMtuBit,
                                       kGuestTcp4Bit,
                                       kGuestTcp6Bit,
                                       kGuestEcnBit,
                                       kHostTcp4Bit,
                                       kHostTcp6Bit,
                                       kHostEcnBit,
                                       kMergedBuffersBit,
                                       kStatusBit,
                                       kGuestUdp4Bit,
                                       kGuestUdp6Bit,
                                       kHostUdpBit});
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

void NetDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    NetConfig config;
    config.mac = options_.mac.value_or(MacAddress{});
    config.status = kLinkUp;
    config.max_virtqueue_pairs = options_.queue_pairs;
    config.mtu = options_.mtu;  // VIRTIO 1.3, 5.1.4.1: it never changes
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::ranges::copy(bytes.subspan(static_cast<size_t>(at), out.size()), out.begin());
}

// --- Queues ------------------------------------------------------------------------------------

void NetDevice::note_started(Worker& worker) {
    if (running_++ == 0) {
        {
            const std::lock_guard lock(worker_mutex_);
            worker_ = &worker;
        }
        port_->set_guest(offloads_for_driver(FeatureSet(agreed_)));
        port_->attach(worker.loop(), *this);
        send_announcement();
    }
}

void NetDevice::note_stopped() {
    if (--running_ == 0) {
        port_->detach();
        has_finished_ = false;
        segmenter_ = {};
        flows_.clear();
    }
}

Result<void> NetDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    const uint16_t pair = to_number(index) / 2;
    const FeatureSet agreed(agreed_);
    const VirtqueueConfig& config = queue.config();
    // VIRTIO 1.3, 5.1.6.1: legacy drivers have no num_buffers unless they merge buffers.
    const bool merges = agreed.has(kMergedBuffersBit);
    const size_t header_bytes =
        config.version_1 || config.packed || merges ? kVnetHeaderBytes : kLegacyHeaderBytes;
    note_started(worker);
    if (to_number(index) % 2 == 0) {
        receive_[pair].start(queue,
                             {.merges = merges,
                              .header_bytes = header_bytes,
                              .checksums = agreed.has(kGuestChecksumBit)});
    } else {
        transmit_[pair] = {.ring = &queue, .header_bytes = header_bytes};
    }
    return {};
}

QueueProgress NetDevice::process_queue(QueueIndex index) {
    const uint16_t pair = to_number(index) / 2;
    return to_number(index) % 2 == 0 ? receive(pair) : transmit(pair);
}

void NetDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    const uint16_t pair = to_number(index) / 2;
    if (to_number(index) % 2 == 0) {
        receive_[pair].stop();
    } else {
        leave_transmit(pair, false);
    }
    note_stopped();
    drained();
}

void NetDevice::suspend_queue(QueueIndex index, std::move_only_function<void()> drained) {
    const uint16_t pair = to_number(index) / 2;
    if (to_number(index) % 2 == 0) {
        receive_[pair].suspend();
    } else {
        leave_transmit(pair, true);
    }
    note_stopped();
    drained();
}

void NetDevice::hurry_queue(QueueIndex index) {
    const uint16_t pair = to_number(index) / 2;
    if (to_number(index) % 2 == 0) {
        receive_[pair].return_gathered();
        return;
    }
    const size_t lost = batch_.remove(pair, false);
    counters_.dropped_from_guest.add(DropReason::kRingStopped, lost);
}

/// What the port takes now still goes.
void NetDevice::leave_transmit(uint16_t pair, bool set_aside) {
    (void)batch_.send_to(*port_);
    const size_t lost = batch_.remove(pair, set_aside);
    counters_.dropped_from_guest.add(DropReason::kRingStopped, lost);
    transmit_[pair] = {};
}

void NetDevice::reset() {
    agreed_ = 0;
    mtu_ = options_.mtu;
    announced_ = 0;
}

// --- From the guest ----------------------------------------------------------------------------

QueueProgress NetDevice::transmit(uint16_t pair) {
    Transmit& queue = transmit_[pair];
    if (!queue.ring->is_enabled()) {
        return discard(queue);
    }
    bool is_drained = false;
    for (int taken = 0; taken < kBatch && !is_drained; ++taken) {
        if (!batch_.has_room() && !batch_.send_to(*port_)) {
            break;
        }
        std::optional<DescriptorChain> chain = queue.ring->pop();
        is_drained = !chain;
        if (chain) {
            take_chain(pair, *std::move(chain));
        }
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

void NetDevice::take_chain(uint16_t pair, DescriptorChain chain) {
    const Transmit& queue = transmit_[pair];
    ChainReader reader = chain.take_reader();
    VnetHeader header;
    const auto header_bytes =
        std::as_writable_bytes(std::span(&header, 1)).first(queue.header_bytes);
    if (reader.read(header_bytes) < queue.header_bytes) {
        drop_from_guest(DropReason::kNoHeader);
        return;
    }
    Frame frame{.bytes = static_cast<size_t>(reader.remaining())};
    const auto offload =
        parse_vnet_header(header, frame.bytes, offloads_of_driver(FeatureSet(agreed_)));
    if (!offload) {
        drop_from_guest(offload.error());
        return;
    }
    frame.offload = *offload;
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
    for (int i = 0; i < kBatch; ++i) {
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
    for (const Transmit& queue : transmit_) {
        if (queue.ring != nullptr) {
            queue.ring->request_processing();
        }
    }
}

// --- To the guest ------------------------------------------------------------------------------

QueueProgress NetDevice::receive(uint16_t pair) {
    ReceiveQueue& called = receive_[pair];
    if (called.ring().is_ending()) [[unlikely]] {
        // An earlier process took them, and nothing is there to put in.
        called.return_gathered();
        while (std::optional<DescriptorChain> chain = called.ring().pop()) {
            chain->complete(0);
        }
        return QueueProgress::kDrained;
    }
    if (!called.ring().is_enabled()) {
        return QueueProgress::kWaiting;
    }
    for (int i = 0; i < kBatch; ++i) {
        const std::optional<Frame> frame = next_frame();
        if (!frame) {
            port_->await_frames();
            return QueueProgress::kWaiting;
        }
        if (is_over_mtu(*frame)) {
            drop_to_guest(DropReason::kOverMtu);
            continue;
        }
        ReceiveQueue& queue = choose_queue(*frame, called);
        switch (queue.write(*frame)) {
            case ReceiveQueue::Outcome::kWritten:
                counters_.frames_to_guest.add();
                counters_.bytes_to_guest.add(frame->bytes);
                drop_frame();
                break;
            case ReceiveQueue::Outcome::kNoBuffer:
                // Its own worker's round asks for more. This one's ring may have some left.
                return &queue == &called ? QueueProgress::kDrained : QueueProgress::kMore;
            case ReceiveQueue::Outcome::kBufferTooSmall:
                drop_to_guest(DropReason::kBufferTooSmall);
                break;
        }
    }
    return QueueProgress::kMore;
}

/// As the guest can take it.
std::optional<Frame> NetDevice::next_frame() {
    // Each turn takes a frame off the port.
    while (true) {
        if (has_finished_) {
            return Frame{.pieces = std::span(&finished_, 1), .bytes = finished_.iov_len};
        }
        if (!segmenter_.is_done()) {
            const size_t bytes = segmenter_.write_next(std::span(segment_.get(), kFrameBytesMax));
            finished_ = {.iov_base = segment_.get(), .iov_len = bytes};
            has_finished_ = true;
            continue;
        }
        const std::optional<Frame> frame = port_->next_frame();
        if (!frame) {
            return std::nullopt;
        }
        const FrameOffload& offload = frame->offload;
        if (!offload.needs_checksum && offload.segmentation == Segmentation::kNone) [[likely]] {
            return frame;
        }
        std::array<std::byte, kEthernetHeaderBytes + 2 * kVlanTagBytes> type;
        const bool is_ip6 = is_ip6_frame(std::span(type).first(copy_front(*frame, type)));
        if (is_taken(offload, is_ip6, offloads_for_driver(FeatureSet(agreed_)))) {
            return frame;
        }
        if (auto finished = finish(*frame)) {
            return finished;
        }
    }
}

/// Makes a copy that needs nothing, or the first segment of it; nothing when it was dropped. The
/// port's frame is dropped in any case.
std::optional<Frame> NetDevice::finish(const Frame& frame) {
    if (!whole_) {
        whole_ = std::make_unique<std::byte[]>(kFrameBytesMax);
        segment_ = std::make_unique<std::byte[]>(kFrameBytesMax);
    }
    const auto bytes = std::span(whole_.get(), kFrameBytesMax)
                           .first(copy_front(frame, std::span(whole_.get(), kFrameBytesMax)));
    FrameOffload offload = frame.offload;
    port_->drop_frame();
    counters_.finished_to_guest.add();
    if (offload.segmentation == Segmentation::kNone) {
        finish_checksum(bytes, offload);
        finished_ = {.iov_base = bytes.data(), .iov_len = bytes.size()};
    } else {
        auto segmenter = Segmenter::create(bytes, offload);
        if (!segmenter) {
            counters_.dropped_to_guest.add(segmenter.error());
            return std::nullopt;
        }
        segmenter_ = *segmenter;
        finished_ = {.iov_base = segment_.get(),
                     .iov_len = segmenter_.write_next(std::span(segment_.get(), kFrameBytesMax))};
    }
    has_finished_ = true;
    return Frame{.pieces = std::span(&finished_, 1), .bytes = finished_.iov_len};
}

/// The one that next_frame() gave.
void NetDevice::drop_frame() {
    if (!std::exchange(has_finished_, false)) {
        port_->drop_frame();
    }
}

void NetDevice::drop_to_guest(DropReason reason) {
    counters_.dropped_to_guest.add(reason);
    drop_frame();
}

/// VIRTIO 1.3, 5.1.4.1, where the driver was told of the MTU.
bool NetDevice::is_over_mtu(const Frame& frame) const {
    const size_t bytes_max = size_t{mtu_} + kEthernetHeaderBytes + kVlanTagBytes;
    return frame.bytes > bytes_max && frame.offload.segmentation == Segmentation::kNone &&
           FeatureSet(agreed_).has(kMtuBit);
}

/// Only rings that have buffers: a driver gives none to pairs that it does not use, and before it
/// says how many it uses that is the first alone.
ReceiveQueue& NetDevice::choose_queue(const Frame& frame, ReceiveQueue& called) {
    if (receive_.size() == 1) {
        return called;
    }
    ReceiveQueue& wanted = receive_[flows_.pair_of(frame)];
    if (wanted.is_ready_for(frame)) {
        return wanted;
    }
    return receive_.front().is_ready_for(frame) ? receive_.front() : called;
}

void NetDevice::on_frames() {
    for (size_t pair = 0; pair < receive_.size(); ++pair) {
        ReceiveQueue& queue = receive_[pair];
        if (!queue.is_running()) {
            continue;
        }
        queue.ring().request_processing();
        // Its ring may have no buffer left to be called for.
        if (queue.has_gathered()) {
            (void)receive(static_cast<uint16_t>(pair));
        }
    }
}

// --- Settings ----------------------------------------------------------------------------------

bool NetDevice::set_mtu(uint16_t mtu) {
    if (mtu < kMtuMin) {
        return false;
    }
    mtu_ = mtu;
    return true;
}

bool NetDevice::announce(const MacAddress& address) {
    constexpr std::byte kMulticast{1};
    if ((address[0] & kMulticast) != std::byte{0}) {
        return false;
    }
    uint64_t value = 0;
    std::memcpy(&value, address.data(), address.size());
    announced_ = value | kHasAnnouncement;
    const std::lock_guard lock(worker_mutex_);
    if (worker_ != nullptr) {
        worker_->post([this] { send_announcement(); });
    }
    return true;
}

/// Of the worker. Where no queue runs, it is sent when one does.
void NetDevice::send_announcement() {
    if (running_ == 0) {
        return;
    }
    const uint64_t value = announced_.exchange(0);
    if (value == 0) {
        return;
    }
    MacAddress mac;
    std::memcpy(mac.data(), &value, mac.size());
    std::array<std::byte, 60> bytes = make_announcement(mac);
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const Frame frame{.pieces = std::span(&piece, 1), .bytes = bytes.size()};
    // Best effort, as broadcasts are.
    (void)port_->send(std::span(&frame, 1));
    counters_.announcements.add();
}

}  // namespace outrigger::net
