// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/control_connection.h"

#include <array>
#include <chrono>
#include <iterator>
#include <span>
#include <utility>

#include <poll.h>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

/// No command takes more.
constexpr size_t kFdsMax = 1;

/// How often a socket without room is tried again, and a silent client looked at.
constexpr auto kSendInterval = std::chrono::milliseconds(20);
constexpr auto kHangUpInterval = std::chrono::milliseconds(250);

v1::Reply error_reply(int code, const std::string& message) {
    v1::Reply reply;
    reply.mutable_error()->set_code(static_cast<v1::Error::Code>(code));
    reply.mutable_error()->set_message(message);
    return reply;
}

}  // namespace

ControlConnection::ControlConnection(EventLoop& loop,
                                     UniqueFd socket,
                                     const Limits& limits,
                                     Handler handler)
    : loop_(loop),
      socket_(std::move(socket)),
      limits_(limits),
      handler_(std::move(handler)),
      self_(std::make_shared<ControlConnection*>(this)) {
    read_on();
}

ControlConnection::~ControlConnection() {
    stop_waiting();
}

void ControlConnection::turn_away(const v1::Reply& reply) {
    answer(reply, State::kEnding);
}

void ControlConnection::stop_waiting() {
    if (watch_) {
        loop_.unwatch(*std::exchange(watch_, std::nullopt));
    }
    if (deadline_) {
        loop_.cancel_timer(*std::exchange(deadline_, std::nullopt));
    }
    if (look_) {
        loop_.cancel_timer(*std::exchange(look_, std::nullopt));
    }
}

void ControlConnection::read_on() {
    state_ = State::kReading;
    inside_message_ = false;
    start_deadline(limits_.idle);
    watch_ = loop_.watch_readable(socket_.get(), [this] { on_readable(); });
}

void ControlConnection::start_deadline(EventLoop::Clock::duration delay) {
    if (deadline_) {
        loop_.cancel_timer(*deadline_);
    }
    deadline_ = loop_.start_timer(EventLoop::Clock::now() + delay, [this] {
        deadline_.reset();
        on_deadline();
    });
}

void ControlConnection::on_deadline() {
    if (state_ == State::kReading && inside_message_) {
        refuse(v1::Error::TIMED_OUT, "the request did not come whole in time");
    } else {
        end();  // idle, or it does not take its reply
    }
}

/// One read a turn: other clients, and sessions, have theirs.
void ControlConnection::on_readable() {
    std::array<std::byte, 4096> buffer;
    wire::ReceiveResult received = wire::receive_some(socket_.get(), buffer);
    switch (received.status) {
        case wire::ReceiveStatus::kWouldBlock:
            return;
        case wire::ReceiveStatus::kEnded:
            end();
            return;
        case wire::ReceiveStatus::kFdsTruncated:
            refuse(v1::Error::MALFORMED, "too many descriptors came with the request");
            return;
        case wire::ReceiveStatus::kData:
            break;
    }
    if (fds_.size() + received.fds.size() > kFdsMax) {
        refuse(v1::Error::MALFORMED, "more than one descriptor came with the request");
        return;
    }
    std::ranges::move(received.fds, std::back_inserter(fds_));
    reader_.add(std::span(buffer).first(received.bytes));
    take_request();
}

void ControlConnection::take_request() {
    auto message = reader_.take();
    if (!message) {
        const bool too_long = message.error() == control::FrameError::kTooLong;
        refuse(too_long ? v1::Error::TOO_LONG : v1::Error::MALFORMED,
               too_long ? "a request has at most 65536 bytes" : "the request has no valid length");
        return;
    }
    if (!*message) {
        if (!watch_) {
            read_on();
        }
        if (!std::exchange(inside_message_, reader_.inside_message()) && inside_message_) {
            start_deadline(limits_.request);
        }
        return;
    }
    v1::Request request;
    if (!request.ParseFromString(**message)) {
        refuse(v1::Error::MALFORMED, "the request is no message of this protocol");
        return;
    }
    stop_waiting();
    state_ = State::kHandling;
    look_for_hang_up();
    handler_.on_request(request,
                        std::exchange(fds_, {}),
                        [self = std::weak_ptr<ControlConnection*>(self_)](const v1::Reply& reply) {
                            if (const auto there = self.lock();
                                there && (*there)->state_ == State::kHandling) {
                                (*there)->answer(reply, State::kReplying);
                            }
                        });
}

/// A command may take long; its client must not keep a place among the connections when it has
/// given up.
void ControlConnection::look_for_hang_up() {
    look_ = loop_.start_timer(EventLoop::Clock::now() + kHangUpInterval, [this] {
        look_.reset();
        pollfd socket{.fd = socket_.get(), .events = 0, .revents = 0};
        if (::poll(&socket, 1, 0) > 0 && (socket.revents & (POLLHUP | POLLERR)) != 0) {
            end();
        } else {
            look_for_hang_up();
        }
    });
}

void ControlConnection::refuse(int code, const std::string& message) {
    answer(error_reply(code, message), State::kEnding);
}

void ControlConnection::answer(const v1::Reply& reply, State state) {
    stop_waiting();
    state_ = state;
    outgoing_ = control::frame(reply);
    if (outgoing_.size() > control::kReplyBytesMax) {
        outgoing_ = control::frame(
            error_reply(v1::Error::FAILED, "the answer is too long: ask for one device"));
    }
    sent_ = 0;
    start_deadline(limits_.reply);
    send_more();
}

void ControlConnection::send_more() {
    const wire::SendStatus status = wire::send_rest(socket_.get(), outgoing_, sent_);
    if (status == wire::SendStatus::kFailed) {
        end();
        return;
    }
    if (status == wire::SendStatus::kWouldBlock) {
        look_ = loop_.start_timer(EventLoop::Clock::now() + kSendInterval, [this] {
            look_.reset();
            send_more();
        });
        return;
    }
    outgoing_.clear();
    stop_waiting();
    if (state_ == State::kEnding) {
        end();
        return;
    }
    state_ = State::kReading;
    // What came behind the request goes first, and only then is more read: a client that asks
    // without end must not fill our memory. Posted: a command that is answered at once must not
    // call itself.
    loop_.post([self = std::weak_ptr<ControlConnection*>(self_)] {
        if (const auto there = self.lock(); there && (*there)->state_ == State::kReading) {
            (*there)->take_request();
        }
    });
}

void ControlConnection::end() {
    if (std::exchange(state_, State::kEnded) == State::kEnded) {
        return;
    }
    stop_waiting();
    socket_.reset();
    // Whoever called this is still on the stack.
    loop_.post([self = std::weak_ptr<ControlConnection*>(self_)] {
        if (const auto there = self.lock()) {
            (*there)->handler_.on_end();
        }
    });
}

}  // namespace outrigger
