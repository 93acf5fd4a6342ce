// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/effective_messages.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/error.h"

namespace outrigger {
namespace {

using wire::FrontendRequest;

template <class T>
T object_at(std::span<const std::byte> bytes, size_t offset = 0) {
    T object{};
    if (offset <= bytes.size() && sizeof object <= bytes.size() - offset) {
        std::memcpy(&object, bytes.data() + offset, sizeof object);
    }
    return object;
}

template <class T>
std::vector<std::byte> bytes_of(const T& object) {
    const auto bytes = std::as_bytes(std::span(&object, 1));
    return {bytes.begin(), bytes.end()};
}

/// The padding at its end may be missing.
wire::Inflight inflight_of(std::span<const std::byte> bytes) {
    wire::Inflight inflight{};
    std::memcpy(&inflight, bytes.data(), std::min(bytes.size(), sizeof inflight));
    return inflight;
}

constexpr uint32_t number(FrontendRequest request) {
    return static_cast<uint32_t>(request);
}

/// A front end may write into the padding, which means something to us alone.
void clear_padding(std::vector<std::byte>& inflight) {
    for (size_t at = offsetof(wire::Inflight, padding); at < inflight.size(); ++at) {
        inflight[at] = std::byte{0};
    }
}

uint32_t ring_of_fd_message(std::span<const std::byte> payload) {
    return static_cast<uint32_t>(object_at<uint64_t>(payload) & wire::kVringFdIndexMask);
}

}  // namespace

bool EffectiveMessages::note(const Done& done) {
    KeptMessage message{.request = number(done.request),
                        .payload = {done.payload.begin(), done.payload.end()},
                        .fds = {done.fds.begin(), done.fds.end()}};
    switch (done.request) {
        case FrontendRequest::kSetFeatures:
        case FrontendRequest::kSetProtocolFeatures:
        case FrontendRequest::kSetBackendReqFd:
        case FrontendRequest::kNetSetMtu:
        case FrontendRequest::kSetConfig:
        case FrontendRequest::kSetLogBase:
        case FrontendRequest::kSetLogFd:
        case FrontendRequest::kSetInflightFd:
        case FrontendRequest::kSetVringNum:
        case FrontendRequest::kSetVringAddr:
        case FrontendRequest::kSetVringBase:
        case FrontendRequest::kSetVringKick:
        case FrontendRequest::kSetVringCall:
        case FrontendRequest::kSetVringErr:
        case FrontendRequest::kSetVringEnable:
        case FrontendRequest::kAddMemReg: {
            Place place = place_of(message);
            if (place.stage == Stage::kMemory) {
                place.index = next_region_++;
            }
            if (place.stage == Stage::kInflight) {
                drop_stage(Stage::kOutcomes);
                clear_padding(message.payload);
                place = place_of(message);
            }
            put(place, std::move(message));
            return true;
        }
        case FrontendRequest::kSetMemTable:
            set_mem_table(done);
            return true;
        case FrontendRequest::kRemMemReg:
            release(done.fds);  // libblkio sends one
            remove_region(object_at<wire::SingleMemoryRegion>(done.payload).region);
            return true;
        case FrontendRequest::kGetVringBase:
        case FrontendRequest::kGetVringBaseSkipDrain:
            stop_ring(done);
            return true;
        case FrontendRequest::kVringKick: {
            // Starts a ring; of one that runs it changes nothing that lasts.
            const Place place =
                ring(object_at<wire::VringState>(done.payload).index, RingStep::kKick);
            if (messages_.contains(place)) {
                return false;
            }
            put(place, std::move(message));
            return true;
        }
        case FrontendRequest::kGetInflightFd:
            if (done.reply_fd.empty()) {
                return false;
            }
            keep_inflight(inflight_of(done.reply), done.reply_fd);
            return true;
        case FrontendRequest::kSetStatus:
            if (object_at<uint64_t>(done.payload) == 0) {
                reset_device();
            } else {
                put({.stage = Stage::kStatus}, std::move(message));
            }
            return true;
        case FrontendRequest::kResetDevice:
            reset_device();
            return true;
        case FrontendRequest::kPostcopyAdvise:
        case FrontendRequest::kPostcopyEnd:
            postcopy_ = done.request == FrontendRequest::kPostcopyAdvise;
            return true;
        // Questions; what is done once and for all; and translations, which are asked for anew.
        case FrontendRequest::kGetFeatures:
        case FrontendRequest::kGetProtocolFeatures:
        case FrontendRequest::kGetQueueNum:
        case FrontendRequest::kGetConfig:
        case FrontendRequest::kGetMaxMemSlots:
        case FrontendRequest::kGetStatus:
        case FrontendRequest::kGetSharedObject:
        case FrontendRequest::kGetShmemConfig:
        case FrontendRequest::kSetOwner:
        case FrontendRequest::kResetOwner:
        case FrontendRequest::kSendRarp:
        case FrontendRequest::kIotlbMsg:
        // A transfer of state ends with the process that made it.
        case FrontendRequest::kSetDeviceStateFd:
        case FrontendRequest::kCheckDeviceState:
        case FrontendRequest::kPostcopyListen:
        // Never served.
        case FrontendRequest::kSetVringEndian:
        case FrontendRequest::kCreateCryptoSession:
        case FrontendRequest::kCloseCryptoSession:
        case FrontendRequest::kGpuSetSocket:
            break;
    }
    release(done.fds);
    return false;
}

EffectiveMessages::Place EffectiveMessages::place_of(const KeptMessage& message) {
    const std::span<const std::byte> payload = message.payload;
    const uint32_t first = object_at<uint32_t>(payload);  // of a vring state or address: the ring
    if (message.request == static_cast<uint32_t>(OwnRecord::kSession)) {
        return {.stage = Stage::kSession};
    }
    if (message.request == static_cast<uint32_t>(OwnRecord::kDevice)) {
        return {.stage = Stage::kDevice};
    }
    if (message.request == static_cast<uint32_t>(OwnRecord::kOutcomes)) {
        return {.stage = Stage::kOutcomes};
    }
    switch (static_cast<FrontendRequest>(message.request)) {
        case FrontendRequest::kSetProtocolFeatures:
            return {.stage = Stage::kProtocolFeatures};
        case FrontendRequest::kSetLogBase:
            return {.stage = Stage::kLogBase};
        case FrontendRequest::kSetLogFd:
            return {.stage = Stage::kLogFd};
        case FrontendRequest::kSetFeatures:
            return {.stage = Stage::kFeatures};
        case FrontendRequest::kSetBackendReqFd:
            return {.stage = Stage::kChannel};
        case FrontendRequest::kNetSetMtu:
            return {.stage = Stage::kMtu};
        case FrontendRequest::kSetConfig:
            return {.stage = Stage::kConfig, .index = first};
        case FrontendRequest::kSetInflightFd:
            return {.stage = Stage::kInflight,
                    .index = inflight_of(payload).padding == kOurInflightBuffer ? 1U : 0U};
        case FrontendRequest::kAddMemReg:
            return {.stage = Stage::kMemory};
        case FrontendRequest::kSetStatus:
            return {.stage = Stage::kStatus};
        case FrontendRequest::kSetVringNum:
            return ring(first, RingStep::kNum);
        case FrontendRequest::kSetVringAddr:
            return ring(first, RingStep::kAddress);
        case FrontendRequest::kSetVringBase:
            return ring(first, RingStep::kBase);
        case FrontendRequest::kSetVringEnable:
            return ring(first, RingStep::kEnable);
        case FrontendRequest::kVringKick:
            return ring(first, RingStep::kKick);
        case FrontendRequest::kSetVringKick:
            return ring(ring_of_fd_message(payload), RingStep::kKick);
        case FrontendRequest::kSetVringCall:
            return ring(ring_of_fd_message(payload), RingStep::kCall);
        case FrontendRequest::kSetVringErr:
            return ring(ring_of_fd_message(payload), RingStep::kErr);
        default:  // a number from a file: whatever it is, it comes last, and the session refuses it
            return {.stage = Stage::kStatus, .index = message.request};
    }
}

void EffectiveMessages::put(const Place& place, KeptMessage message) {
    drop(place);
    messages_.emplace(place, std::move(message));
}

void EffectiveMessages::release(std::span<const std::string> fds) {
    released_.insert(released_.end(), fds.begin(), fds.end());
}

void EffectiveMessages::drop(const Place& place) {
    const auto found = messages_.find(place);
    if (found != messages_.end()) {
        release(found->second.fds);
        messages_.erase(found);
    }
}

void EffectiveMessages::drop_stage(Stage stage) {
    std::erase_if(messages_, [&](auto& item) {
        if (item.first.stage != stage) {
            return false;
        }
        release(item.second.fds);
        return true;
    });
}

// Regions one by one, however they came: so one that is taken away is one message less.
void EffectiveMessages::set_mem_table(const Done& done) {
    drop_stage(Stage::kMemory);
    for (size_t i = 0; i < done.fds.size(); ++i) {
        const size_t offset = sizeof(wire::MemoryTableHeader) + i * sizeof(wire::MemoryRegion);
        add_region(object_at<wire::MemoryRegion>(done.payload, offset), {done.fds[i]});
    }
}

void EffectiveMessages::add_region(const wire::MemoryRegion& region, std::vector<std::string> fds) {
    put({.stage = Stage::kMemory, .index = next_region_++},
        {.request = number(FrontendRequest::kAddMemReg),
         .payload = bytes_of(wire::SingleMemoryRegion{.padding = 0, .region = region}),
         .fds = std::move(fds)});
}

// No two regions have guest addresses in common, so the start is enough.
void EffectiveMessages::remove_region(const wire::MemoryRegion& region) {
    const auto found = std::ranges::find_if(messages_, [&](const auto& item) {
        return item.first.stage == Stage::kMemory &&
               object_at<wire::SingleMemoryRegion>(item.second.payload).region.guest_address ==
                   region.guest_address;
    });
    if (found != messages_.end()) {
        drop(Place(found->first));
    }
}

void EffectiveMessages::stop_ring(const Done& done) {
    const auto state = object_at<wire::VringState>(done.reply);
    drop(ring(state.index, RingStep::kKick));
    set_ring_base(state.index, state.num);
}

void EffectiveMessages::set_ring_base(uint32_t index, uint32_t base) {
    put(ring(index, RingStep::kBase),
        {.request = number(FrontendRequest::kSetVringBase),
         .payload = bytes_of(wire::VringState{.index = index, .num = base})});
}

// What the reset made of the configuration that the driver wrote, keep_device() says. A buffer of
// our own may still note something, which is nothing to the next driver's rings.
void EffectiveMessages::reset_device() {
    std::vector<Place> gone;
    for (const auto& [place, message] : messages_) {
        const bool stays = place.step == static_cast<uint32_t>(RingStep::kCall) ||
                           place.step == static_cast<uint32_t>(RingStep::kErr);
        const bool is_our_buffer = place.stage == Stage::kInflight &&
                                   inflight_of(message.payload).padding == kOurInflightBuffer;
        if (place.stage == Stage::kStatus || is_our_buffer || place.stage == Stage::kOutcomes ||
            (place.stage == Stage::kRing && !stays)) {
            gone.push_back(place);
        }
    }
    std::ranges::for_each(gone, [this](const Place& place) { drop(place); });
}

bool EffectiveMessages::set_ring_state(uint32_t index, bool started, bool enabled) {
    const size_t before = messages_.size();
    if (!started) {
        drop(ring(index, RingStep::kKick));
    }
    if (!enabled) {
        drop(ring(index, RingStep::kEnable));
    }
    return messages_.size() != before;
}

void EffectiveMessages::keep_inflight(const wire::Inflight& description, std::string fd) {
    if (description.padding != kOurInflightBuffer) {
        drop_stage(Stage::kOutcomes);  // they are of requests in the buffer before
    }
    KeptMessage message{.request = number(FrontendRequest::kSetInflightFd),
                        .payload = bytes_of(description),
                        .fds = {std::move(fd)}};
    const Place place = place_of(message);
    put(place, std::move(message));
}

void EffectiveMessages::keep_outcomes(std::vector<std::byte> shape, std::string fd) {
    put({.stage = Stage::kOutcomes},
        {.request = static_cast<uint32_t>(OwnRecord::kOutcomes),
         .payload = std::move(shape),
         .fds = {std::move(fd)}});
}

bool EffectiveMessages::put_record(Stage stage, OwnRecord record, std::vector<std::byte> content) {
    KeptMessage message{.request = static_cast<uint32_t>(record), .payload = std::move(content)};
    const Place place{.stage = stage};
    const auto found = messages_.find(place);
    if (found != messages_.end() && found->second == message) {
        return false;
    }
    put(place, std::move(message));
    return true;
}

bool EffectiveMessages::keep_session(std::vector<std::byte> facts) {
    return put_record(Stage::kSession, OwnRecord::kSession, std::move(facts));
}

bool EffectiveMessages::keep_device(std::vector<std::byte> sections) {
    const size_t before = messages_.size();
    drop_stage(Stage::kConfig);
    const bool dropped = messages_.size() != before;
    return put_record(Stage::kDevice, OwnRecord::kDevice, std::move(sections)) || dropped;
}

bool EffectiveMessages::knows_of_device() const {
    return std::ranges::any_of(messages_, [](const auto& item) {
        return item.first.stage == Stage::kConfig || item.first.stage == Stage::kDevice;
    });
}

std::vector<const KeptMessage*> EffectiveMessages::in_order() const {
    std::vector<const KeptMessage*> list;
    list.reserve(messages_.size());
    for (const auto& [place, message] : messages_) {
        list.push_back(&message);
    }
    return list;
}

std::vector<std::string> EffectiveMessages::take_released() {
    return std::exchange(released_, {});
}

void EffectiveMessages::restore(std::vector<KeptMessage> messages) {
    messages_.clear();
    for (KeptMessage& message : messages) {
        Place place = place_of(message);
        if (place.stage == Stage::kMemory) {
            place.index = next_region_++;
        }
        put(place, std::move(message));
    }
    released_.clear();
}

}  // namespace outrigger
