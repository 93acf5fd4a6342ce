// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/program_description.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <unistd.h>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

void describe_threads(const DeviceServer& server,
                      std::span<const std::optional<size_t>> queue_workers,
                      v1::Device& out) {
    const auto now = EventLoop::Clock::now();
    for (const Worker* const worker : server.workers()) {
        v1::QueueThread* const thread = out.add_threads();
        thread->set_busy_nanoseconds(static_cast<uint64_t>(worker->busy_time().until(now).count()));
        thread->set_polling_nanoseconds(worker->counters().polling_nanoseconds.value());
    }
    for (size_t queue = 0; queue < queue_workers.size(); ++queue) {
        if (queue_workers[queue]) {
            out.mutable_threads(static_cast<int>(*queue_workers[queue]))
                ->add_queues(static_cast<uint32_t>(queue));
        }
    }
    out.set_queue_moves(server.counters().queues_moved.value());
    out.set_queue_moves_failed(server.counters().queue_moves_failed.value());
}

/// The upper end of the bucket in which that part of `total` has come together.
uint64_t quantile(const v1::LatencyHistogram& histogram, uint64_t total, double part) {
    const auto rank = static_cast<uint64_t>(std::ceil(part * static_cast<double>(total)));
    uint64_t seen = 0;
    for (const v1::LatencyBucket& bucket : histogram.buckets()) {
        seen += bucket.count();
        if (seen >= rank) {
            return bucket.below_nanoseconds();
        }
    }
    return 0;
}

void describe_latency(const LatencyHistogram& histogram, v1::LatencyHistogram& out) {
    uint64_t total = 0;
    for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
        const uint64_t count = histogram.count_of(bucket);
        if (count > 0) {
            total += count;
            v1::LatencyBucket& filled = *out.add_buckets();
            filled.set_below_nanoseconds(LatencyHistogram::end_of(bucket));
            filled.set_count(count);
        }
    }
    out.set_sum_nanoseconds(histogram.sum_nanoseconds());
    out.set_p50_nanoseconds(quantile(out, total, 0.5));
    out.set_p90_nanoseconds(quantile(out, total, 0.9));
    out.set_p99_nanoseconds(quantile(out, total, 0.99));
    out.set_p999_nanoseconds(quantile(out, total, 0.999));
}

void describe_queue(const QueueMetrics& metrics, v1::QueueStatistics& out) {
    const VirtqueueCounters& ring = metrics.ring;
    out.set_requests_in_flight(metrics.requests_in_flight());
    out.set_requests_answered(ring.chains_completed.value());
    out.set_requests_left(ring.chains_set_aside.value());
    out.set_requests_taken(ring.chains_popped.value());
    out.set_bytes(ring.bytes_completed.value());
    out.set_batches(ring.batches_published.value());
    out.set_kicks(metrics.kicks_received.value());
    out.set_calls(metrics.calls_sent.value());
    out.set_calls_lost(metrics.calls_lost.value());
    describe_latency(metrics.latency, *out.mutable_latency());
}

void describe_queues(const DeviceServer& server,
                     std::span<const std::optional<size_t>> queue_workers,
                     v1::Device& out) {
    const auto metrics = server.queue_metrics();
    for (size_t queue = 0; queue < metrics.size(); ++queue) {
        v1::QueueStatistics& statistics = *out.add_queue_statistics();
        statistics.set_queue(static_cast<uint32_t>(queue));
        statistics.set_running(queue < queue_workers.size() && queue_workers[queue].has_value());
        describe_queue(metrics[queue], statistics);
    }
}

template <class Enum, size_t Count, class Add>
void describe_reasons(const CounterTable<Enum, Count>& table, const Add& add) {
    for (size_t i = 0; i < Count; ++i) {
        const auto reason = static_cast<Enum>(i);
        if (const uint64_t count = table.value(reason)) {
            v1::ReasonCount& shown = *add();
            shown.set_reason(std::string(describe(reason)));
            shown.set_count(count);
        }
    }
}

void describe_sessions(const SessionCounters& counters, v1::SessionStatistics& out) {
    out.set_opened(counters.sessions_opened.value());
    out.set_messages(counters.messages_received.value());
    out.set_replies(counters.replies_sent.value());
    out.set_rings_started(counters.rings_started.value());
    describe_reasons(counters.closed, [&] { return out.add_closed(); });
    describe_reasons(counters.refused, [&] { return out.add_refused(); });
    describe_reasons(counters.rings_broken, [&] { return out.add_rings_broken(); });
}

v1::Device::Intake describe_intake(DeviceServer::Intake intake) {
    switch (intake) {
        case DeviceServer::Intake::kOpen:
            return v1::Device::OPEN;
        case DeviceServer::Intake::kDraining:
            return v1::Device::DRAINING;
        case DeviceServer::Intake::kDrained:
            return v1::Device::DRAINED;
    }
    return v1::Device::OPEN;
}

void describe_target(const ProgramDescription::Target& target, v1::Device& device) {
    device.set_name(target.name);
    device.set_type(std::string(target.type));
    device.set_socket(control::printable(target.socket));
    device.set_connected(target.server.connected());
    device.set_intake(describe_intake(target.server.intake()));
    device.set_queues(target.device.identity().queue_count);
    device.set_kicks(target.server.counters().kicks_received.value());
    device.set_calls(target.server.counters().calls_sent.value());
    const auto queue_workers = target.server.queue_workers();
    describe_threads(target.server, queue_workers, device);
    describe_queues(target.server, queue_workers, device);
    describe_sessions(target.server.counters(), *device.mutable_session_statistics());
    if (const control::DeviceControl* const control = target.device.control()) {
        control->describe(device);
    }
}

}  // namespace

void shorten(v1::Program& program, size_t bytes_max) {
    if (program.ByteSizeLong() <= bytes_max) {
        return;
    }
    program.set_shortened(true);
    for (v1::Device& device : *program.mutable_devices()) {
        for (v1::QueueStatistics& queue : *device.mutable_queue_statistics()) {
            queue.mutable_latency()->clear_buckets();
        }
    }
    if (program.ByteSizeLong() <= bytes_max) {
        return;
    }
    for (v1::Device& device : *program.mutable_devices()) {
        device.clear_queue_statistics();
        device.clear_threads();
        if (device.has_socket_device()) {
            device.mutable_socket_device()->clear_shown();
        }
        if (device.has_network()) {
            device.mutable_network()->clear_policy();
        }
    }
}

const ProgramDescription::Target* ProgramDescription::find(const std::string& name) const {
    if (name.empty()) {
        return targets.size() == 1 ? &targets.front() : nullptr;
    }
    const auto found = std::ranges::find_if(targets, [&](const Target& target) {
        return target.name == name || target.socket == name;
    });
    return found != targets.end() ? &*found : nullptr;
}

void ProgramDescription::describe(v1::Program& out, const Target* only) const {
    out.set_name(std::string(program));
    out.set_version(std::string(version));
    out.set_keeper_pid(static_cast<uint32_t>(keeper_pid));
    out.set_config_path(control::printable(config_path));
    out.set_pid(static_cast<uint32_t>(::getpid()));
    out.set_log_level(std::string(log_level_name(log_level())));
    for (const Target& target : targets) {
        if (only == nullptr || only == &target) {
            describe_target(target, *out.add_devices());
        }
    }
}

}  // namespace outrigger
