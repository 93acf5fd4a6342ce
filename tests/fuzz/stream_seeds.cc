// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/stream_script.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kAll = 0xffff;

class StreamSeed final {
  public:
    explicit StreamSeed(uint8_t options = 0) { script_.u8(options); }

    StreamSeed& message(size_t request, size_t payload_bytes) {
        script_.op(StreamOp::kMessage).u8(request).u8(8).u16(payload_bytes);
        return *this;
    }

    StreamSeed& header(uint32_t request, uint32_t flags, uint32_t size) {
        script_.op(StreamOp::kHeader).u32(request).u32(flags).u32(size);
        return *this;
    }

    /// The first `bytes` that wait, with a descriptor of each kind.
    StreamSeed& send(size_t bytes, std::initializer_list<FdKind> kinds = {}) {
        script_.op(StreamOp::kSend).u16(bytes - 1).u8(kinds.size());
        for (const FdKind kind : kinds) {
            script_.op(kind);
        }
        return *this;
    }

    StreamSeed& send_many_fds(size_t count) {
        script_.op(StreamOp::kSend).u16(0).u8(count);
        for (size_t i = 0; i < count; ++i) {
            script_.op(FdKind::kEventfd);
        }
        return *this;
    }

    StreamSeed& op(StreamOp op) {
        script_.op(op);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

}  // namespace

void add_stream_seeds(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const StreamSeed& seed) {
        seeds[std::string("message-stream/") + name] = seed.script();
    };
    constexpr auto receive = StreamOp::kReceive;
    constexpr auto send_all = StreamOp::kSendAll;
    add("three-messages-at-once",
        StreamSeed().message(1, 0).message(2, 8).message(5, 264).op(send_all).op(receive));
    add("reply-where-replies-are-expected",
        StreamSeed(kStreamExpectsReplies).message(1, 8).op(send_all).op(receive));
    add("descriptors-with-the-first-byte",
        StreamSeed()
            .message(5, 72)
            .send(84, {FdKind::kMemfd, FdKind::kMemfd})
            .op(receive)
            .message(12, 8)
            .send(20, {FdKind::kEventfd})
            .op(receive));
    add("cut-inside-header-and-payload",
        StreamSeed()
            .message(9, 40)
            .send(1, {FdKind::kPipeRead})
            .op(receive)
            .send(5)
            .op(receive)
            .send(20)
            .op(receive)
            .op(send_all)
            .op(receive));
    add("descriptor-inside-header",
        StreamSeed().message(12, 8).send(4).op(receive).send(2, {FdKind::kEventfd}).op(receive));
    add("descriptor-inside-payload",
        StreamSeed().message(12, 8).send(14).op(receive).send(2, {FdKind::kZero}).op(receive));
    add("descriptors-of-every-kind",
        StreamSeed()
            .message(5, 8)
            .send(20,
                  {FdKind::kEventfd,
                   FdKind::kPipeRead,
                   FdKind::kPipeWrite,
                   FdKind::kMemfd,
                   FdKind::kDirectory,
                   FdKind::kZero,
                   FdKind::kNull,
                   FdKind::kSocket,
                   FdKind::kEpoll,
                   FdKind::kFile,
                   FdKind::kReadOnlyMemfd,
                   FdKind::kPathOnly})
            .op(receive));
    add("as-many-descriptors-as-fit",
        StreamSeed().message(5, 0).send_many_fds(32).op(send_all).op(receive));
    add("one-descriptor-too-many",
        StreamSeed().message(5, 0).send_many_fds(33).op(send_all).op(receive));
    add("no-room-for-descriptors",
        StreamSeed().message(12, 8).send(20, {FdKind::kEventfd}).op(StreamOp::kNoRoom));
    add("end-between-messages",
        StreamSeed().message(1, 0).op(send_all).op(StreamOp::kHangUp).op(receive));
    add("end-inside-header", StreamSeed().message(1, 0).send(7).op(StreamOp::kHangUp).op(receive));
    add("end-inside-payload",
        StreamSeed().message(2, 8).send(15).op(StreamOp::kHangUp).op(receive));
    add("version-zero", StreamSeed().header(1, 0, 0).op(send_all).op(receive));
    add("reply-where-requests-are-expected", StreamSeed().header(1, 5, 0).op(send_all).op(receive));
    add("largest-payload", StreamSeed().message(1, 4096).op(send_all).op(receive));
    add("payload-too-large", StreamSeed().header(1, 1, 4097).op(send_all).op(receive));
    add("payload-of-four-gigabytes",
        StreamSeed().header(1, 1, 0xffff'ffff).send(kAll).op(send_all).op(receive));
}

}  // namespace outrigger::fuzz
