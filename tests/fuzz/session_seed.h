// SPDX-License-Identifier: Apache-2.0
/// Writes scripts of the session target, an operation at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "vhost-user-backend/wire/messages.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/session_script.h"

namespace outrigger::fuzz {

using Request = wire::FrontendRequest;

/// A buffer of a chain.
struct Piece {
    size_t region;
    size_t offset;
    size_t length;
    uint16_t flags = 0;
};

/// VIRTIO 1.3, 2.7.5.
inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;
inline constexpr uint16_t kIndirect = 4;

/// What a request of the device under test is made of.
inline constexpr Piece kAsk{1, 0x100, 64, kNext};
inline constexpr Piece kFill{1, 0x200, 128, kWrite};

class SessionSeed final {
  public:
    explicit SessionSeed(uint8_t options = 0) { script_.u8(options); }

    /// The number and the bits; arguments follow.
    SessionSeed& request(Request request, uint8_t bits = RequestBits::kNeedReply) {
        script_.op(SessionOp::kRequest).u8(static_cast<size_t>(request)).u8(bits);
        return *this;
    }

    SessionSeed& u64(Request number, size_t value) {
        request(number);
        script_.u8(value);
        return *this;
    }

    SessionSeed& state(Request number, size_t index, size_t value) {
        request(number);
        script_.u8(index).u16(value);
        return *this;
    }

    /// A kick, call or err descriptor of a kind that it may not be, perhaps.
    SessionSeed& ring_fd(Request number, size_t index, FdKind kind) {
        request(number, RequestBits::kNeedReply | RequestBits::kFdKinds);
        script_.u8(index).op(kind);
        return *this;
    }

    SessionSeed& memory(std::initializer_list<size_t> regions) {
        request(Request::kSetMemTable);
        script_.u8(regions.size());
        for (const size_t region : regions) {
            script_.u8(region);
        }
        return *this;
    }

    SessionSeed& region(Request number, size_t region) { return u64(number, region); }

    SessionSeed& iotlb(size_t type, size_t region) {
        request(Request::kIotlbMsg);
        script_.u8(type).u8(region);
        return *this;
    }

    /// Page `page` of `region` leads to page `to_page` of `to`.
    SessionSeed& iotlb_page(size_t type, size_t region, size_t page, size_t to, size_t to_page) {
        request(Request::kIotlbMsg);
        script_.u8(kIotlbPage | type).u8(region).u8(page).u8(to).u8(to_page).u8(3);
        return *this;
    }

    SessionSeed& config(Request number, size_t offset, std::initializer_list<uint8_t> bytes) {
        request(number);
        script_.u8(offset).u8(bytes.size()).bytes(std::span(bytes.begin(), bytes.size()));
        return *this;
    }

    SessionSeed& negotiate(uint8_t left_out, uint8_t protocol_features = 0) {
        return request(Request::kGetFeatures, 0)
            .request(Request::kGetProtocolFeatures, 0)
            .u64(Request::kSetProtocolFeatures, protocol_features)
            .request(Request::kGetQueueNum, 0)
            .request(Request::kSetBackendReqFd)
            .request(Request::kSetOwner)
            .u64(Request::kSetFeatures, left_out)
            .u64(Request::kSetStatus, 15)
            .settle();
    }

    SessionSeed& ring(size_t index, size_t size = 16) {
        state(Request::kSetVringNum, index, size);
        request(Request::kSetVringAddr);
        script_.u8(index).u8(0);
        return u64(Request::kSetVringCall, index)
            .u64(Request::kSetVringErr, index)
            .u64(Request::kSetVringKick, index)
            .state(Request::kSetVringEnable, index, 1)
            .settle();
    }

    /// Everything: the ring runs afterwards.
    SessionSeed& bring_up(uint8_t left_out, size_t size = 16) {
        return negotiate(left_out).memory({0, 1}).ring(0, size);
    }

    SessionSeed& offer(SessionOp how, size_t ring, size_t id, std::initializer_list<Piece> pieces) {
        script_.op(how).u8(ring).u8(id).u8(pieces.size() - 1);
        for (const Piece& piece : pieces) {
            script_.u8(piece.region).u16(piece.offset).u16(piece.length).u8(piece.flags);
        }
        return *this;
    }

    SessionSeed& split(size_t id = 0, size_t ring = 0) {
        return offer(SessionOp::kOfferSplit, ring, id, {kAsk, kFill}).kick(ring);
    }

    SessionSeed& packed(size_t id = 0, size_t ring = 0) {
        return offer(SessionOp::kOfferPacked, ring, id, {kAsk, kFill}).kick(ring);
    }

    SessionSeed& kick(size_t ring = 0) {
        script_.op(SessionOp::kKick).u8(ring);
        return *this;
    }

    SessionSeed& store(size_t region, size_t offset, std::initializer_list<uint8_t> bytes) {
        script_.op(SessionOp::kStore).u8(region).u16(offset).u8(bytes.size());
        script_.bytes(std::span(bytes.begin(), bytes.size()));
        return *this;
    }

    SessionSeed& settle() { return op(SessionOp::kSettle); }

    SessionSeed& run(size_t turns) {
        script_.op(SessionOp::kRun).u8(turns);
        return *this;
    }

    SessionSeed& mood(DeviceMood mood) {
        script_.op(SessionOp::kMood).op(mood);
        return *this;
    }

    SessionSeed& release(size_t ring = 0) {
        script_.op(SessionOp::kRelease).u8(ring);
        return *this;
    }

    SessionSeed& ask(DeviceAsks what, size_t first, size_t second = 0) {
        script_.op(SessionOp::kAsk).op(what).u8(first).u8(second);
        return *this;
    }

    SessionSeed& answer(ChannelAnswer answer, size_t argument = 0) {
        script_.op(SessionOp::kAnswer).op(answer).u8(argument);
        return settle();
    }

    SessionSeed& pass_time(size_t units) {
        script_.op(SessionOp::kPassTime).u8(units);
        return settle();
    }

    SessionSeed& truncate(size_t region, size_t bytes) {
        script_.op(SessionOp::kTruncate).u8(region).u16(bytes);
        return *this;
    }

    SessionSeed& cut(size_t bytes) {
        script_.op(SessionOp::kCutNext).u8(bytes - 1);
        return *this;
    }

    SessionSeed& raw(std::initializer_list<uint8_t> bytes) {
        script_.op(SessionOp::kBytes).u8(bytes.size());
        script_.bytes(std::span(bytes.begin(), bytes.size()));
        return *this;
    }

    SessionSeed& op(SessionOp op) {
        script_.op(op);
        return *this;
    }

    SessionSeed& number(uint64_t value) {
        script_.u64(value);
        return *this;
    }

    SessionSeed& byte(size_t value) {
        script_.u8(value);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

}  // namespace outrigger::fuzz
