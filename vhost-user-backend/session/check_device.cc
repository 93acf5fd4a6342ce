// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>

#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/session/feature_offer.h"
#include "vhost-user-backend/session/session.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger {
namespace {

Error impossible(const DeviceIdentity& identity, std::string_view what) {
    return Error{.message =
                     fmt::format("the device \"{}\" cannot be served: {}", identity.name, what)};
}

}  // namespace

Result<void> check_device(const Device& device) {
    const DeviceIdentity identity = device.identity();
    const FeatureSet foreign(device.offered_features().bits() & ~kDeviceFeatureBits.bits());
    const std::span<const uint64_t> regions = device.abilities().shared_memory;
    const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    if (identity.queue_count == 0 || identity.queue_count > wire::kVringFdIndexMask + 1) {
        return failure(impossible(
            identity, fmt::format("queue_count is {}, not 1 to 256", identity.queue_count)));
    }
    if (identity.queue_size_max == 0 || identity.queue_size_max > kQueueSizeLimit) {
        return failure(impossible(
            identity,
            fmt::format("queue_size_max is {}, not 1 to 32768", identity.queue_size_max)));
    }
    if (identity.config_bytes > wire::kConfigBytesMax) {
        return failure(impossible(
            identity, fmt::format("config_bytes is {}, more than 256", identity.config_bytes)));
    }
    if (identity.outcome_bytes > kOutcomeBytesMax) {
        return failure(impossible(
            identity, fmt::format("outcome_bytes is {}, more than 512", identity.outcome_bytes)));
    }
    if (foreign != FeatureSet()) {
        return failure(impossible(
            identity,
            fmt::format(
                "offered_features() has {:#x}, but only bits 0 to 23 and 50 to 63 belong to "
                "a device; the framework offers the others",
                foreign.bits())));
    }
    if (regions.size() > std::size(wire::ShmemConfig{}.sizes) ||
        std::ranges::any_of(regions, [&](uint64_t bytes) { return bytes % page_bytes != 0; })) {
        return failure(impossible(
            identity, "shared_memory has more than 256 regions, or one that is not whole pages"));
    }
    if (!are_section_kinds(device.state_sections())) {
        return failure(impossible(identity,
                                  "state_sections() has an id or version 0, an id twice, or a name "
                                  "that is not 32 printable characters at most"));
    }
    return {};
}

}  // namespace outrigger
