// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/negotiation.h"

#include <utility>

#include <fmt/core.h>

#include "vmm-lite/frontend/reply_rules.h"

namespace outrigger::vmm {
namespace {

using enum wire::FrontendRequest;
using Feature = wire::ProtocolFeature;

/// All that this front end can do. Not among them: what drains less than we rely on, and what the
/// guest of this machine has no use for.
constexpr FeatureSet kOurs = FeatureSet::of({wire::bit(Feature::kMq),
                                             wire::bit(Feature::kLogShmfd),
                                             wire::bit(Feature::kReplyAck),
                                             wire::bit(Feature::kBackendReq),
                                             wire::bit(Feature::kConfig),
                                             wire::bit(Feature::kInflightShmfd),
                                             wire::bit(Feature::kResetDevice),
                                             wire::bit(Feature::kConfigureMemSlots),
                                             wire::bit(Feature::kStatus),
                                             wire::bit(Feature::kDeviceState)});

/// SHMEM_MAP brings a descriptor, by the channel for the back end's requests.
constexpr FeatureSet kForSharedMemory =
    FeatureSet::of({wire::bit(Feature::kShmem), wire::bit(Feature::kBackendSendFd)});

Error unusable(std::string what) {
    return Error{.message = std::move(what)};
}

}  // namespace

Negotiation::Negotiation(Channel& channel,
                         const NegotiationOptions& options,
                         SharedFd requests_fd,
                         OnOffer on_offer)
    : channel_(channel),
      options_(options),
      requests_fd_(std::move(requests_fd)),
      on_offer_(std::move(on_offer)) {}

void Negotiation::begin() {
    channel_.send(
        {.number = kGetFeatures, .on_reply = [this](wire::Message& reply) -> Result<void> {
             offer_.backend_features = FeatureSet(u64_of(reply));
             if (!offer_.backend_features.has(kVersion1Bit)) {
                 return failure(
                     unusable("it does not offer VERSION_1: it serves legacy "
                              "devices only"));
             }
             if (offer_.backend_features.has(wire::kProtocolFeaturesBit)) {
                 ask_protocol_features();
             } else {
                 ask_properties();
             }
             return {};
         }});
}

void Negotiation::ask_protocol_features() {
    channel_.send(
        {.number = kGetProtocolFeatures, .on_reply = [this](wire::Message& reply) -> Result<void> {
             agree(FeatureSet(u64_of(reply)));
             ask_properties();
             return {};
         }});
}

void Negotiation::agree(FeatureSet offered) {
    FeatureSet ours = kOurs;
    if (options_.shared_memory && offered.has(wire::bit(Feature::kShmem)) &&
        offered.has(wire::bit(Feature::kBackendReq))) {
        ours = ours | kForSharedMemory;
    }
    if (options_.kind.config == ConfigRule::kNone) {
        ours = ours.without(wire::bit(Feature::kConfig));
    }
    offer_.protocol_features = ours & offered;
    channel_.send(
        {.number = kSetProtocolFeatures, .payload = payload_of(offer_.protocol_features.bits())});
    if (offer_.has(Feature::kReplyAck)) {
        channel_.use_acks();
    }
}

/// All that is left is asked at once: the replies come in order, and the last ends it.
void Negotiation::ask_properties() {
    channel_.send({.number = kSetOwner});
    if (offer_.has(Feature::kMq)) {
        channel_.send({.number = kGetQueueNum, .on_reply = [this](wire::Message& reply) {
                           return take_queue_count(u64_of(reply));
                       }});
    } else {
        offer_.queue_count = options_.kind.queue_count;
    }
    offer_.memory_slots = wire::kMemTableRegionsMax;
    if (offer_.has(Feature::kConfigureMemSlots)) {
        channel_.send(
            {.number = kGetMaxMemSlots, .on_reply = [this](wire::Message& reply) -> Result<void> {
                 offer_.memory_slots = u64_of(reply);
                 return {};
             }});
    }
    if (offer_.has(Feature::kBackendReq)) {
        channel_.send({.number = kSetBackendReqFd, .fds = {std::move(requests_fd_)}});
    }
    if (offer_.has(Feature::kShmem)) {
        channel_.send(
            {.number = kGetShmemConfig, .on_reply = [this](wire::Message& reply) -> Result<void> {
                 offer_.shared_memory = OUTRIGGER_TRY(parse_shmem_config(reply));
                 return {};
             }});
    }
    if (offer_.has(Feature::kConfig)) {
        ask_config(options_.kind.config_bytes);
    } else {
        // The one request that every back end answers: what was sent before has been looked at.
        channel_.send({.number = kGetFeatures, .on_reply = [this](wire::Message&) -> Result<void> {
                           finish();
                           return {};
                       }});
    }
}

Result<void> Negotiation::take_queue_count(uint64_t with_mq) {
    const auto count = queue_count_of(options_.kind, with_mq);
    if (!count) {
        return failure(
            unusable(fmt::format("it has {} queues: a {} needs at least {}, and none "
                                 "can have more than 256",
                                 with_mq,
                                 options_.kind.name,
                                 options_.kind.queue_count_min)));
    }
    offer_.queue_count = *count;
    return {};
}

void Negotiation::ask_config(uint32_t bytes) {
    std::vector<std::byte> payload =
        payload_of(wire::ConfigHeader{.offset = 0, .size = bytes, .flags = 0});
    payload.resize(payload.size() + bytes);
    channel_.send({.number = kGetConfig,
                   .payload = std::move(payload),
                   .on_reply = [this, bytes](wire::Message& reply) -> Result<void> {
                       return take_config(OUTRIGGER_TRY(parse_config(reply, bytes)), bytes);
                   }});
}

Result<void> Negotiation::take_config(std::vector<std::byte> config, uint32_t asked) {
    // Nothing says how long the space is. A back end that gives no more than it has is asked for
    // less, at most eight times.
    if (config.empty() && asked > 1) {
        ask_config(asked / 2);
        return {};
    }
    offer_.has_config = !config.empty();
    offer_.config = std::move(config);
    finish();
    return {};
}

void Negotiation::finish() {
    const bool inflight = offer_.has(Feature::kInflightShmfd);
    offer_.features = offered_to_driver(options_.kind, offer_.backend_features, inflight);
    if (offer_.memory_slots < options_.memory_regions) {
        channel_.fail(unusable(fmt::format("it takes {} regions of memory, and there are {}",
                                           offer_.memory_slots,
                                           options_.memory_regions)));
        return;
    }
    if (options_.kind.config == ConfigRule::kRequired && !offer_.has_config) {
        channel_.fail(
            unusable(fmt::format("it does not give the configuration of its device, which "
                                 "a {} needs: is it one?",
                                 options_.kind.name)));
        return;
    }
    on_offer_(std::move(offer_));
}

}  // namespace outrigger::vmm
