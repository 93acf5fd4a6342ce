// SPDX-License-Identifier: Apache-2.0
// SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG. A change makes a new snapshot; it is answered when
// every ring uses it and, where memory went away, no request in flight uses the old one.
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/session/session_impl.h"

namespace outrigger {
namespace {

MemoryRegionLayout to_layout(const wire::MemoryRegion& region) {
    return {.guest_address = GuestAddr{region.guest_address},
            .size = region.size,
            .frontend_address = FrontendAddr{region.user_address},
            .mmap_offset = region.mmap_offset};
}

/// The region at `offset` of a payload whose size was checked.
wire::MemoryRegion region_at(const wire::Message& message, size_t offset) {
    wire::MemoryRegion region;
    OUTRIGGER_ASSERT(offset + sizeof region <= message.payload.size());
    std::memcpy(&region, message.payload.data() + offset, sizeof region);
    return region;
}

/// Our address of a region in place of the front end's, at `offset` of the payload that told of it.
void put_base(std::span<std::byte> payload, size_t offset, const MemoryRegion& region) {
    const auto base = static_cast<uint64_t>(std::bit_cast<uintptr_t>(region.data()));
    std::memcpy(
        payload.data() + offset + offsetof(wire::MemoryRegion, user_address), &base, sizeof base);
}

/// What mapping a region takes beside the region.
struct MappingRules {
    std::string_view device;
    bool require_sealed;
};

Result<MemorySnapshot::RegionPointer, Refusal> map_region(const MappingRules& rules,
                                                          const wire::MemoryRegion& region,
                                                          const UniqueFd& fd) {
    if (!platform::is_sealed_against_shrinking(fd.get())) {
        if (rules.require_sealed) {
            static LogLimiter limiter;
            limiter.log(LogLevel::kWarning,
                        "{}: refused a memory region whose file can be truncated "
                        "(--require-sealed): it is no memfd with F_SEAL_SHRINK",
                        rules.device);
            return failure(Refusal::kMemoryFile);
        }
        log(LogLevel::kDebug, "{}: a memory region's file can be truncated", rules.device);
    }
    auto mapped = MemoryRegion::map(to_layout(region), fd.get());
    if (!mapped) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning, "{}: {}", rules.device, mapped.error().message);
        return failure(Refusal::kMemoryFile);
    }
    return std::make_shared<const MemoryRegion>(*std::move(mapped));
}

}  // namespace

Session::Impl::Outcome Session::Impl::take_memory(std::shared_ptr<const MemorySnapshot> memory,
                                                  bool drain) {
    memory_ = std::move(memory);
    // One for each ring: its worker writes it before it posts that it is done.
    auto left = std::make_shared<std::vector<std::optional<VringBase>>>(rings_.size());
    auto task = std::make_shared<RunnerTask>(
        [snapshot = memory_, drain, left](QueueRunner& runner, QueueRunner::Done runner_done) {
            runner.adopt_memory(
                snapshot, drain, [&runner, left, runner_done = std::move(runner_done)]() mutable {
                    (*left)[to_number(runner.index())] = runner.base_without_memory();
                    runner_done();
                });
        });
    draining_ = drain;
    // A ring may have been told to start before its memory was known.
    for_each_runner(task, [this, left] {
        draining_ = false;
        for (size_t index = 0; index < rings_.size(); ++index) {
            note_lost_memory(index, (*left)[index]);
        }
        start_ready_rings(std::nullopt, [this](std::optional<Refusal>) { finish(done()); });
    });
    return later();
}

/// A ring that has lost its memory has nothing in flight, and stands still: the next process could
/// not look there.
void Session::Impl::note_lost_memory(size_t index, std::optional<VringBase> base) {
    rings_[index].without_memory = base;
    if (base && environment_.journal != nullptr && !is_restoring() && !memory_->mode().iommu) {
        environment_.journal->set_ring_base(static_cast<uint32_t>(index), base->raw);
    }
}

Session::Impl::Outcome Session::Impl::change_memory(std::shared_ptr<const MemorySnapshot> memory,
                                                    bool drain,
                                                    NewMemory added) {
    if (!postcopy_.is_listening()) {
        return take_memory(std::move(memory), drain);
    }
    for (const auto& region : added.regions) {
        if (auto armed = postcopy_.arm(region); !armed) {
            return refuse(armed.error());
        }
    }
    postcopy_.hold({.request = request_, .memory = std::move(memory), .drain = drain});
    return reply(std::move(added.bases));
}

