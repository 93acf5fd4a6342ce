// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/control/operator_connection.h"

#include <array>
#include <span>
#include <utility>

#include <machine_control.pb.h>

#include "vhost-user-backend/wire/fd_passing.h"

namespace outrigger::vmm {
namespace {

namespace v1 = control::v1;

/// Bytes that a client may send behind a request whose answer is due.
constexpr size_t kEarlyBytesMax = 65536;

v1::Reply error_reply(int code, const std::string& message) {
    v1::Reply reply;
    reply.mutable_error()->set_code(static_cast<v1::Error::Code>(code));
    reply.mutable_error()->set_message(message);
    return reply;
}

}  // namespace

OperatorConnection::OperatorConnection(EventLoop& loop,
                                       UniqueFd socket,
                                       const OperatorLimits& limits,
                                       Handler handler)
    : loop_(loop),
      socket_(std::move(socket)),
      limits_(limits),
      handler_(std::move(handler)),
      self_(std::make_shared<OperatorConnection*>(this)) {
    if (auto watch = loop_.watch(socket_.get(), [this] { on_readable(); })) {
        watch_ = *std::move(watch);
        start_deadline(limits_.idle);
    } else {
        end();
    }
}

void OperatorConnection::turn_away(const v1::Reply& reply) {
    answer(reply, State::kEnding);
}

void OperatorConnection::start_deadline(std::chrono::milliseconds delay) {
    deadline_ = loop_.start_timer(delay, [this] { on_deadline(); });
}

void OperatorConnection::on_deadline() {
    if (state_ == State::kReading && inside_message_) {
        refuse(v1::Error::TIMED_OUT, "the request did not come whole in time");
    } else {
        end();  // idle, or it does not take its reply
    }
}

/// One read a turn: other clients, and sessions, have theirs.
void OperatorConnection::on_readable() {
    std::array<std::byte, 4096> buffer;
    const wire::ReceiveResult received = wire::receive_some(socket_.get(), buffer);
    switch (received.status) {
        case wire::ReceiveStatus::kWouldBlock:
            return;
        case wire::ReceiveStatus::kEnded:
        case wire::ReceiveStatus::kFdsTruncated:
            end();
            return;
        case wire::ReceiveStatus::kData:
            break;
    }
    if (state_ == State::kEnding || state_ == State::kEnded) {
        return;  // whatever it has to say
    }
    if (!received.fds.empty()) {
        refuse(v1::Error::MALFORMED, "no command takes a descriptor");
        return;
    }
    reader_.add(std::span(buffer).first(received.bytes));
    if (state_ == State::kReading) {
        take_request();
        return;
    }
    // Requests in advance wait, but must not fill our memory.
    early_bytes_ += received.bytes;
    if (early_bytes_ > kEarlyBytesMax) {
        refuse(v1::Error::TOO_MANY, "too many requests came before the last one was answered");
    }
}

void OperatorConnection::take_request() {
    auto message = reader_.take();
    if (!message) {
        const bool too_long = message.error() == outrigger::control::FrameError::kTooLong;
        refuse(too_long ? v1::Error::TOO_LONG : v1::Error::MALFORMED,
               too_long ? "a request has at most 65536 bytes" : "the request has no valid length");
        return;
    }
    if (!*message) {
        if (!std::exchange(inside_message_, reader_.inside_message()) && inside_message_) {
            start_deadline(limits_.request);
        }
        return;
    }
    inside_message_ = false;
    v1::Request request;
    if (!request.ParseFromString(**message)) {
        refuse(v1::Error::MALFORMED, "the request is no message of this protocol");
        return;
    }
    deadline_ = {};
    state_ = State::kHandling;
    handler_.on_request(
        request, [self = std::weak_ptr<OperatorConnection*>(self_)](const v1::Reply& reply) {
            if (const auto there = self.lock(); there && (*there)->state_ == State::kHandling) {
                (*there)->answer(reply, State::kReplying);
            }
        });
}

void OperatorConnection::refuse(int code, const std::string& message) {
    answer(error_reply(code, message), State::kEnding);
}

void OperatorConnection::answer(const v1::Reply& reply, State state) {
    state_ = state;
    outgoing_ = outrigger::control::frame(reply);
    if (outgoing_.size() > outrigger::control::kReplyBytesMax) {
        outgoing_ =
            outrigger::control::frame(error_reply(v1::Error::FAILED, "the answer is too long"));
    }
    sent_ = 0;
    start_deadline(limits_.reply);
    send_more();
}

void OperatorConnection::send_more() {
    const wire::SendStatus status = wire::send_rest(socket_.get(), outgoing_, sent_);
    if (status == wire::SendStatus::kFailed) {
        end();
        return;
    }
    if (status == wire::SendStatus::kWouldBlock) {
        watch_.when_writable([this] { send_more(); });
        return;
    }
    outgoing_.clear();
    if (state_ == State::kEnding) {
        end();
        return;
    }
    state_ = State::kReading;
    early_bytes_ = 0;
    start_deadline(limits_.idle);
    // Posted: a command that is answered at once must not call itself.
    loop_.post([self = std::weak_ptr<OperatorConnection*>(self_)] {
        if (const auto there = self.lock(); there && (*there)->state_ == State::kReading) {
            (*there)->take_request();
        }
    });
}

void OperatorConnection::end() {
    if (std::exchange(state_, State::kEnded) == State::kEnded) {
        return;
    }
    watch_ = {};
    deadline_ = {};
    socket_.reset();
    // Whoever called this is still on the stack.
    loop_.post([self = std::weak_ptr<OperatorConnection*>(self_)] {
        if (const auto there = self.lock()) {
            // It destroys the object that it is a part of.
            const auto on_end = (*there)->handler_.on_end;
            on_end();
        }
    });
}

}  // namespace outrigger::vmm
