// SPDX-License-Identifier: Apache-2.0
/// What a front end has made of a session, as the messages that would make it so again: not all
/// that it sent, but the last word on each thing. A session of another process goes on from them.
///
/// Bounded by what sessions take (rings, memory slots), whatever a front end sends and how often.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/wire/messages.h"

namespace outrigger {

/// A message; its descriptors are elsewhere, under these names.
struct KeptMessage {
    uint32_t request = 0;
    std::vector<std::byte> payload{};
    std::vector<std::string> fds{};

    friend bool operator==(const KeptMessage&, const KeptMessage&) = default;
};

class EffectiveMessages final {
  public:
    /// In a SET_INFLIGHT_FD of in_order(), instead of padding: the buffer is our own, and the front
    /// end does not have it.
    static constexpr uint32_t kOwnInflight = 1;

    /// A message that the session has carried out, and its answer.
    struct Done {
        wire::FrontendRequest request{};
        std::span<const std::byte> payload{};
        std::span<const std::string> fds{};
        std::span<const std::byte> reply{};
        std::string reply_fd{};  ///< GET_INFLIGHT_FD: the name of what it gave
    };

    /// The payload was checked against the request table. True when it changed anything.
    bool note(const Done& done);

    /// A refusal may have stopped a ring, or not enabled it: what the session makes of it now.
    bool set_ring_state(uint32_t index, bool started, bool enabled);

    /// A buffer for requests in flight that the front end did not ask for, beside the one that it
    /// has, if there is one.
    void keep_own_inflight(wire::Inflight description, std::string fd);

    /// The device has loaded this state, as the session writes it down: before the configuration
    /// that the driver writes from now on.
    void keep_device_state(std::vector<std::byte> state);

    /// What the session is cannot be told by messages any more.
    void give_up() { given_up_ = true; }

    /// False while another process could not go on: page faults of postcopy go to this one, say.
    [[nodiscard]] bool restorable() const { return !postcopy_ && !given_up_; }

    /// In an order in which a session can carry them out. Valid until the next change.
    [[nodiscard]] std::vector<const KeptMessage*> in_order() const;

    /// Is a descriptor of that name among them?
    [[nodiscard]] bool names(const std::string& fd) const;

    /// Takes the names that nothing has any more since the last call.
    [[nodiscard]] std::vector<std::string> take_released();

    /// What in_order() gave in another process. Any bytes: the session checks what they say.
    void restore(std::vector<KeptMessage> messages);

  private:
    /// The order of in_order().
    enum class Stage : uint8_t {
        kProtocolFeatures,
        kLogBase,
        kLogFd,
        kFeatures,
        kChannel,
        kMtu,
        kDeviceState,
        kConfig,
        kInflight,
        kMemory,
        kRing,
        kStatus,
    };

    struct Place {
        Stage stage = Stage::kProtocolFeatures;
        uint32_t index = 0;  // of the ring; an offset; the order in which memory came
        uint32_t step = 0;   // of the ring's

        friend auto operator<=>(const Place&, const Place&) = default;
    };

    static Place own_inflight_place() { return {.stage = Stage::kInflight, .index = 1}; }

    /// The steps of one ring: what it is, before it is started.
    enum class RingStep : uint32_t { kNum, kBase, kAddress, kCall, kErr, kEnable, kKick };

    static Place ring(uint32_t index, RingStep step) {
        return {.stage = Stage::kRing, .index = index, .step = static_cast<uint32_t>(step)};
    }

    [[nodiscard]] static Place place_of(const KeptMessage& message);

    void put(const Place& place, KeptMessage message);
    void drop(const Place& place);
    void drop_stage(Stage stage);
    void set_mem_table(const Done& done);
    void add_region(const wire::MemoryRegion& region, std::vector<std::string> fds);
    void remove_region(const wire::MemoryRegion& region);
    void put_inflight(const wire::Inflight& description, std::vector<std::string> fds);
    void stop_ring(const Done& done);
    void reset_device();

    std::map<Place, KeptMessage> messages_;
    std::vector<std::string> released_;
    uint32_t next_region_ = 0;
    bool postcopy_ = false;
    bool given_up_ = false;
};

}  // namespace outrigger
