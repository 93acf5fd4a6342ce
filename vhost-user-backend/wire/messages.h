// SPDX-License-Identifier: Apache-2.0
/// The bytes of vhost-user messages. Header and payload integers are in the host's byte order
/// (vhost-user "Message Specification"); only what lies in guest memory is little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::wire {

/// Requests of the front end. Numbers as in the specification (QEMU 11.1 text).
enum class FrontendRequest : uint32_t {
    kGetFeatures = 1,
    kSetFeatures = 2,
    kSetOwner = 3,
    kResetOwner = 4,
    kSetMemTable = 5,
    kSetLogBase = 6,
    kSetLogFd = 7,
    kSetVringNum = 8,
    kSetVringAddr = 9,
    kSetVringBase = 10,
    kGetVringBase = 11,
    kSetVringKick = 12,
    kSetVringCall = 13,
    kSetVringErr = 14,
    kGetProtocolFeatures = 15,
    kSetProtocolFeatures = 16,
    kGetQueueNum = 17,
    kSetVringEnable = 18,
    kSendRarp = 19,
    kNetSetMtu = 20,
    kSetBackendReqFd = 21,
    kIotlbMsg = 22,
    kSetVringEndian = 23,
    kGetConfig = 24,
    kSetConfig = 25,
    kCreateCryptoSession = 26,
    kCloseCryptoSession = 27,
    kPostcopyAdvise = 28,
    kPostcopyListen = 29,
    kPostcopyEnd = 30,
    kGetInflightFd = 31,
    kSetInflightFd = 32,
    kGpuSetSocket = 33,
    kResetDevice = 34,
    kVringKick = 35,
    kGetMaxMemSlots = 36,
    kAddMemReg = 37,
    kRemMemReg = 38,
    kSetStatus = 39,
    kGetStatus = 40,
    kGetSharedObject = 41,
    kSetDeviceStateFd = 42,
    kCheckDeviceState = 43,
    kGetShmemConfig = 44,
    kGetVringBaseSkipDrain = 45,
};

/// Requests of the back end, on the channel of SET_BACKEND_REQ_FD.
enum class BackendRequest : uint32_t {
    kIotlbMsg = 1,
    kConfigChangeMsg = 2,
    kVringHostNotifierMsg = 3,
    kVringCall = 4,
    kVringErr = 5,
    kSharedObjectAdd = 6,
    kSharedObjectRemove = 7,
    kSharedObjectLookup = 8,
    kShmemMap = 9,
    kShmemUnmap = 10,
};

/// Protocol feature bits (GET_PROTOCOL_FEATURES).
enum class ProtocolFeature : uint8_t {
    kMq = 0,
    kLogShmfd = 1,
    kRarp = 2,
    kReplyAck = 3,
    kMtu = 4,
    kBackendReq = 5,
    kCrossEndian = 6,
    kCryptoSession = 7,
    kPagefault = 8,
    kConfig = 9,
    kBackendSendFd = 10,
    kHostNotifier = 11,
    kInflightShmfd = 12,
    kResetDevice = 13,
    kInbandNotifications = 14,
    kConfigureMemSlots = 15,
    kStatus = 16,
    kXenMmap = 17,
    kSharedObject = 18,
    kDeviceState = 19,
    kGetVringBaseInflight = 20,
    // rust-vmm's vhost crate, as of 0.16, calls this bit SHMEM (22 here and in the specification):
    // a front end on it that takes bit 21 goes on sending user addresses, and its rings are
    // refused.
    kGpaAddresses = 21,
    kShmem = 22,
    kGetVringBaseSkipDrain = 23,
};

[[nodiscard]] constexpr unsigned bit(ProtocolFeature feature) {
    return static_cast<unsigned>(feature);
}

/// VHOST_USER_F_PROTOCOL_FEATURES: a virtio feature bit that only the two ends of the socket see.
inline constexpr unsigned kProtocolFeaturesBit = 30;
/// VHOST_F_LOG_ALL: likewise.
inline constexpr unsigned kLogAllBit = 26;

inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kFlagVersionMask = 0x3;
inline constexpr uint32_t kFlagReply = 0x4;
inline constexpr uint32_t kFlagNeedReply = 0x8;

struct Header {
    uint32_t request;
    uint32_t flags;  ///< bits 0-1 version, 2 reply, 3 NEED_REPLY
    uint32_t size;   ///< bytes of payload that follow
};

