// SPDX-License-Identifier: Apache-2.0
/// For the target vsock-packets: a guest with a socket device, what must be true of it and of its
/// rings, and the sockets of the host around it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/io/worker.h"
#include "vhost-user-backend/virtq/virtqueue.h"

#include "devices/vsock/vsock_device.h"
#include "devices/vsock/vsock_state.h"
#include "tests/fuzz/fuzz_memory.h"
#include "tests/fuzz/vsock_script.h"

namespace outrigger::fuzz {

using vsock::PacketHeader;

inline constexpr size_t kPayloadMax = 5000;

inline constexpr uint16_t kRingSize = 8;
inline constexpr uint32_t kDescriptorBytes = 16;
inline constexpr uint16_t kNext = 1;
inline constexpr uint16_t kWrite = 2;
inline constexpr uint16_t kIndirect = 4;

// In the home region: of each guest three rings and the tables of their chains, where no buffer
// begins (what the device writes there would become descriptors); then of each guest buffers that
// nothing else uses; then what is sent.
inline constexpr size_t kQueues = 3;
inline constexpr size_t kReceive = 0;
inline constexpr size_t kTransmit = 1;
inline constexpr size_t kEvent = 2;
inline constexpr uint64_t kRingBytes = 0x100;
inline constexpr uint64_t kAvailableAt = 0x80;
inline constexpr uint64_t kUsedAt = 0x98;
inline constexpr uint64_t kTablesAt = kQueues * kRingBytes;
inline constexpr size_t kPiecesMax = 3;
inline constexpr uint64_t kTableBytes = kPiecesMax * kDescriptorBytes;
inline constexpr uint64_t kGuestBytes = 0x800;
static_assert(kTablesAt + kQueues * kRingSize * kTableBytes <= kGuestBytes);
inline constexpr uint64_t kReservedBytes = kVsockGuests * kGuestBytes;
inline constexpr uint64_t kBufferBytes = 0x100;
inline constexpr uint64_t kBuffersAt = kReservedBytes;
inline constexpr uint64_t kSentAt = kBuffersAt + kVsockGuests * kRingSize * kBufferBytes;
static_assert(sizeof(PacketHeader) + kPayloadMax <= 0x3e00 - kSentAt);

inline uint64_t home(uint64_t offset) {
    return FuzzMemory::guest_start(FuzzMemory::kHome) + offset;
}

inline UniqueFd make_socket(int type) {
    UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    OUTRIGGER_ASSERT(fd.valid());
    return fd;
}

inline sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    OUTRIGGER_ASSERT(path.size() < sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size());
    return address;
}

