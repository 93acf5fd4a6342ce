// SPDX-License-Identifier: Apache-2.0
/// An Ethernet frame on its way between a guest and a port of the host, and what is left to be done
/// to it: a checksum that is not finished, or a payload that is to be cut into segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <sys/uio.h>

namespace outrigger::net {

inline constexpr size_t kEthernetHeaderBytes = 14;
inline constexpr size_t kVlanTagBytes = 4;

/// An IP packet of any length, behind an Ethernet header with a VLAN tag.
inline constexpr size_t kFrameBytesMax = 65536 + kEthernetHeaderBytes + kVlanTagBytes;

/// How a frame is to be cut. VIRTIO 1.3, 5.1.6. kUdp: into datagrams; kFragments: a datagram of UDP
/// into fragments of IPv4 or IPv6.
enum class Segmentation : uint8_t { kNone, kTcp4, kTcp6, kUdp, kFragments };

/// What is left to do.
struct FrameOffload {
    bool needs_checksum = false;  ///< from checksum_start to the end; the field has what to add
    bool checksum_valid = false;  ///< it was checked, or made, by somebody trusted
    bool ecn = false;             ///< the first segment of TCP has CWR, and no other
    Segmentation segmentation = Segmentation::kNone;
    /// Payload of each segment but the last, above 0; of fragments that of IP, a multiple of 8.
    uint16_t segment_bytes = 0;
    uint16_t checksum_start = 0;   ///< from the start of the frame
    uint16_t checksum_offset = 0;  ///< of the field, from checksum_start

    /// Nothing: whoever gets the frame takes it as it is.
    [[nodiscard]] bool is_done() const {
        return !needs_checksum && segmentation == Segmentation::kNone;
    }
};

/// What somebody can leave unfinished, or leaves to others.
struct Offloads {
    bool checksum = false;
    bool tcp4 = false;
    bool tcp6 = false;
    bool ecn = false;
    bool udp4 = false;
    bool udp6 = false;
    bool fragments = false;  ///< of UDP over either
    /// Takes TCP over IPv4 in packets of any length: nothing is cut, but checksums are finished.
    bool giants = false;

    friend bool operator==(const Offloads&, const Offloads&) = default;
};

/// What passes from guest to guest, or through a kernel that knows all of it.
inline constexpr Offloads kAllOffloads = {.checksum = true,
                                          .tcp4 = true,
                                          .tcp6 = true,
                                          .ecn = true,
                                          .udp4 = true,
                                          .udp6 = true,
                                          .fragments = true};

/// A frame is of no pair of the guest's queues.
inline constexpr uint16_t kNoPair = 0xffff;

/// Borrowed bytes, in as many pieces as they came in.
struct Frame {
    std::span<const iovec> pieces{};
    size_t bytes = 0;
    FrameOffload offload{};
    uint16_t from_pair = kNoPair;  ///< that the guest has sent it on
    uint16_t to_pair = kNoPair;    ///< that the host has steered it to
};

/// Why a frame was thrown away. None of them harms the ring that it came from or would go to.
enum class DropReason : uint8_t {
    kNoHeader,        ///< shorter than the header before every frame
    kRunt,            ///< shorter than an Ethernet header
    kGiant,           ///< longer than kFrameBytesMax
    kChecksumRange,   ///< its checksum would lie in the Ethernet header or beyond the end
    kNotNegotiated,   ///< leaves something to us that the driver did not agree on
    kSegmentType,     ///< a kind of segmentation that there is not
    kSegmentSize,     ///< segments of no bytes, or too many of them
    kSegmentHeaders,  ///< headers that are not those of the kind of segmentation
    kOverMtu,         ///< longer than the guest's link allows
    kBufferTooSmall,  ///< the guest's buffers are
    kRingDisabled,    ///< sent on a ring that is not enabled
    kRingStopped,     ///< it waited for the host when its ring stopped
    kNoPeer,          ///< nobody is at the other end
    kPeerRefused,     ///< the host does not take it: too long for a socket, say
    kQueueFull,       ///< too many wait for the guest
    kFlood,           ///< too many of its port went to everybody
    kConnections,     ///< the user network has as many connections as it may
    kFragment,        ///< a piece of a packet that fits no other piece
    kFiltered,        ///< the driver has said that it does not want such
    kSpoofed,         ///< sent as somebody else than the guest may be
};

inline constexpr size_t kDropReasonCount = 20;

/// A word for metrics: "checksum-range".
[[nodiscard]] std::string_view name_of(DropReason reason);
/// A clause for logs: "its checksum would lie beyond its end".
[[nodiscard]] std::string_view describe(DropReason reason);

/// Copies min(frame.bytes, out.size()) bytes; how many.
size_t copy_front(const Frame& frame, std::span<std::byte> out);

}  // namespace outrigger::net
