// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/postcopy.h"

#include <cstring>
#include <utility>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/wire/messages.h"

namespace outrigger {

Result<UniqueFd, Refusal> Postcopy::advise() {
    if (userfault_ != nullptr) {
        return failure(Refusal::kState);
    }
    auto opened = source_->open();
    auto shared =
        opened ? (*opened)->share() : Result<UniqueFd>(std::unexpected(std::move(opened).error()));
    if (!shared) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning, "{}: {}", device_, shared.error().message);
        return failure(Refusal::kUserfault);
    }
    userfault_ = *std::move(opened);
    log(LogLevel::kInfo, "{}: postcopy: the front end can bring pages", device_);
    return *std::move(shared);
}

Result<void, Refusal> Postcopy::listen() {
    if (userfault_ == nullptr || listening_) {
        return failure(Refusal::kState);
    }
    listening_ = true;
    log(LogLevel::kInfo, "{}: postcopy: memory comes when it is touched", device_);
    return {};
}

Result<void, Refusal> Postcopy::end() {
    if (userfault_ == nullptr || held_) {
        return failure(Refusal::kState);
    }
    for (const auto& region : armed_regions()) {
        userfault_->disarm(region->pages());
    }
    forget();
    log(LogLevel::kInfo, "{}: postcopy: ended", device_);
    return {};
}

Result<void, Refusal> Postcopy::arm(const MemorySnapshot::RegionPointer& region) {
    if (auto armed = userfault_->arm(region->pages()); !armed) {
        static LogLimiter limiter;
        limiter.log(LogLevel::kWarning, "{}: {}", device_, armed.error().message);
        return failure(Refusal::kUserfault);
    }
    std::erase_if(armed_, [](const auto& known) { return known.expired(); });
    armed_.emplace_back(region);
    return {};
}

bool Postcopy::is_acknowledgement(const wire::Message& message) const {
    using enum wire::FrontendRequest;
    const auto request = message.header.request;
    const bool brings_memory = request == static_cast<uint32_t>(kSetMemTable) ||
                               request == static_cast<uint32_t>(kAddMemReg) ||
                               request == static_cast<uint32_t>(kRemMemReg);
    return listening_ && brings_memory && message.payload.size() == sizeof(uint64_t) &&
           message.fds.empty();
}

Result<std::optional<HeldMemory>, Refusal> Postcopy::take_acknowledged(
    const wire::Message& message) {
    if (!held_) {
        // QEMU says so behind every change of its table, with the number of its last message.
        const bool idle =
            message.header.request == static_cast<uint32_t>(wire::FrontendRequest::kRemMemReg);
        return idle ? Result<std::optional<HeldMemory>, Refusal>(std::nullopt)
                    : failure(Refusal::kState);
    }
    if (message.header.request != held_->request) {
        return failure(Refusal::kState);
    }
    uint64_t status = 0;
    std::memcpy(&status, message.payload.data(), sizeof status);
    auto held = *std::exchange(held_, std::nullopt);
    if (status != 0) {
        return failure(Refusal::kUserfault);
    }
    return std::optional(std::move(held));
}

void Postcopy::give_up() {
    for (const auto& region : armed_regions()) {
        userfault_->give_up(region->pages());
    }
    forget();
}

std::vector<MemorySnapshot::RegionPointer> Postcopy::armed_regions() const {
    std::vector<MemorySnapshot::RegionPointer> regions;
    for (const auto& known : armed_) {
        if (auto region = known.lock()) {
            regions.push_back(std::move(region));
        }
    }
    return regions;
}

void Postcopy::forget() {
    armed_.clear();
    held_.reset();
    listening_ = false;
    userfault_.reset();
}

}  // namespace outrigger
