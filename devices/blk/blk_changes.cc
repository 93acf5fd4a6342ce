// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_changes.h"

#include <utility>

#include <fmt/format.h>

#include "vhost-user-backend/base/error.h"

namespace outrigger::blk {
namespace {

using control::CommandError;
using control::CommandResult;

std::unexpected<CommandError> refuse(control::Refusal refusal, std::string message) {
    return failure(CommandError{.refusal = refusal, .message = std::move(message)});
}

std::unexpected<CommandError> host_failed(const Error& error) {
    return refuse(control::Refusal::kFailed, error.message);
}

std::unexpected<CommandError> cannot_depart() {
    return refuse(control::Refusal::kFailed,
                  "another process is about to take over and would not know of it: try again");
}

}  // namespace

struct BlkChanges::Resize {
    std::optional<uint64_t> wanted;
    bool force = false;
    Answer answer;
    uint64_t before = 0;
    bool shrinking = false;  // nothing beyond `wanted` is in flight, or begins
    Result<uint64_t> outcome = uint64_t{0};
};

struct BlkChanges::Swap {
    UniqueFd fd;
    std::string label;
    bool force = false;
    Answer answer;
    Result<std::unique_ptr<Image>> opened = std::unique_ptr<Image>();
    std::shared_ptr<Image> next;
    std::shared_ptr<Image> old;
};

// --- One after the other -------------------------------------------------------------------------

void BlkChanges::enqueue(Step change) {
    waiting_.push_back(std::move(change));
    begin_next();
}

void BlkChanges::begin_next() {
    if (!busy_ && !waiting_.empty()) {
        busy_ = true;
        Step next = std::move(waiting_.front());
        waiting_.pop_front();
        next();
    }
}

void BlkChanges::end(Answer& answer, CommandResult result) {
    busy_ = false;
    answer(std::move(result));
    begin_next();
}

template <class Change>
void BlkChanges::apply(Change change, Step then) {
    BlkSettings settings = device_.settings();
    change(settings);
    device_.apply(settings, *loop_, std::move(then));
}

bool BlkChanges::depart(bool Departures::*part) {
    if (!departures_.any() && !tell_departure_(true)) {
        return false;
    }
    departures_.*part = true;
    return true;
}

void BlkChanges::come_back(bool Departures::*part) {
    if (std::exchange(departures_.*part, false) && !departures_.any()) {
        (void)tell_departure_(false);
    }
}

void BlkChanges::pause_and_wait(Step then) {
    apply([](BlkSettings& settings) { settings.pauses.by_change = true; },
          [this, then = std::move(then)]() mutable {
              device_.wait_until_idle(*loop_, std::move(then));
          });
}

void BlkChanges::go_on(Step then) {
    apply([](BlkSettings& settings) { settings.pauses.by_change = false; }, std::move(then));
}

uint64_t BlkChanges::size_bytes() const {
    return device_.settings().geometry.capacity_sectors * kSectorBytes;
}

// --- Size ----------------------------------------------------------------------------------------

void BlkChanges::resize(std::optional<uint64_t> size_bytes, bool force, Answer answer) {
    auto change = std::make_shared<Resize>();
    change->wanted = size_bytes;
    change->force = force;
    change->answer = std::move(answer);
    enqueue([this, change] { begin_resize(change); });
}

void BlkChanges::begin_resize(std::shared_ptr<Resize> resize) {
    constexpr uint64_t kSizeMax = uint64_t{1} << 62;
    resize->before = size_bytes();
    const uint32_t block = device_.settings().geometry.block_bytes;
    if (resize->wanted &&
        (*resize->wanted == 0 || *resize->wanted % block != 0 || *resize->wanted > kSizeMax)) {
        end(resize->answer,
            refuse(control::Refusal::kInvalid,
                   fmt::format("the size must be a multiple of the block size, {} bytes", block)));
        return;
    }
    if (!resize->wanted || *resize->wanted >= resize->before) {
        ask_size(std::move(resize));
    } else if (resize->force) {
        shrink(std::move(resize));
    } else {
        end(resize->answer,
            refuse(control::Refusal::kInvalid,
                   fmt::format("the disk has {} bytes, and what is beyond the new end would be "
                               "lost: that takes force",
                               resize->before)));
    }
}

/// No request may reach beyond the end that comes, or the file would grow again.
void BlkChanges::shrink(std::shared_ptr<Resize> resize) {
    resize->shrinking = true;
    apply(
        [&](BlkSettings& settings) {
            settings.pauses.by_change = true;
            settings.geometry.capacity_sectors = *resize->wanted / kSectorBytes;
        },
        [this, resize]() mutable {
            device_.wait_until_idle(*loop_, [this, resize] { ask_size(resize); });
        });
}

void BlkChanges::ask_size(std::shared_ptr<Resize> resize) {
    job_.run(
        *worker_,
        *loop_,
        [resize, image = device_.image()] { resize->outcome = image->resize(resize->wanted); },
        [this, resize](Result<void> ran) {
            if (!ran) {
                resize->outcome = failure(std::move(ran).error());
            }
            on_size(resize);
        });
}

void BlkChanges::on_size(std::shared_ptr<Resize> resize) {
    const auto& outcome = resize->outcome;
    std::optional<CommandError> refused;
    if (!outcome) {
        refused = host_failed(outcome.error()).error();
    } else if (*outcome == 0) {
        refused = CommandError{.message = "the image is empty"};
    } else if (*outcome < resize->before && !resize->force) {
        refused = CommandError{
            .refusal = control::Refusal::kInvalid,
            .message = fmt::format("the image has only {} bytes: to have the disk shrink from {} "
                                   "takes force",
                                   *outcome,
                                   resize->before)};
    }
    const uint64_t size = refused ? resize->before : *outcome;
    show_capacity(size, [this, resize, size, refused = std::move(refused)]() mutable {
        if (refused) {
            end(resize->answer, failure(*std::move(refused)));
            return;
        }
        end(resize->answer, fmt::format("{} bytes", size));
    });
}

/// Also ends a pause by this change.
void BlkChanges::show_capacity(uint64_t size_bytes, Step then) {
    const bool changed = size_bytes != this->size_bytes() || device_.settings().pauses.by_change;
    apply(
        [&](BlkSettings& settings) {
            settings.pauses.by_change = false;
            settings.geometry.capacity_sectors = size_bytes / kSectorBytes;
        },
        [this, size_bytes, changed, then = std::move(then)]() mutable {
            // Behind the queues: a guest that has read the new size may use it at once.
            if (changed) {
                device_.show_size(size_bytes);
            }
            then();
        });
}

// --- Writing -------------------------------------------------------------------------------------

void BlkChanges::set_read_only(bool read_only, Answer answer) {
    enqueue([this, read_only, answer = std::move(answer)]() mutable {
        if (!read_only && device_.image()->properties().read_only) {
            end(answer,
                refuse(control::Refusal::kInvalid,
                       "the image itself is open for reading only: swap it for one that is not"));
            return;
        }
        const bool departs = read_only != began_read_only_;
        if (departs && !depart(&Departures::protection)) {
            end(answer, cannot_depart());
            return;
        }
        operator_read_only_ = read_only;
        auto finish = [this, answer = std::move(answer), read_only, departs]() mutable {
            if (!departs) {
                come_back(&Departures::protection);
            }
            end(answer,
                read_only ? "a guest that took the disk as writable gets errors for its writes"
                          : "");
        };
        // The answer says that no write is under way any more.
        apply(
            [&](BlkSettings& settings) {
                settings.geometry.read_only = read_only;
                settings.pauses.by_change = true;
            },
            [this, finish = std::move(finish)]() mutable {
                device_.wait_until_idle(*loop_, [this, finish = std::move(finish)]() mutable {
                    go_on(std::move(finish));
                });
            });
    });
}

void BlkChanges::set_cache(bool write_back, bool force, Answer answer) {
    if (device_.would_change_cache(write_back, force) && !depart(&Departures::cache)) {
        answer(cannot_depart());
        return;
    }
    device_.set_cache(write_back, force);
    const bool kept = device_.cache().kept_for_driver;
    const bool shown = device_.cache().shown_write_back;
    std::string note;
    if (write_back && !shown) {
        note = "the guest's driver cannot flush: writes go on being written through";
    } else if (write_back && kept) {
        note =
            "a guest that read otherwise does not flush: until it chooses the mode itself, "
            "writes go on being written through";
    }
    // With requests that were begun under the other mode.
    apply([](BlkSettings&) {},
          [answer = std::move(answer), note = std::move(note)]() mutable {
              answer(std::move(note));
          });
}

void BlkChanges::set_limiter(std::shared_ptr<RateLimiter> limiter, Answer answer) {
    apply([&](BlkSettings& settings) { settings.limiter = std::move(limiter); },
          [answer = std::move(answer)]() mutable { answer(""); });
}

void BlkChanges::set_error_policy(ErrorPolicy policy, Answer answer) {
    device_.keep_error_policy(policy);
    apply([&](BlkSettings& settings) { settings.error_policy = policy; },
          [answer = std::move(answer)]() mutable { answer(""); });
}

// --- Stop and go ---------------------------------------------------------------------------------

void BlkChanges::pause(Answer answer) {
    if (!depart(&Departures::paused)) {
        answer(cannot_depart());
        return;
    }
    apply([](BlkSettings& settings) { settings.pauses.by_operator = true; },
          [this, answer = std::move(answer)]() mutable {
              device_.wait_until_idle(*loop_,
                                      [answer = std::move(answer)]() mutable { answer(""); });
          });
}

void BlkChanges::resume(Answer answer) {
    apply([](BlkSettings& settings) { settings.pauses.by_operator = false; },
          [this, answer = std::move(answer)]() mutable {
              device_.resume(*loop_, [this, answer = std::move(answer)]() mutable {
                  // An operator may have paused it again meanwhile.
                  if (!device_.settings().pauses.by_operator) {
                      come_back(&Departures::paused);
                  }
                  answer("");
              });
          });
}

// --- Another image -------------------------------------------------------------------------------

void BlkChanges::swap_image(UniqueFd fd, std::string label, bool force, Answer answer) {
    auto change = std::make_shared<Swap>();
    change->fd = std::move(fd);
    change->label = std::move(label);
    change->force = force;
    change->answer = std::move(answer);
    enqueue([this, change] { open_next(change); });
}

void BlkChanges::open_next(std::shared_ptr<Swap> swap) {
    auto open = [this, swap, block = device_.settings().geometry.block_bytes] {
        swap->opened = device_.options().adopt_image(std::move(swap->fd), swap->label, block);
    };
    job_.run(*worker_, *loop_, std::move(open), [this, swap](Result<void> ran) {
        if (!ran || !swap->opened) {
            end(swap->answer, host_failed(!ran ? ran.error() : swap->opened.error()));
            return;
        }
        if (auto reason = why_not(*swap)) {
            end(swap->answer, refuse(control::Refusal::kInvalid, *std::move(reason)));
            return;
        }
        swap->next = std::move(*swap->opened);
        // Whatever can fail, before anything changes.
        device_.prepare_image(swap->next, *loop_, [this, swap](Result<void> prepared) {
            if (prepared) {
                pause_and_wait([this, swap] { exchange_images(swap); });
                return;
            }
            keep_image(swap, host_failed(prepared.error()).error());
        });
    });
}

void BlkChanges::keep_image(std::shared_ptr<Swap> swap, const CommandError& reason) {
    device_.drop_next_image(*loop_, [this, swap, reason] {
        go_on([this, swap, reason] { end(swap->answer, failure(reason)); });
    });
}

std::optional<std::string> BlkChanges::why_not(const Swap& swap) const {
    const ImageProperties& next = (*swap.opened)->properties();
    if (next.size_bytes == 0) {
        return "image " + swap.label + " is empty";
    }
    if (next.size_bytes < size_bytes() && !swap.force) {
        return fmt::format("image {} has only {} bytes, and the disk {}: that takes force",
                           swap.label,
                           next.size_bytes,
                           size_bytes());
    }
    return std::nullopt;
}

void BlkChanges::exchange_images(std::shared_ptr<Swap> swap) {
    // The last word that can be had before a guest may see the image.
    const bool is_first = !departures_.image;
    if (!depart(&Departures::image)) {
        keep_image(swap, cannot_depart().error());
        return;
    }
    swap->old = device_.image();
    device_.use_next_image(*loop_, [this, swap, is_first](const Result<void>& used) {
        if (!used) {
            if (is_first) {
                come_back(&Departures::image);
            }
            keep_image(swap, host_failed(used.error()).error());
            return;
        }
        image_label_ = swap->label;
        const ImageProperties& properties = swap->next->properties();
        BlkSettings settings = device_.settings();
        settings.geometry.read_only = operator_read_only_ || properties.read_only;
        const bool resized = properties.size_bytes != size_bytes();
        settings.geometry.capacity_sectors = properties.size_bytes / kSectorBytes;
        settings.pauses.by_change = false;
        device_.apply(settings, *loop_, [this, swap, resized] {
            if (resized) {
                device_.show_size(size_bytes());
            }
            close_old(swap);
        });
    });
}

/// Closing a file may block, and its threads are joined.
void BlkChanges::close_old(std::shared_ptr<Swap> swap) {
    job_.run(
        *worker_,
        *loop_,
        [swap] { swap->old = nullptr; },
        [this, swap](const Result<void>&) { end(swap->answer, ""); });
}

}  // namespace outrigger::blk
