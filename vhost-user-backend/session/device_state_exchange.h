// SPDX-License-Identifier: Apache-2.0
/// What a session knows of its device's state as a thing that moves: the transfer that is under
/// way, how the last one ended, and what was loaded and waits for its rings.
/// vhost-user "Migrating back-end state".
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/device.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/session/counters.h"
#include "vhost-user-backend/session/session_logs.h"
#include "vhost-user-backend/session/state_transfer.h"
#include "vhost-user-backend/state/device_state.h"

namespace outrigger {

/// Thread-bound: control thread. Whoever calls has stopped all rings.
class DeviceStateExchange final {
  public:
    struct Environment {
        Device& device;
        EventLoop& control_loop;
        Worker& worker;  ///< starts the thread of a transfer
        SessionCounters& counters;
        LogLimiter& log;
        FeatureSet offered;  ///< by the session, transport bits included
        std::chrono::milliseconds time_limit;
        /// A transfer has ended, and nobody has been told yet: the device has `loaded` a state.
        std::function<void(bool loaded)> on_ended = [](bool) {};
    };

    explicit DeviceStateExchange(const Environment& environment) : environment_(environment) {}

    DeviceStateExchange(const DeviceStateExchange&) = delete;
    DeviceStateExchange& operator=(const DeviceStateExchange&) = delete;
    ~DeviceStateExchange();

    /// Begins to send the device's sections with the rest of `state`, or begins to read a state.
    /// What came of transfers before is forgotten.
    [[nodiscard]] std::optional<Refusal> begin_save(UniqueFd fd, DeviceState state);
    [[nodiscard]] std::optional<Refusal> begin_load(UniqueFd fd);

    /// How the last transfer ended; nothing when there was none, or not yet.
    [[nodiscard]] std::optional<bool> outcome() const { return outcome_; }

    [[nodiscard]] bool under_way() const { return transfer_ != nullptr; }

    [[nodiscard]] bool is_loading() const { return under_way() && is_load_; }

    /// Calls `then` once when nothing is under way any more. One at a time.
    void when_ended(std::move_only_function<void()> then);

    /// A load failed, and neither a good one nor a reset of the device came since.
    [[nodiscard]] bool is_unusable() const { return load_failed_; }

    // --- What was loaded, until the rings have it ----------------------------------------------

    /// A ring may start as the state that was loaded says: with `features`, and of that size. Gives
    /// where it stood, if the state knows. An Error says what does not fit.
    [[nodiscard]] Result<std::optional<SavedQueue>> admit(uint16_t ring,
                                                          uint16_t size,
                                                          FeatureSet features) const;

    /// That ring has started: from now on its place is in guest memory, and the driver may change
    /// everything.
    void on_ring_started(uint16_t ring);
    /// No ring runs any more.
    void on_rings_stopped();

    // --- What is kept for a save ----------------------------------------------------------------

    /// SET_STATUS 0 comes before a save, too (QEMU sends it when the machine stops): keeps `state`
    /// and the device's sections as they are before the reset, until a ring starts or drop_kept().
    void keep(DeviceState state);

    void drop_kept();

    /// The device is reset: a transfer that is under way is given up.
    void forget();

    /// The session ends. Who waits is called.
    void end();

    // --- For another process --------------------------------------------------------------------

    /// All of the above, but for a transfer that is under way: that ends with this process.
    struct Kept {
        bool load_failed = false;
        bool ran_since_load = false;
        bool interrupted = false;  ///< a transfer was under way
        std::optional<bool> outcome{};
        std::optional<DeviceState> loaded{};
        std::optional<DeviceState> saved{};
    };

    [[nodiscard]] Kept to_keep() const;
    void restore(Kept kept);

    /// Another number than before: to_keep() may give something else.
    [[nodiscard]] uint64_t version() const { return version_; }

  private:
    [[nodiscard]] Result<DeviceState> with_sections(DeviceState state) const;
    [[nodiscard]] Result<void, StateError> take(DeviceState state);
    void on_transfer_begun(bool is_load);
    void on_transfer_ended(StateTransfer::Outcome outcome);
    void give_up();
    void wake_waiter();

    const Environment environment_;
    std::unique_ptr<StateTransfer> transfer_;
    std::optional<TimerId> time_limit_;
    bool is_load_ = false;  // of the transfer, or of the last one
    bool load_failed_ = false;
    std::optional<bool> outcome_;
    std::move_only_function<void()> waiter_;
    std::optional<DeviceState> loaded_;  // without its sections, which the device has
    bool ran_since_load_ = false;        // a ring
    std::optional<DeviceState> kept_;
    uint64_t version_ = 1;
};

}  // namespace outrigger