static_assert(sizeof(Header) == 12);

/// "A vring state description".
struct VringState {
    uint32_t index;
    uint32_t num;
};

static_assert(sizeof(VringState) == 8);

/// "A vring address description".
struct VringAddress {
    uint32_t index;
    uint32_t flags;  ///< bit 0: VHOST_VRING_F_LOG
    uint64_t descriptor;
    uint64_t used;
    uint64_t available;
    uint64_t log;
};

static_assert(sizeof(VringAddress) == 40);

inline constexpr uint32_t kVringAddressFlagLog = 1;

/// SET_VRING_KICK, _CALL and _ERR carry one u64.
inline constexpr uint64_t kVringFdIndexMask = 0xff;
inline constexpr uint64_t kVringFdNone = 0x100;  ///< no descriptor comes with the message

/// Likewise in the reply of SET_DEVICE_STATE_FD.
inline constexpr uint64_t kReplyFdNone = 0x100;

/// "Memory region description".
struct MemoryRegion {
    uint64_t guest_address;
    uint64_t size;
    uint64_t user_address;
    uint64_t mmap_offset;
};

static_assert(sizeof(MemoryRegion) == 32);

inline constexpr uint32_t kMemTableRegionsMax = 8;

/// "Multiple memory regions description": the count, then so many regions.
struct MemoryTableHeader {
    uint32_t region_count;
    uint32_t padding;
};

static_assert(sizeof(MemoryTableHeader) == 8);

/// "Single memory region description": ADD_MEM_REG and REM_MEM_REG.
struct SingleMemoryRegion {
    uint64_t padding;
    MemoryRegion region;
};

static_assert(sizeof(SingleMemoryRegion) == 40);

/// "Log description".
struct Log {
    uint64_t size;
    uint64_t offset;
};

static_assert(sizeof(Log) == 16);

/// "An IOTLB message".
struct Iotlb {
    uint64_t iova;
    uint64_t size;
    uint64_t user_address;
    uint8_t permissions;
    uint8_t type;
    uint8_t padding[6];
};

static_assert(sizeof(Iotlb) == 32);

/// Iotlb::type. 4, an access failure, is no use: QEMU answers that it does not know it.
inline constexpr uint8_t kIotlbMiss = 1;
inline constexpr uint8_t kIotlbUpdate = 2;
inline constexpr uint8_t kIotlbInvalidate = 3;

/// "Virtio device config space": the header, then `size` bytes.
struct ConfigHeader {
    uint32_t offset;
    uint32_t size;
    uint32_t flags;  ///< 0: only writable fields may change; 1: migration
};

static_assert(sizeof(ConfigHeader) == 12);

inline constexpr uint32_t kConfigBytesMax = 256;

/// "Vring area description": VRING_HOST_NOTIFIER_MSG.
struct VringArea {
    uint64_t index_and_flags;
    uint64_t size;
    uint64_t offset;
};

static_assert(sizeof(VringArea) == 24);

/// "Inflight description".
struct Inflight {
    uint64_t mmap_size;
    uint64_t mmap_offset;
    uint16_t queue_count;
    uint16_t queue_size;
    uint32_t padding;
};

static_assert(sizeof(Inflight) == 24);

/// "Device state transfer parameters".
struct DeviceStateTransfer {
    uint32_t direction;  ///< 0 save, 1 load
    uint32_t phase;      ///< 0 stopped
};

static_assert(sizeof(DeviceStateTransfer) == 8);

/// "VhostUserShared".
struct SharedObject {
    uint8_t uuid[16];
};

static_assert(sizeof(SharedObject) == 16);

/// "VIRTIO Shared Memory Region configuration".
struct ShmemConfig {
    uint32_t region_count;
    uint32_t padding;
    uint64_t sizes[256];
};

static_assert(sizeof(ShmemConfig) == 2056);

/// "MMAP request".
struct ShmemMap {
    uint8_t shmid;
    uint8_t padding[7];
    uint64_t fd_offset;
    uint64_t shm_offset;
    uint64_t length;
    uint64_t flags;
};

static_assert(sizeof(ShmemMap) == 40);

/// No message of the specification is larger; a larger size closes the connection.
inline constexpr uint32_t kPayloadBytesMax = 4096;
/// Descriptors that one message may carry at most: more closes the connection.
inline constexpr size_t kMessageFdsMax = 32;

}  // namespace outrigger::wire
