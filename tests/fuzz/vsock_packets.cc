// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: the socket device. The script is two guests with packets and buffers of any kind,
/// and the programs of the host around them. What goes to a guest is a whole packet for it, nothing
/// is answered by RST that did not ask for it, every chain goes back, and of connections nothing is
/// left in the end.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/worker.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/script_clock.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/vsock_guest.h"
#include "tests/fuzz/vsock_script.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kOpsMax = 256;
constexpr size_t kPeersMax = 12;
constexpr size_t kRunsMax = 6;

class VsockScript final {
  public:
    VsockScript(FuzzMemory& memory, Worker& worker, const VsockHost& host, ScriptReader script)
        : memory_(memory), worker_(worker), host_(host), script_(script) {}

    void run() {
        memory_.reset();
        for (size_t number = 0; number < kVsockGuests; ++number) {
            guests_[number] = std::make_unique<VsockGuest>(memory_, worker_, host_, number);
        }
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<VsockOp>(script_));
        }
        run_devices();
        peers_.clear();
        run_devices();
        for (auto& guest : guests_) {
            guest.reset();
        }
        memory_.check();
    }

  private:
    void step(VsockOp op) {
        switch (op) {
            case VsockOp::kPacket:
                return send_packet();
            case VsockOp::kBuffer:
                return post_buffer();
            case VsockOp::kEventBuffer: {
                VsockGuest& guest = pick_guest();
                const uint8_t length = script_.u8();
                if (guest.has_room(kEvent)) {
                    for (auto& each : guests_) {
                        each->be_wild();
                    }
                    guest.post_event(length);
                }
                return;
            }
            case VsockOp::kBytes: {
                const uint64_t place = read_place();
                const auto bytes = script_.bytes(script_.pick(65));
                for (auto& guest : guests_) {
                    guest->be_wild();
                }
                return memory_.store(place, bytes);
            }
            case VsockOp::kRun:
                return run_devices();
            case VsockOp::kStop: {
                VsockGuest& guest = pick_guest();
                return guest.stop(script_.pick(kQueues));
            }
            case VsockOp::kStart: {
                VsockGuest& guest = pick_guest();
                return guest.start(script_.pick(kQueues));
            }
            case VsockOp::kReset:
                return pick_guest().reset();
            case VsockOp::kNegotiate: {
                VsockGuest& guest = pick_guest();
                return guest.negotiate(script_.u8());
            }
            case VsockOp::kMove:
                return pick_guest().move();
            case VsockOp::kTime:
                return pass_time(std::chrono::milliseconds(script_.u16()));
            case VsockOp::kHostConnect:
            case VsockOp::kHostGreet:
            case VsockOp::kHostSend:
            case VsockOp::kHostReceive:
            case VsockOp::kHostShutdown:
            case VsockOp::kHostClose:
            case VsockOp::kHostAccept:
            case VsockOp::kHostBytes:
                return act_on_host(op);
            case VsockOp::kCount:
                return;
        }
    }

    VsockGuest& pick_guest() { return *guests_[script_.pick(kVsockGuests)]; }

    /// Where a buffer may begin: neither in the rings nor before them.
    [[nodiscard]] uint64_t read_place() {
        const uint64_t place = FuzzMemory::read_place(script_);
        return place < home(kReservedBytes) ? home(kSentAt) + place % 0x1000 : place;
    }

    void send_packet() {
        using Options = VsockPacketOptions;
        const size_t number = script_.pick(kVsockGuests);
        VsockGuest& guest = *guests_[number];
        PacketHeader header{};
        header.operation = script_.u8();
        header.type = script_.u8();
        header.flags = script_.u8();
        const uint8_t options = script_.u8();
        header.source_cid =
            guest.cid() + ((options & Options::kForeignSource) != 0 ? uint64_t{7} : 0);
        header.destination_cid = vsock::kHostCid;
        header.source_port = script_.u8();
        const uint8_t peer = script_.u8();
        header.destination_port =
            peer < kVsockDevicePorts ? peer : (1U << 30) + (peer - kVsockDevicePorts);
        const auto payload = static_cast<uint32_t>(script_.u16() % (kPayloadMax + 1));
        if ((options & Options::kToSibling) != 0) {
            header.destination_cid = guests_[1 - number]->cid();
        }
        if ((options & Options::kAnyDestination) != 0) {
            header.destination_cid = script_.u64();
        }
        header.length = payload;
        if ((options & Options::kAnyLength) != 0) {
            header.length = script_.u32();
        }
        header.buffer_bytes = kVsockCredit;
        if ((options & Options::kAnyCredit) != 0) {
            header.buffer_bytes = script_.u32();
            header.forwarded_bytes = script_.u32();
        }
        const uint8_t cut = (options & Options::kPieces) != 0 ? script_.u8() : uint8_t{0};
        uint64_t place = home(kSentAt);
        if ((options & Options::kAnyPlace) != 0) {
            place = read_place();
            for (auto& each : guests_) {
                each->be_wild();
            }
        }
        uint32_t bytes = static_cast<uint32_t>(sizeof header) + payload;
        bytes -= (options & Options::kCut) != 0 ? 1 : 0;
        if (!guest.has_room(kTransmit)) {
            run_devices();
        }
        if (!guest.has_room(kTransmit)) {
            return;
        }
        const uint32_t first = std::min<uint32_t>(cut, bytes);
        const std::array segments{
            VsockSegment{.place = place, .length = first},
            VsockSegment{.place = place + first, .length = (bytes - first) / 2},
            VsockSegment{.place = place + first + (bytes - first) / 2,
                         .length = bytes - first - (bytes - first) / 2}};
        // Without a cut the last two are one.
        const VsockSegment whole{.place = place, .length = bytes};
        guest.send(header, place, bytes, cut == 0 ? std::span(&whole, 1) : std::span(segments));
        // The next one is written to the same place.
        run_devices();
    }

    void post_buffer() {
        VsockGuest& guest = pick_guest();
        const uint8_t length = script_.u8();
        if (length > 0) {
            if (guest.has_room(kReceive)) {
                guest.post(length);
            }
            return;
        }
        const uint64_t place = read_place();
        const uint16_t any_length = script_.u16();
        if (guest.has_room(kReceive)) {
            for (auto& each : guests_) {
                each->be_wild();
            }
            guest.post(place, any_length);
        }
    }

    void run_devices() {
        bool goes_on = true;
        for (size_t count = 0; count < kRunsMax && goes_on; ++count) {
            goes_on = worker_.turn();
            for (auto& guest : guests_) {
                goes_on = guest->run() || goes_on;
            }
        }
    }

    // --- Programs of the host ------------------------------------------------------------------

    void add_peer(UniqueFd fd) {
        if (fd.valid() && peers_.size() < kPeersMax) {
            peers_.push_back(std::move(fd));
        }
    }

    void act_on_host(VsockOp op) {
        if (op == VsockOp::kHostConnect) {
            const size_t guest = script_.pick(kVsockGuests);
            const bool stream = script_.pick(2) == 0;
            UniqueFd fd = make_socket(stream ? SOCK_STREAM : SOCK_SEQPACKET);
            const sockaddr_un address =
                address_of(host_.base(guest) + (stream ? "" : "_seqpacket"));
            // SAFETY: the sockets API takes every address family by this one pointer type.
            if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
                0) {
                add_peer(std::move(fd));
            }
            return;
        }
        if (op == VsockOp::kHostAccept) {
            const size_t guest = script_.pick(kVsockGuests);
            return add_peer(host_.accept(guest, script_.pick(2) == 0));
        }
        const size_t which = script_.u8();
        const size_t argument = op == VsockOp::kHostSend || op == VsockOp::kHostReceive
                                    ? script_.u16()
                                    : (op == VsockOp::kHostClose ? 0 : script_.u8());
        const auto bytes = script_.bytes(op == VsockOp::kHostBytes ? argument % 65 : 0);
        if (peers_.empty()) {
            return;
        }
        const auto peer = peers_.begin() + static_cast<ptrdiff_t>(which % peers_.size());
        if (op == VsockOp::kHostGreet) {
            std::string line("CONNECT ");
            line.append(std::to_string(argument)).append("\n");
            (void)::send(peer->get(), line.data(), line.size(), MSG_NOSIGNAL);
        } else if (op == VsockOp::kHostSend) {
            const std::vector<char> data(argument, 'h');
            (void)::send(peer->get(), data.data(), data.size(), MSG_NOSIGNAL);
        } else if (op == VsockOp::kHostBytes) {
            (void)::send(peer->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        } else if (op == VsockOp::kHostReceive) {
            std::vector<char> data(argument);
            (void)::recv(peer->get(), data.data(), data.size(), MSG_DONTWAIT);
        } else if (op == VsockOp::kHostShutdown) {
            (void)::shutdown(peer->get(), static_cast<int>(argument % 3));
        } else {
            peers_.erase(peer);
        }
    }

    FuzzMemory& memory_;
    Worker& worker_;
    const VsockHost& host_;
    ScriptReader script_;
    std::array<std::unique_ptr<VsockGuest>, kVsockGuests> guests_;
    std::vector<UniqueFd> peers_;
};

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger;
    set_log_level(LogLevel::kOff);
    static fuzz::FuzzMemory memory;
    static const fuzz::VsockHost host;
    static const auto worker = Worker::create_threadless(LoopKind::kAsio).value();
    host.clear();
    const size_t descriptors = fuzz::count_open_descriptors();
    fuzz::VsockScript(memory, *worker, host, fuzz::ScriptReader(std::span(data, size))).run();
    host.clear();
    OUTRIGGER_ASSERT(fuzz::count_open_descriptors() == descriptors);
    return 0;
}
