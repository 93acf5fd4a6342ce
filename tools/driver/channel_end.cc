// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/channel_end.h"

#include <array>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>

#include "tools/driver/frontend_socket.h"

namespace outrigger::driver {

Result<ChannelEnd, Answer> ChannelEnd::open(Frontend& frontend, int send_bytes) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) {
        return failure(Answer::kMalformed);
    }
    UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);
    ::fcntl(ours.get(), F_SETFD, FD_CLOEXEC);
    ::fcntl(theirs.get(), F_SETFD, FD_CLOEXEC);
    if (send_bytes != 0 &&
        ::setsockopt(theirs.get(), SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes) != 0) {
        return failure(Answer::kMalformed);
    }
    const Answer answer = frontend.set_backend_req_fd(theirs.get());
    if (!went_well(answer)) {
        return failure(answer);
    }
    return ChannelEnd(std::move(ours));
}

ChannelEnd::Reply<wire::Message> ChannelEnd::receive() {
    const Deadline deadline = after(time_limit_);
    wire::Message message;
    while (true) {
        switch (stream_.try_receive(message)) {
            case wire::StreamStatus::kMessage:
                return message;
            case wire::StreamStatus::kIncomplete:
                if (!wait_readable(socket_.get(), deadline)) {
                    return failure(Answer::kTimeout);
                }
                break;
            case wire::StreamStatus::kEnded:
                return failure(Answer::kClosed);
            case wire::StreamStatus::kEndedMidMessage:
            case wire::StreamStatus::kBadVersion:
            case wire::StreamStatus::kUnexpectedReply:
            case wire::StreamStatus::kTooLarge:
            case wire::StreamStatus::kTooManyFds:
            case wire::StreamStatus::kFdsInsideMessage:
                return failure(Answer::kMalformed);
        }
    }
}

Answer ChannelEnd::send(const wire::Header& header,
                        std::span<const std::byte> payload,
                        std::span<const int> fds) {
    std::vector<std::byte> bytes;
    const auto head = std::as_bytes(std::span(&header, 1));
    bytes.insert(bytes.end(), head.begin(), head.end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    switch (send_until(socket_.get(), bytes, fds, after(time_limit_))) {
        case SendStatus::kSent:
            return Answer::kUnasked;
        case SendStatus::kTimeout:
            return Answer::kTimeout;
        case SendStatus::kClosed:
            return Answer::kClosed;
    }
    return Answer::kClosed;
}

Answer ChannelEnd::reply(const wire::Message& request, uint64_t value, int fd) {
    return send({.request = request.header.request,
                 .flags = wire::kVersion | wire::kFlagReply,
                 .size = sizeof value},
                std::as_bytes(std::span(&value, 1)),
                {&fd, fd >= 0 ? size_t{1} : size_t{0}});
}

bool ChannelEnd::has_input() const {
    return wait_readable(socket_.get(), Deadline::min());
}

bool ChannelEnd::wait_closed() {
    const Deadline deadline = after(time_limit_);
    std::array<std::byte, 512> dropped;
    while (wait_readable(socket_.get(), deadline)) {
        const ssize_t count = ::recv(socket_.get(), dropped.data(), dropped.size(), MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) {
            return true;
        }
        if (Clock::now() >= deadline) {
            return false;
        }
    }
    return false;
}

}  // namespace outrigger::driver
