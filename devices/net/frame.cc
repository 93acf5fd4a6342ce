// SPDX-License-Identifier: Apache-2.0
#include "devices/net/frame.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace outrigger::net {
namespace {

struct Words {
    std::string_view name;
    std::string_view clause;
};

/// In the order of DropReason.
constexpr std::array<Words, kDropReasonCount> kWords{{
    {"no-header", "it is shorter than the header before every frame"},
    {"runt", "it is shorter than an Ethernet header"},
    {"giant", "it is longer than any packet can be"},
    {"checksum-range", "its checksum would not lie inside of its packet"},
    {"not-negotiated", "it leaves to us what the driver did not agree on"},
    {"segment-type", "there is no such kind of segmentation"},
    {"segment-size", "its segments are of no bytes, or too many"},
    {"segment-headers", "its headers are not of its kind of segmentation"},
    {"over-mtu", "it is longer than the guest's link allows"},
    {"buffer-too-small", "the guest's buffers are too small"},
    {"ring-disabled", "its ring is not enabled"},
    {"ring-stopped", "it waited for the host when its ring stopped"},
    {"no-peer", "nobody is at the other end"},
    {"peer-refused", "the host does not take it"},
    {"queue-full", "too many frames wait for the guest"},
    {"flood", "too many of its port went to everybody"},
    {"connections", "the guest has as many connections as it may"},
    {"fragment", "it is a piece of a packet that fits no other piece"},
    {"filtered", "the driver does not want it"},
    {"spoofed", "the guest is somebody else"},
}};

}  // namespace

std::string_view name_of(DropReason reason) {
    return kWords[static_cast<size_t>(reason)].name;
}

std::string_view describe(DropReason reason) {
    return kWords[static_cast<size_t>(reason)].clause;
}

size_t copy_front(const Frame& frame, std::span<std::byte> out) {
    size_t copied = 0;
    for (const iovec& piece : frame.pieces) {
        const size_t count = std::min(piece.iov_len, out.size() - copied);
        if (count > 0) {
            std::memcpy(out.data() + copied, piece.iov_base, count);
        }
        copied += count;
    }
    return copied;
}

}  // namespace outrigger::net
