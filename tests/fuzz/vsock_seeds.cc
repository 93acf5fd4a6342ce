// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include <linux/virtio_vsock.h>

#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/vsock_script.h"

namespace outrigger::fuzz {
namespace {

using Options = VsockPacketOptions;

/// Of guests, which call one another at it, too.
constexpr uint8_t kPort = 5;
constexpr uint8_t kStream = VIRTIO_VSOCK_TYPE_STREAM;
constexpr uint8_t kSeqpacket = VIRTIO_VSOCK_TYPE_SEQPACKET;

struct Packet {
    size_t op;
    size_t peer = kVsockStreamPort;
    size_t type = kStream;
    size_t flags = 0;
    size_t payload = 0;
    uint8_t options = 0;
    size_t guest = 0;
};

class VsockSeed final {
  public:
    /// Arguments of options are to be written behind it.
    VsockSeed& packet(const Packet& packet) {
        script_.op(VsockOp::kPacket).u8(packet.guest).u8(packet.op).u8(packet.type);
        script_.u8(packet.flags).u8(packet.options).u8(kPort).u8(packet.peer).u16(packet.payload);
        return *this;
    }

    VsockSeed& buffers(size_t count, size_t length = 200, size_t guest = 0) {
        for (size_t i = 0; i < count; ++i) {
            script_.op(VsockOp::kBuffer).u8(guest).u8(length);
        }
        return *this;
    }

    VsockSeed& event_buffer(size_t length) {
        script_.op(VsockOp::kEventBuffer).u8(0).u8(length);
        return *this;
    }

    VsockSeed& run() {
        script_.op(VsockOp::kRun);
        return *this;
    }

    VsockSeed& host(VsockOp op, size_t first, size_t second = 0) {
        script_.op(op).u8(first);
        const bool is_wide = op == VsockOp::kHostSend || op == VsockOp::kHostReceive;
        if (is_wide) {
            script_.u16(second);
        } else if (op != VsockOp::kHostClose) {
            script_.u8(second);
        }
        return *this;
    }

    VsockSeed& time(size_t ms) {
        script_.op(VsockOp::kTime).u16(ms);
        return *this;
    }

    VsockSeed& of_guest(VsockOp op, size_t guest) {
        script_.op(op).u8(guest);
        return *this;
    }

    VsockSeed& of_queue(VsockOp op, size_t queue) {
        script_.op(op).u8(0).u8(queue);
        return *this;
    }

    VsockSeed& u8(size_t value) {
        script_.u8(value);
        return *this;
    }

    VsockSeed& u32(uint64_t value) {
        script_.u32(value);
        return *this;
    }

    VsockSeed& u64(uint64_t value) {
        script_.u64(value);
        return *this;
    }

    VsockSeed& open(size_t type = kStream) {
        packet({.op = VIRTIO_VSOCK_OP_REQUEST,
                .peer = type == kStream ? kVsockStreamPort : kVsockSeqpacketPort,
                .type = type});
        return host(VsockOp::kHostAccept, 0, type == kStream ? 0 : 1);
    }

    void add(Seeds& seeds, std::string_view name) const {
        seeds["vsock-packets/" + std::string(name)] = script_.script();
    }

