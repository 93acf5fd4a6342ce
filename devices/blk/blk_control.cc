// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_control.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/control/printable_text.h"

#include "devices/blk/background_fill.h"
#include "devices/blk/limit_groups.h"

namespace outrigger::blk {
namespace {

namespace v1 = control::v1;

void refuse(control::DeviceControl::Answer& answer, std::string message) {
    answer(failure(control::CommandError{.refusal = control::Refusal::kInvalid,
                                         .message = std::move(message)}));
}

v1::ErrorPolicy to_message(ErrorPolicy policy) {
    switch (policy) {
        case ErrorPolicy::kReport:
            return v1::REPORT;
        case ErrorPolicy::kStop:
            return v1::STOP;
        case ErrorPolicy::kStopOnFull:
            return v1::STOP_ON_FULL;
    }
    return v1::POLICY_UNSPECIFIED;
}

std::optional<ErrorPolicy> policy_from(v1::ErrorPolicy policy) {
    if (policy == v1::REPORT) {
        return ErrorPolicy::kReport;
    }
    if (policy == v1::STOP) {
        return ErrorPolicy::kStop;
    }
    return policy == v1::STOP_ON_FULL ? std::optional(ErrorPolicy::kStopOnFull) : std::nullopt;
}

void to_message(const Rate& rate, v1::Rate& out) {
    out.set_per_second(rate.per_second);
    out.set_burst(rate.burst);
}

void to_message(const RateLimits& limits, v1::Limits& out) {
    to_message(limits.bytes, *out.mutable_bytes());
    to_message(limits.read_bytes, *out.mutable_read_bytes());
    to_message(limits.write_bytes, *out.mutable_write_bytes());
    to_message(limits.operations, *out.mutable_operations());
    to_message(limits.read_operations, *out.mutable_read_operations());
    to_message(limits.write_operations, *out.mutable_write_operations());
}

Rate rate_from(const v1::Rate& rate) {
    return {.per_second = rate.per_second(), .burst = rate.burst()};
}

/// A burst of nothing: whoever says so meant something else.
bool has_burst_alone(const v1::Limits& limits) {
    const std::array rates = {&limits.bytes(),
                              &limits.read_bytes(),
                              &limits.write_bytes(),
                              &limits.operations(),
                              &limits.read_operations(),
                              &limits.write_operations()};
    return std::ranges::any_of(
        rates, [](const v1::Rate* rate) { return rate->per_second() == 0 && rate->burst() != 0; });
}

/// What the request does not name stays.
RateLimits merge(RateLimits limits, const v1::Limits& request) {
    limits.bytes = request.has_bytes() ? rate_from(request.bytes()) : limits.bytes;
    limits.read_bytes =
        request.has_read_bytes() ? rate_from(request.read_bytes()) : limits.read_bytes;
    limits.write_bytes =
        request.has_write_bytes() ? rate_from(request.write_bytes()) : limits.write_bytes;
    limits.operations =
        request.has_operations() ? rate_from(request.operations()) : limits.operations;
    limits.read_operations = request.has_read_operations() ? rate_from(request.read_operations())
                                                           : limits.read_operations;
    limits.write_operations = request.has_write_operations() ? rate_from(request.write_operations())
                                                             : limits.write_operations;
    return limits;
}

void add_counters(const BlkCounters& queue, v1::BlockCounters& sum) {
    const auto done = [&](BlkCommand command) { return queue.completed.value(command); };
    sum.set_reads(sum.reads() + done(BlkCommand::kRead));
    sum.set_writes(sum.writes() + done(BlkCommand::kWrite) + done(BlkCommand::kZoneAppend));
    sum.set_flushes(sum.flushes() + done(BlkCommand::kFlush));
    sum.set_discards(sum.discards() + done(BlkCommand::kDiscard));
    sum.set_write_zeroes(sum.write_zeroes() + done(BlkCommand::kWriteZeroes));
    sum.set_failed(sum.failed() + queue.failed.total());
    sum.set_refused(sum.refused() + queue.refused.total());
    sum.set_bytes_read(sum.bytes_read() + queue.bytes_read.value());
    sum.set_bytes_written(sum.bytes_written() + queue.bytes_written.value());
    sum.set_throttled_requests(sum.throttled_requests() + queue.throttled.value());
    sum.set_throttled_nanoseconds(sum.throttled_nanoseconds() + queue.throttled_ns.value());
    sum.set_stops(sum.stops() + queue.stops.value());
}

void to_message(const FillState& fill, v1::FillProgress& out) {
    out.set_running(fill.running);
    out.set_complete(fill.complete);
    out.set_clusters_done(fill.clusters_done);
    out.set_clusters_total(fill.clusters_total);
    out.set_cluster_bytes(fill.cluster_bytes);
    out.set_bytes_per_second(fill.rate_max);
    if (fill.last_error != 0) {
        out.set_last_error(error_from_code("copying", fill.last_error).message);
    }
}

/// It stands in log lines and on terminals.
bool is_label(const std::string& label) {
    constexpr size_t kLabelMax = 4096;
    return !label.empty() && label.size() <= kLabelMax && label == control::printable(label);
}

}  // namespace

void BlkControl::attach(EventLoop& control_loop, std::span<Worker* const> workers) {
    OUTRIGGER_ASSERT(!workers.empty());
    changes_.attach(control_loop, *workers.front());
}

void BlkControl::describe(v1::Device& out) const {
    v1::BlockDevice& block = *out.mutable_block();
    const BlkSettings& settings = device_.settings();
    const BlkShared& shared = device_.shared();
    block.set_image(control::printable(changes_.image_label()));
    block.set_size_bytes(settings.geometry.capacity_sectors * kSectorBytes);
    block.set_block_bytes(settings.geometry.block_bytes);
    block.set_read_only(settings.geometry.read_only);
    block.set_image_read_only(device_.image()->properties().read_only);
    const BlkDevice::CacheState cache = device_.cache();
    block.set_cache(cache.shown_write_back ? v1::WRITE_BACK : v1::WRITE_THROUGH);
    block.set_writes_through(cache.writes_through);
    const bool stopped = shared.stopped.load(std::memory_order_relaxed);
    block.set_state(stopped                       ? v1::BlockDevice::STOPPED
                    : settings.pauses.by_operator ? v1::BlockDevice::PAUSED
                                                  : v1::BlockDevice::RUNNING);
    if (const int error = shared.stop_error.load(std::memory_order_relaxed);
        stopped && error != 0) {
        block.set_stop_reason(error_from_code("image I/O", error).message);
    }
    block.set_held_requests(shared.held.load(std::memory_order_relaxed));
    block.set_error_policy(to_message(settings.error_policy));
    to_message(settings.limiter->limits(), *block.mutable_limits());
    block.set_limit_group(control::printable(settings.limiter->group()));
    block.set_changing(changes_.is_changing());
    if (const BackgroundFill* const fill = device_.image()->fill()) {
        to_message(fill->state(), *block.mutable_fill());
    }
    for (uint16_t i = 0; i < device_.identity().queue_count; ++i) {
        add_counters(device_.counters(QueueIndex{i}), *block.mutable_counters());
    }
    const Image::FixedMemoryUse fixed = device_.image()->fixed_memory();
    block.mutable_counters()->set_fixed_memory_bytes(fixed.bytes);
    block.mutable_counters()->set_fixed_memory_refusals(fixed.refusals);
}

void BlkControl::handle(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) {
    // Resuming waits for nothing, and may be what all the others wait for.
    if (commands_ >= kCommandsMax && request.command_case() != v1::Request::kResume) {
        refuse(answer, "too many commands wait for the disk: try again when they are done");
        return;
    }
    ++commands_;
    dispatch(request, std::move(fds), [this, answer = std::move(answer)](auto result) mutable {
        --commands_;
        answer(std::move(result));
    });
}

void BlkControl::dispatch(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) {
    switch (request.command_case()) {
        case v1::Request::kPause:
            changes_.pause(std::move(answer));
            return;
        case v1::Request::kResume:
            changes_.resume(std::move(answer));
            return;
        case v1::Request::kResize:
            resize(request, std::move(answer));
            return;
        case v1::Request::kSetReadOnly:
            changes_.set_read_only(request.set_read_only().read_only(), std::move(answer));
            return;
        case v1::Request::kSetCache:
            set_cache(request, std::move(answer));
            return;
        case v1::Request::kSetLimits:
            set_limits(request, std::move(answer));
            return;
        case v1::Request::kSetErrorPolicy:
            set_error_policy(request, std::move(answer));
            return;
        case v1::Request::kSwapImage:
            swap_image(request, std::move(fds), std::move(answer));
            return;
        case v1::Request::kFill:
            fill(request, std::move(answer));
            return;
        case v1::Request::kDescribe:
        case v1::Request::kSetLogLevel:
        case v1::Request::kDrain:
        case v1::Request::kSetEntropyLimit:
        case v1::Request::kSetPortPlugged:
        case v1::Request::kStartCapture:
        case v1::Request::kStopCapture:
        case v1::Request::kStartUplinkCapture:
        case v1::Request::kStopUplinkCapture:
        case v1::Request::kSetNetworkLimits:
        case v1::Request::kSetAllowedSenders:
        case v1::Request::COMMAND_NOT_SET:
            break;
    }
    answer(failure(control::CommandError{.refusal = control::Refusal::kUnknown,
                                         .message = "a block device does not know the command"}));
}

void BlkControl::resize(const v1::Request& request, Answer answer) {
    const v1::Resize& resize = request.resize();
    changes_.resize(resize.has_size_bytes() ? std::optional(resize.size_bytes()) : std::nullopt,
                    resize.force(),
                    std::move(answer));
}

void BlkControl::set_cache(const v1::Request& request, Answer answer) {
    const v1::SetCache& cache = request.set_cache();
    if (cache.cache() != v1::WRITE_BACK && cache.cache() != v1::WRITE_THROUGH) {
        refuse(answer, "there is no such cache mode");
        return;
    }
    changes_.set_cache(cache.cache() == v1::WRITE_BACK, cache.force(), std::move(answer));
}

void BlkControl::set_limits(const v1::Request& request, Answer answer) {
    const v1::SetLimits& command = request.set_limits();
    if (has_burst_alone(command.limits())) {
        refuse(answer, "a burst needs a rate");
        return;
    }
    std::shared_ptr<RateLimiter> limiter = device_.settings().limiter;
    if (command.has_group()) {
        if (!command.group().empty() && !is_group_name(command.group())) {
            refuse(answer,
                   "a group's name has letters, digits, '-', '_' and '.', at most 64 of them");
            return;
        }
        if (command.group() != limiter->group()) {
            limiter = command.group().empty() ? std::make_shared<RateLimiter>()
                                              : join_limit_group(command.group());
        }
    }
    if (command.has_limits()) {
        limiter->set(merge(limiter->limits(), command.limits()));
    }
    changes_.set_limiter(std::move(limiter), std::move(answer));
}

void BlkControl::set_error_policy(const v1::Request& request, Answer answer) {
    const auto policy = policy_from(request.set_error_policy().policy());
    if (!policy) {
        refuse(answer, "there is no such error policy");
        return;
    }
    changes_.set_error_policy(*policy, std::move(answer));
}

void BlkControl::fill(const v1::Request& request, Answer answer) {
    const v1::Fill& command = request.fill();
    const std::shared_ptr<Image> image = device_.image();
    BackgroundFill* const fill = image->fill();
    if (fill == nullptr) {
        refuse(answer, "there is nothing to fill: the disk is no overlay, or a read-only one");
        return;
    }
    if (!command.has_run() && !command.has_bytes_per_second()) {
        refuse(answer, "say what to do: start, stop, or at which rate");
        return;
    }
    if (command.has_bytes_per_second()) {
        fill->set_rate(command.bytes_per_second());
    }
    if (command.has_run() && command.run()) {
        fill->start();
    } else if (command.has_run()) {
        fill->stop();
    }
    answer(fill->state().complete ? "the overlay has taken over all of its base" : "");
}

void BlkControl::swap_image(const v1::Request& request, std::vector<UniqueFd> fds, Answer answer) {
    const v1::SwapImage& swap = request.swap_image();
    if (device_.options().adopt_image == nullptr) {
        refuse(answer,
               "only a raw image without an overlay and without zones can be swapped: a descriptor "
               "says nothing of the files below a qcow2 image, of a layer's base, or of a server, "
               "and a guest knows the zones of its disk");
    } else if (fds.size() != 1) {
        refuse(answer, "the open image must come along as a descriptor");
    } else if (!is_label(swap.label())) {
        refuse(answer, "the label must be a text without control characters, at most 4096 bytes");
    } else {
        changes_.swap_image(std::move(fds.front()), swap.label(), swap.force(), std::move(answer));
    }
}

}  // namespace outrigger::blk
