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

/// What a session is beside what messages say of it: kept among them, under numbers that no front
/// end's message has here.
enum class OwnRecord : uint32_t {
    kSession = 0x4f52'0001,   ///< SessionFacts
    kDevice = 0x4f52'0002,    ///< the device's sections
    kOutcomes = 0x4f52'0003,  ///< the shape of an OutcomeBuffer, and its descriptor
};

/// The most that one of them may be.
inline constexpr size_t kOwnRecordBytesMax = 1 << 16;

/// Instead of the padding of SET_INFLIGHT_FD: the front end does not have this buffer.
inline constexpr uint32_t kOurInflightBuffer = 1;

/// A message; its descriptors are elsewhere, under these names.
struct KeptMessage {
    uint32_t request = 0;
    std::vector<std::byte> payload{};
    std::vector<std::string> fds{};

    friend bool operator==(const KeptMessage&, const KeptMessage&) = default;
};

class EffectiveMessages final {
  public:
    /// A message that the session has carried out, and its answer.
    struct Done {
        wire::FrontendRequest request{};
        std::span<const std::byte> payload{};
        std::span<const std::string> fds{};
        std::span<const std::byte> reply{};
        std::string reply_fd{};  ///< GET_INFLIGHT_FD: the name of what it gave
    };

    /// The payload was checked against the request table. Each name is ours from now on: either a
    /// message mentions it, or it comes back by take_released(). True when it changed anything.
    bool note(const Done& done);

    /// A refusal may have stopped a ring, or not enabled it: what the session makes of it now.
    bool set_ring_state(uint32_t index, bool started, bool enabled);

    /// A buffer for requests in flight that the front end did not bring: one that it was given, or,
    /// beside that, our own (kOurInflightBuffer).
    void keep_inflight(const wire::Inflight& description, std::string fd);

    /// What devices have noted of requests in flight, beside the buffer that was kept last: another
    /// one of those makes this one void. `shape`: as the session writes it down.
    void keep_outcomes(std::vector<std::byte> shape, std::string fd);

    /// The ring has no memory, and stands there until it has some again.
    void set_ring_base(uint32_t index, uint32_t base);

    /// Each of these is true when it changed anything.
    [[nodiscard]] bool keep_session(std::vector<std::byte> facts);

    /// The device is this by now, as the session writes it down: before the configuration that the
    /// driver writes from now on.
    [[nodiscard]] bool keep_device(std::vector<std::byte> sections);

    /// There is something that only the device's state can replace.
    [[nodiscard]] bool knows_of_device() const;

    /// What the session is cannot be told by messages any more.
    void give_up() { given_up_ = true; }

    /// False while another process could not go on: page faults of postcopy go to this one, say.
    [[nodiscard]] bool restorable() const { return !postcopy_ && !given_up_; }

    /// In an order in which a session can carry them out. Valid until the next change.
    [[nodiscard]] std::vector<const KeptMessage*> in_order() const;

    /// Takes the names that messages mentioned that are gone since the last call: each as often as
    /// it was mentioned.
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
        kSession,
        kChannel,
        kMtu,
        kDevice,
        kConfig,
        kInflight,
        kOutcomes,
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

    /// The steps of one ring: what it is, before it is started.
    enum class RingStep : uint32_t { kNum, kBase, kAddress, kCall, kErr, kEnable, kKick };

    static Place ring(uint32_t index, RingStep step) {
        return {.stage = Stage::kRing, .index = index, .step = static_cast<uint32_t>(step)};
    }

    [[nodiscard]] static Place place_of(const KeptMessage& message);

    void put(const Place& place, KeptMessage message);
    [[nodiscard]] bool put_record(Stage stage, OwnRecord record, std::vector<std::byte> content);
    void release(std::span<const std::string> fds);
    void drop(const Place& place);
    void drop_stage(Stage stage);
    void set_mem_table(const Done& done);
    void add_region(const wire::MemoryRegion& region, std::vector<std::string> fds);
    void remove_region(const wire::MemoryRegion& region);
    void stop_ring(const Done& done);
    void reset_device();

    std::map<Place, KeptMessage> messages_;
    std::vector<std::string> released_;
    uint32_t next_region_ = 0;
    bool postcopy_ = false;
    bool given_up_ = false;
};

}  // namespace outrigger
