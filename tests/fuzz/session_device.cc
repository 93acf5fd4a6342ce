// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/session_device.h"

#include <algorithm>
#include <utility>

#include <sys/eventfd.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::fuzz {
namespace {

constexpr int kBatchMax = 16;
constexpr uint64_t kPageBytes = 4096;
constexpr std::array<uint64_t, 3> kSharedMemory = {16 * kPageBytes, 0, 4 * kPageBytes};

Uuid uuid_of(uint8_t number) {
    Uuid uuid{};
    uuid[0] = std::byte{number};
    return uuid;
}

}  // namespace

void SessionDevice::set_mood(DeviceMood mood) {
    mood_ = mood;
    for (Queue& own : queues_) {
        if (own.queue != nullptr) {
            own.queue->request_processing();
        }
    }
}

DeviceIdentity SessionDevice::identity() const {
    const bool has_config = (options_ & SessionScriptOptions::kNoConfig) == 0;
    return {.virtio_id = 42,
            .name = "fuzz",
            .queue_count = kSessionRings,
            .queue_size_max = kSessionRingSizeMax,
            .config_bytes = static_cast<uint16_t>(has_config ? config_.size() : 0)};
}

DeviceAbilities SessionDevice::abilities() const {
    if ((options_ & SessionScriptOptions::kPlainDevice) != 0) {
        return {};
    }
    return {.takes_mtu = true,
            .announces = true,
            .shares_objects = true,
            .shared_memory = kSharedMemory};
}

FeatureSet SessionDevice::offered_features() const {
    return FeatureSet::of({3, 50});
}

void SessionDevice::on_negotiated(FeatureSet agreed) {
    OUTRIGGER_ASSERT(offered_features().contains(agreed & FeatureSet::of({0, 1, 2, 3, 50, 51})));
    used_ = true;
}

void SessionDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    OUTRIGGER_ASSERT((frontend == nullptr) != (frontend_ == nullptr));
    frontend_ = std::move(frontend);
}

void SessionDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    const auto offset = static_cast<uint32_t>(at);
    OUTRIGGER_ASSERT(offset <= config_.size() && out.size() <= config_.size() - offset);
    std::ranges::copy(std::span(config_).subspan(offset, out.size()), out.begin());
}

Result<void, ConfigError> SessionDevice::write_config(ConfigOffset at,
                                                      std::span<const std::byte> in) {
    const auto offset = static_cast<uint32_t>(at);
    OUTRIGGER_ASSERT(offset <= config_.size() && in.size() <= config_.size() - offset);
    if (offset < 8) {
        return failure(ConfigError::kReadOnly);
    }
    std::ranges::copy(in, config_.begin() + offset);
    return {};
}

Result<void> SessionDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& /*worker*/) {
    Queue& own = queues_.at(to_number(index));
    OUTRIGGER_ASSERT(own.queue == nullptr && own.held.empty() && !own.drained);
    used_ = true;
    if (refuse_start_) {
        return failure(Error{.message = "the script asked for it"});
    }
    own.queue = &queue;
    return {};
}

void SessionDevice::answer(DescriptorChain chain) {
    ChainReader reader = chain.take_reader();
    ChainWriter writer = chain.take_writer();
    std::array<std::byte, 512> piece;
    uint32_t written = 0;
    while (reader.remaining() > 0 && writer.remaining() > 0) {
        const size_t count = reader.read(piece);
        written += static_cast<uint32_t>(writer.write(std::span(piece).first(count)));
    }
    chain.complete(written);
}

