// SPDX-License-Identifier: Apache-2.0
#include "devices/vsock/packet.h"

namespace outrigger::vsock {
namespace {

std::optional<PacketFault> find_fault(const PacketHeader& header, const ParseContext& context) {
    if (header.source_cid != context.guest_cid) {
        return PacketFault::kSourceCid;
    }
    const uint16_t type = header.type;
    const bool is_stream = type == static_cast<uint16_t>(SocketType::kStream);
    const bool is_seqpacket = type == static_cast<uint16_t>(SocketType::kSeqpacket);
    if (!(is_stream && context.allows_stream) && !(is_seqpacket && context.allows_seqpacket)) {
        return PacketFault::kType;
    }
    const uint16_t operation = header.operation;
    if (operation < static_cast<uint16_t>(Operation::kRequest) ||
        operation > static_cast<uint16_t>(Operation::kCreditRequest)) {
        return PacketFault::kOperation;
    }
    const uint32_t length = header.length;
    if (operation != static_cast<uint16_t>(Operation::kData)) {
        return length == 0 ? std::nullopt : std::optional(PacketFault::kPayloadOfControl);
    }
    if (length > kPayloadBytesMax || length > context.payload_bytes) {
        return PacketFault::kLength;
    }
    return std::nullopt;
}

}  // namespace

std::string_view describe(PacketFault fault) {
    switch (fault) {
        case PacketFault::kTooShort:
            return "no whole header";
        case PacketFault::kSourceCid:
            return "a source CID that is not the guest's";
        case PacketFault::kType:
            return "a socket type that is unknown or was not negotiated";
        case PacketFault::kOperation:
            return "an unknown operation";
        case PacketFault::kLength:
            return "more payload than there is or may be";
        case PacketFault::kPayloadOfControl:
            return "payload on an operation that has none";
    }
    return "unknown fault";
}

std::string_view name_of(PacketFault fault) {
    switch (fault) {
        case PacketFault::kTooShort:
            return "too-short";
        case PacketFault::kSourceCid:
            return "source-cid";
        case PacketFault::kType:
            return "type";
        case PacketFault::kOperation:
            return "operation";
        case PacketFault::kLength:
            return "length";
        case PacketFault::kPayloadOfControl:
            return "payload-of-control";
    }
    return "unknown";
}

ParsedPacket parse_packet(const PacketHeader& header, const ParseContext& context) {
    ParsedPacket parsed;
    parsed.addresses = {.source_cid = header.source_cid,
                        .destination_cid = header.destination_cid,
                        .source_port = header.source_port,
                        .destination_port = header.destination_port,
                        .type = header.type};
    parsed.is_reset = header.operation == static_cast<uint16_t>(Operation::kReset);
    parsed.fault = find_fault(header, context);
    if (!parsed.fault) {
        parsed.packet = {.type = SocketType{header.type.value()},
                         .operation = Operation{header.operation.value()},
                         .length = header.length,
                         .flags = header.flags,
                         .buffer_bytes = header.buffer_bytes,
                         .forwarded_bytes = header.forwarded_bytes};
    }
    return parsed;
}

PacketHeader make_reset_for(const PacketAddresses& from) {
    return {.source_cid = from.destination_cid,
            .destination_cid = from.source_cid,
            .source_port = from.destination_port,
            .destination_port = from.source_port,
            .length = 0,
            .type = from.type,
            .operation = static_cast<uint16_t>(Operation::kReset),
            .flags = 0,
            .buffer_bytes = 0,
            .forwarded_bytes = 0};
}

}  // namespace outrigger::vsock
