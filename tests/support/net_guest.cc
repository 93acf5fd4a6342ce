// SPDX-License-Identifier: Apache-2.0
#include "tests/support/net_guest.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

#include "tools/driver/feature_bits.h"

namespace outrigger::testing {
namespace {

constexpr uint64_t kMemoryBytes = 16 << 20;
constexpr uint32_t kTransmitBytes = 128 * 1024;
constexpr uint32_t kPostedBytes = 4 << 20;
constexpr uint64_t kDeviceBits = 0xff'ffff | ~((uint64_t{1} << 50) - 1);
constexpr uint16_t kQueueSize = 256;
constexpr uint32_t kAnswerBytes = 4096;
constexpr FeatureSet kWithState = FeatureSet::of({wire::bit(wire::ProtocolFeature::kDeviceState)});

}  // namespace

NetGuest::NetGuest(driver::Frontend frontend, const NetGuestOptions& options)
    : options_(options),
      frontend_(std::move(frontend)),
      memory_(driver::GuestMemory::create(kMemoryBytes).value()) {
    FeatureSet wanted((driver::kUsualFeatures.bits() & ~kDeviceBits) |
                      (options.features & kDeviceBits));
    if (!options.version_1) {
        wanted = wanted.without(driver::kVersion1Bit);
    }
    auto running = driver::bring_up(
        frontend_,
        memory_,
        {.features = wanted,
         .protocol_features =
             driver::kUsualProtocolFeatures.with(wire::bit(wire::ProtocolFeature::kRarp))
                 .with(wire::bit(wire::ProtocolFeature::kMtu)) |
             (options.device_state ? kWithState : FeatureSet()),
         .packed = options.packed,
         .event_idx = options.event_idx,
         .in_order = options.in_order,
         .queue_count =
             static_cast<uint16_t>(2 * options.queue_pairs + (options.control_queue ? 1 : 0)),
         .queue_size = kQueueSize,
         .enable = options.enable});
    if (!running) {
        ADD_FAILURE() << running.error().step;
        return;
    }
    running_ = *std::move(running);
    is_up_ = true;
    merges_ = features().has(VIRTIO_NET_F_MRG_RXBUF);
    if (!options.version_1 && !merges_ && !options.packed) {
        header_bytes_ = sizeof(virtio_net_hdr);
    }
    transmit_ = memory_.allocate(kTransmitBytes, 16).value();
    answer_ = memory_.allocate(kAnswerBytes, 16).value();
    posted_ = memory_.allocate(kPostedBytes, 16).value();
    for (uint16_t pair = 0; pair < options.queue_pairs; ++pair) {
        for (size_t i = 0; i < options.receive_buffers; ++i) {
            buffers_.push_back({memory_.allocate(options.receive_bytes, 16).value(), pair});
            post(buffers_.size() - 1);
        }
        (void)receive_queue(pair).publish_and_kick();
    }
}

void NetGuest::post(size_t buffer) {
    const driver::Segment segment{.address = buffers_.at(buffer).address,
                                  .length = options_.receive_bytes,
                                  .device_writable = true};
    EXPECT_TRUE(receive_queue(buffers_.at(buffer).pair).try_add(std::span(&segment, 1), buffer));
}

void NetGuest::add_buffer(uint16_t pair) {
    buffers_.push_back({memory_.allocate(options_.receive_bytes, 16).value(), pair});
    post(buffers_.size() - 1);
    (void)receive_queue(pair).publish_and_kick();
}

void NetGuest::post_buffers() {
    holds_ = false;
    for (const size_t buffer : std::exchange(held_, {})) {
        post(buffer);
        (void)receive_queue(buffers_.at(buffer).pair).publish_and_kick();
    }
}

std::string NetGuest::header_bytes_of(const virtio_net_hdr_v1& header) const {
    std::string bytes(header_bytes_, '\0');
    std::memcpy(bytes.data(), &header, header_bytes_);
    return bytes;
}

bool NetGuest::send(std::string_view frame,
                    const virtio_net_hdr_v1& header,
                    std::span<const uint32_t> pieces,
                    uint16_t pair) {
    return send_raw(header_bytes_of(header) + std::string(frame), pieces, pair);
}

bool NetGuest::send_raw(std::string_view bytes, std::span<const uint32_t> pieces, uint16_t pair) {
    return transmit_queue(pair)
        .transact(lay_out(bytes, pieces), driver::after(kPatience))
        .has_value();
}

std::vector<driver::Segment> NetGuest::lay_out(std::string_view bytes,
                                               std::span<const uint32_t> pieces) {
    memory_.write(transmit_, std::as_bytes(std::span(bytes)));
    std::vector<driver::Segment> segments;
    uint32_t begin = 0;
    const auto add = [&](uint32_t length) {
        segments.push_back({.address = driver::offset_by(transmit_, begin), .length = length});
        begin += length;
    };
    for (const uint32_t piece : pieces) {
        add(piece);
    }
    if (begin < bytes.size() || segments.empty()) {
        add(static_cast<uint32_t>(bytes.size()) - begin);
    }
    return segments;
}

std::optional<uint8_t> NetGuest::command(std::string_view bytes,
                                         uint32_t answer_bytes,
                                         std::span<const uint32_t> pieces) {
    std::vector<driver::Segment> segments = lay_out(bytes, pieces);
    const std::string untouched(kAnswerBytes, '\x5a');
    memory_.write(answer_, std::as_bytes(std::span(untouched)));
    if (answer_bytes > 0) {
        segments.push_back({.address = answer_, .length = answer_bytes, .device_writable = true});
    }
    const auto used = control_queue().transact(segments, driver::after(kPatience));
    EXPECT_TRUE(used) << "the device does not give commands back";
    if (!used || used->length == 0) {
        return std::nullopt;
    }
    EXPECT_EQ(used->length, 1U);
    std::string answer(kAnswerBytes, '\0');
    memory_.read(answer_, std::as_writable_bytes(std::span(answer)));
    EXPECT_EQ(answer.substr(1), untouched.substr(1)) << "more than an answer was written";
    return static_cast<uint8_t>(answer.front());
}

bool NetGuest::post_frame(std::string_view frame, uint16_t pair, const virtio_net_hdr_v1& header) {
    const std::string bytes = header_bytes_of(header) + std::string(frame);
    if (posted_bytes_ + bytes.size() > kPostedBytes) {
        posted_bytes_ = 0;  // what was there is long sent
    }
    const GuestAddr at = driver::offset_by(posted_, posted_bytes_);
    memory_.write(at, std::as_bytes(std::span(bytes)));
    const driver::Segment segment{.address = at, .length = static_cast<uint32_t>(bytes.size())};
    if (!transmit_queue(pair).try_add(std::span(&segment, 1), 0)) {
        return false;
    }
    posted_bytes_ += bytes.size();
    (void)transmit_queue(pair).publish_and_kick();
    return true;
}

bool NetGuest::await_posted(size_t count, uint16_t pair) {
    while (count > 0) {
        if (transmit_queue(pair).wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed) {
            return false;
        }
        count -= std::min(count, take_posted(pair));
    }
    return true;
}

size_t NetGuest::take_posted(uint16_t pair) {
    size_t count = 0;
    while (transmit_queue(pair).poll_used()) {
        ++count;
    }
    return count;
}

std::optional<NetFrame> NetGuest::receive(uint16_t pair) {
    if (auto frame = receive_now(pair)) {
        return frame;
    }
    const auto deadline = driver::after(kPatience);
    while (receive_queue(pair).wait_used(deadline) == driver::WaitResult::kUsed) {
        if (auto frame = receive_now(pair)) {
            return frame;
        }
    }
    return std::nullopt;
}

std::optional<NetFrame> NetGuest::receive_now(uint16_t pair) {
    NetFrame frame;
    size_t wanted = 1;
    while (frame.buffers < wanted) {
        const auto completion = receive_queue(pair).poll_used();
        if (!completion) {
            // All buffers of a frame become visible at once.
            EXPECT_EQ(frame.buffers, 0U) << "a frame came in part";
            return std::nullopt;
        }
        const auto buffer = static_cast<size_t>(completion->token);
        std::string bytes(completion->length, '\0');
        memory_.read(buffers_.at(buffer).address, std::as_writable_bytes(std::span(bytes)));
        if (holds_) {
            held_.push_back(buffer);
        } else {
            post(buffer);
            (void)receive_queue(pair).publish_and_kick();
        }
        if (bytes.empty()) {
            ++empty_buffers_;
            continue;
        }
        if (frame.buffers == 0) {
            EXPECT_GE(bytes.size(), header_bytes_);
            std::memcpy(&frame.header, bytes.data(), std::min(bytes.size(), header_bytes_));
            bytes.erase(0, header_bytes_);
            wanted = merges_ ? frame.header.num_buffers : 1;
        } else {
            EXPECT_EQ(frame.bytes.size() % options_.receive_bytes,
                      options_.receive_bytes - header_bytes_)
                << "a buffer that is not the last is not full";
        }
        frame.bytes += bytes;
        ++frame.buffers;
    }
    return frame;
}

}  // namespace outrigger::testing
