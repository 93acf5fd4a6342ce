// SPDX-License-Identifier: Apache-2.0
// What an operator asks of the machine. On the loop's thread.
#include <memory>
#include <utility>

#include <unistd.h>

#include <machine_control.pb.h>

#include "vhost-user-backend/base/notifier.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/control/printable_text.h"

#include "vmm-lite/boot/layout.h"
#include "vmm-lite/machine.h"

namespace outrigger::vmm {
namespace {

namespace v1 = control::v1;

/// Waits for as many answers as there are devices; the first error counts.
class AllDone final {
  public:
    AllDone(size_t count, MachineOperator::Done done) : left_(count), done_(std::move(done)) {}

    void take(Result<void> one) {
        if (!one && result_) {
            result_ = std::move(one);
        }
        if (--left_ == 0) {
            std::exchange(done_, nullptr)(std::move(result_));
        }
    }

  private:
    size_t left_;
    Result<void> result_;
    MachineOperator::Done done_;
};

}  // namespace

void Machine::describe(v1::Machine& out) const {
    out.set_state(paused_ ? v1::Machine::PAUSED : v1::Machine::RUNNING);
    out.set_pid(static_cast<uint32_t>(::getpid()));
    out.set_version(OUTRIGGER_VERSION);
    out.set_processors(options_.vcpus);
    out.set_memory_bytes(options_.memory_bytes);
    for (const auto& device : devices_) {
        const RemoteDevice::Status status = device->status();
        v1::Device* const described = out.add_devices();
        described->set_name(status.name);
        described->set_kind(status.kind);
        described->set_source(outrigger::control::printable(status.source));
        described->set_phase(std::string(vmm::describe(status.phase)));
        described->set_queues(status.queues_running);
        described->set_losses(status.losses);
        described->set_last_loss(outrigger::control::printable(status.last_loss));
    }
}

void Machine::describe(v1::Costs& out) const {
    const MachineStatistics costs = statistics();
    out.set_json(statistics_json(costs));
    out.set_text(statistics_text(costs));
}

MachineMetrics Machine::metrics() const {
    MachineMetrics out{
        .statistics = statistics(), .memory_bytes = options_.memory_bytes, .paused = paused_};
    for (const auto& vcpu : vcpus_) {
        auto& exits = out.exits_of_processors.emplace_back();
        for (size_t i = 0; i < kExitKinds; ++i) {
            exits[i] = vcpu->exit_counts()[i].load(std::memory_order_relaxed);
        }
    }
    for (const auto& device : devices_) {
        out.devices.push_back(device->status());
    }
    return out;
}

/// First the processors, so that nobody asks anything of the devices; then these, which finish
/// what they have taken.
void Machine::pause(Done done) {
    if (paused_ || changing_) {
        done(paused_ ? Result<void>{}
                     : failure(Error{.message = "the machine is being paused or resumed"}));
        return;
    }
    changing_ = true;
    for (const auto& vcpu : vcpus_) {
        vcpu->pause();
    }
    auto finish = [this, done = std::move(done)](Result<void> suspended) mutable {
        end_pause(std::move(done), suspended);
    };
    if (devices_.empty()) {
        finish({});
        return;
    }
    const auto all = std::make_shared<AllDone>(devices_.size(), std::move(finish));
    for (const auto& device : devices_) {
        device->suspend([all](Result<void> one) { all->take(std::move(one)); });
    }
}

void Machine::end_pause(Done done, const Result<void>& suspended) {
    changing_ = false;
    paused_ = true;
    if (suspended) {
        done({});
        return;
    }
    // Half a pause is none.
    resume([done = std::move(done), suspended](const Result<void>&) mutable { done(suspended); });
}

void Machine::resume(Done done) {
    if (!paused_ || changing_) {
        done(!changing_ ? Result<void>{}
                        : failure(Error{.message = "the machine is being paused or resumed"}));
        return;
    }
    changing_ = true;
    auto finish = [this, done = std::move(done)](Result<void> resumed) mutable {
        // A device that cannot go on tells its driver so, which has to run for that.
        changing_ = false;
        paused_ = false;
        for (const auto& vcpu : vcpus_) {
            vcpu->resume();
        }
        done(std::move(resumed));
    };
    if (devices_.empty()) {
        finish({});
        return;
    }
    const auto all = std::make_shared<AllDone>(devices_.size(), std::move(finish));
    for (const auto& device : devices_) {
        device->resume([all](Result<void> one) { all->take(std::move(one)); });
    }
}

/// The interrupt of the device that turns it into byte code; without operators there is none.
Result<void> Machine::wire_power_button() {
    if (options_.control_socket.empty()) {
        return {};
    }
    power_button_ = platform::open_eventfd();
    if (!power_button_.valid()) {
        return failure(error_from_errno("cannot create an eventfd"));
    }
    return interrupts_->connect(layout::kPowerButtonPin, power_button_.get());
}

Result<void> Machine::press_power_button() {
    if (paused_ || changing_) {
        return failure(Error{.message = "the machine is paused: resume it first"});
    }
    // A full one is pressed already: KVM takes what it is, not how often.
    (void)send_notification(power_button_.get());
    return {};
}

void Machine::quit() {
    // Posted: the answer is on its way.
    quit_ = loop_.start_timer(std::chrono::milliseconds(20), [this] { end(MachineEnd::kStopped); });
}

}  // namespace outrigger::vmm