QueueProgress SessionDevice::process_queue(QueueIndex index) {
    Queue& own = queues_.at(to_number(index));
    OUTRIGGER_ASSERT(own.queue != nullptr && !own.drained);
    if (mood_ == DeviceMood::kWait) {
        return QueueProgress::kWaiting;
    }
    for (int i = 0; i < kBatchMax; ++i) {
        auto chain = own.queue->pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        switch (mood_) {
            case DeviceMood::kAnswer:
            case DeviceMood::kOneEach:
            case DeviceMood::kWait:
            case DeviceMood::kCount:
                answer(*std::move(chain));
                break;
            case DeviceMood::kHold:
                own.held.push_back(*std::move(chain));
                break;
            case DeviceMood::kBreak:
                own.queue->break_ring(RingError::kDevice);
                break;
            case DeviceMood::kDrop:
                break;
        }
        if (mood_ == DeviceMood::kOneEach) {
            return QueueProgress::kMore;
        }
    }
    return QueueProgress::kMore;
}

void SessionDevice::release(size_t ring) {
    Queue& own = queues_.at(ring);
    for (DescriptorChain& chain : std::exchange(own.held, {})) {
        answer(std::move(chain));
    }
    if (own.drained) {
        own.queue = nullptr;
        std::exchange(own.drained, nullptr)();
    }
}

void SessionDevice::release_all() {
    for (size_t ring = 0; ring < queues_.size(); ++ring) {
        release(ring);
    }
}

void SessionDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    Queue& own = queues_.at(to_number(index));
    OUTRIGGER_ASSERT(own.queue != nullptr && !own.drained);
    own.drained = std::move(drained);
    if (own.held.empty()) {
        release(to_number(index));
    }
}

bool SessionDevice::set_mtu(uint16_t mtu) {
    return mtu >= 68;
}

bool SessionDevice::announce(const MacAddress& address) {
    return address[0] == std::byte{};
}

std::optional<UniqueFd> SessionDevice::shared_object(const Uuid& object) {
    if (object[0] == std::byte{}) {
        return std::nullopt;
    }
    return UniqueFd(::eventfd(0, EFD_CLOEXEC));
}

void SessionDevice::reset() {
    for (const Queue& own : queues_) {
        OUTRIGGER_ASSERT(own.queue == nullptr && own.held.empty());
    }
    used_ = false;
}

Frontend::OnDone SessionDevice::count_answer() {
    ++asked_;
    return [this](const Result<void, FrontendError>&) { ++answered_; };
}

void SessionDevice::ask(DeviceAsks what, uint8_t first, uint8_t second) {
    if (frontend_ == nullptr) {
        return;
    }
    const SharedMemoryRange range = {.region = static_cast<uint8_t>(first >> 4),
                                     .offset = (first & 15) * kPageBytes,
                                     .bytes = (second & 15) * kPageBytes + (second >> 7)};
    bool asked = true;
    switch (what) {
        case DeviceAsks::kConfigChanged:
            frontend_->config_changed();
            return;
        case DeviceAsks::kAddObject:
            asked = frontend_->add_shared_object(uuid_of(first), count_answer());
            break;
        case DeviceAsks::kRemoveObject:
            asked = frontend_->remove_shared_object(uuid_of(first), count_answer());
            break;
        case DeviceAsks::kLookUpObject:
            ++asked_;
            asked = frontend_->look_up_shared_object(
                uuid_of(first), [this](const Result<UniqueFd, FrontendError>&) { ++answered_; });
            break;
        case DeviceAsks::kMap:
            asked = frontend_->map_shared_memory(range,
                                                 {.fd = UniqueFd(::eventfd(0, EFD_CLOEXEC)),
                                                  .fd_offset = (second >> 4 & 7) * kPageBytes,
                                                  .writable = (first & 1) != 0},
                                                 count_answer());
            break;
        case DeviceAsks::kUnmap:
            asked = frontend_->unmap_shared_memory(range, count_answer());
            break;
        case DeviceAsks::kCount:
            return;
    }
    if (!asked) {
        --asked_;  // the session is ending: the callback is not called
    }
}

void SessionDevice::check_at_rest() const {
    for (const Queue& own : queues_) {
        OUTRIGGER_ASSERT(own.queue == nullptr && own.held.empty() && !own.drained);
    }
    OUTRIGGER_ASSERT(frontend_ == nullptr && !used_);
    OUTRIGGER_ASSERT(asked_ == answered_);
}

}  // namespace outrigger::fuzz
