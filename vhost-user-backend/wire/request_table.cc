// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/wire/request_table.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace outrigger::wire {
namespace {

constexpr Gate kAlways{};
constexpr Gate kNegotiable{.kind = Gate::Kind::kProtocolNegotiation, .bit = 0};

constexpr Gate needs(ProtocolFeature feature) {
    return {.kind = Gate::Kind::kProtocol, .bit = static_cast<uint8_t>(feature)};
}

constexpr Gate needs_virtio(uint8_t feature_bit) {
    return {.kind = Gate::Kind::kVirtio, .bit = feature_bit};
}

constexpr uint8_t kAccessPlatformBit = 33;

constexpr RequestDescription row(FrontendRequest request,
                                 std::string_view name,
                                 PayloadRule payload,
                                 FdRule fds,
                                 Gate gate,
                                 StateRule state,
                                 ReplyRule reply,
                                 Served served,
                                 std::string_view why_never = {}) {
    return {
        static_cast<uint32_t>(request), name, payload, fds, gate, state, reply, served, why_never};
}

constexpr RequestDescription row(BackendRequest request,
                                 std::string_view name,
                                 PayloadRule payload,
                                 FdRule fds,
                                 Gate gate,
                                 ReplyRule reply,
                                 Served served,
                                 std::string_view why_never = {}) {
    return row(static_cast<FrontendRequest>(request),
               name,
               payload,
               fds,
               gate,
               StateRule::kAny,
               reply,
               served,
               why_never);
}

using F = FrontendRequest;
using B = BackendRequest;
using P = PayloadRule;
using D = FdRule;
using S = StateRule;
using R = ReplyRule;
using enum Served;
using PF = ProtocolFeature;

// clang-format off
constexpr std::array kFrontendRequests = {
    row(F::kGetFeatures,          "GET_FEATURES",          P::kNone,          D::kNone,       kAlways,                        S::kAny,             R::kU64,           kYes),
    row(F::kSetFeatures,          "SET_FEATURES",          P::kU64,           D::kNone,       kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetOwner,             "SET_OWNER",             P::kNone,          D::kNone,       kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kResetOwner,           "RESET_OWNER",           P::kNone,          D::kNone,       kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetMemTable,          "SET_MEM_TABLE",         P::kMemoryTable,   D::kPerRegion,  kAlways,                        S::kAny,             R::kAckOrBases,    kYes),
    row(F::kSetLogBase,           "SET_LOG_BASE",          P::kLog,           D::kOne,        needs(PF::kLogShmfd),           S::kAny,             R::kLogIfShmfd,    kYes),
    row(F::kSetLogFd,             "SET_LOG_FD",            P::kNone,          D::kOne,        kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetVringNum,          "SET_VRING_NUM",         P::kVringState,    D::kNone,       kAlways,                        S::kRingStopped,     R::kAck,           kYes),
    row(F::kSetVringAddr,         "SET_VRING_ADDR",        P::kVringAddress,  D::kNone,       kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetVringBase,         "SET_VRING_BASE",        P::kVringState,    D::kNone,       kAlways,                        S::kRingStopped,     R::kAck,           kYes),
    row(F::kGetVringBase,         "GET_VRING_BASE",        P::kVringState,    D::kNone,       kAlways,                        S::kAny,             R::kVringState,    kYes),
    row(F::kSetVringKick,         "SET_VRING_KICK",        P::kU64,           D::kUnlessBit8, kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetVringCall,         "SET_VRING_CALL",        P::kU64,           D::kUnlessBit8, kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kSetVringErr,          "SET_VRING_ERR",         P::kU64,           D::kUnlessBit8, kAlways,                        S::kAny,             R::kAck,           kYes),
    row(F::kGetProtocolFeatures,  "GET_PROTOCOL_FEATURES", P::kNone,          D::kNone,       kNegotiable,                    S::kAny,             R::kU64,           kYes),
    row(F::kSetProtocolFeatures,  "SET_PROTOCOL_FEATURES", P::kU64,           D::kNone,       kNegotiable,                    S::kAny,             R::kAck,           kYes),
    row(F::kGetQueueNum,          "GET_QUEUE_NUM",         P::kNone,          D::kNone,       needs(PF::kMq),                 S::kAny,             R::kU64,           kYes),
    row(F::kSetVringEnable,       "SET_VRING_ENABLE",      P::kVringState,    D::kNone,       needs_virtio(kProtocolFeaturesBit), S::kAny,         R::kAck,           kYes),
    row(F::kSendRarp,             "SEND_RARP",             P::kU64,           D::kNone,       needs(PF::kRarp),               S::kAny,             R::kAck,           kYes),
    row(F::kNetSetMtu,            "NET_SET_MTU",           P::kU64,           D::kNone,       needs(PF::kMtu),                S::kAny,             R::kAck,           kYes),
    row(F::kSetBackendReqFd,      "SET_BACKEND_REQ_FD",    P::kNone,          D::kOne,        needs(PF::kBackendReq),         S::kAny,             R::kAck,           kYes),
    row(F::kIotlbMsg,             "IOTLB_MSG",             P::kIotlb,         D::kNone,       needs_virtio(kAccessPlatformBit), S::kAny,           R::kU64Status,           kYes),
    row(F::kSetVringEndian,       "SET_VRING_ENDIAN",      P::kVringState,    D::kNone,       needs(PF::kCrossEndian),        S::kRingStopped,     R::kAck,           kNever, "only legacy devices of the other byte order need it"),
    row(F::kGetConfig,            "GET_CONFIG",            P::kConfig,        D::kNone,       needs(PF::kConfig),             S::kAny,             R::kConfig,        kYes),
    row(F::kSetConfig,            "SET_CONFIG",            P::kConfig,        D::kNone,       needs(PF::kConfig),             S::kAny,             R::kAck,           kYes),
    row(F::kCreateCryptoSession,  "CREATE_CRYPTO_SESSION", P::kCryptoSession, D::kNone,       needs(PF::kCryptoSession),      S::kAny,             R::kCryptoSession, kNever, "there is no crypto device"),
    row(F::kCloseCryptoSession,   "CLOSE_CRYPTO_SESSION",  P::kU64,           D::kNone,       needs(PF::kCryptoSession),      S::kAny,             R::kAck,           kNever, "there is no crypto device"),
    row(F::kPostcopyAdvise,       "POSTCOPY_ADVISE",       P::kNone,          D::kNone,       needs(PF::kPagefault),          S::kAny,             R::kFd,            kYes),
    row(F::kPostcopyListen,       "POSTCOPY_LISTEN",       P::kNone,          D::kNone,       needs(PF::kPagefault),          S::kNoMemory,        R::kAck,           kYes),
    row(F::kPostcopyEnd,          "POSTCOPY_END",          P::kNone,          D::kNone,       needs(PF::kPagefault),          S::kAny,             R::kU64Status,           kYes),
    row(F::kGetInflightFd,        "GET_INFLIGHT_FD",       P::kInflight,      D::kNone,       needs(PF::kInflightShmfd),      S::kAllRingsStopped, R::kInflight,      kYes),
    row(F::kSetInflightFd,        "SET_INFLIGHT_FD",       P::kInflight,      D::kOne,        needs(PF::kInflightShmfd),      S::kAllRingsStopped, R::kAck,           kYes),
    row(F::kGpuSetSocket,         "GPU_SET_SOCKET",        P::kNone,          D::kOne,        kAlways,                        S::kAny,             R::kAck,           kNever, "there is no GPU device"),
    row(F::kResetDevice,          "RESET_DEVICE",          P::kNone,          D::kNone,       needs(PF::kResetDevice),        S::kAny,             R::kAck,           kYes),
    row(F::kVringKick,            "VRING_KICK",            P::kVringState,    D::kNone,       needs(PF::kInbandNotifications), S::kAny,            R::kAck,           kYes),
    row(F::kGetMaxMemSlots,       "GET_MAX_MEM_SLOTS",     P::kNone,          D::kNone,       needs(PF::kConfigureMemSlots),  S::kAny,             R::kU64,           kYes),
    row(F::kAddMemReg,            "ADD_MEM_REG",           P::kSingleRegion,  D::kOne,        needs(PF::kConfigureMemSlots),  S::kAny,             R::kAckOrBases,    kYes),
    row(F::kRemMemReg,            "REM_MEM_REG",           P::kSingleRegion,  D::kOptional,   needs(PF::kConfigureMemSlots),  S::kAny,             R::kAck,           kYes),
    row(F::kSetStatus,            "SET_STATUS",            P::kU64,           D::kNone,       needs(PF::kStatus),             S::kAny,             R::kAck,           kYes),
    row(F::kGetStatus,            "GET_STATUS",            P::kNone,          D::kNone,       needs(PF::kStatus),             S::kAny,             R::kU64,           kYes),
    row(F::kGetSharedObject,      "GET_SHARED_OBJECT",     P::kSharedObject,  D::kNone,       needs(PF::kSharedObject),       S::kAny,             R::kSameWithFd,            kYes),
    row(F::kSetDeviceStateFd,     "SET_DEVICE_STATE_FD",   P::kDeviceState,   D::kOne,        needs(PF::kDeviceState),        S::kAllRingsStopped, R::kU64WithFd,     kYes),
    row(F::kCheckDeviceState,     "CHECK_DEVICE_STATE",    P::kNone,          D::kNone,       needs(PF::kDeviceState),        S::kAllRingsStopped, R::kU64Status,           kYes),
    row(F::kGetShmemConfig,       "GET_SHMEM_CONFIG",      P::kNone,          D::kNone,       needs(PF::kShmem),              S::kAny,             R::kShmemConfig,   kYes),
    row(F::kGetVringBaseSkipDrain, "GET_VRING_BASE_SKIP_DRAIN", P::kVringState, D::kNone,     needs(PF::kGetVringBaseSkipDrain), S::kAny,          R::kVringState,    kYes),
};

constexpr std::array kBackendRequests = {
    row(B::kIotlbMsg,             "IOTLB_MSG",               P::kIotlb,        D::kNone, needs_virtio(kAccessPlatformBit), R::kAck, kYes),
    row(B::kConfigChangeMsg,      "CONFIG_CHANGE_MSG",       P::kNone,         D::kNone, needs(PF::kConfig),               R::kAck, kYes),
    row(B::kVringHostNotifierMsg, "VRING_HOST_NOTIFIER_MSG", P::kVringArea,    D::kUnlessBit8, needs(PF::kHostNotifier),   R::kAck, kNever, "it hands out the doorbell page of a piece of hardware"),
    row(B::kVringCall,            "VRING_CALL",              P::kVringState,   D::kNone, needs(PF::kInbandNotifications),  R::kAck, kYes),
    row(B::kVringErr,             "VRING_ERR",               P::kVringState,   D::kNone, needs(PF::kInbandNotifications),  R::kAck, kYes),
    row(B::kSharedObjectAdd,      "SHARED_OBJECT_ADD",       P::kSharedObject, D::kNone, needs(PF::kSharedObject),         R::kAck, kYes),
    row(B::kSharedObjectRemove,   "SHARED_OBJECT_REMOVE",    P::kSharedObject, D::kNone, needs(PF::kSharedObject),         R::kAck, kYes),
    row(B::kSharedObjectLookup,   "SHARED_OBJECT_LOOKUP",    P::kSharedObject, D::kNone, needs(PF::kSharedObject),         R::kU64AndFd, kYes),
    row(B::kShmemMap,             "SHMEM_MAP",               P::kShmemMap,     D::kOne,  needs(PF::kShmem),                R::kAck, kYes),
    row(B::kShmemUnmap,           "SHMEM_UNMAP",             P::kShmemMap,     D::kNone, needs(PF::kShmem),                R::kAck, kYes),
};

// clang-format on

template <size_t Size>
constexpr bool numbers_run_from_one(const std::array<RequestDescription, Size>& table) {
    for (size_t i = 0; i < Size; ++i) {
        if (table[i].number != i + 1) {
            return false;
        }
    }
    return true;
}

static_assert(numbers_run_from_one(kFrontendRequests));
static_assert(numbers_run_from_one(kBackendRequests));

const RequestDescription* find(std::span<const RequestDescription> table, uint32_t number) {
    return number >= 1 && number <= table.size() ? &table[number - 1] : nullptr;
}

template <class T>
T load(std::span<const std::byte> payload) {
    T object;
    std::memcpy(&object, payload.data(), sizeof object);
    return object;
}

bool memory_table_size_fits(std::span<const std::byte> payload) {
    if (payload.size() < sizeof(MemoryTableHeader)) {
        return false;
    }
    const uint64_t count = load<MemoryTableHeader>(payload).region_count;
    return payload.size() == sizeof(MemoryTableHeader) + count * sizeof(MemoryRegion);
}

bool config_size_fits(std::span<const std::byte> payload) {
    if (payload.size() < sizeof(ConfigHeader)) {
        return false;
    }
    const auto header = load<ConfigHeader>(payload);
    return header.size <= kConfigBytesMax && payload.size() == sizeof(ConfigHeader) + header.size;
}

// "Crypto session description" is a union of two; we only need to know that it is bounded.
constexpr size_t kCryptoSessionBytesMax = 1096;

}  // namespace

