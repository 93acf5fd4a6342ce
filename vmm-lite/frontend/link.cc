// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/link.h"

#include <cstring>
#include <utility>

#include <fmt/core.h>

namespace outrigger::vmm {
namespace {

using enum wire::FrontendRequest;
using Feature = wire::ProtocolFeature;

/// Device status bits. VIRTIO 1.3, 2.1.
constexpr uint64_t kStatusFeaturesOk = 1 | 2 | 8;  // ACKNOWLEDGE, DRIVER, FEATURES_OK
constexpr uint64_t kStatusFeaturesOkBit = 8;
constexpr uint64_t kStatusDriverOk = kStatusFeaturesOk | 4;

wire::MemoryRegion describe(const MemoryRegion& region) {
    return {.guest_address = static_cast<uint64_t>(region.guest_address),
            .size = region.bytes,
            .user_address = region.frontend_address,
            .mmap_offset = region.fd_offset};
}

}  // namespace

Link::Link(EventLoop& loop, UniqueFd socket, const Options& options, Handler handler)
    : options_(options),
      handler_(std::move(handler)),
      channel_(loop,
               std::move(socket),
               options_.deadlines,
               // A copy: the callback may destroy us.
               [on_lost = handler_.on_lost](const Error& reason) { on_lost(reason); }) {
    auto ends = BackendRequests::make_ends();
    if (!ends) {
        channel_.fail(std::move(ends).error());
        return;
    }
    requests_ = std::make_unique<BackendRequests>(
        loop,
        std::move(ends->first),
        options_.windows,
        BackendRequests::Handler{
            .on_config_change = [this] { handler_.on_config_change(); },
            .on_mapped = [this] { handler_.on_mapped(); },
            .on_violation = [this](const Error& what) { channel_.fail(what); }});
    negotiation_.emplace(
        channel_, options_.negotiation, share(std::move(ends->second)), [this](Offer offer) {
            offer_ = std::move(offer);
            requests_->set_agreed(offer_.protocol_features);
            handler_.on_offer(offer_);
        });
    negotiation_->begin();
}

void Link::send_u64(wire::FrontendRequest number, uint64_t value, SharedFd fd) {
    Channel::Request request{.number = number, .payload = payload_of(value)};
    if (fd != nullptr) {
        request.fds.push_back(std::move(fd));
    }
    channel_.send(std::move(request));
}

void Link::send_state(wire::FrontendRequest number, uint32_t index, uint32_t value) {
    channel_.send(
        {.number = number, .payload = payload_of(wire::VringState{.index = index, .num = value})});
}

void Link::send_features(FeatureSet features, bool logging) {
    if (offer_.backend_features.has(wire::kProtocolFeaturesBit)) {
        features = features.with(wire::kProtocolFeaturesBit);
    }
    send_u64(kSetFeatures, (logging ? features.with(wire::kLogAllBit) : features).bits());
}

void Link::send_ring_address(const RingStart& ring, bool logging) {
    channel_.send({.number = kSetVringAddr,
                   .payload = payload_of(wire::VringAddress{
                       .index = ring.index,
                       .flags = logging ? wire::kVringAddressFlagLog : 0,
                       .descriptor = ring.descriptors,
                       .used = ring.device,
                       .available = ring.driver,
                       .log = logging ? static_cast<uint64_t>(ring.device_guest_address) : 0})});
}

void Link::send_log(const DirtyLog& log) {
    channel_.send({.number = kSetLogBase,
                   .payload = payload_of(wire::Log{.size = log.bytes, .offset = 0}),
                   .fds = {log.fd}});
}

/// Once a connection: what the guest's memory is never changes.
void Link::send_memory(const std::vector<SharedRegion>& memory) {
    if (std::exchange(memory_known_, true)) {
        return;
    }
    if (has(Feature::kConfigureMemSlots)) {
        for (const SharedRegion& region : memory) {
            channel_.send({.number = kAddMemReg,
                           .payload = payload_of(wire::SingleMemoryRegion{
                               .padding = 0, .region = describe(region.region)}),
                           .fds = {region.fd}});
        }
        return;
    }
    // The negotiation has seen to it that they fit.
    Channel::Request request{
        .number = kSetMemTable,
        .payload = payload_of(wire::MemoryTableHeader{
            .region_count = static_cast<uint32_t>(memory.size()), .padding = 0})};
    for (const SharedRegion& region : memory) {
        const auto described = payload_of(describe(region.region));
        request.payload.insert(request.payload.end(), described.begin(), described.end());
        request.fds.push_back(region.fd);
    }
    channel_.send(std::move(request));
}

/// The ring starts with the last of these.
void Link::send_ring(const RingStart& ring, bool logging) {
    send_state(kSetVringNum, ring.index, ring.size);
    send_state(kSetVringBase, ring.index, ring.base);
    send_ring_address(ring, logging);
    send_u64(kSetVringErr, ring.index, ring.error);
    send_u64(kSetVringCall, ring.index, ring.call);
    send_u64(kSetVringKick, ring.index, ring.kick);
}

void Link::start(StartPlan plan,
                 const std::vector<SharedRegion>& memory,
                 std::move_only_function<void()> on_started) {
    plan_ = std::move(plan);
    memory_ = memory;
    on_started_ = std::move(on_started);
    if (plan_.log) {
        send_log(*plan_.log);
    }
    send_features(plan_.features, plan_.log.has_value());
    if (has(Feature::kStatus)) {
        send_u64(kSetStatus, kStatusFeaturesOk);
        channel_.send({.number = kGetStatus, .on_reply = [](wire::Message& reply) -> Result<void> {
                           if ((u64_of(reply) & kStatusFeaturesOkBit) == 0) {
                               return failure(Error{.message = "it does not agree to the features "
                                                               "that the driver took"});
                           }
                           return {};
                       }});
    }
    if (has(Feature::kInflightShmfd) && plan_.inflight == nullptr && !plan_.rings.empty()) {
        get_inflight();
    } else {
        send_rest();
    }
}

void Link::get_inflight() {
    const wire::Inflight wish{.mmap_size = 0,
                              .mmap_offset = 0,
                              .queue_count = offer_.queue_count,
                              .queue_size = plan_.queue_size_max,
                              .padding = 0};
    channel_.send(
        {.number = kGetInflightFd,
         .payload = payload_of(wish),
         .on_reply = [this, wish](wire::Message& reply) -> Result<void> {
             auto buffer = OUTRIGGER_TRY(take_inflight(reply, wish.queue_count, wish.queue_size));
             if (buffer.fd.valid()) {
                 plan_.inflight = std::make_shared<InflightTable>(InflightTable{
                     .description = buffer.description, .fd = share(std::move(buffer.fd))});
                 // The rings may be served, and their back end lost, before the start is over.
                 plan_.on_inflight(plan_.inflight);
             }
             send_rest();
             return {};
         }});
}

void Link::send_rest() {
    if (plan_.inflight != nullptr) {
        channel_.send({.number = kSetInflightFd,
                       .payload = payload_of(plan_.inflight->description),
                       .fds = {plan_.inflight->fd}});
    }
    send_memory(memory_);
    for (const RingStart& ring : plan_.rings) {
        send_ring(ring, plan_.log.has_value());
    }
    // Without the feature rings are enabled from the start.
    if (offer_.backend_features.has(wire::kProtocolFeaturesBit)) {
        for (const RingStart& ring : plan_.rings) {
            send_state(kSetVringEnable, ring.index, 1);
        }
    }
    if (has(Feature::kStatus)) {
        send_u64(kSetStatus, kStatusDriverOk);
    }
    barrier([this] {
        // Descriptors that only the start needed.
        memory_.clear();
        plan_ = StartPlan{};
        std::exchange(on_started_, nullptr)();
    });
}

void Link::stop(const std::vector<uint16_t>& rings,
                bool packed,
                std::move_only_function<void(std::vector<uint32_t>)> on_stopped) {
    struct Stop {
        std::vector<uint32_t> bases;
        size_t left = 0;
        std::move_only_function<void(std::vector<uint32_t>)> on_stopped;
    };

    if (rings.empty()) {
        barrier([on_stopped = std::move(on_stopped)]() mutable { on_stopped({}); });
        return;
    }
    auto state = std::make_shared<Stop>(Stop{.bases = std::vector<uint32_t>(rings.size()),
                                             .left = rings.size(),
                                             .on_stopped = std::move(on_stopped)});
    // Not ENABLE 0 before it: a ring that runs without being enabled throws its requests away, and
    // only GET_VRING_BASE finishes them.
    for (size_t i = 0; i < rings.size(); ++i) {
        channel_.send(
            {.number = kGetVringBase,
             .payload = payload_of(wire::VringState{.index = rings[i], .num = 0}),
             .on_reply = [state, i, ring = rings[i], packed](wire::Message& reply) -> Result<void> {
                 state->bases[i] = OUTRIGGER_TRY(parse_vring_base(reply, ring, packed));
                 if (--state->left == 0) {
                     state->on_stopped(std::move(state->bases));
                 }
                 return {};
             },
             .deadline = options_.deadlines.drain});
    }
}

void Link::reset_device(std::move_only_function<void()> on_reset) {
    if (has(Feature::kResetDevice)) {
        channel_.send({.number = kResetDevice});
    }
    if (has(Feature::kStatus)) {
        send_u64(kSetStatus, 0);
    }
    barrier(std::move(on_reset));
}

void Link::set_call(uint16_t ring, SharedFd call, std::move_only_function<void()> on_set) {
    send_u64(kSetVringCall, ring, std::move(call));
    barrier(std::move(on_set));
}

void Link::get_config(uint32_t bytes,
                      std::move_only_function<void(std::vector<std::byte>)> on_config) {
    std::vector<std::byte> payload =
        payload_of(wire::ConfigHeader{.offset = 0, .size = bytes, .flags = 0});
    payload.resize(payload.size() + bytes);
    channel_.send({.number = kGetConfig,
                   .payload = std::move(payload),
                   .on_reply = [bytes, on_config = std::move(on_config)](
                                   wire::Message& reply) mutable -> Result<void> {
                       on_config(OUTRIGGER_TRY(parse_config(reply, bytes)));
                       return {};
                   }});
}

void Link::set_config(uint32_t offset,
                      const std::vector<std::byte>& bytes,
                      std::move_only_function<void(bool)> on_set) {
    std::vector<std::byte> payload = payload_of(wire::ConfigHeader{
        .offset = offset, .size = static_cast<uint32_t>(bytes.size()), .flags = 0});
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    channel_.send(
        {.number = kSetConfig,
         .payload = std::move(payload),
         .on_ack = [on_set = std::move(on_set)](uint64_t verdict) mutable -> Result<void> {
             on_set(verdict == 0);
             return {};
         }});
}

void Link::set_log(const std::optional<DirtyLog>& log,
                   FeatureSet features,
                   const std::vector<RingStart>& rings,
                   std::move_only_function<void()> on_set) {
    if (log) {
        send_log(*log);
    }
    send_features(features, log.has_value());
    for (const RingStart& ring : rings) {
        send_ring_address(ring, log.has_value());
    }
    barrier(std::move(on_set));
}

void Link::barrier(std::move_only_function<void()> then) {
    channel_.send({.number = kGetFeatures,
                   .on_reply = [then = std::move(then)](wire::Message&) mutable -> Result<void> {
                       then();
                       return {};
                   }});
}

}  // namespace outrigger::vmm