inline UniqueFd listen_anew(const std::string& path, int type, int backlog) {
    UniqueFd fd = make_socket(type);
    const sockaddr_un address = address_of(path);
    (void)::unlink(path.c_str());
    // SAFETY: the sockets API takes every address family by this one pointer type.
    OUTRIGGER_ASSERT(
        ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    OUTRIGGER_ASSERT(::listen(fd.get(), backlog) == 0);
    return fd;
}

inline UniqueFd accept_from(const UniqueFd& listener) {
    return UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

/// Where the sockets lie, and the programs of the host that listen, for all runs.
class VsockHost final {
  public:
    VsockHost() {
        std::string name = (std::filesystem::temp_directory_path() / "vsock-fuzz-XXXXXX").string();
        OUTRIGGER_ASSERT(::mkdtemp(name.data()) != nullptr);
        folder_ = name;
        for (size_t guest = 0; guest < kVsockGuests; ++guest) {
            streams_[guest] = listen_anew(path(guest, kVsockStreamPort), SOCK_STREAM, 4);
            full_[guest] = listen_anew(path(guest, kVsockFullPort), SOCK_STREAM, 0);
            packets_[guest] = listen_anew(path(guest, kVsockSeqpacketPort), SOCK_SEQPACKET, 4);
        }
    }

    VsockHost(const VsockHost&) = delete;
    VsockHost& operator=(const VsockHost&) = delete;

    ~VsockHost() {
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }

    [[nodiscard]] std::string base(size_t guest) const { return folder_ / std::to_string(guest); }

    [[nodiscard]] UniqueFd accept(size_t guest, bool stream) const {
        return accept_from(stream ? streams_[guest] : packets_[guest]);
    }

    /// Takes away what the last run left.
    void clear() const {
        for (const auto* listeners : {&streams_, &full_, &packets_}) {
            for (const UniqueFd& listener : *listeners) {
                while (accept_from(listener).valid()) {
                }
            }
        }
    }

  private:
    [[nodiscard]] std::string path(size_t guest, uint32_t port) const {
        return base(guest) + "_" + std::to_string(port);
    }

    std::filesystem::path folder_;
    std::array<UniqueFd, kVsockGuests> streams_;
    std::array<UniqueFd, kVsockGuests> full_;
    std::array<UniqueFd, kVsockGuests> packets_;
};

struct VsockSegment {
    uint64_t place = 0;
    uint32_t length = 0;
};

/// One guest: its device, its rings, and what must be true of both.
class VsockGuest final {
  public:
    VsockGuest(FuzzMemory& memory, Worker& worker, const VsockHost& host, size_t number)
        : memory_(memory), worker_(worker), number_(number), cid_(kVsockCidMin + number) {
        const vsock::VsockOptions options{
            .guest_cid = cid_,
            .uds_path = host.base(number),
            .connections_max = 8,
            .window_bytes = kVsockWindow,
            .window_bytes_max = kVsockWindowMax,
            // The second one lets the first in, and not the other way.
            .siblings = {.callers = number == 0
                                        ? std::vector<vsock::CallerRule>()
                                        : std::vector<vsock::CallerRule>{{.cid = kVsockCidMin}}}};
        vsock::HostListeners listeners;
        listeners.stream.fd = listen_anew(options.uds_path, SOCK_STREAM, 4);
        listeners.seqpacket.fd = listen_anew(options.uds_path + "_seqpacket", SOCK_SEQPACKET, 4);
        device_ = std::make_unique<vsock::VsockDevice>(
            options, vsock::VsockEngine::create(options, std::move(listeners)).value());
        // The first port is random otherwise.
        OUTRIGGER_ASSERT(
            device_->load_state(vsock::write_vsock_state({.guest_cid = cid_})).has_value());
        negotiate(7);
        for (size_t index = 0; index < kQueues; ++index) {
            start(index);
        }
    }

    ~VsockGuest() {
        reset();
        const vsock::VsockCounters& counters = device_->counters();
        OUTRIGGER_ASSERT(counters.connections.value() == counters.connections_gone.value());
        OUTRIGGER_ASSERT(resets_ <= counters.connections.value() + asking_packets_);
    }

    VsockGuest(const VsockGuest&) = delete;
    VsockGuest& operator=(const VsockGuest&) = delete;

    void negotiate(uint8_t bits) {
        device_->on_negotiated(FeatureSet(bits) & device_->offered_features());
    }

    void start(size_t index) {
        Ring& ring = rings_[index];
        if (ring.queue) {
            return;
        }
        const auto at = [&](uint64_t offset) {
            return FrontendAddr{FuzzMemory::frontend_address(ring_place(index) + offset)};
        };
        ring.queue = Virtqueue::create({.size = kRingSize,
                                        .indirect = true,
                                        .descriptor_area = at(0),
                                        .driver_area = at(kAvailableAt),
                                        .device_area = at(kUsedAt)},
                                       VringBase{ring.base},
                                       memory_.snapshot(FuzzMemory::Table::kAll))
                         .value();
        memory_.allow_writes(ring_place(index) + kUsedAt, 6 + 8ULL * kRingSize);
        OUTRIGGER_ASSERT(
            device_->start_queue(QueueIndex{static_cast<uint16_t>(index)}, *ring.queue, worker_)
                .has_value());
    }

    void stop(size_t index) {
        Ring& ring = rings_[index];
        if (!ring.queue) {
            return;
        }
        bool drained = false;
        device_->stop_queue(QueueIndex{static_cast<uint16_t>(index)},
                            [&drained] { drained = true; });
        (void)ring.queue->publish();
        OUTRIGGER_ASSERT(drained && ring.queue->in_flight() == 0);
        const auto& counters = ring.queue->counters();
        OUTRIGGER_ASSERT(counters.chains_completed.value() == counters.chains_popped.value());
        take_used(index);
        ring.base = ring.queue->base().raw;
        ring.queue.reset();
    }

    void reset() {
        for (size_t index = 0; index < kQueues; ++index) {
            stop(index);
        }
        device_->reset();
    }

    /// The state leaves for another process, which is this one.
    void move() {
        for (size_t index = 0; index < kQueues; ++index) {
            stop(index);
        }
        const auto state = device_->save_state().value();
        OUTRIGGER_ASSERT(device_->load_state(state).has_value());
        OUTRIGGER_ASSERT(device_->save_state().value() == state);
        for (size_t index = 0; index < kQueues; ++index) {
            start(index);
        }
    }

    /// True: there may be more to do.
    bool run() {
        bool goes_on = false;
        for (size_t index = 0; index < kQueues; ++index) {
            Ring& ring = rings_[index];
            if (!ring.queue) {
                continue;
            }
            // Bounded: a ring gives no more than was made available.
            while (device_->process_queue(QueueIndex{static_cast<uint16_t>(index)}) ==
                   QueueProgress::kMore) {
            }
            goes_on = ring.queue->take_processing_request() || goes_on;
            (void)ring.queue->publish();
            take_used(index);
        }
        return goes_on;
    }

    [[nodiscard]] bool has_room(size_t index) const { return rings_[index].added < kRingSize; }

    void send(const PacketHeader& header,
              uint64_t place,
              uint32_t bytes,
              std::span<const VsockSegment> segments) {
        memory_.store_object(place, header);
        asking_packets_ += header.operation != 3 || bytes < sizeof header ? 1U : 0U;
        add(kTransmit, segments, 0);
    }

    /// A buffer that nothing else uses.
    void post(uint32_t length) {
        const uint64_t slot = rings_[kReceive].available_index % kRingSize;
        const uint64_t place = home(kBuffersAt + (number_ * kRingSize + slot) * kBufferBytes);
        // Cut in the header, in the payload, or at their border.
        const uint32_t cut = length % 90;
        const std::array segments{
            VsockSegment{.place = place, .length = std::min(cut, length)},
            VsockSegment{.place = place + cut, .length = length - std::min(cut, length)}};
        add(kReceive, std::span(segments).subspan(cut == 0 ? 1 : 0), kWrite);
    }

    void post(uint64_t place, uint32_t length) {
        is_wild_ = true;
        const VsockSegment segment{.place = place, .length = length};
        add(kReceive, std::span(&segment, 1), kWrite);
    }

    void post_event(uint32_t length) {
        const VsockSegment segment{.place = home(kSentAt), .length = length};
        is_wild_ = true;  // what is sent lies there, too
        add(kEvent, std::span(&segment, 1), kWrite);
    }

    /// Buffers overlap from now on, so that nothing can be said of what is in them.
    void be_wild() { is_wild_ = true; }

    [[nodiscard]] uint64_t cid() const { return cid_; }

  private:
    struct Ring {
        std::unique_ptr<Virtqueue> queue;
        uint32_t base = 0;
        uint16_t available_index = 0;
        uint16_t used_index = 0;
        size_t added = 0;  // not used yet
    };

    [[nodiscard]] uint64_t ring_place(size_t index) const {
        return home(number_ * kGuestBytes + index * kRingBytes);
    }

    void add(size_t index, std::span<const VsockSegment> segments, uint16_t flags) {
        Ring& ring = rings_[index];
        const auto slot = static_cast<uint16_t>(ring.available_index % kRingSize);
        const uint64_t table =
            home(number_ * kGuestBytes + kTablesAt + (index * kRingSize + slot) * kTableBytes);
        for (size_t i = 0; i < segments.size(); ++i) {
            const bool is_last = i + 1 == segments.size();
            store_descriptor(table + i * kDescriptorBytes,
                             segments[i],
                             static_cast<uint16_t>(flags | (is_last ? 0 : kNext)),
                             static_cast<uint16_t>(i + 1));
            if (flags == kWrite) {
                memory_.allow_range(segments[i].place, segments[i].length);
            }
        }
        store_descriptor(
            ring_place(index) + uint64_t{slot} * kDescriptorBytes,
            {.place = table, .length = static_cast<uint32_t>(segments.size() * kDescriptorBytes)},
            kIndirect,
            0);
        memory_.store_object(ring_place(index) + kAvailableAt + 4 + 2ULL * slot, slot);
        ++ring.available_index;
        ++ring.added;
        memory_.store_object(ring_place(index) + kAvailableAt + 2, ring.available_index);
    }

    void store_descriptor(uint64_t at, const VsockSegment& segment, uint16_t flags, uint16_t next) {
        struct Descriptor {
            uint64_t address;
            uint32_t length;
            uint16_t flags;
            uint16_t next;
        };

        memory_.store_object(
            at,
            Descriptor{
                .address = segment.place, .length = segment.length, .flags = flags, .next = next});
    }

    void take_used(size_t index) {
        struct Used {
            uint32_t id;
            uint32_t length;
        };

        Ring& ring = rings_[index];
        const auto newest = memory_.load_object<uint16_t>(ring_place(index) + kUsedAt + 2);
        for (; ring.used_index != newest; ++ring.used_index) {
            const auto used = memory_.load_object<Used>(ring_place(index) + kUsedAt + 4 +
                                                        8ULL * (ring.used_index % kRingSize));
            OUTRIGGER_ASSERT(used.id < kRingSize && ring.added > 0);
            --ring.added;
            if (index == kReceive) {
                check_packet(used.id, used.length);
            }
        }
    }

    void check_packet(uint32_t slot, uint32_t length) {
        // With nothing in it a buffer goes back when its ring breaks.
        if (is_wild_ || length == 0) {
            return;
        }
        const auto header = memory_.load_object<PacketHeader>(
            home(kBuffersAt + (number_ * kRingSize + slot) * kBufferBytes));
        OUTRIGGER_ASSERT(length >= sizeof header && length - sizeof header == header.length);
        OUTRIGGER_ASSERT(header.destination_cid == cid_);
        // A guest that calls itself is refused in its own name.
        OUTRIGGER_ASSERT(header.source_cid != cid_ || header.operation == 3);
        OUTRIGGER_ASSERT(header.operation >= 1 && header.operation <= 7);
        OUTRIGGER_ASSERT(header.length == 0 || header.operation == 5);
        OUTRIGGER_ASSERT(header.buffer_bytes <= kVsockWindowMax);
        resets_ += header.operation == 3 ? 1U : 0U;
    }

    FuzzMemory& memory_;
    Worker& worker_;
    const size_t number_;
    const uint64_t cid_;
    std::unique_ptr<vsock::VsockDevice> device_;
    std::array<Ring, kQueues> rings_;
    bool is_wild_ = false;
    uint64_t asking_packets_ = 0;  // that may be answered by RST
    uint64_t resets_ = 0;
};

}  // namespace outrigger::fuzz