std::span<const RequestDescription> frontend_requests() {
    return kFrontendRequests;
}

std::span<const RequestDescription> backend_requests() {
    return kBackendRequests;
}

const RequestDescription* find_frontend_request(uint32_t number) {
    return find(kFrontendRequests, number);
}

const RequestDescription* find_backend_request(uint32_t number) {
    return find(kBackendRequests, number);
}

bool payload_size_fits(PayloadRule rule, std::span<const std::byte> payload) {
    switch (rule) {
        case PayloadRule::kNone:
            return payload.empty();
        case PayloadRule::kU64:
            return payload.size() == sizeof(uint64_t);
        case PayloadRule::kVringState:
            return payload.size() == sizeof(VringState);
        case PayloadRule::kVringAddress:
            return payload.size() == sizeof(VringAddress);
        case PayloadRule::kMemoryTable:
            return memory_table_size_fits(payload);
        case PayloadRule::kSingleRegion:
            return payload.size() == sizeof(SingleMemoryRegion);
        case PayloadRule::kLog:
            return payload.size() == sizeof(Log);
        case PayloadRule::kIotlb:
            return payload.size() == sizeof(Iotlb);
        case PayloadRule::kConfig:
            return config_size_fits(payload);
        case PayloadRule::kCryptoSession:
            return !payload.empty() && payload.size() <= kCryptoSessionBytesMax;
        case PayloadRule::kVringArea:
            return payload.size() == sizeof(VringArea);
        case PayloadRule::kInflight:
            return payload.size() == sizeof(Inflight) ||
                   payload.size() == sizeof(Inflight) - sizeof(uint32_t);
        case PayloadRule::kDeviceState:
            return payload.size() == sizeof(DeviceStateTransfer);
        case PayloadRule::kSharedObject:
            return payload.size() == sizeof(SharedObject);
        case PayloadRule::kShmemMap:
            return payload.size() == sizeof(ShmemMap);
    }
    return false;
}

