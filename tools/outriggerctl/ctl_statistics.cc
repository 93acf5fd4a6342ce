// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string_view>

#include <fmt/core.h>

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

/// Ends of buckets and counts.
using Buckets = std::map<uint64_t, uint64_t>;

/// A counter that went back was begun anew.
uint64_t since(uint64_t before, uint64_t after) {
    return after >= before ? after - before : after;
}

Buckets buckets_since(const v1::LatencyHistogram* before, const v1::LatencyHistogram& after) {
    Buckets buckets;
    for (const v1::LatencyBucket& bucket : after.buckets()) {
        buckets[bucket.below_nanoseconds()] = bucket.count();
    }
    if (before != nullptr) {
        for (const v1::LatencyBucket& bucket : before->buckets()) {
            uint64_t& count = buckets[bucket.below_nanoseconds()];
            count = since(bucket.count(), count);
        }
    }
    return buckets;
}

uint64_t quantile(const Buckets& buckets, double part) {
    uint64_t total = 0;
    for (const auto& [end, count] : buckets) {
        total += count;
    }
    const auto rank = static_cast<uint64_t>(std::ceil(part * static_cast<double>(total)));
    uint64_t seen = 0;
    for (const auto& [end, count] : buckets) {
        seen += count;
        if (seen >= rank && seen > 0) {
            return end;
        }
    }
    return 0;
}

const v1::QueueStatistics* find_queue(const v1::Device* device, uint32_t queue) {
    if (device == nullptr) {
        return nullptr;
    }
    const auto found = std::ranges::find_if(
        device->queue_statistics(), [&](const auto& each) { return each.queue() == queue; });
    return found != device->queue_statistics().end() ? &*found : nullptr;
}

QueueRates queue_rates(const v1::QueueStatistics* before,
                       const v1::QueueStatistics& after,
                       double seconds) {
    static const v1::QueueStatistics kNothing;
    const v1::QueueStatistics& start = before != nullptr ? *before : kNothing;
    const auto answers =
        static_cast<double>(since(start.requests_answered(), after.requests_answered()));
    const auto batches = static_cast<double>(since(start.batches(), after.batches()));
    const auto rate = [&](uint64_t from, uint64_t to) {
        return static_cast<double>(since(from, to)) / seconds;
    };
    const Buckets buckets =
        buckets_since(before != nullptr ? &before->latency() : nullptr, after.latency());
    return {.queue = after.queue(),
            .requests = answers / seconds,
            .bytes = rate(start.bytes(), after.bytes()),
            .kicks = rate(start.kicks(), after.kicks()),
            .calls = rate(start.calls(), after.calls()),
            .batch = batches > 0 ? answers / batches : 0,
            .in_flight = after.requests_in_flight(),
            .p50_nanoseconds = quantile(buckets, 0.5),
            .p99_nanoseconds = quantile(buckets, 0.99),
            .p999_nanoseconds = quantile(buckets, 0.999)};
}

DeviceRates device_rates(const v1::Device* before, const v1::Device& after, double seconds) {
    DeviceRates rates{.name = after.name(),
                      .type = after.type(),
                      .socket = after.socket(),
                      .connected = after.connected()};
    for (int i = 0; i < after.threads_size(); ++i) {
        const v1::QueueThread& thread = after.threads(i);
        const bool known = before != nullptr && i < before->threads_size();
        const uint64_t busy = known ? before->threads(i).busy_nanoseconds() : 0;
        const uint64_t polling = known ? before->threads(i).polling_nanoseconds() : 0;
        rates.busy += static_cast<double>(since(busy, thread.busy_nanoseconds())) / 1e9 / seconds;
        rates.polling +=
            static_cast<double>(since(polling, thread.polling_nanoseconds())) / 1e9 / seconds;
    }
    for (const v1::QueueStatistics& queue : after.queue_statistics()) {
        const QueueRates row = queue_rates(find_queue(before, queue.queue()), queue, seconds);
        if (queue.running() || row.requests > 0) {
            rates.queues.push_back(row);
        }
    }
    return rates;
}

}  // namespace

