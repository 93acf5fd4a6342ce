// SPDX-License-Identifier: Apache-2.0
/// Front end and driver of the session target: sends what the script says, good messages unless it
/// says otherwise, and reads what comes back.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/message_codec.h"
#include "vhost-user-backend/wire/request_table.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/session_script.h"

namespace outrigger::fuzz {

/// What outlives sessions, because making it costs more than a script: memory, notifications.
class PeerResources final {
  public:
    PeerResources();

    /// Memory full of zeroes, nothing signalled.
    void reset();

    [[nodiscard]] int memory(size_t region, bool sealed) const {
        return (sealed ? sealed_ : memory_)[region].get();
    }

    [[nodiscard]] const FdSet& fds() const { return fds_; }

    enum class Notification : uint8_t { kKick, kCall, kErr };

    [[nodiscard]] int notification(size_t ring, Notification which) const {
        return notifications_[ring][static_cast<size_t>(which)].get();
    }

  private:
    std::array<UniqueFd, kGuestRegions> memory_;
    std::array<UniqueFd, kGuestRegions> sealed_;
    std::array<std::array<UniqueFd, 3>, kSessionRings> notifications_;
    FdSet fds_;
};

/// One connection.
class SessionPeer final {
  public:
    /// What the back end offers, for those that take the offer.
    struct Offer {
        FeatureSet features;
        FeatureSet protocol_features;
    };

    SessionPeer(const PeerResources& resources,
                ScriptReader& script,
                const Offer& offer,
                bool sealed_memory);

    /// The other end, once.
    [[nodiscard]] UniqueFd take_back_end() { return std::move(back_end_); }

    // Operations, with their arguments from the script.
    void request();
    void bytes();
    void offer(bool packed);
    void store();
    void kick();
    void truncate();
    void answer();

    void cut_next(uint8_t bytes) { cut_ = bytes; }

    void read_replies();

    void set_deaf() { deaf_ = true; }

    /// Reads, unless deaf.
    void listen();
    void half_close();
    void disconnect();

    /// Sends the second half of a request that was cut.
    void send_rest();

    /// It passed its own end of the connection: then nobody sees it hang up.
    [[nodiscard]] bool passed_itself() const { return passed_itself_; }

  private:
    [[nodiscard]] uint64_t read_u64(wire::FrontendRequest request);
    [[nodiscard]] FeatureSet choose_features(uint8_t choice);
    [[nodiscard]] FeatureSet choose_protocol_features(uint8_t choice);
    [[nodiscard]] wire::MemoryRegion read_region();
    [[nodiscard]] uint32_t read_u32();
    void write_payload(const wire::RequestDescription& description);
    void write_vring_address();
    void write_iotlb_page(uint8_t type);
    void add_fds(const wire::RequestDescription* description, uint8_t bits);
    [[nodiscard]] int default_fd(const wire::RequestDescription& description, size_t number);
    void send(std::span<const uint8_t> bytes, std::span<const int> fds);
    void store_in_guest(uint64_t guest_address, std::span<const uint8_t> bytes);

    template <class T>
    void append(const T& object) {
        const size_t at = payload_.size();
        payload_.resize(at + sizeof object);
        std::memcpy(payload_.data() + at, &object, sizeof object);
    }

    const PeerResources& resources_;
    ScriptReader& script_;
    const Offer offer_;
    const bool sealed_memory_;
    UniqueFd back_end_;
    UniqueFd socket_;
    wire::MessageStream replies_;
    UniqueFd channel_;            // our end of the one for the back end's requests
    std::deque<uint32_t> asked_;  // the back end's requests that were not answered

    std::vector<uint8_t> payload_;         // of the request in hand
    std::vector<int> fds_;                 // borrowed
    std::vector<UniqueFd> own_fds_;        // made for it
    std::vector<size_t> payload_regions_;  // whose memory its payload names
    size_t payload_ring_ = 0;
    std::vector<uint8_t> rest_;  // of a request that was cut
    std::optional<uint8_t> cut_;

    std::array<uint16_t, kSessionRings> ring_sizes_{};
    std::array<uint16_t, kSessionRings> available_{};
    std::array<bool, kSessionRings> wraps_{};
    // What the last negotiation means for addresses of rings and of IOTLB messages.
    bool iommu_ = false;
    bool guest_addresses_ = false;
    uint64_t requests_sent_ = 0;
    uint64_t replies_read_ = 0;
    bool deaf_ = false;
    bool deaf_before_ = false;
    bool passed_itself_ = false;
};

}  // namespace outrigger::fuzz
