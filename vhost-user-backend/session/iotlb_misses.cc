// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/iotlb_misses.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "vhost-user-backend/wire/messages.h"

namespace outrigger {
namespace {

/// An answer may overtake the translation that it speaks of: they come on two sockets. So long we
/// wait before we ask again.
constexpr auto kGrace = std::chrono::milliseconds(20);

}  // namespace

IotlbMisses::IotlbMisses(EventLoop& loop,
                         std::string_view device_name,
                         BackendRequests& requests,
                         SessionCounters& counters,
                         LogLimiter& log,
                         Handler& handler)
    : loop_(loop),
      device_name_(device_name),
      requests_(requests),
      counters_(counters),
      log_(log),
      handler_(handler) {}

IotlbMisses::~IotlbMisses() {
    if (timer_) {
        loop_.cancel_timer(*timer_);
    }
}

void IotlbMisses::set_misses(size_t index,
                             std::span<const TranslationMiss> misses,
                             MissTurn turn,
                             bool possible) {
    OUTRIGGER_ASSERT(misses.size() <= MissList::kMax);
    std::vector<Key> wanted;
    std::vector<Key> fresh;
    for (const TranslationMiss& miss : misses) {
        if (handler_.translates(miss)) {
            continue;  // it came meanwhile: the ring is about to learn of it
        }
        const Key key{.iova = miss.iova, .access = static_cast<uint8_t>(miss.access)};
        wanted.push_back(key);
        const auto [at, is_new] = entries_.try_emplace(key);
        if (std::ranges::find(at->second.rings, index) == at->second.rings.end()) {
            at->second.rings.push_back(index);
        }
        if (is_new) {
            fresh.push_back(key);
        }
    }
    keep_waiting(index, std::move(wanted));
    queue_.insert(
        turn == MissTurn::kNext ? queue_.begin() : queue_.end(), fresh.begin(), fresh.end());
    if (possible && requests_.has_channel()) {
        send_queued();
        return;
    }
    if (!queue_.empty() && !std::exchange(told_of_no_channel_, true)) {
        log_.log(LogLevel::kWarning,
                 "{}: the guest has an IOMMU, but its front end did not negotiate BACKEND_REQ and "
                 "REPLY_ACK or gave no channel: translations cannot be asked for",
                 device_name_);
    }
    refuse_queued();
}

void IotlbMisses::keep_waiting(size_t index, std::vector<Key> keys) {
    bool unqueued = false;
    for (const Key& key : waits_[index]) {
        const auto at = entries_.find(key);
        if (at == entries_.end() || std::ranges::find(keys, key) != keys.end()) {
            continue;
        }
        Entry& entry = at->second;
        if (std::erase(entry.rings, index) == 0 || !entry.rings.empty()) {
            continue;
        }
        if (entry.state == State::kUnanswered) {
            entry.is_stale = true;  // it stays until it is answered
        } else {
            unqueued |= entry.state == State::kQueued;
            entries_.erase(at);
        }
    }
    waits_[index] = std::move(keys);
    if (unqueued) {
        std::erase_if(queue_, [this](const Key& key) { return !entries_.contains(key); });
    }
}

void IotlbMisses::send_queued() {
    while (!queue_.empty() && unanswered_ < kUnansweredMax && !handler_.is_busy()) {
        if (!requests_.has_channel()) {
            refuse_queued();
            return;
        }
        if (!requests_.can_send()) {
            look_again_soon();
            return;
        }
        const Key key = queue_.front();
        queue_.pop_front();
        const auto at = entries_.find(key);
        if (at == entries_.end() || at->second.state != State::kQueued) {
            continue;
        }
        if (handler_.translates(miss_of(key))) {
            entries_.erase(at);
            continue;
        }
        at->second.state = State::kUnanswered;
        send_one(key);
    }
}

void IotlbMisses::send_one(const Key& key) {
    const wire::Iotlb message = {.iova = key.iova,
                                 .size = 0,
                                 .user_address = 0,
                                 .permissions = key.access,
                                 .type = wire::kIotlbMiss,
                                 .padding = {}};
    const auto bytes = std::as_bytes(std::span(&message, 1));
    ++unanswered_;
    counters_.iotlb_misses.add();
    requests_.send(
        wire::BackendRequest::kIotlbMsg,
        {bytes.begin(), bytes.end()},
        {},
        [this, key](const Result<ChannelReply, FrontendError>& reply) { on_reply(key, reply); });
}

void IotlbMisses::on_reply(const Key& key, const Result<ChannelReply, FrontendError>& reply) {
    --unanswered_;
    const auto at = entries_.find(key);
    OUTRIGGER_ASSERT(at != entries_.end() && at->second.state == State::kUnanswered);
    const bool is_stale = std::exchange(at->second.is_stale, false);
    const bool refused = reply && reply->value != 0;
    if (!reply || (refused && is_stale && !at->second.rings.empty())) {
        // The channel ended, and there may be another. Or what is refused was asked for a ring that
        // has stopped: front ends refuse whatever is asked for those.
        ask_again(key, at->second);
    } else if (refused) {
        counters_.iotlb_misses_refused.add();
        answer({&key, 1}, refused);
    } else if (at->second.rings.empty() || handler_.translates(miss_of(key))) {
        entries_.erase(at);
    } else {
        at->second.state = State::kFruitless;
        look_again_soon();
    }
    send_queued();
}

void IotlbMisses::ask_again(const Key& key, Entry& entry) {
    if (entry.rings.empty()) {
        entries_.erase(key);
        return;
    }
    entry.state = State::kQueued;
    queue_.push_front(key);
}

void IotlbMisses::answer(std::span<const Key> keys, bool refused) {
    std::map<size_t, std::vector<TranslationMiss>> by_ring;
    for (const Key& key : keys) {
        const auto at = entries_.find(key);
        if (at == entries_.end()) {
            continue;
        }
        for (const size_t ring : at->second.rings) {
            by_ring[ring].push_back(miss_of(key));
        }
        entries_.erase(at);
    }
    for (auto& [ring, misses] : by_ring) {
        handler_.on_misses_answered(ring, std::move(misses), refused);
    }
}

void IotlbMisses::refuse_queued() {
    const std::vector<Key> keys(queue_.begin(), queue_.end());
    queue_.clear();
    counters_.iotlb_misses_refused.add(keys.size());
    constexpr bool kRefused = true;
    answer(keys, kRefused);
}

void IotlbMisses::look_again_soon() {
    if (!timer_) {
        timer_ = loop_.start_timer(EventLoop::Clock::now() + kGrace, [this] {
            timer_.reset();
            on_timer();
        });
    }
}

void IotlbMisses::on_timer() {
    std::vector<Key> fruitless;
    for (const auto& [key, entry] : entries_) {
        if (entry.state == State::kFruitless) {
            fruitless.push_back(key);
        }
    }
    if (!fruitless.empty() && handler_.is_busy()) {
        // The translation may be in the socket, behind the request that is being handled.
        look_again_soon();
        return;
    }
    constexpr bool kRefused = false;
    answer(fruitless, kRefused);
    send_queued();
}

}  // namespace outrigger
