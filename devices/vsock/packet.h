// SPDX-License-Identifier: Apache-2.0
/// The header of every packet between driver and device, and its rules. VIRTIO 1.3, 5.10.6.
///
/// Pure: bytes go in, a checked value or the reason why not comes out. Nothing behind this looks at
/// raw bytes of a header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::vsock {

/// The host's well-known address.
inline constexpr uint64_t kHostCid = 2;
/// VIRTIO 1.3, 5.10.4: 0, 1, 2, 2^32 - 1 and everything above are reserved.
inline constexpr uint64_t kGuestCidMin = 3;
inline constexpr uint64_t kGuestCidMax = 0xffff'fffe;

/// Payload of one packet, as Linux limits it (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
inline constexpr uint32_t kPayloadBytesMax = 64 * 1024;

enum class SocketType : uint16_t { kStream = 1, kSeqpacket = 2 };

enum class Operation : uint16_t {
    kRequest = 1,
    kResponse = 2,
    kReset = 3,
    kShutdown = 4,
    kData = 5,
    kCreditUpdate = 6,
    kCreditRequest = 7,
};

// Flags of kShutdown.
inline constexpr uint32_t kShutdownReceive = 1;  ///< the sender will receive no more
inline constexpr uint32_t kShutdownSend = 2;     ///< the sender will send no more
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

// Flags of kData on SEQPACKET sockets.
inline constexpr uint32_t kEndOfMessage = 1;
inline constexpr uint32_t kEndOfRecord = 2;

/// struct virtio_vsock_hdr.
struct PacketHeader {
    Le64 source_cid;
    Le64 destination_cid;
    Le32 source_port;
    Le32 destination_port;
    Le32 length;
    Le16 type;
    Le16 operation;
    Le32 flags;
    Le32 buffer_bytes;
    Le32 forwarded_bytes;
};

inline constexpr size_t kHeaderBytes = 44;
static_assert(sizeof(PacketHeader) == kHeaderBytes);

/// Who speaks to whom, as numbers that anybody may have made up.
struct PacketAddresses {
    uint64_t source_cid = 0;
    uint64_t destination_cid = 0;
    uint32_t source_port = 0;
    uint32_t destination_port = 0;
    uint16_t type = 0;

    friend bool operator==(const PacketAddresses&, const PacketAddresses&) = default;
};

/// What is wrong with a packet. Each is answered by RST, unless the packet is one itself.
enum class PacketFault : uint8_t {
    kTooShort,          ///< no whole header: there is nobody to answer
    kSourceCid,         ///< not the guest's own address
    kType,              ///< neither STREAM nor SEQPACKET, or not negotiated
    kOperation,         ///< no such operation
    kLength,            ///< more payload than its buffers hold, or than a packet may have
    kPayloadOfControl,  ///< payload on an operation that has none
};

inline constexpr size_t kPacketFaultCount = 6;

/// For logs: "no whole header".
[[nodiscard]] std::string_view describe(PacketFault fault);
/// A word for metrics: "too-short".
[[nodiscard]] std::string_view name_of(PacketFault fault);

/// A packet that keeps to the rules, of a type that was negotiated.
struct Packet {
    SocketType type = SocketType::kStream;
    Operation operation = Operation::kReset;
    uint32_t length = 0;  ///< of the payload; 0 unless kData
    uint32_t flags = 0;
    uint32_t buffer_bytes = 0;     ///< the sender's receive buffer
    uint32_t forwarded_bytes = 0;  ///< what it has taken out of that, ever, modulo 2^32
};

struct ParsedPacket {
    PacketAddresses addresses{};  ///< right also where there is a fault
    bool is_reset = false;        ///< likewise
    std::optional<PacketFault> fault{};
    Packet packet{};  ///< only where there is no fault
};

struct ParseContext {
    uint64_t guest_cid = 0;
    uint64_t payload_bytes = 0;  ///< that lie behind the header
    bool allows_stream = true;
    bool allows_seqpacket = false;
};

[[nodiscard]] ParsedPacket parse_packet(const PacketHeader& header, const ParseContext& context);

/// The header of a packet from `from`'s destination back to its source.
[[nodiscard]] PacketHeader make_reset_for(const PacketAddresses& from);

}  // namespace outrigger::vsock
