// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: the message stream, over a socket pair, with descriptors of every kind. The bytes
/// that are sent are kept, so each message that comes out is compared with what went in.
#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/wire/message_codec.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/stream_script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using wire::Header;
using wire::Message;
using wire::MessageStream;
using wire::StreamStatus;

constexpr size_t kOpsMax = 256;
constexpr size_t kStreamBytesMax = 64 << 10;
/// More than a message may carry, and fewer than the kernel passes at once (253).
constexpr size_t kFdsMax = 40;

class StreamScript final {
  public:
    StreamScript(const FdSet& fds, ScriptReader script)
        : fds_(fds),
          script_(script),
          expects_replies_((script_.u8() & kStreamExpectsReplies) != 0),
          peer_(make_pair()),
          stream_(own_.get(),
                  expects_replies_ ? MessageStream::Expect::kReplies
                                   : MessageStream::Expect::kRequests) {}

    void run() {
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<StreamOp>(script_));
        }
        peer_.reset();
        while (receive_one()) {
        }
        OUTRIGGER_ASSERT(ended_);
    }

  private:
    [[nodiscard]] UniqueFd make_pair() {
        int ends[2];
        OUTRIGGER_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        OUTRIGGER_ASSERT(::fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
        own_.reset(ends[0]);
        return UniqueFd(ends[1]);
    }

    void step(StreamOp op) {
        switch (op) {
            case StreamOp::kMessage: {
                const uint32_t request = script_.u8();
                const uint32_t flags = script_.u8() & ~(wire::kFlagVersionMask | wire::kFlagReply);
                const size_t bytes = script_.u16() % (wire::kPayloadBytesMax + 1);
                add_header(
                    {.request = request,
                     .flags = flags | wire::kVersion | (expects_replies_ ? wire::kFlagReply : 0),
                     .size = static_cast<uint32_t>(bytes)});
                for (size_t i = 0; i < bytes; ++i) {
                    waiting_.push_back(static_cast<uint8_t>(waiting_.size() * 31 + bytes));
                }
                return;
            }
            case StreamOp::kBytes: {
                const auto bytes = script_.bytes(script_.pick(65));
                waiting_.insert(waiting_.end(), bytes.begin(), bytes.end());
                return;
            }
            case StreamOp::kHeader: {
                const uint32_t request = script_.u32();
                const uint32_t flags = script_.u32();
                add_header({.request = request, .flags = flags, .size = script_.u32()});
                return;
            }
            case StreamOp::kSend: {
                const size_t bytes = script_.u16();
                send(waiting_.empty() ? 0 : bytes % waiting_.size() + 1, script_.pick(kFdsMax + 1));
                return;
            }
            case StreamOp::kSendAll:
                send(waiting_.size(), 0);
                return;
            case StreamOp::kReceive:
                while (receive_one()) {
                }
                return;
            case StreamOp::kReceiveOne:
                (void)receive_one();
                return;
            case StreamOp::kHangUp:
                peer_.reset();
                return;
            case StreamOp::kNoRoom:
                receive_without_room();
                return;
            case StreamOp::kCount:
                return;
        }
    }

    void add_header(const Header& header) {
        std::array<uint8_t, sizeof header> raw;
        std::memcpy(raw.data(), &header, sizeof header);
        waiting_.insert(waiting_.end(), raw.begin(), raw.end());
    }

    void send(size_t bytes, size_t fd_count) {
        std::array<int, kFdsMax> passed;
        for (size_t i = 0; i < fd_count; ++i) {
            passed[i] = fds_.get(script_.pick_enum<FdKind>(static_cast<size_t>(FdKind::kCount)));
        }
        if (!peer_.valid() || bytes == 0 || sent_.size() + bytes > kStreamBytesMax) {
            return;
        }
        iovec part = {.iov_base = waiting_.data(), .iov_len = bytes};
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof passed)> control{};
        msghdr message = {};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (fd_count > 0) {
            message.msg_control = control.data();
            message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
            cmsghdr* const head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
            std::memcpy(CMSG_DATA(head), passed.data(), fd_count * sizeof(int));
        }
        const ssize_t done = ::sendmsg(peer_.get(), &message, MSG_NOSIGNAL);
        if (done > 0) {
            const auto end = waiting_.begin() + done;
            sent_.insert(sent_.end(), waiting_.begin(), end);
            waiting_.erase(waiting_.begin(), end);
            fds_sent_ += fd_count;
        }
    }

    /// False when there is nothing more to come for now, or ever.
    bool receive_one() {
        if (ended_) {
            return false;
        }
        Message message;
        const StreamStatus status = stream_.try_receive(message);
        OUTRIGGER_ASSERT(message.payload.capacity() <= wire::kPayloadBytesMax);
        switch (status) {
            case StreamStatus::kMessage:
                check(message);
                return true;
            case StreamStatus::kIncomplete:
                OUTRIGGER_ASSERT(peer_.valid());
                OUTRIGGER_ASSERT(sent_.size() - taken_ < sizeof(Header) + wire::kPayloadBytesMax);
                return false;
            case StreamStatus::kEnded:
                OUTRIGGER_ASSERT(!peer_.valid() && taken_ == sent_.size());
                break;
            case StreamStatus::kEndedMidMessage:
                OUTRIGGER_ASSERT(!peer_.valid() && taken_ < sent_.size());
                break;
            case StreamStatus::kBadVersion:
                OUTRIGGER_ASSERT((next_header().flags & wire::kFlagVersionMask) != wire::kVersion);
                break;
            case StreamStatus::kUnexpectedReply:
                OUTRIGGER_ASSERT(((next_header().flags & wire::kFlagReply) != 0) !=
                                 expects_replies_);
                break;
            case StreamStatus::kTooLarge:
                OUTRIGGER_ASSERT(next_header().size > wire::kPayloadBytesMax);
                break;
            case StreamStatus::kTooManyFds:
                OUTRIGGER_ASSERT(fds_sent_ > wire::kMessageFdsMax ||
                                 (fds_sent_ > 0 && had_no_room_));
                break;
            case StreamStatus::kFdsInsideMessage:
                OUTRIGGER_ASSERT(fds_sent_ > 0);
                break;
        }
        ended_ = true;
        return false;
    }

    /// The header of the first message that was not received.
    [[nodiscard]] Header next_header() const {
        OUTRIGGER_ASSERT(sent_.size() - taken_ >= sizeof(Header));
        Header header;
        std::memcpy(&header, sent_.data() + taken_, sizeof header);
        return header;
    }

    void check(const Message& message) {
        const Header header = next_header();
        OUTRIGGER_ASSERT(std::memcmp(&header, &message.header, sizeof header) == 0);
        OUTRIGGER_ASSERT((header.flags & wire::kFlagVersionMask) == wire::kVersion);
        OUTRIGGER_ASSERT(((header.flags & wire::kFlagReply) != 0) == expects_replies_);
        OUTRIGGER_ASSERT(message.payload.size() == header.size);
        taken_ += sizeof header;
        OUTRIGGER_ASSERT(sent_.size() - taken_ >= header.size);
        OUTRIGGER_ASSERT(header.size == 0 ||
                         std::memcmp(sent_.data() + taken_, message.payload.data(), header.size) ==
                             0);
        taken_ += header.size;
        OUTRIGGER_ASSERT(message.fds.size() <= wire::kMessageFdsMax);
        fds_received_ += message.fds.size();
        OUTRIGGER_ASSERT(fds_received_ <= fds_sent_);
        for (const UniqueFd& fd : message.fds) {
            OUTRIGGER_ASSERT(fds_.contains(fd.get()));
            OUTRIGGER_ASSERT((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
        }
    }

    void receive_without_room() {
        rlimit before = {};
        OUTRIGGER_ASSERT(::getrlimit(RLIMIT_NOFILE, &before) == 0);
        const rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
        OUTRIGGER_ASSERT(::setrlimit(RLIMIT_NOFILE, &none) == 0);
        had_no_room_ = true;
        (void)receive_one();
        OUTRIGGER_ASSERT(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    }

    const FdSet& fds_;
    ScriptReader script_;
    const bool expects_replies_;
    UniqueFd own_;
    UniqueFd peer_;
    MessageStream stream_;

    std::vector<uint8_t> waiting_;  // not sent yet
    std::vector<uint8_t> sent_;
    size_t taken_ = 0;  // bytes of sent_ that came out in messages
    size_t fds_sent_ = 0;
    size_t fds_received_ = 0;
    bool had_no_room_ = false;
    bool ended_ = false;
};

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    static const FdSet fds;
    const size_t before = count_open_descriptors();
    StreamScript(fds, ScriptReader(std::span(data, size))).run();
    OUTRIGGER_ASSERT(count_open_descriptors() == before);
    return 0;
}
