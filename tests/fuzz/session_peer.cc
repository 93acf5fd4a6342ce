// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/session_peer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/fuzz/ring_script.h"

namespace outrigger::fuzz {
namespace {

using wire::FdRule;
using wire::FrontendRequest;
using wire::Header;
using wire::PayloadRule;

constexpr size_t kFdsMax = 40;
constexpr uint64_t kFrontendShift = 0x7f00'0000'0000;
constexpr std::array<uint64_t, kGuestRegions> kRegionStarts = {0x10'0000, 0x11'0000, 0x20'0000};
constexpr size_t kChainMax = 8;
constexpr uint64_t kDescriptorBytes = 16;
constexpr uint16_t kFlagAvailable = 1U << 7;
constexpr uint16_t kFlagUsed = 1U << 15;

// Ring bits of VIRTIO 1.3, 6, that the script can leave out of the offer.
constexpr unsigned kIndirect = 28;
constexpr unsigned kEventIdx = 29;
constexpr unsigned kAccessPlatform = 33;
constexpr unsigned kPacked = 34;
constexpr unsigned kInOrder = 35;

struct RingPlaces {
    uint64_t descriptors;
    uint64_t available;
    uint64_t used;
};

/// Guest addresses. For a packed ring the other two are the event suppression structures.
RingPlaces places_of(size_t ring, uint16_t size) {
    const uint64_t start = kRegionStarts[0] + ring * kSessionRingBytes;
    const uint64_t available = start + kDescriptorBytes * size;
    return {.descriptors = start,
            .available = available,
            .used = (available + 6 + 2ULL * size + 3) & ~3ULL};
}

UniqueFd make_memory(bool sealed) {
    UniqueFd fd(::memfd_create("outrigger-fuzz-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    OUTRIGGER_ASSERT(fd.valid());
    OUTRIGGER_ASSERT(::ftruncate(fd.get(), kGuestRegionBytes) == 0);
    if (sealed) {
        OUTRIGGER_ASSERT(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    }
    return fd;
}

std::pair<UniqueFd, UniqueFd> make_pair() {
    int ends[2];
    OUTRIGGER_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) ==
                     0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

PeerResources::PeerResources() {
    for (size_t region = 0; region < kGuestRegions; ++region) {
        memory_[region] = make_memory(false);
        sealed_[region] = make_memory(true);
    }
    for (auto& ring : notifications_) {
        for (UniqueFd& fd : ring) {
            fd.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
            OUTRIGGER_ASSERT(fd.valid());
        }
    }
}

void PeerResources::reset() {
    for (size_t region = 0; region < kGuestRegions; ++region) {
        // Gives the pages back, so what was there is gone.
        OUTRIGGER_ASSERT(::ftruncate(memory_[region].get(), 0) == 0);
        OUTRIGGER_ASSERT(::ftruncate(memory_[region].get(), kGuestRegionBytes) == 0);
        OUTRIGGER_ASSERT(::fallocate(sealed_[region].get(),
                                     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     0,
                                     kGuestRegionBytes) == 0);
    }
    for (auto& ring : notifications_) {
        for (UniqueFd& fd : ring) {
            uint64_t value = 0;
            (void)!::read(fd.get(), &value, sizeof value);
        }
    }
}

SessionPeer::SessionPeer(const PeerResources& resources,
                         ScriptReader& script,
                         const Offer& offer,
                         bool sealed_memory)
    : resources_(resources),
      script_(script),
      offer_(offer),
      sealed_memory_(sealed_memory),
      back_end_(),
      socket_([this] {
          auto [own, other] = make_pair();
          back_end_ = std::move(other);
          return std::move(own);
      }()),
      replies_(socket_.get(), wire::MessageStream::Expect::kReplies) {
    ring_sizes_.fill(16);
    wraps_.fill(true);
}

// --- Requests ----------------------------------------------------------------------------------

uint32_t SessionPeer::read_u32() {
    const uint16_t value = script_.u16();
    return value == 0xffff ? script_.u32() : value;
}

uint64_t SessionPeer::read_u64(FrontendRequest request) {
    const uint8_t value = script_.u8();
    if (value == kAnyNumber) {
        return script_.u64();
    }
    switch (request) {
        case FrontendRequest::kSetFeatures:
            return choose_features(value).bits();
        case FrontendRequest::kSetProtocolFeatures:
            return choose_protocol_features(value).bits();
        case FrontendRequest::kSetVringKick:
        case FrontendRequest::kSetVringCall:
        case FrontendRequest::kSetVringErr:
            payload_ring_ = (value & 15U) % kSessionRings;
            return (value & 15U) | ((value & kNoRingFd) != 0 ? wire::kVringFdNone : 0);
        default:
            return value;
    }
}

FeatureSet SessionPeer::choose_features(uint8_t choice) {
    FeatureSet features = offer_.features;
    const auto leave_out = [&](uint8_t what, unsigned bit) {
        if ((choice & what) != 0) {
            features = features.without(bit);
        }
    };
    leave_out(FeatureBits::kNoPacked, kPacked);
    leave_out(FeatureBits::kNoEventIdx, kEventIdx);
    leave_out(FeatureBits::kNoInOrder, kInOrder);
    leave_out(FeatureBits::kNoProtocolFeatures, wire::kProtocolFeaturesBit);
    leave_out(FeatureBits::kNoIndirect, kIndirect);
    leave_out(FeatureBits::kNoAccessPlatform, kAccessPlatform);
    iommu_ = features.has(kAccessPlatform);
    return features;
}

FeatureSet SessionPeer::choose_protocol_features(uint8_t choice) {
    constexpr unsigned kGuestAddresses = wire::bit(wire::ProtocolFeature::kGpaAddresses);
    // Those that change no meaning, or everything but one.
    const FeatureSet features =
        offer_.protocol_features.without(choice == 0 ? kGuestAddresses : (choice - 1U) % 64);
    guest_addresses_ = features.has(kGuestAddresses);
    return features;
}

wire::MemoryRegion SessionPeer::read_region() {
    const uint8_t choice = script_.u8();
    const size_t region = (choice & 127U) % kGuestRegions;
    payload_regions_.push_back(region);
    wire::MemoryRegion description = {.guest_address = kRegionStarts[region],
                                      .size = kGuestRegionBytes,
                                      .user_address = kRegionStarts[region] + kFrontendShift,
                                      .mmap_offset = 0};
    if ((choice & kOtherField) != 0) {
        const std::array<uint64_t*, 4> fields = {&description.guest_address,
                                                 &description.size,
                                                 &description.user_address,
                                                 &description.mmap_offset};
        uint64_t* const field = fields[script_.pick(fields.size())];
        *field = script_.u64();
    }
    return description;
}

/// One page of I/O virtual addresses, anywhere in the guest's memory.
void SessionPeer::write_iotlb_page(uint8_t type) {
    constexpr uint64_t kPageBytes = 4096;
    constexpr uint64_t kPages = kGuestRegionBytes / kPageBytes;
    const uint64_t iova = kRegionStarts[script_.pick(kGuestRegions)];
    const uint64_t iova_page = script_.pick(kPages);
    const uint64_t target =
        kRegionStarts[script_.pick(kGuestRegions)] + (guest_addresses_ ? 0 : kFrontendShift);
    const uint64_t target_page = script_.pick(kPages);
    append(wire::Iotlb{.iova = iova + iova_page * kPageBytes,
                       .size = kPageBytes,
                       .user_address = target + target_page * kPageBytes,
                       .permissions = script_.u8(),
                       .type = static_cast<uint8_t>(type & ~kIotlbPage),
                       .padding = {}});
}

void SessionPeer::write_vring_address() {
    const uint32_t index = script_.u8();
    const uint8_t bits = script_.u8();
    const size_t ring = index % kSessionRings;
    const RingPlaces places = places_of(ring, ring_sizes_[ring]);
    // Behind an IOMMU rings have I/O virtual addresses; here those are numbered like the guest's.
    const uint64_t shift = iommu_ || guest_addresses_ ? 0 : kFrontendShift;
    wire::VringAddress address = {.index = index,
                                  .flags = (bits & 2U) != 0 ? wire::kVringAddressFlagLog : 0,
                                  .descriptor = places.descriptors + shift,
                                  .used = places.used + shift,
                                  .available = places.available + shift,
                                  .log = 0};
    if ((bits & kAnyAddresses) != 0) {
        address.descriptor = script_.u64();
        address.used = script_.u64();
        address.available = script_.u64();
    }
    append(address);
}

void SessionPeer::write_payload(const wire::RequestDescription& description) {
    const auto request = static_cast<FrontendRequest>(description.number);
    switch (description.payload) {
        case PayloadRule::kNone:
            return;
        case PayloadRule::kU64:
            return append(read_u64(request));
        case PayloadRule::kVringState: {
            const wire::VringState state = {.index = script_.u8(), .num = read_u32()};
            if (request == FrontendRequest::kSetVringNum && state.num > 0 &&
                state.num <= kSessionRingSizeMax) {
                ring_sizes_[state.index % kSessionRings] = static_cast<uint16_t>(state.num);
            }
            return append(state);
        }
        case PayloadRule::kVringAddress:
            return write_vring_address();
        case PayloadRule::kMemoryTable: {
            const uint32_t count = script_.u8() % (wire::kMemTableRegionsMax + 2);
            append(wire::MemoryTableHeader{.region_count = count, .padding = 0});
            for (uint32_t i = 0; i < count; ++i) {
                append(read_region());
            }
            return;
        }
        case PayloadRule::kSingleRegion:
            return append(wire::SingleMemoryRegion{.padding = 0, .region = read_region()});
        case PayloadRule::kIotlb: {
            const uint8_t type = script_.u8();
            if ((type & kIotlbPage) != 0) {
                return write_iotlb_page(type);
            }
            const wire::MemoryRegion region = read_region();
            return append(wire::Iotlb{
                .iova = region.guest_address,
                .size = region.size,
                .user_address = guest_addresses_ ? region.guest_address : region.user_address,
                .permissions = 3,
                .type = type,
                .padding = {}});
        }
        case PayloadRule::kConfig: {
            const uint32_t offset = script_.u8();
            const uint32_t size = script_.u8();
            append(wire::ConfigHeader{.offset = offset, .size = size, .flags = 0});
            const auto bytes = script_.bytes(size);
            payload_.insert(payload_.end(), bytes.begin(), bytes.end());
            return payload_.resize(sizeof(wire::ConfigHeader) + size);
        }
        case PayloadRule::kLog:
            return payload_.resize(sizeof(wire::Log));
        case PayloadRule::kCryptoSession:
            return payload_.resize(1 + script_.u16() % 1096U);
        case PayloadRule::kVringArea:
            return payload_.resize(sizeof(wire::VringArea));
        case PayloadRule::kInflight:
            return payload_.resize(sizeof(wire::Inflight));
        case PayloadRule::kDeviceState:
            return payload_.resize(sizeof(wire::DeviceStateTransfer));
        case PayloadRule::kSharedObject: {
            wire::SharedObject object = {};
            object.uuid[0] = script_.u8();
            return append(object);
        }
        case PayloadRule::kShmemMap:
            return payload_.resize(sizeof(wire::ShmemMap));
    }
}

int SessionPeer::default_fd(const wire::RequestDescription& description, size_t number) {
    using Notification = PeerResources::Notification;
    switch (static_cast<FrontendRequest>(description.number)) {
        case FrontendRequest::kSetVringKick:
            return resources_.notification(payload_ring_, Notification::kKick);
        case FrontendRequest::kSetVringCall:
            return resources_.notification(payload_ring_, Notification::kCall);
        case FrontendRequest::kSetVringErr:
            return resources_.notification(payload_ring_, Notification::kErr);
        case FrontendRequest::kSetBackendReqFd: {
            auto [own, other] = make_pair();
            channel_ = std::move(own);
            asked_.clear();
            own_fds_.push_back(std::move(other));
            return own_fds_.back().get();
        }
        default:
            return resources_.memory(
                payload_regions_.empty() ? 0 : payload_regions_[number % payload_regions_.size()],
                sealed_memory_);
    }
}

void SessionPeer::add_fds(const wire::RequestDescription* description, uint8_t bits) {
    size_t count = 0;
    if (description != nullptr && wire::payload_size_fits(description->payload,
                                                          std::as_bytes(std::span<const uint8_t>(
                                                              payload_.data(), payload_.size())))) {
        count = wire::expected_fds(description->fds, std::as_bytes(std::span(payload_))).least;
    }
    if ((bits & RequestBits::kFewerFds) != 0 && count > 0) {
        --count;
    }
    if ((bits & RequestBits::kMoreFds) != 0) {
        ++count;
    }
    for (size_t i = 0; i < std::min(count, kFdsMax); ++i) {
        if ((bits & RequestBits::kFdKinds) == 0) {
            fds_.push_back(description != nullptr ? default_fd(*description, i)
                                                  : resources_.fds().get(FdKind::kEventfd));
            continue;
        }
        const size_t kind = script_.pick(static_cast<size_t>(FdKind::kCount) + 1);
        passed_itself_ |= kind == static_cast<size_t>(FdKind::kCount);
        fds_.push_back(kind == static_cast<size_t>(FdKind::kCount)
                           ? socket_.get()
                           : resources_.fds().get(static_cast<FdKind>(kind)));
    }
}

void SessionPeer::request() {
    payload_.clear();
    fds_.clear();
    payload_regions_.clear();
    const uint32_t number = script_.u8();
    const uint8_t bits = script_.u8();
    const wire::RequestDescription* const description = wire::find_frontend_request(number);
    if (description != nullptr) {
        write_payload(*description);
    }
    Header header = {
        .request = number, .flags = wire::kVersion | (bits & RequestBits::kNeedReply), .size = 0};
    if ((bits & RequestBits::kMutate) != 0) {
        const size_t at = script_.u16();
        const uint8_t change = script_.u8();
        if (!payload_.empty()) {
            payload_[at % payload_.size()] ^= change;
        }
    }
    if ((bits & RequestBits::kLonger) != 0) {
        payload_.resize(payload_.size() + script_.u8());
    }
    if ((bits & RequestBits::kOtherFlags) != 0) {
        header.flags = script_.u32();
    }
    header.size = static_cast<uint32_t>(payload_.size());
    if ((bits & RequestBits::kWrongSize) != 0) {
        header.size = script_.u32();
    }
    add_fds(description, bits);
    std::vector<uint8_t> message(sizeof header);
    std::memcpy(message.data(), &header, sizeof header);
    message.insert(message.end(), payload_.begin(), payload_.end());
    ++requests_sent_;
    if (!cut_) {
        send(message, fds_);
    } else {
        const size_t first =
            std::min<size_t>(1U + *std::exchange(cut_, std::nullopt), message.size());
        send(std::span(message).first(first), fds_);
        rest_.assign(message.begin() + static_cast<std::ptrdiff_t>(first), message.end());
    }
    own_fds_.clear();
}

void SessionPeer::send_rest() {
    send(std::exchange(rest_, {}), {});
}

void SessionPeer::bytes() {
    send(script_.bytes(script_.pick(65)), {});
    // They may hold any number of whole requests, each of at least a header.
    requests_sent_ += 64 / sizeof(Header) + 1;
}

void SessionPeer::send(std::span<const uint8_t> bytes, std::span<const int> fds) {
    if (!socket_.valid() || bytes.empty()) {
        return;
    }
    // A socket that is full loses the rest: then the back end waits for it, as for a slow peer.
    constexpr int kNoWait = 0;
    (void)wire::send_all(socket_.get(), std::as_bytes(bytes), {}, fds, kNoWait);
}

void SessionPeer::listen() {
    if (!deaf_) {
        read_replies();
    }
}

void SessionPeer::read_replies() {
    wire::Message message;
    while (socket_.valid() && replies_.try_receive(message) == wire::StreamStatus::kMessage) {
        OUTRIGGER_ASSERT(message.fds.size() <= 1);
        ++replies_read_;
        OUTRIGGER_ASSERT(replies_read_ <= requests_sent_);
    }
}

void SessionPeer::half_close() {
    if (socket_.valid()) {
        (void)::shutdown(socket_.get(), SHUT_WR);
    }
}

void SessionPeer::disconnect() {
    socket_.reset();
    channel_.reset();
    back_end_.reset();
}

// --- The channel of the back end's requests ----------------------------------------------------

void SessionPeer::answer() {
    const auto kind = script_.pick_enum<ChannelAnswer>(static_cast<size_t>(ChannelAnswer::kCount));
    const uint8_t argument = script_.u8();
    if (!channel_.valid()) {
        return;
    }
    // What the back end asks must be well-formed, whatever the script did before.
    wire::MessageStream requests(channel_.get(), wire::MessageStream::Expect::kRequests);
    wire::Message message;
    while (requests.try_receive(message) == wire::StreamStatus::kMessage) {
        const auto* const known = wire::find_backend_request(message.header.request);
        OUTRIGGER_ASSERT(known != nullptr &&
                         wire::payload_size_fits(known->payload, message.payload));
        const wire::FdCount fds = wire::expected_fds(known->fds, message.payload);
        OUTRIGGER_ASSERT(message.fds.size() >= fds.least && message.fds.size() <= fds.most);
        if (message.needs_reply() || known->reply != wire::ReplyRule::kAck) {
            asked_.push_back(message.header.request);
        }
    }
    if (kind == ChannelAnswer::kHangUp) {
        return channel_.reset();
    }
    if (asked_.empty() && kind != ChannelAnswer::kNotAsked) {
        return;
    }
    uint32_t request = argument;
    if (!asked_.empty()) {
        request = asked_.front();
        asked_.pop_front();
    }

    struct [[gnu::packed]] Reply {
        Header header;
        uint64_t value;
    };

    const bool wrong_size = kind == ChannelAnswer::kWrongSize;
    const Reply reply = {
        .header = {.request = kind == ChannelAnswer::kWrongRequest ? request + argument : request,
                   .flags = wire::kVersion | wire::kFlagReply,
                   .size = wrong_size ? argument : static_cast<uint32_t>(sizeof(uint64_t))},
        .value = kind == ChannelAnswer::kFailure ? 1U : 0U};
    const int fd = resources_.fds().get(FdKind::kMemfd);
    constexpr int kNoWait = 0;
    (void)wire::send_all(channel_.get(),
                         std::as_bytes(std::span(&reply, 1)),
                         {},
                         std::span(&fd, kind == ChannelAnswer::kWithFd ? 1U : 0U),
                         kNoWait);
}

// --- The driver --------------------------------------------------------------------------------

/// Through the file, not a mapping: the script may have truncated it.
void SessionPeer::store_in_guest(uint64_t guest_address, std::span<const uint8_t> bytes) {
    for (size_t region = 0; region < kGuestRegions; ++region) {
        const uint64_t start = kRegionStarts[region];
        if (guest_address < start || guest_address - start >= kGuestRegionBytes) {
            continue;
        }
        const int fd = resources_.memory(region, sealed_memory_);
        const uint64_t offset = guest_address - start;
        struct stat status = {};
        OUTRIGGER_ASSERT(::fstat(fd, &status) == 0);
        const auto size = static_cast<uint64_t>(status.st_size);
        if (offset < size) {
            (void)!::pwrite(fd,
                            bytes.data(),
                            std::min<size_t>(bytes.size(), size - offset),
                            static_cast<off_t>(offset));
        }
    }
}

void SessionPeer::offer(bool packed) {
    const size_t ring = script_.u8() % kSessionRings;
    const uint16_t id = script_.u8();
    const size_t count = 1 + script_.pick(kChainMax);
    const uint16_t size = ring_sizes_[ring];
    const RingPlaces places = places_of(ring, size);
    uint16_t& next = available_[ring];
    for (size_t i = 0; i < count; ++i) {
        // A place is a region and an offset, in front of it a byte that names any address.
        ScriptDescriptor descriptor;
        const size_t region = script_.pick(kGuestRegions + 1);
        descriptor.address =
            region < kGuestRegions ? kRegionStarts[region] + script_.u16() : script_.u64();
        descriptor.length = read_u32();
        descriptor.flags = script_.u8();
        descriptor.link = static_cast<uint16_t>(id + i + 1);
        if (!packed) {
            store_in_guest(places.descriptors + kDescriptorBytes * ((id + i) % size),
                           descriptor.split());
            continue;
        }
        descriptor.link = id;
        descriptor.flags |= wraps_[ring] ? kFlagAvailable : kFlagUsed;
        store_in_guest(places.descriptors + kDescriptorBytes * (next % size), descriptor.packed());
        if (++next >= size) {
            next = 0;
            wraps_[ring] = !wraps_[ring];
        }
    }
    if (!packed) {
        const std::array<uint8_t, 2> head = {static_cast<uint8_t>(id), 0};
        store_in_guest(places.available + 4 + 2ULL * (next % size), head);
        ++next;
        const std::array<uint8_t, 2> index = {static_cast<uint8_t>(next),
                                              static_cast<uint8_t>(next >> 8)};
        store_in_guest(places.available + 2, index);
    }
}

void SessionPeer::store() {
    const size_t region = script_.pick(kGuestRegions);
    const uint64_t offset = script_.u16();
    store_in_guest(kRegionStarts[region] + offset, script_.bytes(script_.pick(65)));
}

void SessionPeer::kick() {
    const uint64_t one = 1;
    const size_t ring = script_.pick(kSessionRings);
    (void)!::write(
        resources_.notification(ring, PeerResources::Notification::kKick), &one, sizeof one);
}

void SessionPeer::truncate() {
    const size_t region = script_.pick(kGuestRegions);
    const uint16_t bytes = script_.u16();
    (void)!::ftruncate(resources_.memory(region, sealed_memory_), bytes);
}

}  // namespace outrigger::fuzz
