// SPDX-License-Identifier: Apache-2.0
/// A virtio device that lives in another process, as the transport sees it: connects to its back
/// end, tells it what the driver wants, and when it dies finds the next one and goes on where it
/// was, without the driver noticing.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/log.h"

#include "vmm-lite/frontend/backend_source.h"
#include "vmm-lite/frontend/config_cache.h"
#include "vmm-lite/frontend/deadlines.h"
#include "vmm-lite/frontend/device_config.h"
#include "vmm-lite/frontend/device_kinds.h"
#include "vmm-lite/frontend/leave_taking.h"
#include "vmm-lite/frontend/link.h"
#include "vmm-lite/frontend/shared_windows.h"
#include "vmm-lite/frontend/state_transfer.h"
#include "vmm-lite/loop/event_loop.h"
#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

/// Thread: the loop's, but for what DeviceProxy and connect() say. The destructor runs on the
/// loop's thread, or when the loop does not run.
class RemoteDevice final : public DeviceProxy {
  public:
    struct Options {
        std::string name{};  ///< for messages: "blk0"
        DeviceKind kind{};
        std::unique_ptr<BackendSource> source{};
        GivenConfig given{};
        bool shared_memory = false;  ///< the machine has windows for it
        uint16_t queue_size_max = 256;
        Deadlines deadlines{};
        ReconnectPolicy reconnect{};
    };

    enum class Phase : uint8_t {
        kConnecting,  ///< for the first time
        kReady,       ///< the driver does not use it, or it is suspended
        kStarting,
        kRunning,
        kStopping,
        kAway,  ///< its back end is being looked for
        kLost,  ///< and was not found
    };

    /// What an operator may know.
    struct Status {
        std::string name{};
        std::string kind{};
        std::string source{};
        Phase phase = Phase::kConnecting;
        uint16_t queues_running = 0;
        uint64_t losses = 0;      ///< of a back end that was there
        std::string last_loss{};  ///< why, the last time; empty without one
    };

    using Done = std::move_only_function<void(Result<void>)>;
    using OnState = std::move_only_function<void(Result<std::vector<std::byte>>)>;

    /// `memory` is the guest's, and constant. Nothing happens until connect().
    RemoteDevice(EventLoop& loop, std::span<const MemoryRegion> memory, Options options);
    RemoteDevice(const RemoteDevice&) = delete;
    RemoteDevice& operator=(const RemoteDevice&) = delete;
    ~RemoteDevice() override;

    /// Finds the back end and negotiates; `done` runs once, on the loop's thread. All else comes
    /// behind its success. Any thread, once.
    void connect(Done done);

    // --- DeviceProxy -------------------------------------------------------------------------

    [[nodiscard]] uint16_t virtio_id() const override { return options_.kind.virtio_id; }

    [[nodiscard]] uint64_t offered_features() const override {
        return first_offer_.features.bits();
    }

    [[nodiscard]] uint16_t queue_count() const override { return first_offer_.queue_count; }

    [[nodiscard]] uint16_t queue_size_max() const override { return options_.queue_size_max; }

    [[nodiscard]] uint32_t config_bytes() const override { return config_.bytes(); }

    void read_config(uint32_t at, std::span<std::byte> out) const override {
        config_.read(at, out);
    }

    void write_config(uint32_t at, std::span<const std::byte> in) override;

    [[nodiscard]] uint8_t config_generation() const override { return config_.generation(); }

    void activate(uint64_t agreed_features,
                  std::span<const std::optional<QueueSetup>> queues) override;
    void set_call(uint16_t queue, int call_fd) override;
    void reset(std::move_only_function<void()> done) override;

    /// Before connect(), or while the loop does not run.
    void observe(Observer* observer) override { observer_ = observer; }

    [[nodiscard]] std::span<const uint64_t> shared_memory() const override {
        return windows_.sizes();
    }

    void observe_shared_memory(SharedMemoryObserver* observer) override {
        windows_.observe(observer);
    }

    // --- The machine ---------------------------------------------------------------------------

    /// The windows that the device asked for; constant after connect(). Any thread.
    [[nodiscard]] const SharedWindows& shared_windows() const { return windows_; }

    /// Stops all rings where they are, when everything that was taken is finished. The back end
    /// touches no memory from `done` until resume().
    void suspend(Done done);
    void resume(Done done);

    /// The state of a suspended device, and a state for one that has not been activated or is
    /// suspended. DEVICE_STATE; at most StateTransfer::kBytesMax.
    void save_state(OnState done);
    void load_state(std::vector<std::byte> state, Done done);

    /// From now on `log` has a bit for each page that the back end writes; without one, no more.
    void set_log(std::optional<DirtyLog> log, Done done);

    [[nodiscard]] Status status() const;

    [[nodiscard]] const std::string& name() const { return options_.name; }