Session::Impl::Outcome Session::Impl::handle_set_mem_table(const wire::Message& message) {
    const auto header = payload_as<wire::MemoryTableHeader>(message);
    if (header.region_count == 0 || header.region_count > wire::kMemTableRegionsMax) {
        return refuse(Refusal::kMemoryTable);
    }
    if (postcopy_.held() != nullptr) {
        return refuse(Refusal::kState);
    }
    const MappingRules rules = {.device = identity_.name,
                                .require_sealed = options_.require_sealed};
    Payload bases = message.payload;
    std::vector<MemorySnapshot::RegionPointer> regions;
    regions.reserve(header.region_count);
    for (size_t i = 0; i < header.region_count; ++i) {
        const size_t place = sizeof header + i * sizeof(wire::MemoryRegion);
        auto mapped = map_region(rules, region_at(message, place), message.fds[i]);
        if (!mapped) {
            return refuse(mapped.error());
        }
        put_base(bases, place, **mapped);
        regions.push_back(*std::move(mapped));
    }
    auto memory = MemorySnapshot::create(
        regions, memory_->epoch() + 1, wire::kMemTableRegionsMax, memory_->mode());
    if (!memory) {
        return refuse(Refusal::kMemoryTable);
    }
    // The translations name memory by the front end's addresses, so they lead into the new table.
    // QEMU keeps its own when memory is plugged in, and does not tell them again.
    constexpr bool kDrain = true;
    return change_memory(translated(*std::move(memory), MemorySnapshot::Withdrawn::kSome),
                         kDrain,
                         {.regions = regions, .bases = std::move(bases)});
}

Session::Impl::Outcome Session::Impl::handle_add_mem_reg(const wire::Message& message) {
    const HeldMemory* const held = postcopy_.held();
    if (held != nullptr && held->request != request_) {
        return refuse(Refusal::kState);
    }
    const auto description = payload_as<wire::SingleMemoryRegion>(message).region;
    // Those that wait for one acknowledgement together come together.
    const MemorySnapshot& before = held != nullptr ? *held->memory : *memory_;
    if (const auto file = FileIdentity::of(message.fds[0].get())) {
        if (const auto same = before.find_same(to_layout(description), *file)) {
            return repeat_region(message, *same);
        }
    }
    auto region = map_region({.device = identity_.name, .require_sealed = options_.require_sealed},
                             description,
                             message.fds[0]);
    if (!region) {
        return refuse(region.error());
    }
    Payload bases = message.payload;
    put_base(bases, offsetof(wire::SingleMemoryRegion, region), **region);
    auto memory = before.with_region(*region, options_.memory_slots);
    if (!memory) {
        return refuse(Refusal::kMemoryTable);
    }
    // Requests in flight keep using the regions that both snapshots hold.
    constexpr bool kDrain = false;
    return change_memory(translated(*std::move(memory), MemorySnapshot::Withdrawn::kNothing),
                         kDrain,
                         {.regions = std::span(&*region, 1), .bases = std::move(bases)});
}

/// QEMU before 8.0 says everything about memory once for each pair of a network device's queues,
/// and one refusal ends the device. The first removal takes the region away, because what comes in
/// its place may come before the second.
Session::Impl::Outcome Session::Impl::repeat_region(const wire::Message& message,
                                                    const MemoryRegion& region) {
    regions_repeated_ = true;
    said_before_ = true;
    if (!postcopy_.is_listening()) {
        return done();
    }
    Payload bases = message.payload;
    put_base(bases, offsetof(wire::SingleMemoryRegion, region), region);
    const HeldMemory* const held = postcopy_.held();
    constexpr bool kDrain = false;
    return change_memory(held != nullptr ? held->memory : memory_,
                         kDrain,
                         {.regions = {}, .bases = std::move(bases)});
}

Session::Impl::Outcome Session::Impl::handle_rem_mem_reg(const wire::Message& message) {
    if (postcopy_.held() != nullptr) {
        return refuse(Refusal::kState);
    }
    // A descriptor that comes along (libblkio sends one) is closed with the message.
    auto memory =
        memory_->without_region(to_layout(payload_as<wire::SingleMemoryRegion>(message).region));
    if (!memory && regions_repeated_) {
        said_before_ = true;
        return done();
    }
    if (!memory) {
        return refuse(Refusal::kMemoryTable);
    }
    constexpr bool kDrain = true;
    return take_memory(translated(*std::move(memory), MemorySnapshot::Withdrawn::kSome), kDrain);
}

std::shared_ptr<const MemorySnapshot> Session::Impl::translated(
    std::shared_ptr<const MemorySnapshot> memory, MemorySnapshot::Withdrawn withdrawn) const {
    return memory->mode().iommu ? memory->with_translations(iotlb_, withdrawn) : memory;
}

}  // namespace outrigger
