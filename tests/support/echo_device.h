// SPDX-License-Identifier: Apache-2.0
/// The device that the session's tests serve: it answers each request with the bytes it was sent.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/device.h"

namespace outrigger::testing {

struct EchoDeviceOptions {
    uint16_t queue_count = 2;
    uint16_t queue_size_max = 1024;
    uint16_t config_bytes = 32;
    FeatureSet features = FeatureSet::of({3, 50});
    bool has_abilities = false;  ///< all of DeviceAbilities; shared memory as kEchoSharedMemory
};

/// Three regions of shared memory, of which the second is not there.
inline constexpr std::array<uint64_t, 3> kEchoSharedMemory = {16 * 65536, 0, 65536};
/// The MTU and the address that an echo device does not take.
inline constexpr uint16_t kImpossibleMtu = 67;
inline constexpr MacAddress kImpossibleAddress{};

/// Its saved state: a byte, and padding.
inline constexpr StateSectionKind kEchoSection{
    .id = 5, .name = "echo", .version = 2, .critical = true};
/// A byte that no echo device takes up.
inline constexpr uint8_t kImpossibleSavedByte = 0xee;

/// The first byte of the configuration space that can be written, and how many.
inline constexpr uint32_t kWritableConfigOffset = 8;
inline constexpr uint32_t kWritableConfigBytes = 8;
/// A value that no writable byte takes.
inline constexpr std::byte kForbiddenConfigValue{0xff};

class EchoDevice final : public Device {
  public:
    explicit EchoDevice(const EchoDeviceOptions& options);

    // --- For tests, on any thread --------------------------------------------------------------

    /// From now on requests are popped and kept, until release_held().
    void hold(bool held) { hold_ = held; }

    /// Serves what is there beside the queue's turn, as for another queue.
    void serve_out_of_turn(QueueIndex index);

    /// Answers what is held.
    void release_held(QueueIndex index);

    /// The same, the last one first.
    void release_held_backwards(QueueIndex index);

    /// From now on start_queue() fails.
    void refuse_start(bool refuse) { refuse_start_ = refuse; }

    /// The next `count` calls of start_queue() fail.
    void refuse_next_starts(int count) { refused_starts_ = count; }

    /// From now on a queue breaks its ring before it says that it has drained.
    void break_at_stop(bool breaks) { break_at_stop_ = breaks; }

    /// Regions of the memory that a queue was given last.
    [[nodiscard]] size_t memory_regions(QueueIndex index) const {
        return memory_regions_.at(to_number(index));
    }

    /// Calls of use_memory() for queues that the device does not have.
    [[nodiscard]] uint32_t stray_memory() const { return stray_memory_; }

    /// From now on each answer costs the worker's processor so much time.
    void spend(std::chrono::nanoseconds time) { spend_ = time.count(); }

    /// Requests popped and not yet answered, all queues.
    [[nodiscard]] uint32_t held() const { return held_; }

    [[nodiscard]] uint64_t answered() const { return answered_; }

    [[nodiscard]] uint32_t resets() const { return resets_; }

    [[nodiscard]] uint32_t suspensions() const { return suspensions_; }

    [[nodiscard]] uint32_t queues_running() const { return queues_running_; }

    /// What the session gave; null when there is none.
    [[nodiscard]] std::shared_ptr<Frontend> frontend() const {
        const std::lock_guard lock(frontend_mutex_);
        return frontend_;
    }

    /// The last MTU and address that came, 0 before.
    [[nodiscard]] uint16_t mtu() const { return mtu_; }

    [[nodiscard]] uint64_t address() const { return address_; }

    /// The one object that the device shares: a descriptor that duplicates `fd`.
    void share(const Uuid& object, int fd) {
        const std::lock_guard lock(frontend_mutex_);
        shared_uuid_ = object;
        shared_fd_ = fd;
    }