  private:
    /// A queue as the driver set it up.
    struct ActiveRing {
        QueueSetup setup{};
        SharedFd kick{};
        SharedFd call{};       ///< the driver's last word
        SharedFd told_call{};  ///< what the back end was told last
        bool telling_call = false;
        SharedFd error{};
        EventLoop::Watch error_watch{};
        /// Where the back end said it stopped, or where a fresh ring begins; nothing as long as
        /// the ring may run.
        std::optional<uint32_t> base{};
    };

    struct Activation {
        uint64_t generation = 0;
        FeatureSet features{};
        std::map<uint16_t, ActiveRing> rings{};
        std::shared_ptr<InflightTable> inflight{};
        bool started = false;  ///< some back end has been told to
        bool told_needs_reset = false;
    };

    /// Calls that changed since the loop looked last; of one activation.
    struct PendingCalls {
        uint64_t generation = 0;
        std::map<uint16_t, SharedFd> calls{};
        bool posted = false;
    };

    void post(std::move_only_function<void(RemoteDevice&)> task);

    // remote_device_connection.cc
    void try_first_connection();
    void end_connect(Result<void> result);
    void attach(UniqueFd socket);
    void watch_files();
    void drop_link();
    void take_leave(UniqueFd socket);
    void on_let_go();
    void on_offer(Offer offer);
    [[nodiscard]] Result<void> accept_first(Offer& offer);
    [[nodiscard]] Result<void> compare(const Offer& offer) const;
    void on_lost(const Error& reason);
    void bury(Error reason, int looks);
    void look_again(const std::string& why);
    void try_again();
    void settle();
    void give_up(const std::string& why);
    [[nodiscard]] std::string with_obituary(const std::string& reason) const;

    // remote_device_rings.cc
    void begin_activation(Activation activation);
    void start_rings();
    [[nodiscard]] Result<std::vector<RingStart>> plan_rings();
    [[nodiscard]] Result<uint32_t> base_of(uint16_t index, const ActiveRing& ring) const;
    void on_started(bool resumed);
    void stop_rings(std::move_only_function<void()> then);
    void begin_reset(std::move_only_function<void()> done);
    void end_reset();
    void end_stop(Result<void> result);
    void apply_calls(uint64_t generation);
    void apply_call(uint16_t index, SharedFd call);
    void tell_call(uint16_t index, ActiveRing& ring);
    [[nodiscard]] Result<void> watch_errors(uint16_t index, ActiveRing& ring);
    void tell_needs_reset(const std::string& why);
    [[nodiscard]] bool packed() const;

    // remote_device.cc
    void refresh_config();
    void take_config(const std::vector<std::byte>& config);
    void tell_writes();

    [[nodiscard]] std::vector<RingStart> ring_addresses() const;

    EventLoop& loop_;
    Options options_;
    std::vector<SharedRegion> memory_;
    ConfigCache config_;
    std::atomic<Observer*> observer_ = nullptr;
    std::mutex calls_mutex_;  // what follows
    PendingCalls pending_calls_;

    // Constant from the end of connect() on.
    Offer first_offer_{};
    SharedWindows windows_;
    const size_t pieces_max_ = SharedWindows::pieces_max();

    // The loop's thread alone.
    Phase phase_ = Phase::kConnecting;
    Done on_connected_{};
    bool first_offer_known_ = false;
    EventLoop::Clock::time_point connect_deadline_{};
    std::unique_ptr<Link> link_{};
    std::unique_ptr<LeaveTaking> leave_{};  // of the last link: nobody follows it meanwhile
    std::optional<Activation> active_{};
    // Whatever the driver does meanwhile: its last words may be on the way.
    bool suspended_ = false;
    std::optional<DirtyLog> log_{};
    std::vector<std::move_only_function<void()>> on_reset_{};
    Done on_suspended_{};
    Done on_resumed_{};
    std::unique_ptr<StateTransfer> transfer_{};
    LogLimiter resets_needed_;  // a guest can break its rings again and again
    bool config_asked_ = false;
    bool config_stale_ = false;
    std::optional<ConfigCache::Write> telling_{};
    EventLoop::Timer files_;
    bool files_watched_ = false;

    // About the loss of a back end.
    uint64_t losses_ = 0;
    std::string last_loss_{};
    std::string last_refusal_{};
    EventLoop::Clock::time_point away_since_{};
    EventLoop::Clock::duration away_total_{};
    std::chrono::milliseconds pause_{};
    EventLoop::Timer retry_;
    EventLoop::Timer stable_;
    EventLoop::Timer negotiation_limit_;

    std::shared_ptr<RemoteDevice*> self_;  // what posted tasks hold weakly
};

[[nodiscard]] std::string_view describe(RemoteDevice::Phase phase);

/// Connects all of them at the same time and waits for the slowest; the first error in their order.
/// Not on the loop's thread, which must run.
[[nodiscard]] Result<void> connect_all(std::span<const std::unique_ptr<RemoteDevice>> devices);

}  // namespace outrigger::vmm
