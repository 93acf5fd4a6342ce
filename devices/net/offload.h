// SPDX-License-Identifier: Apache-2.0
/// What a network card would do to a frame that was left unfinished, in software: for peers that
/// cannot take it as it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "vhost-user-backend/base/result.h"

#include "devices/net/frame.h"
#include "devices/net/packet_layout.h"

namespace outrigger::net {

/// A hostile frame asks for no more segments than the smallest ones that a TCP has (48 bytes).
inline constexpr size_t kSegmentsMax = 1400;

/// What all segments of one frame can come to.
inline constexpr size_t kSegmentedBytesMax = kFrameBytesMax + kSegmentsMax * kHeadersBytesMax;

/// Can `taker` take the frame as it is?
[[nodiscard]] bool is_taken(const FrameOffload& offload, bool is_ip6, const Offloads& taker);

/// Is the frame IPv6? Only looks at the Ethernet header, VLAN tags included.
[[nodiscard]] bool is_ip6_frame(std::span<const std::byte> front);

/// Longer frames are no answers of DHCP.
inline constexpr size_t kDhcpBytesMax = 9216;

/// Is it an answer of DHCP whose checksum is left out? Clients that read such by a raw socket take
/// it for wrong, so it has to be finished whoever takes it. Only looks at frames of that kind.
[[nodiscard]] bool is_unfinished_dhcp(const Frame& frame);

/// Writes the checksum that `offload` leaves out, which parse_vnet_header() found inside of
/// `frame`.
void finish_checksum(std::span<std::byte> frame, FrameOffload& offload);

/// Makes a frame that was to be cut one whole packet, with lengths and checksums of its own.
[[nodiscard]] Result<void, DropReason> finish_giant(std::span<std::byte> frame,
                                                    FrameOffload& offload);

/// Writes the checksums of IPv4 and of TCP or UDP anew, behind a change of the headers; bytes
/// behind the packet (padding) stay out of it. False: it is longer than its frame, and nothing was
/// written.
[[nodiscard]] bool write_checksums(std::span<std::byte> frame, const PacketLayout& layout);

/// Of a frame of TCP that is to be cut, as a driver leaves it: lengths are those of all of it, the
/// checksum of IPv4 is right, and that of TCP has the sum of the pseudo header.
void begin_checksums(std::span<std::byte> frame, const PacketLayout& layout);

/// Cuts a frame into segments with full checksums, or a datagram with a full checksum into
/// fragments of IP, one after the other. Borrows the frame.
class Segmenter final {
  public:
    Segmenter() = default;

    /// `frame` is all of it, and `offload.segmentation` not kNone.
    [[nodiscard]] static Result<Segmenter, DropReason> create(std::span<const std::byte> frame,
                                                              const FrameOffload& offload);

    /// Bytes of the segments that are left.
    [[nodiscard]] size_t bytes_left() const;

    [[nodiscard]] bool is_done() const { return next_ == count_; }

    /// Writes the next segment, if it is not done, to `out`, which has room for it: for
    /// segment_bytes_max() or kFrameBytesMax, whichever is less. Its bytes.
    size_t write_next(std::span<std::byte> out);

    [[nodiscard]] size_t segment_bytes_max() const { return start_ + more_ + each_; }

  private:
    void begin_fragments();
    void fix_fragment(std::span<std::byte> segment) const;
    void fix_network(std::span<std::byte> segment) const;
    void fix_tcp(std::span<std::byte> segment, bool is_last) const;

    std::span<const std::byte> frame_{};
    PacketLayout layout_{};
    size_t start_ = 0;  // of what is cut
    size_t more_ = 0;   // bytes of header before it in each
    size_t each_ = 0;   // payload bytes
    size_t count_ = 0;
    size_t next_ = 0;
    bool is_fragmented_ = false;
    std::array<std::byte, 8> udp_header_{};  // of the whole datagram
    size_t next_header_at_ = 0;              // IPv6
    uint32_t identity_ = 0;                  // likewise
};

}  // namespace outrigger::net
