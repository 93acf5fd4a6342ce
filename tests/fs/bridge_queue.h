// SPDX-License-Identifier: Apache-2.0
/// The two ends of the bridge: what the kernel asks, as the chains of a virtio-fs device.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/fs/fuse_queue.h"

namespace outrigger::testing {

/// The high-priority queue, which every thread of the bridge uses in turn: FORGET, BATCH_FORGET and
/// INTERRUPT, as VIRTIO 1.3, 5.11.6.2 demands.
class BridgeHighPriority final {
  public:
    explicit BridgeHighPriority(FuseQueue& queue) : queue_(queue) {}

    /// False when the device does not take requests any more.
    [[nodiscard]] bool forget(std::span<const std::byte> request);

    /// Sends an INTERRUPT, and what the device answers, if that is for the kernel, to `fuse_fd`.
    [[nodiscard]] bool interrupt(std::span<const std::byte> request, int fuse_fd);

  private:
    [[nodiscard]] std::optional<size_t> copy_in(std::span<const std::byte> request);
    void reap();

    std::mutex mutex_;
    FuseQueue& queue_;
};

/// One request queue, driven by one thread, with its own clone of /dev/fuse: the kernel takes each
/// answer where it was asked.
class BridgeQueue final {
  public:
    BridgeQueue(UniqueFd fuse_fd, FuseQueue& queue, BridgeHighPriority& high_priority)
        : fuse_fd_(std::move(fuse_fd)), queue_(queue), high_priority_(high_priority) {}

    /// Forwards until the mount is gone, or `stop` (an eventfd) is signalled, or the device fails.
    void run(int stop_fd);

    [[nodiscard]] bool failed() const { return failed_; }

    [[nodiscard]] int fuse_fd() const { return fuse_fd_.get(); }

  private:
    enum class Step : uint8_t { kTaken, kNothing, kEnd };

    [[nodiscard]] Step take_request();
    [[nodiscard]] bool submit(size_t slot, size_t bytes);
    [[nodiscard]] bool answer_all();
    [[nodiscard]] bool wait(int stop_fd);

    UniqueFd fuse_fd_;
    FuseQueue& queue_;
    BridgeHighPriority& high_priority_;
    bool failed_ = false;
};

/// How many bytes may be written behind the header of an answer: what Linux makes room for.
[[nodiscard]] uint32_t answer_room(std::span<const std::byte> request);

}  // namespace outrigger::testing
