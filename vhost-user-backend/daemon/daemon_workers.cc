// SPDX-License-Identifier: Apache-2.0
// Daemon: the threads of its devices.
#include <algorithm>
#include <string>
#include <utility>

#include "vhost-user-backend/daemon/daemon.h"
#include "vhost-user-backend/daemon/device_program.h"
#include "vhost-user-backend/daemon/sandbox.h"

namespace outrigger {

/// A thread that several devices share goes behind the sessions of all of them, and before the
/// first of the devices.
Daemon::~Daemon() {
    notifier_.reset();
    metrics_.reset();
    control_.reset();
    for (Served& served : served_) {
        served.server.reset();
    }
    for (Served& served : served_) {
        served.worker_list.clear();
        served.workers.clear();
    }
}

Result<void> Daemon::start_workers() {
    std::optional<UringOperations> uring_operations;
    if (settings_.sandbox != SandboxMode::kNone) {
        uring_operations.emplace(program_.sandbox.uring_operations.begin(),
                                 program_.sandbox.uring_operations.end());
        uring_operations->insert(
            uring_operations->end(), extra_operations_.begin(), extra_operations_.end());
    }
    for (size_t i = 0; i < served_.size(); ++i) {
        const DeviceSettings& settings = settings_.devices[i];
        Served& served = served_[i];
        if (const Served* const other = find_thread_group(i)) {
            served.workers = other->workers;
            served.worker_list = other->worker_list;
            continue;
        }
        const DeviceIdentity identity = served.device->identity();
        const unsigned reserved = std::min(identity.priority_queues, identity.queue_count);
        const unsigned count =
            reserved + std::min<unsigned>(settings.queue_threads, identity.queue_count - reserved);
        for (unsigned thread = 0; thread < count; ++thread) {
            std::optional<unsigned> cpu;
            if (!settings.cpus.empty()) {
                cpu = settings.cpus[thread % settings.cpus.size()];
            }
            served.workers.push_back(OUTRIGGER_TRY(Worker::start(
                {.thread_name = std::string(identity.name) + "-" + std::to_string(thread),
                 .loop = settings_.loop,
                 .uring_operations = uring_operations,
                 .poll_max = settings.poll_max,
                 .poll_cpu_percent = settings.poll_cpu_percent,
                 .cpu = cpu})));
            served.worker_list.push_back(served.workers.back().get());
        }
    }
    return {};
}

/// The first device with which this one shares its threads, if that is another one.
const Daemon::Served* Daemon::find_thread_group(size_t index) const {
    if (program_.thread_group == nullptr) {
        return nullptr;
    }
    const std::string group = program_.thread_group(settings_.devices[index].values);
    for (size_t other = 0; other < index && !group.empty(); ++other) {
        if (program_.thread_group(settings_.devices[other].values) == group) {
            return &served_[other];
        }
    }
    return nullptr;
}

/// All threads, each once.
std::vector<Worker*> Daemon::all_workers() const {
    std::vector<Worker*> workers;
    for (const Served& served : served_) {
        for (Worker* const worker : served.worker_list) {
            if (std::ranges::find(workers, worker) == workers.end()) {
                workers.push_back(worker);
            }
        }
    }
    return workers;
}

/// Each thread enters its own filter, and all have before a front end is let in.
Result<void> Daemon::confine_threads() {
    if (settings_.sandbox == SandboxMode::kNone) {
        return {};
    }
    const std::vector<Worker*> workers = all_workers();
    SandboxNeeds needs = program_.sandbox;
    std::vector<SystemCallRule> system_calls(needs.system_calls.begin(), needs.system_calls.end());
    system_calls.insert(system_calls.end(), extra_calls_.begin(), extra_calls_.end());
    needs.system_calls = system_calls;
    std::vector<SystemCallRule> control_calls(needs.control_system_calls.begin(),
                                              needs.control_system_calls.end());
    if (userfaults_ != nullptr) {
        const auto calls = userfault_system_calls();
        control_calls.insert(control_calls.end(), calls.begin(), calls.end());
    }
    needs.control_system_calls = control_calls;
    return enter_sandbox(settings_.sandbox, needs, workers);
}

}  // namespace outrigger
