// SPDX-License-Identifier: Apache-2.0
/// Asks the front end for the translations that rings wait for, and tells the rings what came of
/// it. VIRTIO_F_ACCESS_PLATFORM; vhost-user "IOMMU support".
///
/// The front end answers a miss in two parts: IOTLB_MSG brings the translation, as a request of its
/// own, and then comes the answer on the back-end channel. Nothing here waits, nothing is asked
/// twice at a time, and how much is asked at once is bounded.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/guest/iotlb.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/session/backend_requests.h"
#include "vhost-user-backend/session/counters.h"

namespace outrigger {

/// When a ring's misses are asked for.
enum class MissTurn : uint8_t {
    kInLine,  ///< after those that were told before
    kNext,    ///< before them: the ring has fetched a part of what it needs at one time
};

/// Thread-bound: control thread.
class IotlbMisses final {
  public:
    /// What the session knows and does.
    class Handler {
      public:
        /// Does the newest memory have it?
        [[nodiscard]] virtual bool translates(const TranslationMiss& miss) const = 0;
        /// Is a request in hand, so that the next ones wait in the socket? Then nothing is sent:
        /// a front end that serves the channel while it waits for a reply (QEMU 7.2) would take
        /// that for the reply to its translation.
        [[nodiscard]] virtual bool is_busy() const = 0;
        /// To Virtqueue::on_miss_answered() of ring `index`.
        virtual void on_misses_answered(size_t index,
                                        std::vector<TranslationMiss> misses,
                                        bool refused) = 0;

      protected:
        ~Handler() = default;
    };

    /// Misses that are sent and not answered.
    static constexpr size_t kUnansweredMax = 128;

    IotlbMisses(EventLoop& loop,
                std::string_view device_name,
                BackendRequests& requests,
                SessionCounters& counters,
                LogLimiter& log,
                Handler& handler);
    IotlbMisses(const IotlbMisses&) = delete;
    IotlbMisses& operator=(const IotlbMisses&) = delete;
    ~IotlbMisses();

    /// Ring `index` waits for these and, from now on, for nothing else; at most MissList::kMax.
    /// `possible`: what it takes was negotiated. Where not, they count as refused.
    ///
    /// Memory that a request needs must be translated all at one time, and the IOTLB forgets the
    /// oldest. So what one ring has begun (`turn`) comes before what others would begin.
    void set_misses(size_t index,
                    std::span<const TranslationMiss> misses,
                    MissTurn turn,
                    bool possible);

    /// Ring `index` waits for nothing any more.
    void forget_ring(size_t index) { keep_waiting(index, {}); }

    /// Asks for what waits: the request that was in hand is answered.
    void send_queued();

  private:
    struct Key {
        uint64_t iova;
        uint8_t access;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    enum class State : uint8_t {
        kQueued,      ///< to be sent
        kUnanswered,  ///< sent
        kFruitless,   ///< answered, and the translation is not there: it may be on its way
    };

    struct Entry {
        State state = State::kQueued;
        bool is_stale = false;  // kUnanswered: asked for rings that have stopped waiting for it
        std::vector<size_t> rings{};  // that wait for it; few
    };

    using Entries = std::map<Key, Entry>;

    [[nodiscard]] static TranslationMiss miss_of(const Key& key) {
        return {.iova = key.iova, .access = static_cast<Access>(key.access)};
    }

    /// Ring `index` waits for `keys` and for no others.
    void keep_waiting(size_t index, std::vector<Key> keys);
    void ask_again(const Key& key, Entry& entry);
    void send_one(const Key& key);
    void on_reply(const Key& key, const Result<ChannelReply, FrontendError>& reply);
    /// Tells the rings of these entries, which are then gone.
    void answer(std::span<const Key> keys, bool refused);
    void refuse_queued();
    void look_again_soon();
    void on_timer();

    EventLoop& loop_;
    std::string_view device_name_;
    BackendRequests& requests_;
    SessionCounters& counters_;
    LogLimiter& log_;
    Handler& handler_;
    Entries entries_;        // bounded by rings times MissList::kMax, and kUnansweredMax
    std::deque<Key> queue_;  // those of State::kQueued, and some that are gone
    std::map<size_t, std::vector<Key>> waits_;  // by ring: what it waits for, if still in entries_
    size_t unanswered_ = 0;
    std::optional<TimerId> timer_;
    bool told_of_no_channel_ = false;
};

}  // namespace outrigger
