// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/fuse_guest.h"

#include <algorithm>
#include <array>
#include <utility>

namespace outrigger::testing {
namespace {

/// How often one who waits looks whether there is still a device.
constexpr std::chrono::milliseconds kLookAround{250};

/// Rings and tables, and the slots of every queue.
uint64_t memory_bytes(const FuseGuest::Options& options) {
    const uint64_t rings = uint64_t{32} << 20;
    const uint64_t slots =
        options.slot_count * 2 * (FuseQueue::kSlotBytes + 2 * FuseQueue::kPageBytes);
    return (rings + slots) * (options.request_queues + uint64_t{1});
}

}  // namespace

std::string FuseAnswer::text() const {
    std::string out;
    for (const std::byte byte : body()) {
        out.push_back(std::to_integer<char>(byte));
    }
    return out;
}

Bytes bytes_of(const FuseRequest& request, uint64_t unique) {
    const auto whole = static_cast<uint32_t>(sizeof(fuse_in_header) + request.arguments.size());
    const fuse_in_header header = {.len = request.len.value_or(whole),
                                   .opcode = request.opcode,
                                   .unique = request.unique.value_or(unique),
                                   .nodeid = request.nodeid,
                                   .uid = request.uid,
                                   .gid = request.gid,
                                   .pid = 1,
                                   .total_extlen = request.total_extlen,
                                   .padding = 0};
    return FuseArguments().add(header).raw(request.arguments);
}

FuseGuest::FuseGuest(const std::string& socket_path, const Options& options) : options_(options) {
    auto memory =
        driver::GuestMemory::create(memory_bytes(options),
                                    GuestAddr{0x10000},
                                    options.truncatable ? driver::RegionBacking::kPosixObject
                                                        : driver::RegionBacking::kDefault);
    if (!memory) {
        trouble_ = "no memory for the guest: " + memory.error().message;
        return;
    }
    memory_ = *std::move(memory);
    auto connected = driver::Frontend::connect(socket_path, driver::after(kPatience));
    if (!connected) {
        trouble_ = "no daemon at " + socket_path + ": " + connected.error().message;
        return;
    }
    frontend_.emplace(*std::move(connected));
    frontend_->set_time_limit(kPatience);
    auto running = driver::bring_up(*frontend_, memory_, bring_up_options());
    if (!running) {
        trouble_ = std::string(running.error().step) + ": " +
                   std::string(describe(running.error().answer));
        return;
    }
    running_ = *std::move(running);
    for (driver::DriverQueue& queue : running_.queues) {
        queues_.push_back(std::make_unique<FuseQueue>(memory_, queue, options.slot_count));
        room_.emplace_back(options.slot_count);
    }
}

driver::BringUpOptions FuseGuest::bring_up_options() const {
    const FeatureSet mapping = options_.shared_memory
                                   ? FeatureSet::of({bit(wire::ProtocolFeature::kBackendReq),
                                                     bit(wire::ProtocolFeature::kBackendSendFd),
                                                     bit(wire::ProtocolFeature::kShmem)})
                                   : FeatureSet{};
    return {
        .protocol_features =
            driver::kUsualProtocolFeatures.with(bit(wire::ProtocolFeature::kDeviceState)) | mapping,
        .packed = options_.packed,
        .indirect_segments_max = FuseQueue::kSegmentsMax,
        .queue_count = static_cast<uint16_t>(options_.request_queues + 1),
        .queue_size = options_.queue_size};
}

std::optional<size_t> FuseGuest::submit(const FuseRequest& request, size_t queue) {
    const Bytes bytes = bytes_of(request, next_unique());
    FuseQueue& ring = *queues_.at(queue);
    const auto slot = ring.take_slot();
    if (!slot || bytes.size() > FuseQueue::kSlotBytes) {
        return std::nullopt;
    }
    std::ranges::copy(bytes, ring.readable(*slot).begin());
    const std::array readable = parts_of_request(bytes);
    const std::array writable = {static_cast<uint32_t>(sizeof(fuse_out_header)), request.room};
    room_[queue][*slot] = request.answered ? writable[0] + writable[1] : 0;
    if (!ring.submit(
            *slot,
            readable,
            request.answered ? std::span<const uint32_t>(writable) : std::span<const uint32_t>())) {
        return std::nullopt;
    }
    ring.ring().publish_and_kick();
    return slot;
}

FuseAnswer FuseGuest::take_answer(size_t queue, const FuseQueue::Done& done) {
    FuseAnswer answer{.used = true, .length = done.length};
    const auto written =
        queues_[queue]->writable(done.slot).first(std::min(done.length, room_[queue][done.slot]));
    answer.bytes.assign(written.begin(), written.end());
    queues_[queue]->give_back(done.slot);
    return answer;
}

std::optional<FuseAnswer> FuseGuest::take_kept(size_t queue, size_t slot) {
    const auto found = std::ranges::find_if(
        kept_, [&](const Kept& kept) { return kept.queue == queue && kept.slot == slot; });
    if (found == kept_.end()) {
        return std::nullopt;
    }
    FuseAnswer answer = std::move(found->answer);
    kept_.erase(found);
    return answer;
}

FuseAnswer FuseGuest::wait(size_t slot, size_t queue, std::chrono::milliseconds patience) {
    if (auto kept = take_kept(queue, slot)) {
        return *std::move(kept);
    }
    FuseQueue& ring = *queues_.at(queue);
    const driver::Deadline deadline = driver::after(patience);
    while (true) {
        const driver::WaitResult result =
            ring.ring().wait_used(std::min(deadline, driver::after(kLookAround)));
        if (result == driver::WaitResult::kTimeout && driver::Clock::now() < deadline &&
            !frontend_->has_input()) {
            continue;
        }
        if (result != driver::WaitResult::kUsed) {
            break;  // too late, or the device is gone: it says nothing unasked but its end
        }
        const auto done = ring.poll();
        if (!done) {
            break;  // the ring is broken
        }
        FuseAnswer answer = take_answer(queue, *done);
        if (done->slot == slot) {
            return answer;
        }
        kept_.push_back({.queue = queue, .slot = done->slot, .answer = std::move(answer)});
    }
    return {};
}

FuseAnswer FuseGuest::call(const FuseRequest& request,
                           size_t queue,
                           std::chrono::milliseconds patience) {
    const auto slot = submit(request, queue);
    return slot ? wait(*slot, queue, patience) : FuseAnswer{};
}

FuseAnswer FuseGuest::call_raw(std::span<const Bytes> readable_parts,
                               std::span<const uint32_t> writable_parts,
                               size_t queue) {
    FuseQueue& ring = *queues_.at(queue);
    const auto slot = ring.take_slot();
    if (!slot) {
        return {};
    }
    std::vector<uint32_t> lengths;
    auto out = ring.readable(*slot).begin();
    for (const Bytes& part : readable_parts) {
        out = std::ranges::copy(part, out).out;
        lengths.push_back(static_cast<uint32_t>(part.size()));
    }
    room_[queue][*slot] = 0;
    for (const uint32_t part : writable_parts) {
        room_[queue][*slot] += part;
    }
    if (!ring.submit(*slot, lengths, writable_parts)) {
        return {};
    }
    ring.ring().publish_and_kick();
    return wait(*slot, queue);
}

FuseAnswer FuseGuest::init(uint64_t flags) {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = 45;
    in.max_readahead = 1 << 20;
    in.flags = static_cast<uint32_t>(flags | FUSE_INIT_EXT);
    in.flags2 = static_cast<uint32_t>(flags >> 32);
    FuseAnswer answer = call({.opcode = FUSE_INIT,
                              .nodeid = 0,
                              .arguments = FuseArguments().add(in),
                              .room = sizeof(fuse_init_out)});
    const auto out = answer.as<fuse_init_out>();
    init_flags_ = out.flags;
    if ((out.flags & FUSE_INIT_EXT) != 0) {
        init_flags_ |= uint64_t{out.flags2} << 32;
    }
    return answer;
}

}  // namespace outrigger::testing