std::vector<DeviceRates> rates_between(const Sample& before, const Sample& after) {
    std::vector<DeviceRates> all;
    if (!after.program) {
        return all;
    }
    const std::chrono::duration<double> passed = after.taken_at - before.taken_at;
    const double seconds = std::max(passed.count(), 1e-3);
    // Another process has counters of its own, which may be higher by chance.
    const bool same = before.program && before.program->pid() == after.program->pid();
    for (const v1::Device& device : after.program->devices()) {
        const v1::Device* earlier = nullptr;
        if (same) {
            const auto& devices = before.program->devices();
            const auto found = std::ranges::find_if(
                devices, [&](const auto& each) { return each.name() == device.name(); });
            earlier = found != devices.end() ? &*found : nullptr;
        }
        all.push_back(device_rates(earlier, device, seconds));
    }
    return all;
}

std::string statistics_text(const v1::Program& program) {
    std::string out = fmt::format(
        "{:<16} {:>5} {:>12} {:>9} {:>15} {:>10} {:>10} {:>10}  {:>7} "
        "{:>7} {:>7} {:>7} {:>7}\n",
        "DEVICE",
        "QUEUE",
        "REQUESTS",
        "IN FLIGHT",
        "BYTES",
        "BATCHES",
        "KICKS",
        "CALLS",
        "MEAN",
        "P50",
        "P90",
        "P99",
        "P99.9");
    for (const v1::Device& device : program.devices()) {
        for (const v1::QueueStatistics& queue : device.queue_statistics()) {
            if (!queue.running() && queue.requests_taken() == 0) {
                continue;
            }
            uint64_t measured = 0;
            for (const v1::LatencyBucket& bucket : queue.latency().buckets()) {
                measured += bucket.count();
            }
            const v1::LatencyHistogram& latency = queue.latency();
            out += fmt::format(
                "{:<16} {:>5} {:>12} {:>9} {:>15} {:>10} {:>10} {:>10}  {:>7} {:>7} {:>7} {:>7} "
                "{:>7}\n",
                device.name(),
                queue.queue(),
                queue.requests_answered(),
                queue.requests_in_flight(),
                queue.bytes(),
                queue.batches(),
                queue.kicks(),
                queue.calls(),
                short_time(measured > 0 ? latency.sum_nanoseconds() / measured : 0),
                short_time(latency.p50_nanoseconds()),
                short_time(latency.p90_nanoseconds()),
                short_time(latency.p99_nanoseconds()),
                short_time(latency.p999_nanoseconds()));
        }
    }
    return out;
}

std::string short_number(double value) {
    constexpr std::array<std::string_view, 5> kUnits = {"", " k", " M", " G", " T"};
    size_t unit = 0;
    // What would be rounded up to four digits is of the next unit.
    while (value >= 999.5 && unit + 1 < kUnits.size()) {
        value /= 1000;
        ++unit;
    }
    if (value == 0) {
        return "0";
    }
    return value < 9.995   ? fmt::format("{:.2f}{}", value, kUnits[unit])
           : value < 99.95 ? fmt::format("{:.1f}{}", value, kUnits[unit])
                           : fmt::format("{:.0f}{}", value, kUnits[unit]);
}

std::string short_time(uint64_t nanoseconds) {
    if (nanoseconds == 0) {
        return "-";
    }
    constexpr std::array<std::string_view, 4> kUnits = {"ns", "us", "ms", "s"};
    auto value = static_cast<double>(nanoseconds);
    size_t unit = 0;
    while (value >= 999.5 && unit + 1 < kUnits.size()) {
        value /= 1000;
        ++unit;
    }
    return unit == 0 || value >= 99.95 ? fmt::format("{:.0f} {}", value, kUnits[unit])
           : value < 9.995             ? fmt::format("{:.2f} {}", value, kUnits[unit])
                                       : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace outrigger::ctl
