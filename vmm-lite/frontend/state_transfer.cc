// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/state_transfer.h"

#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/platform.h"

#include "vmm-lite/frontend/reply_rules.h"

namespace outrigger::vmm {
namespace {

using enum wire::FrontendRequest;

constexpr uint32_t kSave = 0;
constexpr uint32_t kLoad = 1;
constexpr uint32_t kStopped = 0;
constexpr uint64_t kErrorMask = 0xff;

/// Moved in one turn of the loop.
constexpr size_t kTurnBytes = size_t{256} << 10;

}  // namespace

StateTransfer::StateTransfer(EventLoop& loop,
                             Channel& channel,
                             const Deadlines& deadlines,
                             Done done)
    : loop_(loop),
      channel_(channel),
      deadlines_(deadlines),
      done_(std::move(done)),
      self_(std::make_shared<StateTransfer*>(this)) {}

void StateTransfer::save() {
    begin(true);
}

void StateTransfer::load(std::vector<std::byte> state) {
    bytes_ = std::move(state);
    begin(false);
}

void StateTransfer::begin(bool saving) {
    auto pipe = platform::open_pipe();
    if (!pipe) {
        end(failure(std::move(pipe).error()));
        return;
    }
    own_end_ = std::move(saving ? pipe->read_end : pipe->write_end);
    SharedFd theirs = share(std::move(saving ? pipe->write_end : pipe->read_end));
    limit_ = loop_.start_timer(deadlines_.state, [this] {
        end(failure(Error{
            .message = fmt::format("its state did not pass within {} ms", deadlines_.state.count()),
            .os_error = ETIMEDOUT}));
    });
    channel_.send({.number = kSetDeviceStateFd,
                   .payload = payload_of(wire::DeviceStateTransfer{
                       .direction = saving ? kSave : kLoad, .phase = kStopped}),
                   .fds = {std::move(theirs)},
                   .on_reply = [alive = std::weak_ptr<StateTransfer*>(self_),
                                saving](wire::Message& reply) -> Result<void> {
                       if (const auto self = alive.lock()) {
                           (*self)->on_reply(saving, reply);
                       }
                       return {};
                   }});
}

void StateTransfer::on_reply(bool saving, wire::Message& reply) {
    const uint64_t verdict = u64_of(reply);
    const bool brings_fd = (verdict & wire::kReplyFdNone) == 0;
    if ((verdict & kErrorMask) != 0) {
        end(failure(Error{.message = "it refused SET_DEVICE_STATE_FD"}));
        return;
    }
    if (brings_fd != !reply.fds.empty()) {
        end(failure(Error{.message = "it answered SET_DEVICE_STATE_FD with a descriptor that it "
                                     "did not announce, or the other way round"}));
        return;
    }
    if (brings_fd) {
        own_end_ = std::move(reply.fds[0]);
    }
    // Whoever shares the file can set it back: a file or a device of the back end's that makes us
    // wait is not taken.
    if (::fcntl(own_end_.get(), F_SETFL, O_NONBLOCK) != 0) {
        end(failure(error_from_errno("cannot use the channel for the state")));
        return;
    }
    if (!saving) {
        write_on();
        return;
    }
    if (auto watch = loop_.watch(own_end_.get(), [this] { read_on(); })) {
        watch_ = *std::move(watch);
    } else {
        read_file();
    }
}

/// What the back end gave is a file, which is never waited for.
void StateTransfer::read_file() {
    read_on();
    if (own_end_.valid()) {
        turn_ = loop_.start_timer({}, [this] { read_file(); });
    }
}

void StateTransfer::read_on() {
    std::array<std::byte, 16384> chunk;
    for (size_t moved = 0; moved < kTurnBytes;) {
        const ssize_t count = ::read(own_end_.get(), chunk.data(), chunk.size());
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (count < 0) {
            end(failure(error_from_errno("cannot read the state")));
            return;
        }
        if (count == 0) {
            check();
            return;
        }
        if (static_cast<size_t>(count) > kBytesMax - bytes_.size()) {
            end(failure(Error{.message = "its state is longer than 64 MiB"}));
            return;
        }
        bytes_.insert(bytes_.end(), chunk.begin(), chunk.begin() + count);
        moved += static_cast<size_t>(count);
    }
}

void StateTransfer::write_on() {
    // Bounded by what there is to write, and by what the pipe takes.
    while (written_ < bytes_.size()) {
        const ssize_t count =
            ::write(own_end_.get(), bytes_.data() + written_, bytes_.size() - written_);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno == EAGAIN) {
            if (auto watch = loop_.watch(own_end_.get(), [this] {
                    // The reader has gone. A write says so.
                    watch_ = {};
                    write_on();
                })) {
                watch_ = *std::move(watch);
                watch_.when_writable([this] {
                    watch_ = {};
                    write_on();
                });
            } else {
                end(failure(std::move(watch).error()));
            }
            return;
        }
        if (count < 0) {
            end(failure(error_from_errno("cannot write the state")));
            return;
        }
        written_ += static_cast<size_t>(count);
    }
    bytes_.clear();
    check();
}

void StateTransfer::check() {
    watch_ = {};
    own_end_.reset();  // of a load: the end of the state
    channel_.send({.number = kCheckDeviceState,
                   .on_reply = [alive = std::weak_ptr<StateTransfer*>(self_)](
                                   wire::Message& reply) -> Result<void> {
                       if (const auto self = alive.lock()) {
                           if (u64_of(reply) == 0) {
                               (*self)->end(std::move((*self)->bytes_));
                           } else {
                               (*self)->end(failure(
                                   Error{.message = "it says that its state did not pass whole"}));
                           }
                       }
                       return {};
                   },
                   .deadline = deadlines_.state});
}

void StateTransfer::abandon(const Error& reason) {
    end(failure(reason));
}

void StateTransfer::end(Result<std::vector<std::byte>> result) {
    watch_ = {};
    limit_ = {};
    turn_ = {};
    own_end_.reset();
    if (!done_) {
        return;
    }
    // Whoever is told may destroy this object: posted, for its callbacks are on the stack.
    loop_.post([done = std::exchange(done_, nullptr), result = std::move(result)]() mutable {
        done(std::move(result));
    });
}

}  // namespace outrigger::vmm
