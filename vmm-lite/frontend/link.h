// SPDX-License-Identifier: Apache-2.0
/// One connection to a back end, from the first request to the loss: what is said on it, in which
/// order. When, and why again, is RemoteDevice's to know.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/guest/addresses.h"

#include "vmm-lite/frontend/backend_requests.h"
#include "vmm-lite/frontend/channel.h"
#include "vmm-lite/frontend/negotiation.h"
#include "vmm-lite/frontend/reply_rules.h"
#include "vmm-lite/loop/event_loop.h"
#include "vmm-lite/mem/memory_region.h"

namespace outrigger::vmm {

/// A region with a descriptor that stays open as long as it is on its way.
struct SharedRegion {
    MemoryRegion region{};
    SharedFd fd{};
};

/// What tracks the requests that the back end has taken; ours to keep when it dies.
struct InflightTable {
    wire::Inflight description{};
    SharedFd fd{};

    [[nodiscard]] uint64_t offset_of(uint16_t queue) const {
        return description.mmap_offset + queue * (description.mmap_size / description.queue_count);
    }
};

/// Which pages the back end writes: a bit for each 4096 bytes of guest address. LOG_SHMFD.
struct DirtyLog {
    SharedFd fd{};
    uint64_t bytes = 0;
};

/// What a back end is told of a ring before it starts it.
struct RingStart {
    uint16_t index = 0;
    uint16_t size = 0;
    uint64_t descriptors = 0;  ///< this and the next two: in our address space
    uint64_t driver = 0;
    uint64_t device = 0;
    GuestAddr device_guest_address{};  ///< where the dirty log has the used ring
    uint32_t base = 0;
    SharedFd kick{};
    SharedFd call{};
    SharedFd error{};
};

struct StartPlan {
    FeatureSet features{};  ///< that the driver agreed to
    std::vector<RingStart> rings{};
    std::shared_ptr<InflightTable> inflight{};  ///< null: a new one is asked for
    uint16_t queue_size_max = 0;                ///< of the rings
    /// Sees the new one as soon as it is there.
    std::function<void(std::shared_ptr<InflightTable>)> on_inflight{};
    std::optional<DirtyLog> log{};
};

/// Thread-bound: the loop's.
class Link final {
  public:
    struct Handler {
        std::function<void(Offer)> on_offer;
        /// Called once, from a posted task; the link may be destroyed by then.
        std::function<void(const Error&)> on_lost;
        std::function<void()> on_config_change;
        /// The back end has mapped a piece of shared memory.
        std::function<void()> on_mapped;
    };

    struct Options {
        NegotiationOptions negotiation{};
        Deadlines deadlines{};
        SharedWindows* windows = nullptr;  ///< borrowed
    };

    Link(EventLoop& loop, UniqueFd socket, const Options& options, Handler handler);
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;
    ~Link() = default;

    [[nodiscard]] Channel& channel() { return channel_; }

    [[nodiscard]] const Offer& offer() const { return offer_; }

    /// Was it given the guest's memory?
    [[nodiscard]] bool has_memory() const { return memory_known_; }

    /// Tells it everything, starts the rings and enables them. `on_started` runs when the back end
    /// has agreed to all of it.
    void start(StartPlan plan,
               const std::vector<SharedRegion>& memory,
               std::move_only_function<void()> on_started);

    /// Stops these rings; the back end finishes what it has taken. `on_stopped` sees where each is.
    void stop(const std::vector<uint16_t>& rings,
              bool packed,
              std::move_only_function<void(std::vector<uint32_t>)> on_stopped);

    /// What a driver's reset asks for, behind stop().
    void reset_device(std::move_only_function<void()> on_reset);

    void set_call(uint16_t ring, SharedFd call, std::move_only_function<void()> on_set);

    /// The configuration space as it is now; empty when the back end does not say.
    void get_config(uint32_t bytes,
                    std::move_only_function<void(std::vector<std::byte>)> on_config);
    /// `on_set` sees whether the back end took it.
    void set_config(uint32_t offset,
                    const std::vector<std::byte>& bytes,
                    std::move_only_function<void(bool)> on_set);

    /// Begins, or without a log ends, the logging of what the back end writes, while rings run.
    void set_log(const std::optional<DirtyLog>& log,
                 FeatureSet features,
                 const std::vector<RingStart>& rings,
                 std::move_only_function<void()> on_set);

    /// Runs `then` when the back end has looked at everything that was sent before.
    void barrier(std::move_only_function<void()> then);

  private:
    void send_u64(wire::FrontendRequest number, uint64_t value, SharedFd fd = nullptr);
    void send_state(wire::FrontendRequest number, uint32_t index, uint32_t value);
    void send_features(FeatureSet features, bool logging);
    void send_ring_address(const RingStart& ring, bool logging);
    void send_log(const DirtyLog& log);
    void send_memory(const std::vector<SharedRegion>& memory);
    void send_ring(const RingStart& ring, bool logging);
    void get_inflight();
    void send_rest();

    [[nodiscard]] bool has(wire::ProtocolFeature feature) const { return offer_.has(feature); }

    const Options options_;
    Handler handler_;
    Offer offer_{};
    std::unique_ptr<BackendRequests> requests_;
    Channel channel_;
    std::optional<Negotiation> negotiation_;
    bool memory_known_ = false;

    // While a start is under way.
    StartPlan plan_{};
    std::vector<SharedRegion> memory_{};
    std::move_only_function<void()> on_started_{};
};

}  // namespace outrigger::vmm