    /// What it saves; loaded states replace it.
    void set_saved_byte(uint8_t value) { saved_byte_ = value; }

    [[nodiscard]] uint8_t saved_byte() const { return saved_byte_; }

    /// From now on what it saves is so much longer.
    void set_saved_padding(size_t bytes) { saved_padding_ = bytes; }

    /// From now on save_state() fails.
    void refuse_save(bool refuse) { refuse_save_ = refuse; }

    /// Calls of load_state() that succeeded.
    [[nodiscard]] uint32_t loads() const { return loads_; }

    [[nodiscard]] FeatureSet negotiated() const { return FeatureSet(negotiated_.load()); }

    // --- Device --------------------------------------------------------------------------------

    [[nodiscard]] DeviceIdentity identity() const override;

    [[nodiscard]] FeatureSet offered_features() const override { return options_.features; }

    void on_negotiated(FeatureSet agreed) override { negotiated_ = agreed.bits(); }

    [[nodiscard]] DeviceAbilities abilities() const override;

    void on_frontend(std::shared_ptr<Frontend> frontend) override {
        const std::lock_guard lock(frontend_mutex_);
        frontend_ = std::move(frontend);
    }

    [[nodiscard]] bool set_mtu(uint16_t mtu) override;
    [[nodiscard]] bool announce(const MacAddress& address) override;
    [[nodiscard]] std::optional<UniqueFd> shared_object(const Uuid& object) override;

    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    void use_memory(QueueIndex index, const std::shared_ptr<const MemorySnapshot>& memory) override;
    [[nodiscard]] std::span<const StateSectionKind> state_sections() const override;
    [[nodiscard]] Result<std::vector<StateSection>> save_state() const override;
    [[nodiscard]] Result<void> load_state(std::span<const StateSection> sections) override;

    void on_suspended() override { ++suspensions_; }

    void reset() override { ++resets_; }

  private:
    struct Queue {
        Virtqueue* queue = nullptr;
        std::vector<DescriptorChain> held;
        std::move_only_function<void()> drained;
    };

    void answer(DescriptorChain chain);
    void answer_held(Queue& queue);

    EchoDeviceOptions options_;
    std::array<std::byte, 256> config_{};
    std::vector<Queue> queues_;  // each element belongs to its queue's worker
    std::vector<std::atomic<size_t>> memory_regions_;
    std::mutex workers_mutex_;
    std::vector<Worker*> workers_;       // by queue; null while it does not run
    mutable std::mutex frontend_mutex_;  // what follows
    std::shared_ptr<Frontend> frontend_;
    Uuid shared_uuid_{};
    int shared_fd_ = -1;
    std::atomic<uint8_t> saved_byte_ = 0;
    std::atomic<size_t> saved_padding_ = 0;
    std::atomic<bool> refuse_save_ = false;
    std::atomic<uint32_t> loads_ = 0;
    std::atomic<uint16_t> mtu_ = 0;
    std::atomic<uint64_t> address_ = 0;
    std::atomic<bool> hold_ = false;
    std::atomic<bool> refuse_start_ = false;
    std::atomic<int> refused_starts_ = 0;
    std::atomic<int64_t> spend_ = 0;  // nanoseconds
    std::atomic<bool> break_at_stop_ = false;
    std::atomic<uint32_t> stray_memory_ = 0;
    std::atomic<uint32_t> held_ = 0;
    std::atomic<uint64_t> answered_ = 0;
    std::atomic<uint32_t> resets_ = 0;
    std::atomic<uint32_t> suspensions_ = 0;
    std::atomic<uint32_t> queues_running_ = 0;
    std::atomic<uint64_t> negotiated_ = 0;
};

/// Byte `offset` of the configuration space, as long as nobody wrote it.
[[nodiscard]] constexpr std::byte initial_config_byte(uint32_t offset) {
    return static_cast<std::byte>(0xa0 + offset);
}

}  // namespace outrigger::testing
