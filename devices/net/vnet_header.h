// SPDX-License-Identifier: Apache-2.0
/// The header before every frame in a ring. VIRTIO 1.3, 5.1.6.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vhost-user-backend/base/feature_set.h"
#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/base/result.h"

#include "devices/net/frame.h"

namespace outrigger::net {

// Feature bits. VIRTIO 1.3, 5.1.3.
inline constexpr unsigned kChecksumBit = 0;
inline constexpr unsigned kGuestChecksumBit = 1;
inline constexpr unsigned kControlOffloadsBit = 2;
inline constexpr unsigned kMtuBit = 3;
inline constexpr unsigned kMacBit = 5;
inline constexpr unsigned kGuestTcp4Bit = 7;
inline constexpr unsigned kGuestTcp6Bit = 8;
inline constexpr unsigned kGuestEcnBit = 9;
inline constexpr unsigned kGuestFragmentsBit = 10;  // VIRTIO_NET_F_GUEST_UFO
inline constexpr unsigned kHostTcp4Bit = 11;
inline constexpr unsigned kHostTcp6Bit = 12;
inline constexpr unsigned kHostEcnBit = 13;
inline constexpr unsigned kHostFragmentsBit = 14;
inline constexpr unsigned kMergedBuffersBit = 15;
inline constexpr unsigned kStatusBit = 16;
inline constexpr unsigned kControlQueueBit = 17;
inline constexpr unsigned kControlReceiveBit = 18;
inline constexpr unsigned kControlVlanBit = 19;
inline constexpr unsigned kControlReceiveExtraBit = 20;
inline constexpr unsigned kGuestAnnounceBit = 21;
inline constexpr unsigned kQueuePairsBit = 22;
inline constexpr unsigned kControlStationBit = 23;
inline constexpr unsigned kGuestUdp4Bit = 54;
inline constexpr unsigned kGuestUdp6Bit = 55;
inline constexpr unsigned kHostUdpBit = 56;

/// As it lies in memory. num_buffers is only there for drivers that are not legacy ones, or merge
/// buffers.
struct VnetHeader {
    uint8_t flags = 0;
    uint8_t gso_type = 0;
    Le16 hdr_len = 0;
    Le16 gso_size = 0;
    Le16 csum_start = 0;
    Le16 csum_offset = 0;
    Le16 num_buffers = 0;
};

inline constexpr size_t kVnetHeaderBytes = sizeof(VnetHeader);
inline constexpr size_t kLegacyHeaderBytes = kVnetHeaderBytes - sizeof(Le16);

static_assert(kVnetHeaderBytes == 12);

/// What the driver may leave to us, by what it agreed on.
[[nodiscard]] Offloads offloads_of_driver(FeatureSet agreed);
/// What we may leave to the driver.
[[nodiscard]] Offloads offloads_for_driver(FeatureSet agreed);

// VIRTIO 1.3, 5.1.6: of `flags` and `gso_type`.
inline constexpr uint8_t kNeedsChecksum = 1;
inline constexpr uint8_t kDataValid = 2;
inline constexpr uint8_t kGsoNone = 0;

/// Does `header` (a copy) leave nothing to us, of a frame that has a possible length? Then
/// parse_vnet_header() would find an offload of nothing: most frames of short packets are so.
[[nodiscard]] inline bool leaves_nothing(const VnetHeader& header, size_t frame_bytes) {
    return (header.flags & kNeedsChecksum) == 0 && header.gso_type == kGsoNone &&
           frame_bytes >= kEthernetHeaderBytes && frame_bytes <= kFrameBytesMax;
}

/// What `header` (a copy) says of a frame of `frame_bytes`, if the driver may say so. hdr_len is
/// not looked at: it is a hint, and drivers get it wrong.
[[nodiscard]] Result<FrameOffload, DropReason> parse_vnet_header(const VnetHeader& header,
                                                                 size_t frame_bytes,
                                                                 const Offloads& allowed);

/// Does somebody trusted say that the checksum was checked?
[[nodiscard]] bool is_checksum_valid(const VnetHeader& header);

/// What make_vnet_header() makes for a frame of which nothing is left to do, in one buffer. It is
/// there already, because the guest's memory is written from it in wider pieces than fields are:
/// the processor would have to wait for each of those that were just stored.
inline constexpr VnetHeader kNothingLeft{.num_buffers = 1};
inline constexpr VnetHeader kNothingLeftAndValid{.flags = kDataValid, .num_buffers = 1};

/// The other way. `header_bytes_hint`: of all headers of a frame that is to be cut, as hdr_len.
[[nodiscard]] VnetHeader make_vnet_header(const FrameOffload& offload,
                                          size_t header_bytes_hint,
                                          uint16_t buffer_count);

}  // namespace outrigger::net
