// SPDX-License-Identifier: Apache-2.0
// NetDevice: what the driver and the front end set, and what of it follows the guest.
#include <algorithm>
#include <cstring>
#include <utility>

#include "devices/net/net_device.h"
#include "devices/net/net_state.h"
#include "devices/net/packet_layout.h"
#include "devices/net/vnet_header.h"

namespace outrigger::net {
namespace {

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

static_assert(sizeof(NetConfig) == kConfigBytes);

constexpr uint16_t kLinkUp = 1;
constexpr uint16_t kAnnounce = 2;

/// Commands before the worker's other queues have their turn.
constexpr int kCommandsMax = 16;

/// VIRTIO 1.3, 5.1.6.5.
constexpr std::byte kOk{0};
constexpr std::byte kRefused{1};

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

// --- The control queue -------------------------------------------------------------------------

QueueProgress NetDevice::obey_all(Virtqueue& ring) {
    if (!ring.is_enabled() && !ring.is_ending()) {
        return QueueProgress::kWaiting;
    }
    for (int i = 0; i < kCommandsMax; ++i) {
        std::optional<DescriptorChain> chain = ring.pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        obey(ring, *std::move(chain));
    }
    return QueueProgress::kMore;
}

/// A command that an earlier process had in hand is carried out again, which none minds.
void NetDevice::obey(Virtqueue& ring, DescriptorChain chain) {
    ChainReader reader = chain.take_reader();
    ChainWriter writer = chain.take_writer();
    std::vector<std::byte> bytes(std::min<uint64_t>(reader.remaining(), kControlBytesMax + 1));
    (void)reader.read(bytes);
    if (ring.memory_was_lost()) {
        chain.complete(0);
        return;
    }
    std::optional<ControlCommand> command;
    // One that cannot be answered is not carried out.
    if (bytes.size() <= kControlBytesMax && writer.remaining() > 0) {
        command = parse_control_command(
            bytes, {.agreed = FeatureSet(agreed_), .queue_pairs = options_.queue_pairs});
    }
    if (command) {
        carry_out(*command);
        counters_.commands.add();
    } else {
        counters_.commands_refused.add();
        limiter_.log(LogLevel::kWarning, "net: a command of the driver was refused");
    }
    const std::byte answer = command ? kOk : kRefused;
    chain.complete(static_cast<uint32_t>(writer.write(std::span(&answer, 1))));
}

/// In effect before the driver sees the command used.
void NetDevice::carry_out(const ControlCommand& command) {
    if (std::holds_alternative<AcknowledgeAnnouncement>(command)) {
        awaits_announcement_ = false;
    }
    {
        const std::lock_guard lock(settings_mutex_);
        settings_.apply(command);
    }
    keep_settings();
    if (std::holds_alternative<SetGuestOffloads>(command)) {
        port_->set_guest(guest_offloads());
        for (ReceiveQueue& queue : receive_) {
            queue.use_checksums(guest_offloads().checksum);
        }
    }
    if (std::holds_alternative<SetQueuePairs>(command)) {
        for (ReceiveQueue& queue : receive_) {
            if (queue.is_running()) {
                queue.ring().request_processing();
            }
        }
    }
}

Offloads NetDevice::guest_offloads() const {
    return offloads_for_driver(settings_.in_use(FeatureSet(agreed_)));
}

/// Nothing: nobody has said it, and the guest may take any.
std::optional<StationAddress> NetDevice::own_station() const {
    if (settings_.own()) {
        return settings_.own();
    }
    return options_.mac ? std::optional(read_station(*options_.mac, 0)) : std::nullopt;
}

/// What an earlier process of this device has left, if it makes sense.
void NetDevice::recall_settings() {
    if (kept_.size() == 0) {
        return;
    }
    const auto kept = KeptRecord({kept_.data(), kept_.size()}).load();
    const auto settings = kept.empty() ? std::nullopt : GuestSettings::decode(kept.subspan(1));
    if (settings && settings->pairs() <= options_.queue_pairs) {
        settings_ = *settings;
        awaits_announcement_ = kept[0] == std::byte{1};
    }
}

void NetDevice::keep_settings() {
    if (kept_.size() == 0) {
        return;
    }
    std::vector<std::byte> bytes = settings_.encode();
    bytes.insert(bytes.begin(), awaits_announcement_ ? std::byte{1} : std::byte{0});
    KeptRecord({kept_.data(), kept_.size()}).store(bytes);
}

/// Of the driver, where there is one that can: it reads the status again.
void NetDevice::ask_for_announcement() {
    const std::lock_guard lock(frontend_mutex_);
    if (awaits_announcement_ && FeatureSet(agreed_).has(kGuestAnnounceBit) &&
        frontend_ != nullptr) {
        frontend_->config_changed();
    }
}

void NetDevice::on_serving(std::span<Worker* const> workers) {
    if (uplink_ != nullptr) {
        uplink_->start(*workers.front());
    }
}

// --- Settings of the front end -----------------------------------------------------------------

void NetDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    const std::lock_guard lock(frontend_mutex_);
    frontend_ = std::move(frontend);
}

void NetDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    NetConfig config;
    config.mac = options_.mac.value_or(MacAddress{});
    {
        const std::lock_guard lock(settings_mutex_);
        if (options_.mac && settings_.own()) {
            write_station(*settings_.own(), config.mac, 0);
        }
    }
    const bool announces = awaits_announcement_ && FeatureSet(agreed_).has(kGuestAnnounceBit);
    config.status = static_cast<uint16_t>(announces ? kLinkUp | kAnnounce : kLinkUp);
    config.max_virtqueue_pairs = options_.queue_pairs;
    config.mtu = options_.mtu;  // VIRTIO 1.3, 5.1.4.1: it never changes
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::ranges::copy(bytes.subspan(static_cast<size_t>(at), out.size()), out.begin());
}

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
    if (port_->send(std::span(&frame, 1)) == 0) {
        // Until on_room(), unless another one has been asked for.
        uint64_t none = 0;
        announced_.compare_exchange_strong(none, value);
        return;
    }
    counters_.announcements.add();
}

