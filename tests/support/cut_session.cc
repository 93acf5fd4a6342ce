// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cut_session.h"

#include <array>
#include <utility>

#include <sys/socket.h>

#include <gtest/gtest.h>

#include "tests/support/wait.h"
#include "tools/driver/feature_bits.h"

namespace outrigger::testing {
namespace {

using driver::Answer;
using driver::DriverQueue;
using wire::ProtocolFeature;

constexpr uint64_t kMemoryBytes = 1 << 20;
constexpr uint16_t kQueueSize = 64;        // room for all that a session leaves in flight
constexpr uint64_t kRequestsInFlight = 3;  // of each ring, each time
// VIRTIO 1.3, 2.1: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
constexpr uint64_t kStatusFeaturesOk = 1 | 2 | 8;
constexpr uint64_t kStatusDriverOk = kStatusFeaturesOk | 4;

/// For what a device may refuse: an answer came.
bool answered(Answer answer) {
    return went_well(answer) || answer == Answer::kRefused;
}

template <class T>
std::span<const std::byte> bytes_of(const T& object) {
    return std::as_bytes(std::span(&object, 1));
}

}  // namespace

CutSession::CutSession(driver::Frontend frontend, const SessionPlan& plan, const CutPoint& cut)
    : plan_(plan),
      frontend_(std::move(frontend)),
      memory_(driver::GuestMemory::create(kMemoryBytes).value()) {
    cut_.bytes_max = cut.bytes;
    cut_.read_last_reply = cut.read_last_reply;
    frontend_.set_cut(&cut_);
}

std::string CutSession::play() {
    constexpr std::array<std::pair<const char*, Step>, 21> kSteps = {{
        {"bring up", &CutSession::bring_up},
        {"requests", &CutSession::exchange_requests},
        {"configuration", &CutSession::read_and_write_config},
        {"channel", &CutSession::open_channel},
        {"network", &CutSession::tell_of_the_network},
        {"requests in flight", &CutSession::put_requests_in_flight},
        {"memory slots", &CutSession::move_memory},
        {"requests in flight again", &CutSession::put_requests_in_flight},
        {"notifiers", &CutSession::replace_notifiers},
        {"restart of a ring", &CutSession::restart_one_ring},
        {"more requests in flight", &CutSession::put_requests_in_flight},
        {"stop under load", &CutSession::stop_rings_under_load},
        {"memory table", &CutSession::share_the_old_way},
        {"requests in the other memory", &CutSession::put_requests_in_flight},
        {"reset", &CutSession::reset_and_start_again},
        {"requests after the reset", &CutSession::exchange_requests},
        {"notifications in band", &CutSession::kick_in_band},
        {"virtual IOMMU", &CutSession::go_behind_an_iommu},
        {"requests behind the IOMMU", &CutSession::exchange_requests},
        {"requests in flight behind it", &CutSession::put_requests_in_flight},
        {"invalidation under load", &CutSession::invalidate_under_load},
    }};
    for (const auto& [name, step] : kSteps) {
        if (!(this->*step)()) {
            return name;
        }
    }
    const bool ended = answered(frontend_.set_status(0)) && went_well(frontend_.reset_owner());
    return ended ? "" : "end";
}

bool CutSession::hang_up(HangUp how) {
    switch (how) {
        case HangUp::kClose:
            frontend_.close();
            break;
        case HangUp::kShutDownBoth:
            ::shutdown(frontend_.socket(), SHUT_RDWR);
            break;
        case HangUp::kShutDownWrite:
            frontend_.finish_sending();
            break;
    }
    release_requests();
    return how != HangUp::kShutDownWrite || frontend_.wait_closed();
}

bool CutSession::bring_up() {
    const auto wanted =
        driver::kUsualProtocolFeatures | FeatureSet::of({bit(ProtocolFeature::kBackendReq),
                                                         bit(ProtocolFeature::kInbandNotifications),
                                                         bit(ProtocolFeature::kMtu),
                                                         bit(ProtocolFeature::kRarp)});
    auto running = driver::bring_up(frontend_,
                                    memory_,
                                    {.protocol_features = wanted,
                                     .packed = plan_.packed,
                                     .queue_count = plan_.queue_count,
                                     .queue_size = kQueueSize});
    if (!running) {
        return false;
    }
    running_ = *std::move(running);
    return true;
}

bool CutSession::exchange_requests() {
    for (DriverQueue& queue : running_.queues) {
        requests_.push_back(plan_.make_request(memory_));
        if (!queue.transact(requests_.back(), driver::after(kPatience))) {
            return false;
        }
    }
    return true;
}

bool CutSession::put_requests_in_flight() {
    if (plan_.hold_requests) {
        plan_.hold_requests();
    }
    for (DriverQueue& queue : running_.queues) {
        while (queue.poll_used()) {
        }
        for (uint64_t i = 0; i < kRequestsInFlight; ++i) {
            requests_.push_back(plan_.make_request(memory_));
            if (!queue.try_add(requests_.back(), i)) {
                return false;
            }
        }
        queue.publish_and_kick();
    }
    return true;
}

void CutSession::release_requests() {
    if (plan_.release_requests) {
        plan_.release_requests();
    }
}

/// For a message whose reply waits for the requests in flight: its sender may be gone before they
/// are released.
bool CutSession::send_and_release(uint32_t request,
                                  uint32_t flags,
                                  std::span<const std::byte> payload) {
    const Answer sent = frontend_.send({.request = request,
                                        .flags = wire::kVersion | flags,
                                        .size = static_cast<uint32_t>(payload.size())},
                                       payload);
    if (!went_well(sent) || (cut_.reached() && !cut_.read_last_reply)) {
        return false;
    }
    release_requests();
    return true;
}

bool CutSession::read_and_write_config() {
    const FeatureSet agreed = running_.agreement.protocol_features;
    if (agreed.has(bit(ProtocolFeature::kConfig))) {
        const std::array<std::byte, 1> off{};
        if (!frontend_.get_config(0, 60) ||
            !answered(frontend_.set_config(plan_.writable_config_offset, off))) {
            return false;
        }
    }
    return !agreed.has(bit(ProtocolFeature::kStatus)) || frontend_.get_status().has_value();
}

/// The second one takes the first one's place.
bool CutSession::open_channel() {
    if (!running_.agreement.protocol_features.has(bit(ProtocolFeature::kBackendReq))) {
        return true;
    }
    for (int i = 0; i < 2; ++i) {
        auto channel = driver::ChannelEnd::open(frontend_);
        if (!channel) {
            return false;
        }
        channel_ = *std::move(channel);
    }
    return true;
}

bool CutSession::tell_of_the_network() {
    const FeatureSet agreed = running_.agreement.protocol_features;
    constexpr uint64_t kMtu = 1500;
    constexpr uint64_t kAddress = 0x5634'1200'5452;
    return (!agreed.has(bit(ProtocolFeature::kMtu)) || answered(frontend_.net_set_mtu(kMtu))) &&
           (!agreed.has(bit(ProtocolFeature::kRarp)) || answered(frontend_.send_rarp(kAddress)));
}

/// Removing a region waits for what is in flight, too.
bool CutSession::move_memory() {
    const auto region =
        memory_.add_region({.guest_address = GuestAddr{0x4000'0000}, .size = 0x1'0000}).value();
    if (!went_well(frontend_.add_mem_reg(memory_, region))) {
        return false;
    }
    const auto request = static_cast<uint32_t>(wire::FrontendRequest::kRemMemReg);
    const wire::SingleMemoryRegion payload{.padding = 0, .region = memory_.description(region)};
    return send_and_release(request, wire::kFlagNeedReply, bytes_of(payload)) &&
           went_well(frontend_.receive_ack(request)) && memory_.remove_region(region);
}

bool CutSession::replace_notifiers() {
    const DriverQueue& queue = running_.queues.front();
    return went_well(frontend_.set_vring_err(0, -1)) &&
           went_well(frontend_.set_vring_call(0, -1)) &&
           went_well(frontend_.set_vring_err(0, queue.error_fd())) &&
           went_well(frontend_.set_vring_call(0, queue.call_fd())) &&
           went_well(frontend_.set_vring_kick(0, queue.kick_fd()));
}

bool CutSession::restart_one_ring() {
    DriverQueue& queue = running_.queues.back();
    release_requests();
    if (!queue.stop(frontend_)) {
        return false;
    }
    while (queue.poll_used()) {
    }
    return went_well(queue.start(frontend_, memory_)) &&
           went_well(frontend_.set_vring_enable(queue.index(), 1));
}

/// The first GET_VRING_BASE finds requests in flight.
bool CutSession::stop_rings_under_load() {
    const auto request = static_cast<uint32_t>(wire::FrontendRequest::kGetVringBase);
    const wire::VringState state{.index = 0, .num = 0};
    if (!send_and_release(request, 0, bytes_of(state))) {
        return false;
    }
    const auto reply = frontend_.receive();
    if (!reply || reply->header.request != request) {
        return false;
    }
    for (size_t i = 1; i < running_.queues.size(); ++i) {
        if (!frontend_.get_vring_base(running_.queues[i].index())) {
            return false;
        }
    }
    return true;
}

/// All at once, as front ends without memory slots do, with every ring begun anew in it.
bool CutSession::share_the_old_way() {
    if (!went_well(frontend_.set_mem_table(memory_))) {
        return false;
    }
    for (DriverQueue& queue : running_.queues) {
        queue.reset();
        if (!went_well(queue.start(frontend_, memory_)) ||
            !went_well(frontend_.set_vring_enable(queue.index(), 1))) {
            return false;
        }
    }
    return true;
}

bool CutSession::reset_and_negotiate(FeatureSet features) {
    release_requests();
    return went_well(frontend_.reset_device()) && went_well(frontend_.set_features(features)) &&
           went_well(frontend_.set_status(kStatusFeaturesOk));
}

bool CutSession::reset_and_start_again() {
    if (!reset_and_negotiate(running_.agreement.features)) {
        return false;
    }
    for (DriverQueue& queue : running_.queues) {
        queue.reset();
        if (!went_well(queue.start(frontend_, memory_)) ||
            !went_well(frontend_.set_vring_enable(queue.index(), 1))) {
            return false;
        }
    }
    return went_well(frontend_.set_status(kStatusDriverOk));
}

/// Rings that have no descriptors start with their first VRING_KICK, and call on the channel.
bool CutSession::kick_in_band() {
    if (!running_.agreement.protocol_features.has(bit(ProtocolFeature::kInbandNotifications))) {
        return true;
    }
    if (!reset_and_negotiate(running_.agreement.features)) {
        return false;
    }
    for (DriverQueue& queue : running_.queues) {
        queue.reset();
        requests_.push_back(plan_.make_request(memory_));
        if (!queue.try_add(requests_.back(), 0)) {
            return false;
        }
        queue.publish();
        if (!went_well(frontend_.set_vring_num(queue.index(), queue.size())) ||
            !went_well(frontend_.set_vring_base(queue.index(), queue.start_base())) ||
            !went_well(frontend_.set_vring_addr(queue.vring_address(memory_))) ||
            !went_well(frontend_.set_vring_enable(queue.index(), 1)) ||
            !went_well(frontend_.vring_kick(queue.index())) ||
            !eventually([&] { return queue.poll_used().has_value(); })) {
            return false;
        }
    }
    return true;
}

/// For all of the memory: its guest addresses are the I/O virtual ones.
bool CutSession::update_iotlb(uint8_t type) {
    const wire::MemoryRegion region = memory_.description(memory_.regions().front());
    constexpr uint8_t kReadWrite = 3;
    const wire::Iotlb payload{.iova = region.guest_address,
                              .size = region.size,
                              .user_address = region.user_address,
                              .permissions = kReadWrite,
                              .type = type,
                              .padding = {}};
    const auto request = static_cast<uint32_t>(wire::FrontendRequest::kIotlbMsg);
    return send_and_release(request, wire::kFlagNeedReply, bytes_of(payload)) &&
           went_well(frontend_.receive_ack(request));
}

/// What the rings need is there before they ask for it.
bool CutSession::go_behind_an_iommu() {
    const FeatureSet features = running_.agreement.features.with(driver::kAccessPlatformBit);
    if (!reset_and_negotiate(features) || !update_iotlb(wire::kIotlbUpdate)) {
        return false;
    }
    for (DriverQueue& queue : running_.queues) {
        queue.reset();
        if (!went_well(queue.start(frontend_, memory_, driver::RingAddressKind::kGuest)) ||
            !went_well(frontend_.set_vring_enable(queue.index(), 1))) {
            return false;
        }
    }
    return went_well(frontend_.set_status(kStatusDriverOk));
}

/// The answer waits for what is in flight. Then the rings miss everything, and nobody answers.
bool CutSession::invalidate_under_load() {
    return update_iotlb(wire::kIotlbInvalidate);
}

std::vector<CutPoint> cut_points(const std::vector<uint64_t>& message_bytes) {
    constexpr uint64_t kHeaderBytes = sizeof(wire::Header);
    std::vector<CutPoint> points;
    uint64_t begin = 0;
    for (const uint64_t bytes : message_bytes) {
        points.push_back({.bytes = begin});
        points.push_back({.bytes = begin + 1});
        points.push_back({.bytes = begin + kHeaderBytes / 2});
        if (bytes > kHeaderBytes) {
            points.push_back({.bytes = begin + kHeaderBytes});
            points.push_back({.bytes = begin + kHeaderBytes + (bytes - kHeaderBytes) / 2});
        }
        begin += bytes;
        points.push_back({.bytes = begin, .read_last_reply = false});
    }
    points.push_back({.bytes = begin});
    return points;
}

void play_round(driver::Frontend frontend,
                const SessionPlan& plan,
                const std::vector<CutPoint>& points,
                size_t number) {
    constexpr std::array kWays = {HangUp::kClose, HangUp::kShutDownBoth, HangUp::kShutDownWrite};
    const size_t turn = number / points.size();
    const CutPoint& cut = points[number % points.size()];
    SessionPlan next = plan;
    next.packed = (number / kWays.size() + turn) % 2 != 0;
    CutSession session(std::move(frontend), next, cut);
    const std::string step = session.play();
    EXPECT_EQ(session.cut().bytes_sent, cut.bytes) << "broke off in step " << step;
    EXPECT_TRUE(session.hang_up(kWays[(number + turn) % kWays.size()]));
}

std::vector<CutPoint> play_whole_session(driver::Frontend frontend, const SessionPlan& plan) {
    CutSession session(std::move(frontend), plan, CutPoint{.bytes = UINT64_MAX});
    EXPECT_EQ(session.play(), "");
    std::vector<CutPoint> points = cut_points(session.cut().message_bytes);
    EXPECT_TRUE(session.hang_up(HangUp::kClose));
    // A long conversation, or the rounds test little.
    EXPECT_GT(session.cut().message_bytes.size(), 40U);
    return points;
}

}  // namespace outrigger::testing
