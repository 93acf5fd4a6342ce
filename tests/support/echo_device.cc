// SPDX-License-Identifier: Apache-2.0
#include "tests/support/echo_device.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <unistd.h>

namespace outrigger::testing {
namespace {

constexpr int kBatchMax = 64;

}  // namespace

EchoDevice::EchoDevice(const EchoDeviceOptions& options)
    : options_(options),
      queues_(options.queue_count),
      memory_regions_(options.queue_count),
      workers_(options.queue_count) {
    for (uint32_t offset = 0; offset < config_.size(); ++offset) {
        config_[offset] = initial_config_byte(offset);
    }
}

DeviceIdentity EchoDevice::identity() const {
    return {.virtio_id = 42,
            .name = "echo",
            .queue_count = options_.queue_count,
            .queue_size_max = options_.queue_size_max,
            .config_bytes = options_.config_bytes};
}

DeviceAbilities EchoDevice::abilities() const {
    if (!options_.has_abilities) {
        return {};
    }
    return {.takes_mtu = true,
            .announces = true,
            .shares_objects = true,
            .shared_memory = kEchoSharedMemory};
}

bool EchoDevice::set_mtu(uint16_t mtu) {
    if (mtu == kImpossibleMtu) {
        return false;
    }
    mtu_ = mtu;
    return true;
}

bool EchoDevice::announce(const MacAddress& address) {
    if (address == kImpossibleAddress) {
        return false;
    }
    uint64_t number = 0;
    for (const std::byte byte : address) {
        number = number << 8 | static_cast<uint64_t>(byte);
    }
    address_ = number;
    return true;
}

std::optional<UniqueFd> EchoDevice::shared_object(const Uuid& object) {
    const std::lock_guard lock(frontend_mutex_);
    if (shared_fd_ < 0 || object != shared_uuid_) {
        return std::nullopt;
    }
    return UniqueFd(::dup(shared_fd_));
}

void EchoDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    std::ranges::copy(std::span(config_).subspan(static_cast<uint32_t>(at), out.size()),
                      out.begin());
}

Result<void, ConfigError> EchoDevice::write_config(ConfigOffset at, std::span<const std::byte> in) {
    const auto offset = static_cast<uint32_t>(at);
    if (offset < kWritableConfigOffset ||
        offset + in.size() > kWritableConfigOffset + kWritableConfigBytes) {
        return failure(ConfigError::kReadOnly);
    }
    if (std::ranges::find(in, kForbiddenConfigValue) != in.end()) {
        return failure(ConfigError::kValue);
    }
    std::ranges::copy(in, config_.begin() + offset);
    return {};
}

Result<void> EchoDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    if (refuse_start_ || refused_starts_-- > 0) {
        return failure(Error{.message = "a test asked for it"});
    }
    const std::lock_guard lock(workers_mutex_);
    queues_[to_number(index)].queue = &queue;
    workers_[to_number(index)] = &worker;
    ++queues_running_;
    return {};
}

void EchoDevice::answer(DescriptorChain chain) {
    ChainReader reader = chain.take_reader();
    ChainWriter writer = chain.take_writer();
    std::array<std::byte, 4096> piece;
    uint32_t written = 0;
    // Bounded: each turn consumes at least one of the chain's bytes.
    while (reader.remaining() > 0 && writer.remaining() > 0) {
        const size_t count = reader.read(piece);
        written += static_cast<uint32_t>(writer.write(std::span(piece).first(count)));
    }
    if (const std::chrono::nanoseconds time(spend_); time.count() > 0) {
        const auto end = std::chrono::steady_clock::now() + time;
        while (std::chrono::steady_clock::now() < end) {
        }
    }
    chain.complete(written);
    ++answered_;
}

QueueProgress EchoDevice::process_queue(QueueIndex index) {
    Queue& own = queues_[to_number(index)];
    for (int i = 0; i < kBatchMax; ++i) {
        auto chain = own.queue->pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        if (hold_) {
            own.held.push_back(*std::move(chain));
            ++held_;
        } else {
            answer(*std::move(chain));
        }
    }
    return QueueProgress::kMore;
}

void EchoDevice::answer_held(Queue& queue) {
    for (DescriptorChain& chain : std::exchange(queue.held, {})) {
        answer(std::move(chain));
        --held_;
    }
    if (queue.drained) {
        std::exchange(queue.drained, nullptr)();
    }
}

void EchoDevice::serve_out_of_turn(QueueIndex index) {
    const std::lock_guard lock(workers_mutex_);
    if (Worker* const worker = workers_[to_number(index)]) {
        worker->post([this, index] { (void)process_queue(index); });
    }
}

void EchoDevice::release_held(QueueIndex index) {
    const std::lock_guard lock(workers_mutex_);
    if (Worker* const worker = workers_[to_number(index)]) {
        worker->post([this, index] { answer_held(queues_[to_number(index)]); });
    }
}

void EchoDevice::release_held_backwards(QueueIndex index) {
    const std::lock_guard lock(workers_mutex_);
    if (Worker* const worker = workers_[to_number(index)]) {
        worker->post([this, index] {
            Queue& own = queues_[to_number(index)];
            std::ranges::reverse(own.held);
            answer_held(own);
        });
    }
}

void EchoDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    Queue& own = queues_[to_number(index)];
    own.drained = [this, index, drained = std::move(drained)]() mutable {
        if (break_at_stop_) {
            queues_[to_number(index)].queue->break_ring(RingError::kDevice);
        }
        const std::lock_guard lock(workers_mutex_);
        workers_[to_number(index)] = nullptr;
        queues_[to_number(index)].queue = nullptr;
        --queues_running_;
        drained();
    };
    if (own.held.empty() || !hold_) {
        answer_held(own);
    }
}

std::span<const StateSectionKind> EchoDevice::state_sections() const {
    return {&kEchoSection, 1};
}

Result<std::vector<StateSection>> EchoDevice::save_state() const {
    if (refuse_save_) {
        return failure(Error{.message = "a test asked for it"});
    }
    std::vector<std::byte> bytes(1 + saved_padding_, std::byte{0x5a});
    bytes[0] = std::byte{saved_byte_.load()};
    return std::vector{make_section(kEchoSection, bytes)};
}

Result<void> EchoDevice::load_state(std::span<const StateSection> sections) {
    const StateSection* const section = find_section(sections, kEchoSection.id);
    if (section == nullptr || section->bytes.empty() ||
        section->bytes[0] == std::byte{kImpossibleSavedByte}) {
        return failure(Error{.message = "the echo is of another kind"});
    }
    saved_byte_ = std::to_integer<uint8_t>(section->bytes[0]);
    ++loads_;
    return {};
}

void EchoDevice::use_memory(QueueIndex index, const std::shared_ptr<const MemorySnapshot>& memory) {
    if (queues_[to_number(index)].queue == nullptr) {
        ++stray_memory_;
        return;
    }
    memory_regions_[to_number(index)] = memory->regions().size();
}

}  // namespace outrigger::testing