FdCount expected_fds(FdRule rule, std::span<const std::byte> payload) {
    switch (rule) {
        case FdRule::kNone:
            return {.least = 0, .most = 0};
        case FdRule::kOne:
            return {.least = 1, .most = 1};
        case FdRule::kOptional:
            return {.least = 0, .most = 1};
        case FdRule::kPerRegion: {
            const size_t count = load<MemoryTableHeader>(payload).region_count;
            return {.least = count, .most = count};
        }
        case FdRule::kUnlessBit8: {
            const size_t count = (load<uint64_t>(payload) & kVringFdNone) != 0 ? 0 : 1;
            return {.least = count, .most = count};
        }
    }
    return {.least = 0, .most = 0};
}

std::string_view protocol_feature_name(unsigned bit) {
    static constexpr std::array<std::string_view, 24> kNames = {
        "MQ",
        "LOG_SHMFD",
        "RARP",
        "REPLY_ACK",
        "MTU",
        "BACKEND_REQ",
        "CROSS_ENDIAN",
        "CRYPTO_SESSION",
        "PAGEFAULT",
        "CONFIG",
        "BACKEND_SEND_FD",
        "HOST_NOTIFIER",
        "INFLIGHT_SHMFD",
        "RESET_DEVICE",
        "INBAND_NOTIFICATIONS",
        "CONFIGURE_MEM_SLOTS",
        "STATUS",
        "XEN_MMAP",
        "SHARED_OBJECT",
        "DEVICE_STATE",
        "GET_VRING_BASE_INFLIGHT",
        "GPA_ADDRESSES",
        "SHMEM",
        "GET_VRING_BASE_SKIP_DRAIN",
    };
    return bit < kNames.size() ? kNames[bit] : std::string_view{};
}

}  // namespace outrigger::wire
