// SPDX-License-Identifier: Apache-2.0
/// Changes to a disk that runs, each a few steps that wait for workers or for the host. One after
/// the other; the control thread goes on meanwhile.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/control/device_control.h"
#include "vhost-user-backend/io/event_loop.h"
#include "vhost-user-backend/io/worker.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/blocking_job.h"

namespace outrigger::blk {

/// Thread-bound: control thread.
class BlkChanges final {
  public:
    using Answer = control::DeviceControl::Answer;

    explicit BlkChanges(BlkDevice& device)
        : device_(device), image_label_(device.options().image_label) {}

    /// Before all else.
    void attach(EventLoop& control_loop, Worker& worker) {
        loop_ = &control_loop;
        worker_ = &worker;
        began_read_only_ = device_.settings().geometry.read_only;
    }

    void tell_departures_to(control::TellDeparture tell_departure) {
        tell_departure_ = std::move(tell_departure);
    }

    [[nodiscard]] bool is_changing() const { return busy_; }

    [[nodiscard]] const std::string& image_label() const { return image_label_; }

    // Each waits for those before it.

    /// Without a size: the one that the image has by now. A smaller one takes `force`.
    void resize(std::optional<uint64_t> size_bytes, bool force, Answer answer);
    void set_read_only(bool read_only, Answer answer);
    void swap_image(UniqueFd fd, std::string label, bool force, Answer answer);

    // These do not: they are the way out of a change that waits for ever.

    void pause(Answer answer);
    void resume(Answer answer);

    // At once, as soon as every queue has it.

    void set_cache(bool write_back, bool force, Answer answer);
    void set_limiter(std::shared_ptr<RateLimiter> limiter, Answer answer);
    void set_error_policy(ErrorPolicy policy, Answer answer);

  private:
    using Step = std::move_only_function<void()>;
    struct Resize;
    struct Swap;

    /// What is not as the command line says.
    struct Departures {
        bool paused = false;
        bool protection = false;
        bool cache = false;  // for good: a guest that saw write-through flushes no more
        bool image = false;  // for good

        [[nodiscard]] bool any() const { return paused || protection || cache || image; }
    };

    void enqueue(Step change);
    void begin_next();
    /// Ends the change under way.
    void end(Answer& answer, control::CommandResult result);

    template <class Change>
    void apply(Change change, Step then);
    /// False: the change cannot be made.
    [[nodiscard]] bool depart(bool Departures::*part);
    void come_back(bool Departures::*part);
    void pause_and_wait(Step then);
    void go_on(Step then);

    void begin_resize(std::shared_ptr<Resize> resize);
    void shrink(std::shared_ptr<Resize> resize);
    void ask_size(std::shared_ptr<Resize> resize);
    void on_size(std::shared_ptr<Resize> resize);
    void show_capacity(uint64_t size_bytes, Step then);

    void open_next(std::shared_ptr<Swap> swap);
    [[nodiscard]] std::optional<std::string> why_not(const Swap& swap) const;
    void keep_image(std::shared_ptr<Swap> swap, const control::CommandError& reason);
    void exchange_images(std::shared_ptr<Swap> swap);
    void close_old(std::shared_ptr<Swap> swap);

    [[nodiscard]] uint64_t size_bytes() const;

    BlkDevice& device_;
    EventLoop* loop_ = nullptr;
    Worker* worker_ = nullptr;
    std::string image_label_;
    bool operator_read_only_ = false;
    bool began_read_only_ = false;
    Departures departures_;
    control::TellDeparture tell_departure_ = [](bool /*departed*/) { return true; };
    std::deque<Step> waiting_;  // bounded: a client has one request at a time
    bool busy_ = false;
    BlockingJob job_;
};

}  // namespace outrigger::blk
