// SPDX-License-Identifier: Apache-2.0
/// An image file whose kernel is played by a script: every system call that a request becomes waits
/// until it is made, in part, or not at all.
#pragma once

#include <deque>
#include <memory>

#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/image.h"
#include "devices/blk/image_file.h"
#include "devices/blk/io_engine.h"
#include "tests/fuzz/blk_script.h"

namespace outrigger::fuzz {

/// The calls under way, and the file that they are about.
class BlkHost final {
  public:
    /// `loop` is for the device's timers.
    BlkHost(EventLoop& loop, uint8_t options);

    [[nodiscard]] blk::ImageFile& file() { return file_; }

    [[nodiscard]] EventLoop& loop() { return own_loop_ ? *own_loop_ : loop_; }

    /// A system call of the device: aborts when it would touch anything outside the image.
    void submit(blk::IoOperation& operation);

    [[nodiscard]] size_t waiting() const { return calls_.size(); }

    void answer(size_t which, BlkAnswer answer, uint16_t argument);

    void truncate(uint64_t bytes);

    /// The file never grows beyond the disk.
    void check() const;

  private:
    /// Has writes go on that waited for the blocks of another one.
    void run_own_loop();

    [[nodiscard]] int32_t make_call(blk::IoOperation& operation, size_t bytes_max);

    EventLoop& loop_;
    std::unique_ptr<EventLoop> own_loop_;  // where writes wait for one another's blocks
    blk::ImageFile file_;
    std::deque<blk::IoOperation*> calls_;
    int retries_left_ = 8;  // as often as the device tries at once: no script waits for a timer
};

/// The disk on top of it.
class HostedImage final : public blk::Image {
  public:
    explicit HostedImage(BlkHost& host) : host_(host) {}

    [[nodiscard]] const blk::ImageProperties& properties() const override {
        return host_.file().properties;
    }

    [[nodiscard]] Result<std::unique_ptr<blk::ImageQueue>> open_queue(
        Worker& worker, uint32_t requests_max) override;

  private:
    BlkHost& host_;
};

}  // namespace outrigger::fuzz
