// SPDX-License-Identifier: Apache-2.0
#include "devices/rng/rng_device.h"

#include <algorithm>
#include <utility>

#include <string.h>

#include "vhost-user-backend/base/log.h"

namespace outrigger::rng {
namespace {

constexpr uint32_t kVirtioIdEntropy = 4;

/// Requests answered before the worker's other queues have their turn.
constexpr int kBatch = 64;

/// How soon a source that cannot be waited for is asked again.
constexpr auto kSourceRetry = std::chrono::milliseconds(5);

/// What Linux asks for at a time; a queue that ran out of quota waits until so much is there, so
/// that it does not dribble single bytes.
constexpr uint64_t kQuotaStep = 64;

/// EntropySource::name() of make_getrandom_source().
constexpr std::string_view kKernelSource = "getrandom";

}  // namespace

RngDevice::RngDevice(RngOptions options)
    : given_name_(options.source->name()),
      source_(std::move(options.source)),
      limit_(options.limit, std::move(options.kept_limit)),
      wish_(limit_.value()),
      is_kernel_(given_name_ == kKernelSource) {
    take_limit();
}

DeviceIdentity RngDevice::identity() const {
    return {.virtio_id = kVirtioIdEntropy, .name = "rng", .queue_count = 1};
}

Result<void> RngDevice::start_queue(QueueIndex /*index*/, Virtqueue& queue, Worker& worker) {
    queue_ = &queue;
    loop_ = &worker.loop();
    {
        const std::lock_guard lock(wish_mutex_);
        worker_ = &worker;
    }
    take_limit();
    return {};
}

std::string RngDevice::source_name() const {
    return counters_.source_failures.value() > 0 ? std::string(kKernelSource) : given_name_;
}

void RngDevice::change_limit(const EntropyLimit& limit, std::move_only_function<void()> done) {
    limit_.change(limit);
    {
        const std::lock_guard lock(wish_mutex_);
        wish_ = limit;
        if (worker_ != nullptr) {
            worker_->post([this, worker = worker_, done = std::move(done)]() mutable {
                bool is_here = false;
                {
                    const std::lock_guard mine(wish_mutex_);
                    is_here = worker_ == worker;
                }
                // A queue that has gone elsewhere took it along, and none comes or goes meanwhile.
                if (is_here) {
                    take_limit();
                }
                done();
            });
            return;
        }
    }
    done();
}

/// On the queue's worker, or where no queue runs.
void RngDevice::take_limit() {
    std::optional<EntropyLimit> wish;
    {
        const std::lock_guard lock(wish_mutex_);
        wish = std::exchange(wish_, std::nullopt);
    }
    if (!wish) {
        return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (wish->bytes_max == 0) {
        quota_.reset();
    } else if (quota_) {
        quota_->change(wish->bytes_max, wish->period, now);
    } else {
        quota_.emplace(wish->bytes_max, wish->period, now);
    }
    if (quota_wait_since_) {
        end_quota_wait();
        stop_waiting();
        queue_->request_processing();
    }
}

QueueProgress RngDevice::process_queue(QueueIndex /*index*/) {
    if (queue_->is_ending()) [[unlikely]] {
        return serve_last();
    }
    // Quota and bytes are there before a request is popped: a request that the device holds would
    // hold up the removal of guest memory for as long as it waits.
    for (int served = 0; served < kBatch; ++served) {
        const size_t allowed = allowance();
        if (allowed == 0) {
            if (!queue_->has_available()) {
                return QueueProgress::kDrained;  // nobody waits
            }
            wait_for_quota();
            return QueueProgress::kWaiting;
        }
        if (!stage()) {
            wait_for_source();
            return QueueProgress::kWaiting;
        }
        std::optional<DescriptorChain> chain = queue_->pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        serve(*std::move(chain), allowed);
    }
    return QueueProgress::kMore;
}

/// Nobody waits for quota or source any more. A driver that gets nothing asks again, elsewhere.
QueueProgress RngDevice::serve_last() {
    for (int served = 0; served < kBatch; ++served) {
        std::optional<DescriptorChain> chain = queue_->pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        serve(*std::move(chain), kQuotaStep);
    }
    return QueueProgress::kMore;
}

/// Bytes that one request may get now.
size_t RngDevice::allowance() {
    if (!quota_) {
        return kRequestBytesMax;
    }
    return static_cast<size_t>(
        std::min<uint64_t>(quota_->available(std::chrono::steady_clock::now()), kRequestBytesMax));
}

/// Makes sure that at least one byte is staged. False: the source has none now.
bool RngDevice::stage() {
    if (stage_begin_ < stage_end_) {
        return true;
    }
    auto count = source_->read_now(stage_);
    if (!count) {
        // Guests must not run dry because a helper on the host went away.
        log(LogLevel::kError,
            "rng: entropy source {} failed ({}): using getrandom from now on",
            source_->name(),
            count.error().message);
        counters_.source_failures.add();
        source_ = make_getrandom_source();
        is_kernel_ = true;
        count = source_->read_now(stage_);
    }
    stage_begin_ = 0;
    stage_end_ = count.value_or(0);
    return stage_end_ > 0;
}

void RngDevice::serve(DescriptorChain chain, size_t allowed) {
    ChainWriter writer = chain.take_writer();
    if (writer.remaining() == 0) {
        // Nothing to fill. VIRTIO 1.3, 5.4.6.1: the driver must not do this.
        counters_.empty_requests.add();
        chain.complete(0);
        return;
    }
    size_t given = 0;
    // Each turn gives at least one byte; the first is staged already. A source that runs dry in
    // between leaves the rest of the buffer: the used length tells.
    while (given < allowed && writer.remaining() > 0 && stage()) {
        const std::span<std::byte> staged =
            std::span(stage_).subspan(stage_begin_, stage_end_ - stage_begin_);
        const auto piece = staged.first(std::min(staged.size(), allowed - given));
        const size_t written = writer.write(piece);
        ::explicit_bzero(piece.data(), written);
        (is_kernel_ ? counters_.kernel_bytes : counters_.source_bytes).add(written);
        stage_begin_ += written;
        given += written;
    }
    if (quota_) {
        quota_->take(
            std::min<uint64_t>(given, quota_->available(std::chrono::steady_clock::now())));
    }
    counters_.requests.add();
    chain.complete(static_cast<uint32_t>(given));
}

void RngDevice::wait_for_quota() {
    // A queue may be looked at again meanwhile (outriggerctl resume): it is one wait all the same.
    if (!quota_wait_since_) {
        counters_.quota_waits.add();
        quota_wait_since_ = std::chrono::steady_clock::now();
    }
    stop_waiting();
    timer_ = loop_->start_timer(quota_->available_at(kQuotaStep), [this] {
        timer_.reset();
        end_quota_wait();
        queue_->request_processing();
    });
}

void RngDevice::end_quota_wait() {
    if (const auto since = std::exchange(quota_wait_since_, std::nullopt)) {
        const std::chrono::nanoseconds waited = std::chrono::steady_clock::now() - *since;
        counters_.quota_wait_ns.add(static_cast<uint64_t>(waited.count()));
    }
}

void RngDevice::wait_for_source() {
    counters_.source_waits.add();
    end_quota_wait();
    stop_waiting();
    if (source_->readable_fd() >= 0) {
        watch_ = loop_->watch_readable(source_->readable_fd(), [this] {
            stop_waiting();
            queue_->request_processing();
        });
        return;
    }
    timer_ = loop_->start_timer(EventLoop::Clock::now() + kSourceRetry, [this] {
        timer_.reset();
        queue_->request_processing();
    });
}

void RngDevice::stop_waiting() {
    if (timer_) {
        loop_->cancel_timer(*std::exchange(timer_, std::nullopt));
    }
    if (watch_) {
        loop_->unwatch(*std::exchange(watch_, std::nullopt));
    }
}

void RngDevice::wipe_stage() {
    ::explicit_bzero(stage_.data(), stage_.size());
    stage_begin_ = 0;
    stage_end_ = 0;
}

void RngDevice::stop_queue(QueueIndex /*index*/, std::move_only_function<void()> drained) {
    {
        const std::lock_guard lock(wish_mutex_);
        worker_ = nullptr;
    }
    end_quota_wait();
    stop_waiting();
    wipe_stage();
    queue_ = nullptr;
    loop_ = nullptr;
    // No request is ever held between two calls of process_queue().
    drained();
}

void RngDevice::reset() {}

}  // namespace outrigger::rng
