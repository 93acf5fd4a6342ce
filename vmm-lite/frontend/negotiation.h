// SPDX-License-Identifier: Apache-2.0
/// The first words with a back end: what it is and can do, and what of that we use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"

#include "vmm-lite/frontend/channel.h"
#include "vmm-lite/frontend/device_kinds.h"

namespace outrigger::vmm {

/// What a back end offers, as far as we use it.
struct Offer {
    FeatureSet backend_features{};   ///< all that it said
    FeatureSet features{};           ///< what the driver may see
    FeatureSet protocol_features{};  ///< agreed on
    uint16_t queue_count = 0;
    uint64_t memory_slots = 0;  ///< regions of memory that it can take
    bool has_config = false;
    std::vector<std::byte> config{};
    std::vector<uint64_t> shared_memory{};  ///< bytes of each region, by id

    [[nodiscard]] bool has(wire::ProtocolFeature feature) const {
        return protocol_features.has(wire::bit(feature));
    }
};

struct NegotiationOptions {
    DeviceKind kind{};
    size_t memory_regions = 1;   ///< that the back end must be able to take
    bool shared_memory = false;  ///< the machine has a window for it
};

/// Negotiates over `channel`, which it borrows. Thread-bound: the loop's.
class Negotiation final {
  public:
    /// Sees the offer, after the last reply. Runs within the channel's callback.
    using OnOffer = std::move_only_function<void(Offer)>;

    /// `requests_fd`: the end for the back end of the channel for its own requests.
    Negotiation(Channel& channel,
                const NegotiationOptions& options,
                SharedFd requests_fd,
                OnOffer on_offer);

    /// Sends the first request. An offer that cannot be used fails the channel.
    void begin();

  private:
    void ask_protocol_features();
    void agree(FeatureSet offered);
    void ask_properties();
    void ask_config(uint32_t bytes);
    [[nodiscard]] Result<void> take_queue_count(uint64_t with_mq);
    [[nodiscard]] Result<void> take_config(std::vector<std::byte> config, uint32_t asked);
    void finish();

    Channel& channel_;
    const NegotiationOptions options_;
    SharedFd requests_fd_;
    OnOffer on_offer_;
    Offer offer_;
};

}  // namespace outrigger::vmm
