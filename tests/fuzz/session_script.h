// SPDX-License-Identifier: Apache-2.0
/// Scripts for a whole session: the script is front end, driver and device, and says who runs when.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outrigger::fuzz {

/// What begins a script: bits of its first byte.
struct SessionScriptOptions {
    static constexpr uint8_t kNoConfig = 1;       ///< the device has no configuration space
    static constexpr uint8_t kPlainDevice = 2;    ///< the device has no abilities beyond rings
    static constexpr uint8_t kRequireSealed = 4;  ///< memory that can be truncated is refused
    static constexpr uint8_t kSealedMemory = 8;   ///< the front end's memory cannot be
    static constexpr uint8_t kPostcopy = 16;      ///< guests may come by postcopy
};

/// Arguments in order; u8 unless said otherwise.
enum class SessionOp : uint8_t {
    kRequest,      ///< number, RequestBits, then what the request's payload takes: see
                   ///< SessionPeer::write_payload()
    kBytes,        ///< count (to 64), bytes: sent as they are
    kOfferSplit,   ///< ring, head, how many (to 8), descriptors: see SessionPeer::offer()
    kOfferPacked,  ///< ring, id, how many (to 8), descriptors
    kStore,        ///< region, offset (u16), count (to 64), bytes
    kKick,         ///< ring
    kRun,          ///< turns (to 16) of the control loop and the workers
    kSettle,       ///< as many as it takes
    kMood,         ///< what the device does with requests from now on: DeviceMood
    kRelease,      ///< ring: what the device holds is answered
    kAsk,          ///< DeviceAsks, two arguments: the device asks its front end
    kAnswer,       ///< what the answer to the oldest of those is (ChannelAnswer), argument
    kTruncate,     ///< region, new size (u16)
    kReadReplies,  ///< without it they are read with every kSettle, except by a deaf one
    kDeaf,         ///< from now on replies are left where they are
    kHalfClose,    ///< the front end sends no more, and still reads
    kDisconnect,   ///< and begins a new session
    kClose,        ///< the back end ends the session, and a new one begins
    kCutNext,      ///< bytes: the next request comes in two pieces
    kRefuseStart,  ///< the device cannot start queues, or can again
    kPassTime,     ///< in units of 50 ms: timers that are due then run with the next turn
    kCount,
};

/// How a request differs from a good one.
struct RequestBits {
    static constexpr uint8_t kMutate = 1;       ///< at (u16), xor: one byte of the payload
    static constexpr uint8_t kWrongSize = 2;    ///< a u32 in place of the size
    static constexpr uint8_t kFewerFds = 4;     ///< one fewer
    static constexpr uint8_t kNeedReply = 8;    ///< the flag of the header
    static constexpr uint8_t kMoreFds = 16;     ///< one more
    static constexpr uint8_t kFdKinds = 32;     ///< a kind for each descriptor
    static constexpr uint8_t kOtherFlags = 64;  ///< a u32 in place of the flags
    static constexpr uint8_t kLonger = 128;     ///< bytes (u8) more of payload
};

/// Stands for a number of full width that follows.
inline constexpr uint8_t kAnyNumber = 255;

/// What SET_FEATURES leaves out of the offer, when it does not take any number.
struct FeatureBits {
    static constexpr uint8_t kNoPacked = 1;
    static constexpr uint8_t kNoEventIdx = 2;
    static constexpr uint8_t kNoInOrder = 4;
    static constexpr uint8_t kNoProtocolFeatures = 8;
    static constexpr uint8_t kNoIndirect = 16;
    static constexpr uint8_t kNoAccessPlatform = 32;
};

/// SET_PROTOCOL_FEATURES: this takes everything, 0 all but GPA_ADDRESSES, others all but one bit.
inline constexpr uint8_t kEveryProtocolFeature = 64;

/// For SET_VRING_KICK and its kin: the ring's index, and that no descriptor comes.
inline constexpr uint8_t kNoRingFd = 128;
/// Of SET_VRING_ADDR: three numbers (u64) follow in place of good addresses.
inline constexpr uint8_t kAnyAddresses = 1;
/// Of a memory region, beside its number: a field (of four) has another value (u64).
inline constexpr uint8_t kOtherField = 128;

/// Beside the type of an IOTLB message: one page, wherever it leads; else a region leads to itself.
inline constexpr uint8_t kIotlbPage = 128;

enum class DeviceMood : uint8_t {
    kAnswer,   ///< at once
    kHold,     ///< keeps requests until kRelease
    kOneEach,  ///< one, and then says that there is more
    kWait,     ///< takes none and waits
    kBreak,    ///< finds the ring unusable
    kDrop,     ///< lets requests go without an answer
    kCount,
};

enum class DeviceAsks : uint8_t {
    kConfigChanged,
    kAddObject,
    kRemoveObject,
    kLookUpObject,
    kMap,
    kUnmap,
    kCount,
};

enum class ChannelAnswer : uint8_t {
    kSuccess,
    kFailure,
    kWithFd,     ///< success and a descriptor
    kWrongSize,  ///< a payload of as many bytes as the argument says
    kWrongRequest,
    kNotAsked,  ///< although nothing may wait for an answer
    kHangUp,
    kCount,
};

/// The guest's memory: pages of memfds. The second begins where the first ends.
inline constexpr size_t kGuestRegions = 3;
inline constexpr uint64_t kGuestRegionBytes = 0x1'0000;

/// Rings and, in the first region, where each lies and its buffers should.
inline constexpr size_t kSessionRings = 3;
inline constexpr size_t kSessionRingBytes = 0x3000;
inline constexpr uint16_t kSessionRingSizeMax = 256;

}  // namespace outrigger::fuzz
