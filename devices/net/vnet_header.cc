// SPDX-License-Identifier: Apache-2.0
#include "devices/net/vnet_header.h"

#include "devices/net/offload.h"

namespace outrigger::net {
namespace {

// VIRTIO 1.3, 5.1.6.
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoFragments = 3;  // VIRTIO_NET_HDR_GSO_UDP
constexpr uint8_t kGsoTcp6 = 4;
constexpr uint8_t kGsoUdp = 5;  // VIRTIO_NET_HDR_GSO_UDP_L4
constexpr uint8_t kGsoEcn = 0x80;

constexpr size_t kChecksumBytes = 2;

/// RFC 791, 3.1: fragments begin at multiples of 8 bytes.
constexpr uint16_t kFragmentMask = 0xfff8;

}  // namespace

Offloads offloads_of_driver(FeatureSet agreed) {
    const bool checksum = agreed.has(kChecksumBit);
    return {.checksum = checksum,
            .tcp4 = checksum && agreed.has(kHostTcp4Bit),
            .tcp6 = checksum && agreed.has(kHostTcp6Bit),
            .ecn = agreed.has(kHostEcnBit),
            .udp4 = checksum && agreed.has(kHostUdpBit),
            .udp6 = checksum && agreed.has(kHostUdpBit),
            .fragments = checksum && agreed.has(kHostFragmentsBit)};
}

Offloads offloads_for_driver(FeatureSet agreed) {
    const bool checksum = agreed.has(kGuestChecksumBit);
    return {.checksum = checksum,
            .tcp4 = checksum && agreed.has(kGuestTcp4Bit),
            .tcp6 = checksum && agreed.has(kGuestTcp6Bit),
            .ecn = agreed.has(kGuestEcnBit),
            .udp4 = checksum && agreed.has(kGuestUdp4Bit),
            .udp6 = checksum && agreed.has(kGuestUdp6Bit),
            .fragments = checksum && agreed.has(kGuestFragmentsBit)};
}

Result<FrameOffload, DropReason> parse_vnet_header(const VnetHeader& header,
                                                   size_t frame_bytes,
                                                   const Offloads& allowed) {
    if (frame_bytes < kEthernetHeaderBytes) {
        return failure(DropReason::kRunt);
    }
    if (frame_bytes > kFrameBytesMax) {
        return failure(DropReason::kGiant);
    }
    FrameOffload offload;
    if ((header.flags & kNeedsChecksum) != 0) {
        const size_t start = header.csum_start.value();
        const size_t offset = header.csum_offset.value();
        if (!allowed.checksum) {
            return failure(DropReason::kNotNegotiated);
        }
        if (start < kEthernetHeaderBytes || start + offset + kChecksumBytes > frame_bytes) {
            return failure(DropReason::kChecksumRange);
        }
        offload.needs_checksum = true;
        offload.checksum_start = static_cast<uint16_t>(start);
        offload.checksum_offset = static_cast<uint16_t>(offset);
    }
    if (header.gso_type == kGsoNone) {
        return offload;
    }
    offload.ecn = (header.gso_type & kGsoEcn) != 0;
    bool may = false;
    switch (header.gso_type & ~kGsoEcn) {
        case kGsoTcp4:
            offload.segmentation = Segmentation::kTcp4;
            may = allowed.tcp4;
            break;
        case kGsoTcp6:
            offload.segmentation = Segmentation::kTcp6;
            may = allowed.tcp6;
            break;
        case kGsoUdp:
            offload.segmentation = Segmentation::kUdp;
            may = allowed.udp4 || allowed.udp6;
            break;
        case kGsoFragments:
            offload.segmentation = Segmentation::kFragments;
            may = allowed.fragments && !offload.ecn;
            break;
        default:  // a number of the driver's
            return failure(DropReason::kSegmentType);
    }
    if (!may || (offload.ecn && !allowed.ecn)) {
        return failure(DropReason::kNotNegotiated);
    }
    if (!offload.needs_checksum) {  // VIRTIO 1.3, 5.1.6.2
        return failure(DropReason::kChecksumRange);
    }
    offload.segment_bytes = header.gso_size.value();
    if (offload.segmentation == Segmentation::kFragments) {
        offload.segment_bytes &= kFragmentMask;
    }
    // Whoever cuts it, here or elsewhere, is asked for no more than we would make.
    if (offload.segment_bytes == 0 || frame_bytes / offload.segment_bytes > kSegmentsMax) {
        return failure(DropReason::kSegmentSize);
    }
    return offload;
}

bool is_checksum_valid(const VnetHeader& header) {
    return (header.flags & kDataValid) != 0;
}

VnetHeader make_vnet_header(const FrameOffload& offload,
                            size_t header_bytes_hint,
                            uint16_t buffer_count) {
    VnetHeader header;
    header.num_buffers = buffer_count;
    if (offload.needs_checksum) {
        header.flags = kNeedsChecksum;
        header.csum_start = offload.checksum_start;
        header.csum_offset = offload.checksum_offset;
    } else if (offload.checksum_valid) {
        header.flags = kDataValid;
    }
    switch (offload.segmentation) {
        case Segmentation::kNone:
            return header;
        case Segmentation::kTcp4:
            header.gso_type = kGsoTcp4;
            break;
        case Segmentation::kTcp6:
            header.gso_type = kGsoTcp6;
            break;
        case Segmentation::kUdp:
            header.gso_type = kGsoUdp;
            break;
        case Segmentation::kFragments:
            header.gso_type = kGsoFragments;
            break;
    }
    if (offload.ecn) {
        header.gso_type |= kGsoEcn;
    }
    header.gso_size = offload.segment_bytes;
    header.hdr_len = static_cast<uint16_t>(header_bytes_hint);
    return header;
}

}  // namespace outrigger::net