  private:
    ScriptWriter script_;
};

void add_connections(Seeds& seeds) {
    VsockSeed()
        .buffers(6)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 100})
        .host(VsockOp::kHostReceive, 0, 100)
        .host(VsockOp::kHostSend, 0, 500)
        .run()
        .add(seeds, "echo");
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .peer = 7})
        .run()
        .add(seeds, "nobody-listens");
    VsockSeed()
        .buffers(6)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .peer = kVsockFullPort})
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .peer = kVsockFullPort})
        .time(100)
        .run()
        .time(2000)
        .run()
        .add(seeds, "full-backlog");
    VsockSeed()
        .buffers(6)
        .host(VsockOp::kHostConnect, 0, 0)
        .host(VsockOp::kHostGreet, 0, kPort)
        .run()
        .packet({.op = VIRTIO_VSOCK_OP_RESPONSE, .peer = kVsockDevicePorts})
        .host(VsockOp::kHostSend, 0, 300)
        .run()
        .host(VsockOp::kHostClose, 0)
        .run()
        .add(seeds, "from-the-host");
    VsockSeed()
        .buffers(6)
        .host(VsockOp::kHostConnect, 0, 1)
        .host(VsockOp::kHostGreet, 0, kPort)
        .run()
        .packet({.op = VIRTIO_VSOCK_OP_RST, .peer = kVsockDevicePorts, .type = kSeqpacket})
        .add(seeds, "refused-by-the-guest");
    VsockSeed().host(VsockOp::kHostConnect, 0, 0).run().time(6000).run().add(seeds, "no-greeting");
    VsockSeed()
        .host(VsockOp::kHostConnect, 0, 0)
        .host(VsockOp::kHostSend, 0, 40)
        .run()
        .add(seeds, "bad-greeting");
    VsockSeed()
        .buffers(6)
        .host(VsockOp::kHostConnect, 0, 0)
        .host(VsockOp::kHostGreet, 0, kPort)
        .run()
        .time(6000)
        .run()
        .add(seeds, "silent-guest");
    VsockSeed()
        .buffers(8)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_SHUTDOWN, .flags = 2})
        .host(VsockOp::kHostSend, 0, 10)
        .run()
        .host(VsockOp::kHostShutdown, 0, 1)
        .run()
        .packet({.op = VIRTIO_VSOCK_OP_SHUTDOWN, .flags = 1})
        .run()
        .add(seeds, "half-closes");
    VsockSeed()
        .buffers(8)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 2000})
        .packet({.op = VIRTIO_VSOCK_OP_SHUTDOWN, .flags = 3})
        .time(7000)
        .run()
        .time(40'000)
        .run()
        .add(seeds, "slow-host");
    VsockSeed()
        .buffers(8)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 1000})
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 1001})
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 4000})
        .add(seeds, "beyond-the-window");
    VsockSeed()
        .buffers(8)
        .open()
        .host(VsockOp::kHostSend, 0, 3000)
        .run()
        .buffers(8)
        .run()
        .packet({.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE, .options = Options::kAnyCredit})
        .u32(3000)
        .u32(1500)
        .run()
        .add(seeds, "credit-runs-out");
    VsockSeed()
        .buffers(8)
        .open()
        .host(VsockOp::kHostSend, 0, 800)
        .run()
        .packet({.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE, .options = Options::kAnyCredit})
        .u32(10)
        .u32(0xffff'0000)
        .host(VsockOp::kHostSend, 0, 800)
        .run()
        .add(seeds, "credit-shrinks");
}

void add_messages(Seeds& seeds) {
    VsockSeed()
        .buffers(8)
        .open(kSeqpacket)
        .packet({.op = VIRTIO_VSOCK_OP_RW,
                 .peer = kVsockSeqpacketPort,
                 .type = kSeqpacket,
                 .payload = 300})
        .packet({.op = VIRTIO_VSOCK_OP_RW,
                 .peer = kVsockSeqpacketPort,
                 .type = kSeqpacket,
                 .flags = 3,
                 .payload = 300})
        .packet(
            {.op = VIRTIO_VSOCK_OP_RW, .peer = kVsockSeqpacketPort, .type = kSeqpacket, .flags = 1})
        .host(VsockOp::kHostReceive, 0, 1000)
        .host(VsockOp::kHostReceive, 0, 1000)
        .host(VsockOp::kHostSend, 0, 700)
        .host(VsockOp::kHostSend, 0, 0)
        .run()
        .buffers(4)
        .run()
        .host(VsockOp::kHostClose, 0)
        .run()
        .add(seeds, "messages");
    VsockSeed()
        .buffers(8)
        .open(kSeqpacket)
        .host(VsockOp::kHostSend, 0, 2000)
        .run()
        .add(seeds, "message-too-long");
    VsockSeed()
        .buffers(8)
        .open(kSeqpacket)
        .packet({.op = VIRTIO_VSOCK_OP_RW,
                 .peer = kVsockSeqpacketPort,
                 .type = kSeqpacket,
                 .payload = 900})
        .packet({.op = VIRTIO_VSOCK_OP_SHUTDOWN,
                 .peer = kVsockSeqpacketPort,
                 .type = kSeqpacket,
                 .flags = 2})
        .packet({.op = VIRTIO_VSOCK_OP_RST, .peer = kVsockSeqpacketPort, .type = kSeqpacket})
        .add(seeds, "part-of-a-message");
}

