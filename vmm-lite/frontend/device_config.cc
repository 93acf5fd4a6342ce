// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/device_config.h"

#include <algorithm>
#include <optional>

#include <fmt/core.h>

namespace outrigger::vmm {
namespace {

/// VIRTIO 1.3, 5.11.4.
constexpr size_t kTagBytes = 36;

/// VIRTIO 1.3, 5.1.3: the device has given an address, has a control queue, has several pairs.
constexpr unsigned kMacBit = 5;
constexpr unsigned kControlQueueBit = 17;
constexpr unsigned kQueuePairsBit = 22;

/// VIRTIO 1.3, 5.1.4: max_virtqueue_pairs.
constexpr size_t kQueuePairsAt = 8;

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

/// Nothing: it has several, and does not say how many.
std::optional<size_t> queue_pairs(const Offer& offer) {
    if (!offer.backend_features.has(kQueuePairsBit)) {
        return 1;
    }
    if (!offer.has_config || offer.config.size() < kQueuePairsAt + 2) {
        return std::nullopt;
    }
    return std::to_integer<size_t>(offer.config[kQueuePairsAt]) |
           std::to_integer<size_t>(offer.config[kQueuePairsAt + 1]) << 8;
}

/// A back end may offer CTRL_VQ and mean that its front end serves it, and may count its pairs.
/// Where the rings are those of all pairs and one more, that is the control queue,
/// VIRTIO 1.3, 5.1.2.
bool serves_control_queue(const Offer& offer) {
    const auto pairs = queue_pairs(offer);
    return offer.backend_features.has(kControlQueueBit) && pairs && *pairs > 0 &&
           offer.queue_count == 2 * *pairs + 1;
}

}  // namespace

Result<void> complete_offer(const DeviceKind& kind, const GivenConfig& given, Offer& offer) {
    if (kind.control_features.bits() != 0 && !serves_control_queue(offer)) {
        offer.queue_count = kind.queue_count;
        offer.features = offer.features & FeatureSet(~kind.control_features.bits());
    }
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
