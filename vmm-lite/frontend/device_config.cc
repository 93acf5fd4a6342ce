// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/device_config.h"

#include <algorithm>

#include <fmt/core.h>

namespace outrigger::vmm {
namespace {

/// VIRTIO 1.3, 5.11.4.
constexpr size_t kTagBytes = 36;

/// VIRTIO 1.3, 5.1.3: the device has given an address.
constexpr unsigned kMacBit = 5;

template <class T>
void append(std::vector<std::byte>& out, T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
        out.push_back(static_cast<std::byte>(uint64_t{value} >> (8 * i)));
    }
}

/// struct virtio_fs_config without what belongs to NOTIFICATION. One queue is for what has
/// priority.
std::vector<std::byte> fs_config(const std::string& tag, uint16_t queue_count) {
    std::vector<std::byte> out(kTagBytes);
    std::ranges::transform(
        tag, out.begin(), [](char letter) { return static_cast<std::byte>(letter); });
    append<uint32_t>(out, queue_count - 1U);
    return out;
}

}  // namespace

Result<void> complete_offer(const DeviceKind& kind, const GivenConfig& given, Offer& offer) {
    if (offer.has_config) {
        if (given.any()) {
            return failure(Error{.message = fmt::format("it gives its configuration itself: leave "
                                                        "{} away, or change it there",
                                                        kind.config_option)});
        }
        return {};
    }
    if (kind.config == ConfigRule::kEither && !given.any()) {
        return failure(Error{.message = fmt::format("it does not give the configuration of its "
                                                    "device: say it with {}",
                                                    kind.config_option)});
    }
    offer.features = offer.features & FeatureSet(~kind.config_features.bits());
    if (!given.tag.empty()) {
        offer.config = fs_config(given.tag, offer.queue_count);
    } else if (given.cid) {
        append<uint64_t>(offer.config, *given.cid);
    } else if (given.mac) {
        for (const uint8_t byte : *given.mac) {
            offer.config.push_back(std::byte{byte});
        }
        offer.features = offer.features.with(kMacBit);
    }
    return {};
}

}  // namespace outrigger::vmm
