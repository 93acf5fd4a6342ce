// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: whole sessions in one process and one thread. When a session has ended, nothing of
/// it may be left: no descriptor, mapping, chain, callback or timer.
#include "vhost-user-backend/session/session.h"

#include <array>
#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/session/feature_offer.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/script_clock.h"
#include "tests/fuzz/script_userfaults.h"
#include "tests/fuzz/session_device.h"
#include "tests/fuzz/session_peer.h"
#include "tests/fuzz/session_script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kOpsMax = 256;
constexpr size_t kSessionsMax = 4;
/// Turns after which all that can run without waiting for the script has run, unless a device
/// says all the time that there is more.
constexpr size_t kSettleTurnsMax = 64;
/// Turns within which a session must have ended: there is nothing to wait for.
constexpr size_t kCloseTurnsMax = 2000;
/// Milliseconds that the thread of a transfer has for its end.
constexpr int kLetGoTries = 8000;

/// The threads of a daemon, as objects that one thread runs in turn.
struct Daemon {
    Daemon()
        : control(create_event_loop(LoopKind::kAsio).value()),
          workers{Worker::create_threadless(LoopKind::kAsio).value(),
                  Worker::create_threadless(LoopKind::kAsio).value()},
          worker_pointers{workers[0].get(), workers[1].get()} {}

    /// True when anything ran.
    bool turn() {
        bool ran = control->run_once(EventLoop::Clock::time_point::min());
        for (const auto& worker : workers) {
            ran |= worker->turn();
        }
        return ran;
    }

    std::unique_ptr<EventLoop> control;
    std::array<std::unique_ptr<Worker>, 2> workers;
    std::array<Worker*, 2> worker_pointers;
};

class SessionScript final {
  public:
    SessionScript(Daemon& daemon, PeerResources& resources, ScriptReader script)
        : daemon_(daemon),
          resources_(resources),
          script_(script),
          options_(script_.u8()),
          device_(options_) {}

