// SPDX-License-Identifier: Apache-2.0
/// A front end's whole life with a device, and all the places where it may break off.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/driver/bring_up.h"
#include "tools/driver/channel_end.h"
#include "tools/driver/cut.h"

namespace outrigger::testing {

/// Where and how one round ends.
struct CutPoint {
    uint64_t bytes = 0;           ///< sent before the end
    bool read_last_reply = true;  ///< of the message that ends there
};

/// How a front end leaves.
enum class HangUp : uint8_t {
    kClose,          ///< with whatever replies it has not read
    kShutDownBoth,   ///< and the descriptor stays open a while longer
    kShutDownWrite,  ///< and it reads until the back end has hung up, too
};

/// What the session is about: one device and its requests.
struct SessionPlan {
    bool packed = false;
    uint16_t queue_count = 2;
    uint32_t writable_config_offset = 0;
    /// One request; its buffers come out of the memory. Called a few times for each session.
    std::function<std::vector<driver::Segment>(driver::GuestMemory&)> make_request;
    /// From here on requests stay in flight until release_requests(). Both may be empty.
    std::function<void()> hold_requests{};
    std::function<void()> release_requests{};
};

/// One front end. What it shares with the back end lives as long as it does.
class CutSession final {
  public:
    CutSession(driver::Frontend frontend, const SessionPlan& plan, const CutPoint& cut);
    CutSession(CutSession&&) = delete;
    ~CutSession() = default;

    /// Says everything that the driver's front end can say, in QEMU's order, with two rings in use,
    /// up to the cut. Empty when all was said and answered; else the step that failed, which is
    /// the one that holds the cut.
    [[nodiscard]] std::string play();

    /// Leaves, and then releases the requests. False when the back end does not hang up in turn
    /// within the time limit, where that is waited for.
    [[nodiscard]] bool hang_up(HangUp how);

    /// Bytes sent, and the messages that they were.
    [[nodiscard]] const driver::Cut& cut() const { return cut_; }

  private:
    using Step = bool (CutSession::*)();

    bool bring_up();
    bool exchange_requests();
    bool put_requests_in_flight();
    bool read_and_write_config();
    bool open_channel();
    bool tell_of_the_network();
    bool move_memory();
    bool restart_one_ring();
    bool replace_notifiers();
    bool stop_rings_under_load();
    bool reset_and_start_again();
    bool share_the_old_way();
    bool kick_in_band();
    bool go_behind_an_iommu();
    bool invalidate_under_load();

    bool reset_and_negotiate(FeatureSet features);
    bool update_iotlb(uint8_t type);

    void release_requests();
    [[nodiscard]] bool send_and_release(uint32_t request,
                                        uint32_t flags,
                                        std::span<const std::byte> payload);

    SessionPlan plan_;
    driver::Cut cut_;
    driver::Frontend frontend_;
    std::optional<driver::ChannelEnd> channel_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    std::vector<std::vector<driver::Segment>> requests_;
};

/// Every way to break off in messages of these sizes: before each, behind its first byte, which
/// brings its descriptors, inside its header, between header and payload, inside its payload, and
/// behind it with its reply not read.
[[nodiscard]] std::vector<CutPoint> cut_points(const std::vector<uint64_t>& message_bytes);

/// Plays round `number` of many and hangs up; a failure when it did not end at its cut. Each round
/// has the next cut; once all were tried, they come with another way to leave and ring format.
void play_round(driver::Frontend frontend,
                const SessionPlan& plan,
                const std::vector<CutPoint>& points,
                size_t number);

/// Plays a session that nobody cuts, and returns where it could have been.
[[nodiscard]] std::vector<CutPoint> play_whole_session(driver::Frontend frontend,
                                                       const SessionPlan& plan);

}  // namespace outrigger::testing
