// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/session_facts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost-user-backend/state/device_state.h"

namespace outrigger {
namespace {

/// Behind it come one byte for each ring and the two states.
struct Head {
    uint8_t used;
    uint8_t features_refused;
    uint8_t device_is_reset;
    uint8_t load_failed;
    uint8_t ran_since_load;
    uint8_t interrupted;
    uint8_t outcome;
    uint8_t loaded;  // is there
    uint8_t saved;   // is there
    uint8_t log_is_incomplete;
    uint8_t regions_repeated;
    uint8_t unused;
    uint32_t ring_count;
    uint32_t loaded_bytes;
    uint32_t saved_bytes;
};

static_assert(sizeof(Head) == 24);

enum class Ended : uint8_t { kNoTransfer, kBadly, kWell };

constexpr uint32_t kRingsMax = 256;

Ended to_ended(std::optional<bool> outcome) {
    if (!outcome) {
        return Ended::kNoTransfer;
    }
    return *outcome ? Ended::kWell : Ended::kBadly;
}

std::optional<bool> to_outcome(uint8_t ended) {
    if (ended == std::to_underlying(Ended::kNoTransfer)) {
        return std::nullopt;
    }
    return ended == std::to_underlying(Ended::kWell);
}

uint8_t to_byte(bool value) {
    return value ? 1 : 0;
}

/// Empty: none. Nothing: it is too large.
std::optional<std::string> encode(const std::optional<DeviceState>& state) {
    if (!state) {
        return std::string();
    }
    auto encoded = encode_state(*state);
    return encoded ? std::optional(*std::move(encoded)) : std::nullopt;
}

/// False: the bytes are no state.
bool decode_state(bool is_there,
                  std::span<const std::byte> bytes,
                  std::optional<DeviceState>& state) {
    if (!is_there) {
        return bytes.empty();
    }
    auto parsed = parse_state(bytes);
    if (!parsed) {
        return false;
    }
    state = *std::move(parsed);
    return true;
}

}  // namespace

std::optional<std::vector<std::byte>> SessionFacts::encode() const {
    const auto loaded = outrigger::encode(exchange.loaded);
    const auto saved = outrigger::encode(exchange.saved);
    if (!loaded || !saved) {
        return std::nullopt;
    }
    const Head head{.used = to_byte(used),
                    .features_refused = to_byte(features_refused),
                    .device_is_reset = to_byte(device_is_reset),
                    .load_failed = to_byte(exchange.load_failed),
                    .ran_since_load = to_byte(exchange.ran_since_load),
                    .interrupted = to_byte(exchange.interrupted),
                    .outcome = std::to_underlying(to_ended(exchange.outcome)),
                    .loaded = to_byte(exchange.loaded.has_value()),
                    .saved = to_byte(exchange.saved.has_value()),
                    .log_is_incomplete = to_byte(log_is_incomplete),
                    .regions_repeated = to_byte(regions_repeated),
                    .unused = 0,
                    .ring_count = static_cast<uint32_t>(rings.size()),
                    .loaded_bytes = static_cast<uint32_t>(loaded->size()),
                    .saved_bytes = static_cast<uint32_t>(saved->size())};
    std::vector<std::byte> bytes;
    bytes.reserve(sizeof head + rings.size() + loaded->size() + saved->size());
    const auto append = [&](std::span<const std::byte> more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    };
    append(std::as_bytes(std::span(&head, 1)));
    append(std::as_bytes(std::span(rings)));
    append(std::as_bytes(std::span(*loaded)));
    append(std::as_bytes(std::span(*saved)));
    return bytes;
}

std::optional<SessionFacts> SessionFacts::decode(std::span<const std::byte> bytes) {
    Head head{};
    if (bytes.size() < sizeof head) {
        return std::nullopt;
    }
    std::memcpy(&head, bytes.data(), sizeof head);
    bytes = bytes.subspan(sizeof head);
    const uint64_t expected = uint64_t{head.ring_count} + head.loaded_bytes + head.saved_bytes;
    if (bytes.size() != expected || head.ring_count > kRingsMax) {
        return std::nullopt;
    }
    SessionFacts facts{.used = head.used != 0,
                       .features_refused = head.features_refused != 0,
                       .device_is_reset = head.device_is_reset != 0,
                       .log_is_incomplete = head.log_is_incomplete != 0,
                       .regions_repeated = head.regions_repeated != 0};
    for (const std::byte ring : bytes.first(head.ring_count)) {
        const auto place = std::to_integer<uint8_t>(ring);
        if (place > std::to_underlying(RingPlaceKnown::kWithoutMemory)) {
            return std::nullopt;
        }
        facts.rings.push_back(RingPlaceKnown{place});
    }
    bytes = bytes.subspan(head.ring_count);
    facts.exchange = {.load_failed = head.load_failed != 0,
                      .ran_since_load = head.ran_since_load != 0,
                      .interrupted = head.interrupted != 0,
                      .outcome = to_outcome(head.outcome)};
    const bool fine =
        decode_state(head.loaded != 0, bytes.first(head.loaded_bytes), facts.exchange.loaded) &&
        decode_state(head.saved != 0, bytes.subspan(head.loaded_bytes), facts.exchange.saved);
    return fine ? std::optional(std::move(facts)) : std::nullopt;
}

}  // namespace outrigger
