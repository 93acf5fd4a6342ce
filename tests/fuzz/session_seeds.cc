// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/session_seed.h"

namespace outrigger::fuzz {
namespace {

constexpr uint8_t kPacked = FeatureBits::kNoInOrder | FeatureBits::kNoAccessPlatform;
constexpr uint8_t kPackedInOrder = FeatureBits::kNoAccessPlatform;
constexpr uint8_t kNoExtras = kPacked | FeatureBits::kNoPacked;
constexpr uint8_t kIovas = FeatureBits::kNoPacked | FeatureBits::kNoInOrder;

template <class Add>
void add_ring_sessions(Add add) {
    add("split-ring-answers",
        SessionSeed().bring_up(kNoExtras).split(0).settle().split(4).settle());
    add("packed-ring-wraps",
        SessionSeed()
            .bring_up(kPacked, 4)
            .packed(1)
            .settle()
            .packed(2)
            .settle()
            .packed(3)
            .settle());
    add("packed-in-order",
        SessionSeed()
            .bring_up(kPackedInOrder, 8)
            .mood(DeviceMood::kHold)
            .packed(1)
            .packed(2)
            .settle()
            .release()
            .settle());
    add("indirect-chain",
        SessionSeed()
            .bring_up(kNoExtras)
            // A descriptor of 32 bytes at guest 0x110000, which names this very table.
            .store(1, 0, {0, 1, 0x11, 0, 0, 0, 0, 0, 64,  0, 0, 0, 1, 0, 1, 0,
                          0, 2, 0x11, 0, 0, 0, 0, 0, 128, 0, 0, 0, 2, 0, 0, 0})
            .offer(SessionOp::kOfferSplit, 0, 3, {{1, 0, 32, kIndirect}})
            .kick()
            .settle());
    add("three-rings-two-workers",
        SessionSeed()
            .bring_up(kNoExtras)
            .ring(1)
            .ring(2)
            .split(0, 0)
            .split(0, 1)
            .split(0, 2)
            .settle());
    add("enabled-later",
        SessionSeed()
            .bring_up(kNoExtras)
            .state(Request::kSetVringEnable, 0, 0)
            .split()
            .settle()
            .state(Request::kSetVringEnable, 0, 1)
            .settle());
    add("base-drains-what-is-held",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split(0)
            .split(4)
            .settle()
            .state(Request::kGetVringBase, 0, 0)
            .settle()
            .release()
            .settle()
            .u64(Request::kSetVringKick, 0)
            .settle());
    add("polled-ring-without-kick",
        SessionSeed()
            .negotiate(kNoExtras)
            .memory({0, 1})
            .u64(Request::kSetVringKick, 0 | kNoRingFd)
            .ring(0)
            .u64(Request::kSetVringKick, 0 | kNoRingFd)
            .offer(SessionOp::kOfferSplit, 0, 0, {kAsk, kFill})
            .settle());
    add("kick-of-every-kind",
        SessionSeed()
            .bring_up(kNoExtras)
            .ring_fd(Request::kSetVringKick, 0, FdKind::kPipeRead)
            .settle()
            .ring_fd(Request::kSetVringKick, 0, FdKind::kPipeWrite)
            .settle()
            .ring_fd(Request::kSetVringKick, 0, FdKind::kEpoll)
            .settle()
            .ring_fd(Request::kSetVringKick, 1, FdKind::kDirectory)
            .ring_fd(Request::kSetVringCall, 1, FdKind::kZero)
            .ring_fd(Request::kSetVringCall, 0, FdKind::kPipeRead)
            .split()
            .settle());
    add("broken-ring-and-its-sibling",
        SessionSeed()
            .bring_up(kNoExtras)
            .ring(1)
            .offer(SessionOp::kOfferSplit, 0, 16, {kAsk, kFill})
            .offer(SessionOp::kOfferSplit, 0, 0, {{3, 0, 0}})
            .kick(0)
            .split(0, 1)
            .settle()
            .request(Request::kGetStatus, 0)
            .settle()
            .state(Request::kGetVringBase, 0, 0)
            .u64(Request::kSetVringKick, 0)
            .settle());
    add("device-breaks-the-ring",
        SessionSeed().bring_up(kNoExtras).mood(DeviceMood::kBreak).split().settle());
    add("device-waits-and-drops",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kWait)
            .split(0)
            .settle()
            .mood(DeviceMood::kDrop)
            .split(4)
            .settle()
            .mood(DeviceMood::kOneEach)
            .split(8)
            .split(10)
            .settle());
    add("device-cannot-start",
        SessionSeed()
            .op(SessionOp::kRefuseStart)
            .bring_up(kNoExtras)
            .op(SessionOp::kRefuseStart)
            .ring(0));
    add("in-band-notifications",
        SessionSeed()
            .negotiate(kNoExtras)
            .memory({0, 1})
            .state(Request::kSetVringNum, 0, 16)
            .request(Request::kSetVringAddr)
            .byte(0)
            .byte(0)
            .state(Request::kSetVringEnable, 0, 1)
            .offer(SessionOp::kOfferSplit, 0, 0, {kAsk, kFill})
            .state(Request::kVringKick, 0, 0)
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .state(Request::kVringKick, 0, 0)
            .settle());
}

template <class Add>
void add_memory_sessions(Add add) {
    add("regions-added-and-removed",
        SessionSeed()
            .negotiate(kNoExtras)
            .region(Request::kAddMemReg, 0)
            .region(Request::kAddMemReg, 1)
            .ring(0)
            .split()
            .settle()
            .mood(DeviceMood::kHold)
            .split(4)
            .settle()
            .region(Request::kRemMemReg, 1)
            .settle()
            .release()
            .settle()
            .region(Request::kRemMemReg, 0)
            .settle()
            .region(Request::kAddMemReg, 0)
            .split(6)
            .settle());
    // A table of no regions is a u64 of 0: the acknowledgement of our addresses.
    add("postcopy-to-its-end",
        SessionSeed(SessionScriptOptions::kPostcopy)
            .negotiate(kNoExtras)
            .request(Request::kPostcopyAdvise, 0)
            .request(Request::kPostcopyListen)
            .settle()
            .memory({0, 1})
            .ring(0)
            .memory({})
            .split()
            .settle()
            .request(Request::kPostcopyEnd, 0)
            .split(2)
            .settle());
    add("postcopy-cut-off-while-held",
        SessionSeed(SessionScriptOptions::kPostcopy)
            .negotiate(kNoExtras)
            .request(Request::kPostcopyAdvise, 0)
            .request(Request::kPostcopyListen)
            .memory({0, 1})
            .memory({})
            .ring(0)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .memory({0, 1, 2})
            .request(Request::kPostcopyEnd, 0)
            .memory({}));
    add("postcopy-in-no-order",
        SessionSeed(SessionScriptOptions::kPostcopy)
            .negotiate(kNoExtras)
            .request(Request::kPostcopyEnd, 0)
            .request(Request::kPostcopyListen)
            .memory({})
            .request(Request::kPostcopyAdvise, 0)
            .region(Request::kAddMemReg, 0)
            .request(Request::kPostcopyListen)
            .region(Request::kRemMemReg, 0)
            .request(Request::kPostcopyListen)
            .region(Request::kAddMemReg, 1)
            .region(Request::kRemMemReg, 1)
            .memory({})
            .region(Request::kAddMemReg, 2)
            .request(Request::kPostcopyAdvise, 0)
            .settle());
    add("table-replaced-while-held",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .memory({0, 1, 2})
            .settle()
            .release()
            .settle()
            .split(4)
            .settle());
    add("disconnect-while-memory-drains",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .memory({0})
            .run(2)
            .op(SessionOp::kDisconnect)
            .bring_up(kNoExtras)
            .split()
            .settle());
    add("hang-up-seen-while-memory-drains",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .memory({0})
            .run(4)
            .op(SessionOp::kHalfClose)
            .pass_time(3));
    add("closed-while-memory-drains",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .memory({0})
            .run(4)
            .op(SessionOp::kClose)
            .negotiate(kNoExtras));
    add("file-truncated-under-the-ring",
        SessionSeed()
            .bring_up(kNoExtras)
            .split()
            .settle()
            .truncate(0, 0)
            .kick()
            .settle()
            .request(Request::kGetStatus, 0)
            .settle()
            .op(SessionOp::kDisconnect)
            .negotiate(kNoExtras));
    add("file-truncated-under-a-buffer",
        SessionSeed().bring_up(kNoExtras).truncate(1, 0).split().settle().memory({0, 1}).settle());
    add("truncated-memory-refused",
        SessionSeed(SessionScriptOptions::kRequireSealed)
            .negotiate(kNoExtras)
            .memory({0, 1})
            .settle());
    add("sealed-memory-taken",
        SessionSeed(SessionScriptOptions::kRequireSealed | SessionScriptOptions::kSealedMemory)
            .bring_up(kNoExtras)
            .split()
            .settle());
    add("table-with-overlap", SessionSeed().negotiate(kNoExtras).memory({0, 1, 0}).settle());
    add("table-that-wraps",
        SessionSeed()
            .negotiate(kNoExtras)
            .request(Request::kSetMemTable)
            .byte(1)
            .byte(kOtherField)
            .byte(1)
            .number(~uint64_t{0})
            .settle());
    add("guest-addresses",
        SessionSeed()
            .negotiate(kNoExtras, kEveryProtocolFeature)
            .memory({0, 1})
            .ring(0)
            .split()
            .settle());
    // Types of IOTLB messages: 2 updates, 3 invalidates.
    add("iotlb-filled-before",
        SessionSeed()
            .negotiate(kIovas)
            .memory({0, 1})
            .iotlb(2, 0)
            .iotlb(2, 1)
            .settle()
            .ring(0)
            .split()
            .settle()
            .iotlb(3, 1)
            .split(4)
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .iotlb(2, 1)
            .settle());
    add("iotlb-asked-for",
        SessionSeed()
            .bring_up(kIovas)
            .answer(ChannelAnswer::kSuccess)
            .iotlb(2, 0)
            .settle()
            .split()
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .iotlb(2, 1)
            .settle());
    add("iotlb-answers-that-bring-nothing",
        SessionSeed()
            .bring_up(kIovas)
            .answer(ChannelAnswer::kSuccess)
            .answer(ChannelAnswer::kSuccess)
            .answer(ChannelAnswer::kSuccess)
            .pass_time(1)
            .answer(ChannelAnswer::kSuccess)
            .pass_time(1)
            .iotlb(2, 0)
            .iotlb(2, 1)
            .settle()
            .split()
            .settle());
    add("iotlb-refused",
        SessionSeed()
            .bring_up(kIovas)
            .answer(ChannelAnswer::kSuccess)
            .answer(ChannelAnswer::kFailure)
            .answer(ChannelAnswer::kFailure)
            .iotlb(2, 0)
            .settle()
            .split()
            .settle()
            .answer(ChannelAnswer::kFailure)
            .request(Request::kGetStatus, 0)
            .settle());
    add("iotlb-scatters-the-ring",
        SessionSeed()
            .negotiate(kIovas)
            .memory({0, 1, 2})
            .iotlb_page(2, 0, 0, 0, 0)
            .iotlb_page(2, 0, 1, 2, 5)
            .iotlb_page(2, 0, 2, 0, 7)
            .iotlb(2, 1)
            .settle()
            .ring(0, 256)
            .split()
            .settle()
            .iotlb_page(3, 0, 1, 0, 0)
            .settle()
            .iotlb_page(2, 0, 1, 2, 6)
            .settle()
            .split(4)
            .settle());
    add("iotlb-with-guest-addresses",
        SessionSeed()
            .negotiate(kIovas, kEveryProtocolFeature)
            .memory({0, 1})
            .iotlb(2, 0)
            .iotlb(2, 1)
            .settle()
            .ring(0)
            .split()
            .settle());
    add("iotlb-invalidated-while-held",
        SessionSeed()
            .negotiate(kIovas)
            .memory({0, 1})
            .iotlb(2, 0)
            .iotlb(2, 1)
            .ring(0)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .iotlb(3, 1)
            .settle()
            .release()
            .settle());
}

template <class Add>
void add_message_sessions(Add add) {
    add("configuration",
        SessionSeed()
            .negotiate(kNoExtras)
            .config(Request::kGetConfig, 0, {0, 0, 0, 0, 0, 0, 0, 0})
            .config(Request::kSetConfig, 8, {1, 2, 3})
            .config(Request::kSetConfig, 0, {1})
            .settle()
            .config(Request::kGetConfig, 60, {0, 0, 0, 0, 0, 0, 0, 0})
            .settle());
    add("status-and-resets",
        SessionSeed()
            .bring_up(kNoExtras)
            .split()
            .settle()
            .u64(Request::kSetStatus, 0)
            .request(Request::kGetStatus, 0)
            .settle()
            .ring(0)
            .mood(DeviceMood::kHold)
            .split(4)
            .settle()
            .request(Request::kResetDevice)
            .settle()
            .release()
            .settle());
    add("device-asks-and-is-answered",
        SessionSeed()
            .bring_up(kNoExtras)
            .ask(DeviceAsks::kConfigChanged, 0)
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .ask(DeviceAsks::kAddObject, 7)
            .settle()
            .answer(ChannelAnswer::kFailure)
            .ask(DeviceAsks::kLookUpObject, 7)
            .settle()
            .answer(ChannelAnswer::kWithFd)
            .ask(DeviceAsks::kMap, 1, 2)
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .ask(DeviceAsks::kMap, 1, 2)
            .ask(DeviceAsks::kUnmap, 1, 2)
            .settle()
            .answer(ChannelAnswer::kSuccess)
            .ask(DeviceAsks::kRemoveObject, 7)
            .settle()
            .op(SessionOp::kDisconnect));
    add("channel-hangs-up",
        SessionSeed()
            .bring_up(kNoExtras)
            .ask(DeviceAsks::kAddObject, 7)
            .settle()
            .answer(ChannelAnswer::kHangUp)
            .ask(DeviceAsks::kAddObject, 8)
            .request(Request::kSetBackendReqFd)
            .settle()
            .ask(DeviceAsks::kAddObject, 9)
            .settle());
    add("channel-answers-unasked",
        SessionSeed().bring_up(kNoExtras).answer(ChannelAnswer::kNotAsked, 6));
    add("channel-answers-in-the-wrong-size",
        SessionSeed()
            .bring_up(kNoExtras)
            .ask(DeviceAsks::kAddObject, 7)
            .settle()
            .answer(ChannelAnswer::kWrongSize, 4));
    add("shared-objects-and-memory",
        SessionSeed()
            .negotiate(kNoExtras)
            .request(Request::kGetShmemConfig, 0)
            .request(Request::kGetSharedObject, 0)
            .byte(7)
            .settle()
            .request(Request::kGetSharedObject, 0)
            .byte(0)
            .settle());
    add("network-requests",
        SessionSeed()
            .negotiate(kNoExtras)
            .u64(Request::kNetSetMtu, 100)
            .u64(Request::kNetSetMtu, 1)
            .u64(Request::kSendRarp, 0)
            .settle());
    SessionSeed every;
    every.negotiate(kNoExtras);
    for (size_t number = 1; number <= 45; ++number) {
        every.request(static_cast<Request>(number));
        for (size_t argument = 0; argument < 4; ++argument) {
            every.byte(0);
        }
        every.settle();
    }
    add("every-request", every);
    add("request-in-two-pieces",
        SessionSeed()
            .negotiate(kNoExtras)
            .cut(5)
            .memory({0, 1})
            .settle()
            .settle()
            .cut(20)
            .u64(Request::kSetVringKick, 0)
            .settle()
            .settle());
    add("end-inside-a-request",
        SessionSeed().cut(9).u64(Request::kSetStatus, 1).op(SessionOp::kHalfClose));
    add("stalled-inside-a-request",
        SessionSeed()
            .negotiate(kNoExtras)
            .raw({3, 0, 0, 0, 1})
            .settle()
            .pass_time(100)
            .pass_time(200)
            .op(SessionOp::kDisconnect)
            .negotiate(kNoExtras));
    add("half-closed",
        SessionSeed().bring_up(kNoExtras).split().op(SessionOp::kHalfClose).settle());
    add("replies-not-read",
        SessionSeed().op(SessionOp::kDeaf).negotiate(kNoExtras).op(SessionOp::kReadReplies));
    add("closed-by-the-back-end",
        SessionSeed()
            .bring_up(kNoExtras)
            .mood(DeviceMood::kHold)
            .split()
            .settle()
            .op(SessionOp::kClose)
            .negotiate(kNoExtras)
            .op(SessionOp::kClose));
    add("too-few-descriptors",
        SessionSeed().request(Request::kSetVringKick, RequestBits::kFewerFds).byte(0).settle());
    add("unknown-request", SessionSeed().request(static_cast<Request>(200)).settle());
    add("bad-version", SessionSeed().raw({1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}).settle());
    add("features-not-offered",
        SessionSeed()
            .request(Request::kSetFeatures)
            .byte(kAnyNumber)
            .number(~uint64_t{0})
            .settle());
    add("ring-addresses-nowhere",
        SessionSeed()
            .negotiate(kNoExtras)
            .memory({0})
            .state(Request::kSetVringNum, 0, 16)
            .request(Request::kSetVringAddr)
            .byte(0)
            .byte(kAnyAddresses)
            .number(0x7f00'0010'0000)
            .number(0x7f00'0010'fffc)
            .number(0x7f00'0010'1000)
            .u64(Request::kSetVringKick, 0)
            .settle());
    add("ring-index-too-large",
        SessionSeed().negotiate(kNoExtras).state(Request::kSetVringNum, 3, 16).settle());
    add("ring-size-of-no-power-of-two",
        SessionSeed().negotiate(kNoExtras).state(Request::kSetVringNum, 0, 17).settle());
    add("without-protocol-features",
        SessionSeed(SessionScriptOptions::kPlainDevice | SessionScriptOptions::kNoConfig)
            .u64(Request::kSetFeatures, kNoExtras | FeatureBits::kNoProtocolFeatures)
            .memory({0, 1})
            .state(Request::kSetVringBase, 0, 0)
            .ring(0)
            .split()
            .settle());
    add("split-index-wraps",
        SessionSeed()
            .negotiate(kNoExtras)
            .memory({0, 1})
            .request(Request::kSetVringBase)
            .byte(0)
            .byte(0xff)
            .byte(0xff)
            .byte(0xfe)
            .byte(0xff)
            .byte(0)
            .byte(0)
            .ring(0)
            .settle());
}

}  // namespace

void add_session_seeds(Seeds& seeds) {
    const auto add = [&seeds](const char* name, const SessionSeed& seed) {
        seeds[std::string("session/") + name] = seed.script();
    };
    add_ring_sessions(add);
    add_memory_sessions(add);
    add_message_sessions(add);
}

}  // namespace outrigger::fuzz
