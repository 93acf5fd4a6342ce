// SPDX-License-Identifier: Apache-2.0
/// The device of the session target: what it does with requests, and what it asks of its front end,
/// is the script's choice.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "vhost-user-backend/device.h"

#include "tests/fuzz/session_script.h"

namespace outrigger::fuzz {

/// All of it runs on one thread.
class SessionDevice final : public Device {
  public:
    explicit SessionDevice(uint8_t options) : options_(options) {}

    // --- For the script ------------------------------------------------------------------------

    void set_mood(DeviceMood mood);

    void refuse_start(bool refuse) { refuse_start_ = refuse; }

    [[nodiscard]] bool refuses_start() const { return refuse_start_; }

    /// Answers what is held.
    void release(size_t ring);
    void release_all();
    void ask(DeviceAsks what, uint8_t first, uint8_t second);

    /// Aborts when something is left of a session.
    void check_at_rest() const;

    // --- Device --------------------------------------------------------------------------------

    [[nodiscard]] DeviceIdentity identity() const override;
    [[nodiscard]] DeviceAbilities abilities() const override;
    [[nodiscard]] FeatureSet offered_features() const override;
    void on_negotiated(FeatureSet agreed) override;
    void on_frontend(std::shared_ptr<Frontend> frontend) override;
    void read_config(ConfigOffset at, std::span<std::byte> out) const override;
    [[nodiscard]] Result<void, ConfigError> write_config(ConfigOffset at,
                                                         std::span<const std::byte> in) override;
    [[nodiscard]] Result<void> start_queue(QueueIndex index,
                                           Virtqueue& queue,
                                           Worker& worker) override;
    [[nodiscard]] QueueProgress process_queue(QueueIndex index) override;
    void stop_queue(QueueIndex index, std::move_only_function<void()> drained) override;
    [[nodiscard]] bool set_mtu(uint16_t mtu) override;
    [[nodiscard]] bool announce(const MacAddress& address) override;
    [[nodiscard]] std::optional<UniqueFd> shared_object(const Uuid& object) override;
    void reset() override;

  private:
    struct Queue {
        Virtqueue* queue = nullptr;
        std::vector<DescriptorChain> held;
        std::move_only_function<void()> drained;
    };

    void answer(DescriptorChain chain);
    [[nodiscard]] Frontend::OnDone count_answer();

    const uint8_t options_;
    DeviceMood mood_ = DeviceMood::kAnswer;
    bool refuse_start_ = false;
    std::array<Queue, kSessionRings> queues_;
    std::array<std::byte, 64> config_{};
    std::shared_ptr<Frontend> frontend_;
    uint64_t asked_ = 0;
    uint64_t answered_ = 0;
    bool used_ = false;  // since the last reset
};

}  // namespace outrigger::fuzz
