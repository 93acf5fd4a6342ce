// SPDX-License-Identifier: Apache-2.0
#include "tools/driver/iommu.h"

#include <cstring>
#include <span>
#include <utility>

#include <poll.h>

namespace outrigger::driver {
namespace {

/// Where the back end is told that the memory lies; the driver's addresses are far from both.
constexpr uint64_t kGuestBase = 0x40'0000'0000;
constexpr uint64_t kUserBase = 0x7b00'0000'0000;
/// From one page of scattered memory to the next.
constexpr uint64_t kStride = 4 * Iommu::kPage;
/// How soon the thread sees that it shall stop.
constexpr int kLookMs = 20;

constexpr uint64_t align_down(uint64_t address) {
    return address & ~(Iommu::kPage - 1);
}

}  // namespace

Iommu::Iommu(Frontend& frontend, const GuestMemory& memory, const IommuOptions& options)
    : frontend_(frontend), options_(options) {
    const RegionId region = memory.regions().at(0);
    fd_ = memory.fd(region);
    start_ = GuestAddr{memory.description(region).guest_address};
    bytes_ = memory.description(region).size;
}

Iommu::~Iommu() {
    stop();
}

wire::MemoryRegion Iommu::region_of(uint64_t page) const {
    if (!options_.scattered) {
        return {.guest_address = kGuestBase,
                .size = bytes_,
                .user_address = options_.guest_addresses ? kGuestBase : kUserBase,
                .mmap_offset = 0};
    }
    // Backwards, with gaps: no two pages are neighbours in any address space.
    const uint64_t place = (bytes_ / kPage - 1 - page) * kStride;
    return {.guest_address = kGuestBase + place,
            .size = kPage,
            .user_address = (options_.guest_addresses ? kGuestBase : kUserBase) + place,
            .mmap_offset = page * kPage};
}

uint64_t Iommu::target_of(GuestAddr iova) const {
    const uint64_t offset = static_cast<uint64_t>(iova) - static_cast<uint64_t>(start_);
    const wire::MemoryRegion region = region_of(offset / kPage);
    const uint64_t within = options_.scattered ? offset % kPage : offset;
    return (options_.guest_addresses ? region.guest_address : region.user_address) + within;
}

Answer Iommu::share_memory() {
    const uint64_t count = options_.scattered ? bytes_ / kPage : 1;
    return with_frontend([&](Frontend& frontend) {
        Answer answer = Answer::kUnasked;
        for (uint64_t page = 0; page < count && went_well(answer); ++page) {
            answer = frontend.add_mem_reg(region_of(page), fd_);
        }
        return answer;
    });
}

Answer Iommu::share_memory_the_old_way(uint64_t shift) {
    wire::MemoryRegion region = region_of(0);
    region.guest_address += shift;
    region.user_address += shift;
    return with_frontend([&](Frontend& frontend) {
        return frontend.set_mem_table(std::span(&region, 1), std::span(&fd_, 1));
    });
}

Answer Iommu::serve() {
    auto channel = with_frontend([](Frontend& frontend) { return ChannelEnd::open(frontend); });
    if (!channel) {
        return channel.error();
    }
    stop();
    channel_.emplace(*std::move(channel));
    stopping_ = false;
    thread_ = std::thread([this] { run(); });
    return Answer::kAccepted;
}

void Iommu::stop() {
    stopping_ = true;
    if (thread_.joinable()) {
        thread_.join();
    }
    unanswered_.clear();
    channel_.reset();
}

void Iommu::refuse_unanswered() {
    const std::lock_guard lock(mutex_);
    for (const wire::Message& request : std::exchange(unanswered_, {})) {
        (void)channel_->reply(request, 1);
    }
}

void Iommu::run() {
    while (!stopping_) {
        pollfd waited = {.fd = channel_->socket(), .events = POLLIN, .revents = 0};
        if (::poll(&waited, 1, kLookMs) <= 0) {
            continue;
        }
        auto request = channel_->receive();
        if (!request) {
            return;
        }
        answer_miss(*std::move(request));
    }
}

void Iommu::send_update(Frontend& frontend,
                        uint64_t iova,
                        uint64_t target_iova,
                        uint8_t permissions) {
    (void)frontend.iotlb({.iova = iova,
                          .size = kPage,
                          .user_address = target_of(GuestAddr{target_iova}),
                          .permissions = permissions,
                          .type = wire::kIotlbUpdate,
                          .padding = {}});
}

bool Iommu::knows(uint64_t page) {
    const std::lock_guard lock(mutex_);
    return page - static_cast<uint64_t>(start_) < bytes_ || led_.contains(page);
}

uint64_t Iommu::memory_behind(uint64_t page) const {
    const auto led = led_.find(page);
    return led != led_.end() ? led->second : page;
}

void Iommu::answer_miss(wire::Message request) {
    constexpr uint8_t kReadWrite = 3;
    wire::Iotlb miss{};
    if (request.header.request != static_cast<uint32_t>(wire::BackendRequest::kIotlbMsg) ||
        request.payload.size() != sizeof miss) {
        (void)channel_->reply(request, 0);  // a change of the configuration, say
        return;
    }
    std::memcpy(&miss, request.payload.data(), sizeof miss);
    ++misses_;
    const uint64_t page = align_down(miss.iova);
    const uint64_t first = static_cast<uint64_t>(start_);
    const MissAnswer answer = answer_;
    if (answer == MissAnswer::kRefusal || !knows(page) || miss.type != wire::kIotlbMiss) {
        (void)channel_->reply(request, 1);
        return;
    }
    // As QEMU does: the answer comes when the back end has taken the translation.
    const std::lock_guard lock(mutex_);
    switch (answer) {
        case MissAnswer::kTranslation:
            send_update(frontend_, page, memory_behind(page), kReadWrite);
            break;
        case MissAnswer::kReadOnly:
            send_update(frontend_, page, page, 1);
            break;
        case MissAnswer::kOtherPage:
            send_update(frontend_, page == first ? page + kPage : first, page, kReadWrite);
            break;
        case MissAnswer::kOutsideMemory:
            (void)frontend_.iotlb({.iova = page,
                                   .size = kPage,
                                   .user_address = 0x1000,
                                   .permissions = kReadWrite,
                                   .type = wire::kIotlbUpdate,
                                   .padding = {}});
            break;
        case MissAnswer::kUnansweredUpdate:
            (void)channel_->reply(request, 0);
            send_update(frontend_, page, page, kReadWrite);
            return;
        case MissAnswer::kNothing:
            unanswered_.push_back(std::move(request));
            return;
        case MissAnswer::kSuccessAlone:
        case MissAnswer::kRefusal:
            break;
    }
    (void)channel_->reply(request, 0);
}

Frontend::Reply<uint64_t> Iommu::update(GuestAddr iova, uint64_t size, uint8_t permissions) {
    return with_frontend([&](Frontend& frontend) {
        return frontend.iotlb({.iova = static_cast<uint64_t>(iova),
                               .size = size,
                               .user_address = target_of(iova),
                               .permissions = permissions,
                               .type = wire::kIotlbUpdate,
                               .padding = {}});
    });
}

Frontend::Reply<uint64_t> Iommu::lead(GuestAddr iova, GuestAddr page) {
    {
        const std::lock_guard lock(mutex_);
        led_[static_cast<uint64_t>(iova)] = static_cast<uint64_t>(page);
    }
    // A translation that was sent meanwhile is the new one already.
    return invalidate(iova, kPage);
}

Frontend::Reply<uint64_t> Iommu::invalidate(GuestAddr iova, uint64_t size) {
    return with_frontend([&](Frontend& frontend) {
        return frontend.iotlb({.iova = static_cast<uint64_t>(iova),
                               .size = size,
                               .user_address = 0,
                               .permissions = 0,
                               .type = wire::kIotlbInvalidate,
                               .padding = {}});
    });
}

}  // namespace outrigger::driver
