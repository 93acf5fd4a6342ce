// SPDX-License-Identifier: Apache-2.0
/// Every message of vhost-user, as data: number, name, payload, descriptors, gate, state, reply.
/// Decoding, validation, tracing, the tests and the protocol page of the documentation read this
/// one table. vhost-user "Front-end message types" and "Back-end message types".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "vhost-user-backend/wire/messages.h"

namespace outrigger::wire {

/// How many bytes the payload of a request has.
enum class PayloadRule : uint8_t {
    kNone,
    kU64,
    kVringState,
    kVringAddress,
    kMemoryTable,  ///< 8 + 32 for each region
    kSingleRegion,
    kLog,
    kIotlb,
    kConfig,  ///< 12 + the size named in it, at most 256
    kCryptoSession,
    kVringArea,
    kInflight,
    kDeviceState,
    kSharedObject,
    kShmemMap,
};

/// How many descriptors come with a request.
enum class FdRule : uint8_t {
    kNone,
    kOne,
    kOptional,    ///< none, or one that is only closed (REM_MEM_REG) or used when there
    kPerRegion,   ///< as many as the memory table names regions
    kUnlessBit8,  ///< one, unless bit 8 of the u64 says there is none
};

/// What answers a request. Where it has no reply of its own, NEED_REPLY asks for a u64: 0 or not.
enum class ReplyRule : uint8_t {
    kAck,         ///< no reply of its own
    kAckOrBases,  ///< no reply of its own, but in postcopy: the same payload with our addresses
    kU64,         ///< u64
    kU64Status,   ///< u64 that says whether it went well: 0 or not
    kU64WithFd,   ///< u64: bits 0-7 are 0 or not, bit 8 says that no descriptor comes with it
    kVringState,  ///< vring state
    kConfig,      ///< config header and bytes
    kLogIfShmfd,  ///< the same 16 bytes, when LOG_SHMFD was negotiated
    kFd,          ///< a descriptor
    kSameWithFd,  ///< the same 16 bytes, with a descriptor unless it failed
    kU64AndFd,    ///< u64 that says whether it went well, and a descriptor if it did
    kInflight,    ///< inflight description with a descriptor
    kCryptoSession,
    kShmemConfig,
};

/// What must have been negotiated before a request may come.
struct Gate {
    enum class Kind : uint8_t {
        kAlways,
        kProtocol,             ///< SET_PROTOCOL_FEATURES took `bit`
        kVirtio,               ///< SET_FEATURES took `bit`
        kProtocolNegotiation,  ///< the back end offers VHOST_USER_F_PROTOCOL_FEATURES
    };
    Kind kind = Kind::kAlways;
    uint8_t bit = 0;
};

/// In which state of the device a request may come.
enum class StateRule : uint8_t {
    kAny,
    kRingStopped,      ///< the ring that it names is not started
    kAllRingsStopped,  ///< no ring is started
    kNoMemory,         ///< no region is mapped
};

/// Does this build answer it, or is it only known by name so far?
enum class Served : uint8_t { kYes, kNotYet, kNever };

struct RequestDescription {
    uint32_t number;
    std::string_view name;  ///< as the specification spells it, without VHOST_USER_
    PayloadRule payload;
    FdRule fds;
    Gate gate;
    StateRule state;
    ReplyRule reply;
    Served served;
    std::string_view why_never{};  ///< for Served::kNever, to be read behind "no: "
};

/// Every request of the front end, sorted by number.
[[nodiscard]] std::span<const RequestDescription> frontend_requests();
/// Every request of the back end, sorted by number.
[[nodiscard]] std::span<const RequestDescription> backend_requests();

/// Null for a number that the specification does not have.
[[nodiscard]] const RequestDescription* find_frontend_request(uint32_t number);
[[nodiscard]] const RequestDescription* find_backend_request(uint32_t number);

/// Is `payload` a whole payload by `rule`? Looks at sizes and counts only.
[[nodiscard]] bool payload_size_fits(PayloadRule rule, std::span<const std::byte> payload);

/// How many descriptors a request with this payload must carry: the least and the most.
struct FdCount {
    size_t least;
    size_t most;
};

[[nodiscard]] FdCount expected_fds(FdRule rule, std::span<const std::byte> payload);

/// "REPLY_ACK" and so on, or empty for a bit that the specification does not name.
[[nodiscard]] std::string_view protocol_feature_name(unsigned bit);

}  // namespace outrigger::wire