void NetDevice::reset() {
    agreed_ = 0;
    mtu_ = options_.mtu;
    announced_ = 0;
    awaits_announcement_ = false;
    {
        const std::lock_guard lock(settings_mutex_);
        settings_ = {};
    }
    port_->load({});
    keep_settings();
}

// --- State -------------------------------------------------------------------------------------

std::span<const StateSectionKind> NetDevice::state_sections() const {
    return kNetSections;
}

Result<std::vector<StateSection>> NetDevice::save_state() const {
    const std::lock_guard lock(settings_mutex_);
    return write_net_state({.shown = {.mac = options_.mac.value_or(MacAddress{}),
                                      .mtu = options_.mtu,
                                      .queue_pairs = options_.queue_pairs},
                            .settings = settings_,
                            .port = port_->save()});
}

Result<void> NetDevice::load_state(std::span<const StateSection> sections) {
    NetState state = OUTRIGGER_TRY(read_net_state(sections));
    if (state.shown.queue_pairs != options_.queue_pairs) {
        return failure(Error{.message = "the device has another number of queue pairs here"});
    }
    if (state.shown.mtu != options_.mtu) {
        return failure(Error{.message = "the MTU is another one here"});
    }
    if (state.shown.mac != options_.mac.value_or(MacAddress{})) {
        return failure(Error{.message = "the guest's address (--mac) is another one here"});
    }
    port_->load(state.port);
    {
        const std::lock_guard lock(settings_mutex_);
        settings_ = std::move(state.settings);
    }
    awaits_announcement_ = true;
    keep_settings();
    return {};
}

}  // namespace outrigger::net
