// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/backend_requests.h"

#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>

#include "vhost-user-backend/wire/fd_passing.h"
#include "vhost-user-backend/wire/request_table.h"

namespace outrigger::vmm {
namespace {

/// Requests served in one turn of the loop: other sessions have theirs.
constexpr int kRequestsATurnMax = 16;

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> BackendRequests::make_ends() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return failure(error_from_errno("cannot make a channel for the back end's requests"));
    }
    return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

BackendRequests::BackendRequests(EventLoop& loop,
                                 UniqueFd socket,
                                 SharedWindows* windows,
                                 Handler handler)
    : socket_(std::move(socket)),
      windows_(windows),
      handler_(std::move(handler)),
      stream_(socket_.get(), wire::MessageStream::Expect::kRequests) {
    auto watch = loop.watch(socket_.get(), [this] { on_readable(); });
    if (watch) {
        watch_ = *std::move(watch);
    } else {
        handler_.on_violation(watch.error());
    }
}

void BackendRequests::violate(std::string what) {
    watch_ = {};
    violated_ = true;
    handler_.on_violation(Error{.message = std::move(what)});
}

void BackendRequests::on_readable() {
    for (int count = 0; count < kRequestsATurnMax && !violated_; ++count) {
        wire::Message message;
        switch (
            stream_.try_receive(message, agreed_.has(wire::bit(wire::ProtocolFeature::kShmem)))) {
            case wire::StreamStatus::kMessage:
                serve(message);
                break;
            case wire::StreamStatus::kIncomplete:
                return;
            case wire::StreamStatus::kEnded:
                watch_ = {};  // it may do without
                return;
            case wire::StreamStatus::kEndedMidMessage:
            case wire::StreamStatus::kBadVersion:
            case wire::StreamStatus::kUnexpectedReply:
            case wire::StreamStatus::kTooLarge:
            case wire::StreamStatus::kTooManyFds:
            case wire::StreamStatus::kFdsInsideMessage:
                violate("it sent a request of its own that is none");
                return;
        }
    }
}

void BackendRequests::serve(wire::Message& message) {
    const auto result = carry_out(message);
    if (!result) {
        const auto* row = wire::find_backend_request(message.header.request);
        refusals_.log(LogLevel::kWarning,
                      "front end: refused {} of a back end: {}",
                      row != nullptr ? row->name : "an unknown request",
                      result.error().message);
    }
    if (!message.needs_reply()) {
        return;
    }
    const uint64_t verdict = result ? 0 : 1;
    const wire::Header header{.request = message.header.request,
                              .flags = wire::kVersion | wire::kFlagReply,
                              .size = sizeof verdict};
    const auto head = std::as_bytes(std::span(&header, 1));
    const auto payload = std::as_bytes(std::span(&verdict, 1));
    const wire::SendResult sent = wire::send_some(socket_.get(), head, payload, {});
    // The reply fits into an empty socket. One that is full belongs to a back end that asks without
    // reading the answers.
    if (sent.status != wire::SendStatus::kSent || sent.bytes != head.size() + payload.size()) {
        violate("it does not take the replies to its own requests");
    }
}

Result<void> BackendRequests::map(wire::Message& message) {
    wire::ShmemMap mapping{};
    std::memcpy(&mapping, message.payload.data(), sizeof mapping);
    UniqueFd file = std::move(message.fds[0]);
    OUTRIGGER_TRY(windows_->map(mapping, std::move(file)));
    handler_.on_mapped();
    return {};
}

Result<void> BackendRequests::unmap(const wire::Message& message) {
    wire::ShmemMap mapping{};
    std::memcpy(&mapping, message.payload.data(), sizeof mapping);
    return windows_->unmap(mapping);
}

Result<void> BackendRequests::carry_out(wire::Message& message) {
    const auto refuse = [](const char* why) { return failure(Error{.message = why}); };
    const auto* row = wire::find_backend_request(message.header.request);
    if (row == nullptr || row->gate.kind != wire::Gate::Kind::kProtocol ||
        !agreed_.has(row->gate.bit)) {
        return refuse("it was not negotiated");
    }
    if (!wire::payload_size_fits(row->payload, message.payload)) {
        return refuse("its size is wrong");
    }
    const auto fds = wire::expected_fds(row->fds, message.payload);
    if (message.fds.size() < fds.least || message.fds.size() > fds.most) {
        return refuse("it has descriptors too many, or too few");
    }
    switch (wire::BackendRequest{row->number}) {
        case wire::BackendRequest::kConfigChangeMsg:
            handler_.on_config_change();
            return {};
        case wire::BackendRequest::kShmemMap:
            return windows_ != nullptr ? map(message) : refuse("there is no shared memory");
        case wire::BackendRequest::kShmemUnmap:
            return windows_ != nullptr ? unmap(message) : refuse("there is no shared memory");
        case wire::BackendRequest::kIotlbMsg:
        case wire::BackendRequest::kVringHostNotifierMsg:
        case wire::BackendRequest::kVringCall:
        case wire::BackendRequest::kVringErr:
        case wire::BackendRequest::kSharedObjectAdd:
        case wire::BackendRequest::kSharedObjectRemove:
        case wire::BackendRequest::kSharedObjectLookup:
            break;
    }
    return refuse("it is not served");
}

}  // namespace outrigger::vmm