    void run() {
        resources_.reset();
        connect();
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<SessionOp>(script_));
        }
        end_session(false);
        OUTRIGGER_ASSERT(counters_.sessions_opened.value() == sessions_);
        OUTRIGGER_ASSERT(counters_.closed.total() == sessions_);
    }

  private:
    void connect() {
        SessionPeer::Offer offer = {.features = offered_virtio_features(device_),
                                    .protocol_features = offered_protocol_features(
                                        device_.identity(), device_.abilities())};
        const bool postcopy = (options_ & SessionScriptOptions::kPostcopy) != 0;
        if (postcopy) {
            offer.features = offer.features.without(kFeatureAccessPlatform);
            offer.protocol_features =
                offer.protocol_features.with(wire::bit(wire::ProtocolFeature::kPagefault));
        }
        peer_.emplace(
            resources_, script_, offer, (options_ & SessionScriptOptions::kSealedMemory) != 0);
        ++sessions_;
        session_ = std::make_unique<Session>(
            Session::Environment{.device = device_,
                                 .control_loop = *daemon_.control,
                                 .workers = daemon_.worker_pointers,
                                 .counters = counters_,
                                 .queue_metrics = queue_metrics_,
                                 .logs = logs_},
            peer_->take_back_end(),
            SessionOptions{.require_sealed = (options_ & SessionScriptOptions::kRequireSealed) != 0,
                           .userfaults = postcopy ? &userfaults_ : nullptr},
            [this](CloseReason) {
                // Once: there is no session to end a second time.
                OUTRIGGER_ASSERT(session_ != nullptr);
                session_.reset();
            });
    }

    void settle() {
        for (size_t turn = 0; turn < kSettleTurnsMax && daemon_.turn(); ++turn) {
        }
        peer_->listen();
    }

    /// The session must end without any time passing, once its device brings everything back.
    void end_session(bool by_back_end) {
        device_.set_mood(DeviceMood::kAnswer);
        if (by_back_end && session_ != nullptr) {
            session_->close();
        }
        peer_->disconnect();
        for (size_t turn = 0; turn < kCloseTurnsMax && session_ != nullptr; ++turn) {
            device_.release_all();
            (void)daemon_.turn();
            if (turn == kCloseTurnsMax / 2 && peer_->passed_itself()) {
                session_->close();
            }
        }
        OUTRIGGER_ASSERT(session_ == nullptr);
        OUTRIGGER_ASSERT(userfaults_.count() == 0);
        // What was posted last: callbacks of the device's own.
        while (daemon_.turn()) {
        }
        device_.check_at_rest();
        peer_.reset();
    }

    void reconnect(bool by_back_end) {
        if (sessions_ < kSessionsMax) {
            end_session(by_back_end);
            connect();
        }
    }

    void step(SessionOp op) {
        peer_->send_rest();
        switch (op) {
            case SessionOp::kRequest:
                return peer_->request();
            case SessionOp::kBytes:
                return peer_->bytes();
            case SessionOp::kOfferSplit:
            case SessionOp::kOfferPacked:
                return peer_->offer(op == SessionOp::kOfferPacked);
            case SessionOp::kStore:
                return peer_->store();
            case SessionOp::kKick:
                return peer_->kick();
            case SessionOp::kRun: {
                const size_t turns = script_.pick(17);
                for (size_t turn = 0; turn < turns; ++turn) {
                    (void)daemon_.turn();
                }
                return;
            }
            case SessionOp::kSettle:
                return settle();
            case SessionOp::kMood:
                return device_.set_mood(
                    script_.pick_enum<DeviceMood>(static_cast<size_t>(DeviceMood::kCount)));
            case SessionOp::kRelease:
                return device_.release(script_.pick(kSessionRings));
            case SessionOp::kAsk: {
                const auto what =
                    script_.pick_enum<DeviceAsks>(static_cast<size_t>(DeviceAsks::kCount));
                const uint8_t first = script_.u8();
                return device_.ask(what, first, script_.u8());
            }
            case SessionOp::kAnswer:
                return peer_->answer();
            case SessionOp::kTruncate:
                return peer_->truncate();
            case SessionOp::kReadReplies:
                return peer_->read_replies();
            case SessionOp::kDeaf:
                return peer_->set_deaf();
            case SessionOp::kHalfClose:
                return peer_->half_close();
            case SessionOp::kDisconnect:
            case SessionOp::kClose:
                return reconnect(op == SessionOp::kClose);
            case SessionOp::kCutNext:
                return peer_->cut_next(script_.u8());
            case SessionOp::kRefuseStart:
                return device_.refuse_start(!device_.refuses_start());
            case SessionOp::kPassTime:
                return pass_time(script_.u8() * std::chrono::milliseconds(50));
            case SessionOp::kCount:
                return;
        }
    }

    Daemon& daemon_;
    PeerResources& resources_;
    ScriptReader script_;
    const uint8_t options_;
    SessionDevice device_;
    SessionCounters counters_;
    std::vector<QueueMetrics> queue_metrics_{device_.identity().queue_count};
    ScriptUserfaults userfaults_;  // before the sessions that borrow it
    SessionLogs logs_;
    std::optional<SessionPeer> peer_;
    std::unique_ptr<Session> session_;
    size_t sessions_ = 0;
};

/// Mappings of guest memory that the back end still has.
size_t count_mappings() {
    std::ifstream maps("/proc/self/maps");
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        if (line.find("outrigger-fuzz-ram") != std::string::npos) {
            ++count;
        }
    }
    return count;
}

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    static const bool prepared = [] {
        (void)std::signal(SIGPIPE, SIG_IGN);  // as the daemon does
        outrigger::set_log_level(outrigger::LogLevel::kOff);
        return true;
    }();
    OUTRIGGER_ASSERT(prepared);
    static Daemon daemon;
    static PeerResources resources;
    static uint32_t runs = 0;
    const size_t descriptors = count_open_descriptors();
    SessionScript(daemon, resources, ScriptReader(std::span(data, size))).run();
    // The thread of a device state that was given up lets go of its descriptor by itself, soon.
    for (int tries = 0; tries < kLetGoTries && count_open_descriptors() != descriptors; ++tries) {
        ::usleep(1000);
    }
    OUTRIGGER_ASSERT(count_open_descriptors() == descriptors);
    // Reading the map costs as much as many scripts.
    if (runs++ < 64 || runs % 256 == 0) {
        OUTRIGGER_ASSERT(count_mappings() == 0);
    }
    return 0;
}
