// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_device.h"

#include <array>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::fs {
namespace {

constexpr uint32_t kVirtioIdFs = 26;

/// Of a request of 1 MiB in pages, and some more: what Linux puts into one ring.
constexpr uint16_t kQueueSizeMax = 1024;

/// struct virtio_fs_config.
struct Config {
    std::array<char, 36> tag;  ///< UTF-8, without a NUL when it is as long as this
    Le32 request_queue_count;
};

static_assert(sizeof(Config) == 40);

}  // namespace

FsDevice::FsDevice(const FsSettings& settings,
                   Share share,
                   std::unique_ptr<FsKeeper> keeper,
                   std::unique_ptr<DaxRecords> mapped)
    : settings_(settings),
      keeper_(std::move(keeper)),
      shared_memory_{settings.dax_window_bytes},
      window_(settings.dax_window_bytes == 0
                  ? nullptr
                  : std::make_shared<DaxWindow>(settings.dax_window_bytes, std::move(mapped))),
      server_(settings, std::move(share)),
      rings_(size_t{1} + settings.request_queues) {
    server_.show_in(window_);
    if (keeper_ != nullptr) {
        server_.go_on(*keeper_);
        const uint64_t start = keeper_->begin_requests();
        for (size_t ring = 0; ring < rings_.size(); ++ring) {
            rings_[ring].next_request = start + ((ring + 1) << 40);
        }
    }
}

DeviceAbilities FsDevice::abilities() const {
    return {.keeps_itself = keeper_ != nullptr,
            .shared_memory = window_ == nullptr ? std::span<const uint64_t>() : shared_memory_};
}

DeviceIdentity FsDevice::identity() const {
    // Without a tag the front end has one, and keeps the configuration space itself.
    return {.virtio_id = kVirtioIdFs,
            .name = "fs",
            .queue_count = static_cast<uint16_t>(1 + settings_.request_queues),
            .queue_size_max = kQueueSizeMax,
            .config_bytes = static_cast<uint16_t>(settings_.tag.empty() ? 0 : sizeof(Config)),
            .outcome_bytes = keeper_ == nullptr ? uint16_t{0} : uint16_t{sizeof(Intent)},
            .priority_queues = 1};
}

void FsDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    Config config{};
    std::memcpy(
        config.tag.data(), settings_.tag.data(), std::min(settings_.tag.size(), config.tag.size()));
    config.request_queue_count = settings_.request_queues;
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::memcpy(out.data(), bytes.data() + static_cast<size_t>(at), out.size());
}

Result<void> FsDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    OUTRIGGER_TRY(server_.adopt_thread());
    OUTRIGGER_TRY(pool_.start(settings_.pool_threads));
    OUTRIGGER_TRY(server_.start_closing());
    server_.open_again();
    server_.open_window_again();
    server_.take_locks();
    Ring& ring = rings_[static_cast<size_t>(index)];
    ring.queue = std::make_unique<FsQueue>(
        FsQueue::Environment{.server = server_,
                             .pool = pool_,
                             .queue = queue,
                             .worker = worker,
                             .counters = ring.counters,
                             .next_request = keeper_ == nullptr ? nullptr : &ring.next_request});
    return {};
}

QueueProgress FsDevice::process_queue(QueueIndex index) {
    return rings_[static_cast<size_t>(index)].queue->process();
}

void FsDevice::hurry_queue(QueueIndex index) {
    rings_[static_cast<size_t>(index)].queue->hurry();
}

std::move_only_function<void()> FsDevice::ending_queue(QueueIndex index,
                                                       std::move_only_function<void()> drained) {
    return [&ring = rings_[static_cast<size_t>(index)], drained = std::move(drained)]() mutable {
        // It calls this as the last thing that it does; the callback outlives it here.
        auto done = std::move(drained);
        ring.queue.reset();
        done();
    };
}

void FsDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    rings_[static_cast<size_t>(index)].queue->stop(ending_queue(index, std::move(drained)));
}

void FsDevice::suspend_queue(QueueIndex index, std::move_only_function<void()> drained) {
    rings_[static_cast<size_t>(index)].queue->suspend(ending_queue(index, std::move(drained)));
}

Result<std::vector<StateSection>> FsDevice::save_state() const {
    return write_fs_state(OUTRIGGER_TRY(server_.save()));
}

Result<void> FsDevice::load_state(std::span<const StateSection> sections) {
    if (sections.empty()) {
        return {};  // of a front end that never had a driver
    }
    return server_.load(OUTRIGGER_TRY(read_fs_state(sections)));
}

std::span<const StateSectionKind> FsDevice::state_sections() const {
    static constexpr std::array kKinds = {kSessionSection,
                                          kNodesSection,
                                          kFilesSection,
                                          kRemovedSection,
                                          kLocksSection,
                                          kForgottenSection};
    return kKinds;
}

void FsDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    if (window_ != nullptr) {
        window_->use(std::move(frontend));
    }
}

void FsDevice::reset() {
    server_.reset();
    if (window_ != nullptr) {
        window_->forget_all();
    }
}

}  // namespace outrigger::fs
