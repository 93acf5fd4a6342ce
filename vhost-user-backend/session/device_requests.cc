// SPDX-License-Identifier: Apache-2.0
// Features, configuration space, status and reset.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

/// VIRTIO 1.3, 2.1.
constexpr uint8_t kStatusFeaturesOk = 8;
constexpr uint8_t kStatusNeedsReset = 64;
constexpr uint64_t kStatusMax = 0xff;

/// Old cloud-hypervisor asks for the configuration space where virtio-mmio has it.
constexpr uint32_t kMmioConfigOffset = 0x100;

}  // namespace

Session::Impl::Outcome Session::Impl::handle_set_features(const wire::Message& message) {
    const FeatureSet wanted{payload_as<uint64_t>(message)};
    features_refused_ =
        !offered_.contains(wanted) || !environment_.device.accepts(wanted & kDeviceFeatureBits);
    if (features_refused_) {
        return refuse(Refusal::kFeatures);
    }
    if (any_ring_running()) {
        if (wanted.has(kFeatureAccessPlatform) != features_.has(kFeatureAccessPlatform)) {
            return refuse(Refusal::kState);  // its addresses would mean something else
        }
        features_ = wanted;
    } else {
        features_ = wanted;
        forget_translations();
    }
    features_known_ = true;
    device_is_reset_ = false;
    // Comes again while rings run, to switch dirty logging: indices and rings stay as they are.
    environment_.device.on_negotiated(wanted & kDeviceFeatureBits);
    for (const Vring& ring : rings_) {
        if (ring.runner != nullptr) {
            QueueRunner& runner = *ring.runner;
            const bool enabled = effectively_enabled(ring);
            runner.post([&runner, enabled] { runner.set_enabled(enabled); });
        }
    }
    if (logging_is_up_to_date()) {
        return done();
    }
    update_logging([this] { finish(done()); });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_set_protocol_features(const wire::Message& message) {
    const FeatureSet wanted{payload_as<uint64_t>(message)};
    if (!protocol_offered_.contains(wanted)) {
        return refuse(Refusal::kFeatures);
    }
    const auto wants = [&](wire::ProtocolFeature feature) {
        return wanted.has(wire::bit(feature));
    };
    if (wants(wire::ProtocolFeature::kInbandNotifications) &&
        !(wants(wire::ProtocolFeature::kBackendReq) && wants(wire::ProtocolFeature::kReplyAck))) {
        // "The back-end should close the connection": it has no other way to say so.
        close(CloseReason::kInBandAlone);
        return done();
    }
    if (wants(wire::ProtocolFeature::kGpaAddresses) !=
        negotiated(wire::ProtocolFeature::kGpaAddresses)) {
        if (any_ring_running()) {
            return refuse(Refusal::kState);  // as in SET_FEATURES
        }
        protocol_features_ = wanted;
        forget_translations();
    }
    if (wants(wire::ProtocolFeature::kLogShmfd) && !log_may_come() && any_ring_running()) {
        return refuse(Refusal::kState);  // its chains know nothing of what they write
    }
    protocol_features_ = wanted;
    requests_.on_state_changed();
    return done();
}

Session::Impl::Outcome Session::Impl::handle_get_config(const wire::Message& message) {
    auto header = payload_as<wire::ConfigHeader>(message);
    uint32_t offset = header.offset;
    if (offset >= kMmioConfigOffset && offset - kMmioConfigOffset < wire::kConfigBytesMax) {
        offset -= kMmioConfigOffset;
    }
    if (header.size == 0 || !range_fits(offset, header.size, wire::kConfigBytesMax)) {
        environment_.counters.refused.add(Refusal::kConfigRange);
        return reply({});  // a payload of size zero tells the error
    }
    // Front ends ask for as much as they know of; what this device does not have reads as zero.
    Payload payload(sizeof header + header.size);
    header.flags = 0;
    std::memcpy(payload.data(), &header, sizeof header);
    if (offset < identity_.config_bytes) {
        const size_t present = std::min<size_t>(header.size, identity_.config_bytes - offset);
        environment_.device.read_config(ConfigOffset{offset},
                                        std::span(payload).subspan(sizeof header, present));
    }
    return reply(std::move(payload));
}

Session::Impl::Outcome Session::Impl::handle_set_config(const wire::Message& message) {
    const auto header = payload_as<wire::ConfigHeader>(message);
    if (header.size == 0 ||
        !range_fits<uint32_t>(header.offset, header.size, identity_.config_bytes)) {
        return refuse(Refusal::kConfigRange);
    }
    const auto bytes = std::span<const std::byte>(message.payload).subspan(sizeof header);
    if (!environment_.device.write_config(ConfigOffset{header.offset}, bytes)) {
        return refuse(Refusal::kConfigValue);
    }
    return done();
}

Session::Impl::Outcome Session::Impl::handle_set_status(const wire::Message& message) {
    const auto value = payload_as<uint64_t>(message);
    if (value > kStatusMax) {
        return refuse(Refusal::kStatus);
    }
    status_ = static_cast<uint8_t>(value);
    if (features_refused_) {
        // This is how a device says that it does not take the features (VIRTIO 1.3, 3.1.1).
        status_ &= static_cast<uint8_t>(~kStatusFeaturesOk);
    }
    if (value != 0) {
        return done();
    }
    reset_device(ResetBy::kStatus, [this] { finish(done()); });
    return later();
}

Session::Impl::Outcome Session::Impl::handle_get_status() {
    const bool broken = std::ranges::any_of(rings_, &Vring::broken);
    return reply_u64(broken ? status_ | kStatusNeedsReset : status_);
}

Session::Impl::Outcome Session::Impl::handle_reset_device() {
    reset_device(ResetBy::kRequest, [this] { finish(done()); });
    return later();
}

void Session::Impl::reset_device(ResetBy by, Continuation then) {
    stop_all_rings(StopCause::kReset, [this, by, then = std::move(then)]() mutable {
        state_.forget();
        if (by == ResetBy::kRequest || !negotiated(wire::ProtocolFeature::kResetDevice)) {
            state_.drop_kept();
        } else if (used_) {
            // QEMU sends status 0 when the machine stops, too, and asks for the state then. What it
            // means by a reset it says by RESET_DEVICE.
            state_.keep(describe_state());
        }
        used_ = false;
        for (Vring& ring : rings_) {
            // The connection and what belongs to it stay: memory, call and err descriptors.
            ring = Vring{.descriptors = {.kick = nullptr,
                                         .call = std::move(ring.descriptors.call),
                                         .err = std::move(ring.descriptors.err)},
                         .call_is_set = ring.call_is_set,
                         .err_is_set = ring.err_is_set,
                         .stopped_here = ring.stopped_here};
        }
        // Whatever is still noted in ours, no ring of the next driver must take it up.
        own_inflight_ = nullptr;
        outcomes_ = nullptr;
        requests_.on_device_reset();
        forget_translations();
        status_ = 0;
        features_refused_ = false;
        environment_.device.reset();
        device_was_reset_ = true;
        device_is_reset_ = true;
        then();
    });
}

Session::Impl::Outcome Session::Impl::handle_net_set_mtu(const wire::Message& message) {
    const auto mtu = payload_as<uint64_t>(message);
    if (mtu > std::numeric_limits<uint16_t>::max() ||
        !environment_.device.set_mtu(static_cast<uint16_t>(mtu))) {
        return refuse(Refusal::kMtu);
    }
    return done();
}

Session::Impl::Outcome Session::Impl::handle_send_rarp(const wire::Message& message) {
    // The address is in the first six bytes of the payload, whatever the host's byte order.
    MacAddress address;
    std::memcpy(address.data(), message.payload.data(), address.size());
    return environment_.device.announce(address) ? done() : refuse(Refusal::kAddress);
}

Session::Impl::Outcome Session::Impl::handle_get_shared_object(const wire::Message& message) {
    Uuid object;
    std::memcpy(object.data(), message.payload.data(), object.size());
    auto fd = environment_.device.shared_object(object);
    if (!fd || !fd->valid()) {
        return refuse(Refusal::kSharedObject);
    }
    Outcome outcome = reply(message.payload);
    outcome.fd = *std::move(fd);
    return outcome;
}

Session::Impl::Outcome Session::Impl::handle_get_shmem_config() {
    wire::ShmemConfig config{};
    config.region_count = static_cast<uint32_t>(abilities_.shared_memory.size());
    std::ranges::copy(abilities_.shared_memory, config.sizes);
    return reply_object(config);
}

Session::Impl::Outcome Session::Impl::handle_set_backend_req_fd(wire::Message& message) {
    if (!may_be_channel(message.fds[0].get())) {
        return refuse(Refusal::kChannelFd);
    }
    SessionJournal* const journal = environment_.journal;
    if (journal == nullptr) {
        requests_.set_channel(std::move(message.fds[0]));
        return done();
    }
    const size_t owed = saved_ ? saved_->owed_answers : 0;
    journal->set_owed(owed);
    requests_.set_channel(
        std::move(message.fds[0]), owed, [journal](size_t answers) { journal->set_owed(answers); });
    return done();
}

}  // namespace outrigger
