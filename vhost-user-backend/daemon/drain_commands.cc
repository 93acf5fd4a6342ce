// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/drain_commands.h"

#include <chrono>
#include <optional>
#include <utility>

#include <fmt/core.h>
#include <outrigger_control.pb.h>

namespace outrigger {
namespace {

using control::CommandError;
using control::CommandResult;
using control::Refusal;

/// Waits for as many results as there are devices; the first error counts.
class Gathered final {
  public:
    Gathered(size_t count, DrainCommands::Answer answer)
        : left_(count), answer_(std::move(answer)) {}

    void take(CommandResult one) {
        // A device that has nothing to resume of its own.
        const bool unknown = !one && one.error().refusal == Refusal::kUnknown;
        if (!one && !unknown && result_) {
            result_ = std::move(one);
        }
        if (--left_ == 0) {
            std::exchange(answer_, nullptr)(std::move(result_));
        }
    }

  private:
    size_t left_;
    CommandResult result_;
    DrainCommands::Answer answer_;
};

CommandResult result_of(bool resumed) {
    if (resumed) {
        return failure(CommandError{.refusal = Refusal::kInvalid,
                                    .message = "resumed before all requests were answered"});
    }
    return "";
}

uint64_t requests_in_flight(const DeviceServer& server) {
    uint64_t all = 0;
    for (const QueueMetrics& queue : server.queue_metrics()) {
        all += queue.requests_in_flight();
    }
    return all;
}

}  // namespace

struct DrainCommands::Wait {
    size_t left = 0;
    bool resumed = false;
    std::optional<TimerId> timer;
    Answer answer;  // null: it was given
};

DrainCommands::Numbers DrainCommands::meant_by(const std::string& name) const {
    const auto& targets = environment_.description.targets;
    Numbers numbers;
    const auto* const named = name.empty() ? nullptr : environment_.description.find(name);
    for (size_t i = 0; i < targets.size(); ++i) {
        if (name.empty() || named == &targets[i]) {
            numbers.push_back(i);
        }
    }
    return numbers;
}

void DrainCommands::drain(const control::v1::Request& request, Answer answer) {
    const Numbers devices = meant_by(request.device());
    const auto& targets = environment_.description.targets;
    Numbers told;
    for (const size_t device : devices) {
        if (targets[device].server.intake() != DeviceServer::Intake::kOpen) {
            continue;
        }
        if (environment_.tell_drain(device, true)) {
            told.push_back(device);
        } else {
            for (const size_t other : told) {
                (void)environment_.tell_drain(other, false);
            }
            answer(failure(CommandError{
                .message = "another process is about to take over and would not know of it: try "
                           "again"}));
            return;
        }
    }
    auto wait = std::make_shared<Wait>(Wait{.left = devices.size(),
                                            .resumed = false,
                                            .timer = std::nullopt,
                                            .answer = std::move(answer)});
    if (const uint32_t seconds = request.drain().timeout_seconds(); seconds > 0) {
        limit(wait, seconds, devices);
    }
    for (const size_t device : devices) {
        targets[device].server.drain([wait, loop = &environment_.loop](bool drained) {
            wait->resumed = wait->resumed || !drained;
            if (--wait->left > 0) {
                return;
            }
            if (wait->timer) {
                loop->cancel_timer(*std::exchange(wait->timer, std::nullopt));
            }
            if (wait->answer) {
                std::exchange(wait->answer, nullptr)(result_of(wait->resumed));
            }
        });
    }
}

void DrainCommands::limit(const std::shared_ptr<Wait>& wait, uint32_t seconds, Numbers devices) {
    const auto deadline = EventLoop::Clock::now() + std::chrono::seconds(seconds);
    wait->timer = environment_.loop.start_timer(
        deadline, [this, wait, seconds, devices = std::move(devices)] {
            wait->timer.reset();
            uint64_t in_flight = 0;
            for (const size_t device : devices) {
                in_flight += requests_in_flight(environment_.description.targets[device].server);
            }
            std::exchange(wait->answer, nullptr)(failure(CommandError{
                .message = fmt::format("{} requests are still in flight after {} s; no others are "
                                       "begun, until resume",
                                       in_flight,
                                       seconds)}));
        });
}

void DrainCommands::resume(const control::v1::Request& request, Answer answer) {
    const Numbers devices = meant_by(request.device());
    const auto gathered = std::make_shared<Gathered>(devices.size(), std::move(answer));
    for (const size_t device : devices) {
        const auto& target = environment_.description.targets[device];
        if (target.server.intake() != DeviceServer::Intake::kOpen) {
            (void)environment_.tell_drain(device, false);
            target.server.resume();
        }
        if (control::DeviceControl* const control = target.device.control()) {
            control->handle(request, {}, [gathered](CommandResult result) {
                gathered->take(std::move(result));
            });
        } else {
            gathered->take("");
        }
    }
}

}  // namespace outrigger