void add_siblings(Seeds& seeds) {
    const auto to_other = [](size_t op, size_t type, size_t flags, size_t payload) {
        return Packet{.op = op,
                      .peer = kPort,
                      .type = type,
                      .flags = flags,
                      .payload = payload,
                      .options = Options::kToSibling};
    };
    for (const uint8_t type : {kStream, kSeqpacket}) {
        VsockSeed seed;
        seed.buffers(8).buffers(8, 60, 1);
        seed.packet(to_other(VIRTIO_VSOCK_OP_REQUEST, type, 0, 0)).run();
        seed.packet({.op = VIRTIO_VSOCK_OP_RST,
                     .peer = kPort,
                     .type = type,
                     .options = Options::kToSibling,
                     .guest = 1});
        seed.add(seeds, type == kStream ? "sibling-refuses" : "sibling-refuses-messages");
        VsockSeed both;
        both.buffers(8).buffers(8, 60, 1);
        both.packet({.op = VIRTIO_VSOCK_OP_REQUEST,
                     .peer = kPort,
                     .type = type,
                     .options = Options::kToSibling})
            .run();
        both.packet({.op = VIRTIO_VSOCK_OP_RESPONSE,
                     .peer = kPort,
                     .type = type,
                     .options = Options::kToSibling,
                     .guest = 1});
        both.packet({.op = VIRTIO_VSOCK_OP_RW,
                     .peer = kPort,
                     .type = type,
                     .flags = 3,
                     .payload = 150,
                     .options = Options::kToSibling})
            .run();
        both.of_guest(VsockOp::kReset, 1).run();
        both.add(seeds, type == kStream ? "siblings" : "siblings-messages");
    }
    VsockSeed()
        .buffers(4, 200, 1)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .options = Options::kToSibling, .guest = 1})
        .run()
        .add(seeds, "sibling-not-allowed");
}

void add_bad_packets(Seeds& seeds) {
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 10, .options = Options::kAnyLength})
        .u32(0xffff'ffff)
        .add(seeds, "length-of-all-ones");
    VsockSeed()
        .buffers(4)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 10, .options = Options::kCut})
        .add(seeds, "cut");
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .options = Options::kCut})
        .add(seeds, "cut-header");
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_RST})
        .packet({.op = VIRTIO_VSOCK_OP_RW})
        .run()
        .add(seeds, "reset-of-nothing");
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .options = Options::kForeignSource})
        .packet({.op = VIRTIO_VSOCK_OP_RST, .options = Options::kForeignSource})
        .add(seeds, "foreign-source");
    VsockSeed()
        .buffers(4)
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .options = Options::kAnyDestination})
        .u64(uint64_t{1} << 32 | 2)
        .add(seeds, "destination-beyond-32-bits");
    VsockSeed()
        .buffers(4)
        .packet({.op = 0})
        .packet({.op = 8})
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST, .type = 3})
        .add(seeds, "unknown-kinds");
    VsockSeed()
        .buffers(8)
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 400, .options = Options::kPieces})
        .u8(43)
        .packet({.op = VIRTIO_VSOCK_OP_RW, .payload = 400, .options = Options::kPieces})
        .u8(45)
        .host(VsockOp::kHostReceive, 0, 800)
        .add(seeds, "pieces");
    VsockSeed().open().buffers(1, 43).run().add(seeds, "buffer-without-room");
    VsockSeed()
        .open()
        .packet({.op = VIRTIO_VSOCK_OP_REQUEST})
        .buffers(2, 44)
        .host(VsockOp::kHostSend, 0, 90)
        .run()
        .add(seeds, "buffers-of-headers");
}

void add_life(Seeds& seeds) {
    VsockSeed()
        .buffers(6)
        .open()
        .of_queue(VsockOp::kStop, 0)
        .host(VsockOp::kHostSend, 0, 50)
        .run()
        .of_queue(VsockOp::kStart, 0)
        .run()
        .add(seeds, "receive-queue-pauses");
    VsockSeed()
        .buffers(6)
        .open()
        .of_guest(VsockOp::kReset, 0)
        .of_queue(VsockOp::kStart, 0)
        .of_queue(VsockOp::kStart, 1)
        .open()
        .add(seeds, "reset");
    VsockSeed()
        .buffers(6)
        .open()
        .event_buffer(8)
        .of_guest(VsockOp::kMove, 0)
        .run()
        .event_buffer(1)
        .run()
        .add(seeds, "moves");
    VsockSeed seed;
    seed.open();
    for (int i = 0; i < 12; ++i) {
        seed.packet({.op = VIRTIO_VSOCK_OP_RW, .peer = 6});
    }
    seed.buffers(8).run().buffers(8).run().add(seeds, "resets-wait-for-buffers");
}

}  // namespace

void add_vsock_seeds(Seeds& seeds) {
    add_connections(seeds);
    add_messages(seeds);
    add_siblings(seeds);
    add_bad_packets(seeds);
    add_life(seeds);
}

}  // namespace outrigger::fuzz
