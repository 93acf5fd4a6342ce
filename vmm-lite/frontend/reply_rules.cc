// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/frontend/reply_rules.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/core.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/wire/request_table.h"

namespace outrigger::vmm {
namespace {

using wire::FrontendRequest;
using wire::ReplyRule;

/// A machine has no use for more, and a back end must not make us map or keep more.
constexpr uint64_t kSharedRegionBytesMax = uint64_t{1} << 38;
constexpr size_t kSharedRegionsMax = 256;

/// The largest in-flight buffer that makes sense for a queue: an entry of 32 bytes for each of the
/// most descriptors that a ring can have, and a header.
constexpr uint64_t kInflightQueueBytesMax = 32 * 32768 + 4096;

template <class T>
T load(const wire::Message& message) {
    T object{};
    std::memcpy(&object, message.payload.data(), std::min(message.payload.size(), sizeof object));
    return object;
}

Error complaint(FrontendRequest request, std::string_view what) {
    return Error{.message = fmt::format("it answered {} with {}", name_of(request), what)};
}

struct Range {
    size_t least;
    size_t most;

    [[nodiscard]] bool has(size_t value) const { return value >= least && value <= most; }
};

struct ReplyShape {
    Range bytes;
    Range fds;
};

ReplyShape shape_of(ReplyRule rule) {
    constexpr size_t kU64 = sizeof(uint64_t);
    switch (rule) {
        case ReplyRule::kAck:
        case ReplyRule::kAckOrBases:
        case ReplyRule::kU64:
        case ReplyRule::kU64Status:
            return {.bytes = {kU64, kU64}, .fds = {0, 0}};
        case ReplyRule::kU64WithFd:
            return {.bytes = {kU64, kU64}, .fds = {0, 1}};
        case ReplyRule::kU64AndFd:
            return {.bytes = {kU64, kU64}, .fds = {0, 1}};
        case ReplyRule::kVringState:
            return {.bytes = {sizeof(wire::VringState), sizeof(wire::VringState)}, .fds = {0, 0}};
        case ReplyRule::kConfig:
            return {.bytes = {0, sizeof(wire::ConfigHeader) + wire::kConfigBytesMax},
                    .fds = {0, 0}};
        case ReplyRule::kLogIfShmfd:
            // 16 bytes by most, 8 by libvhost-user, none by DPDK.
            return {.bytes = {0, sizeof(wire::Log)}, .fds = {0, 0}};
        case ReplyRule::kFd:
            return {.bytes = {0, kU64}, .fds = {1, 1}};
        case ReplyRule::kSameWithFd:
            return {.bytes = {sizeof(wire::SharedObject), sizeof(wire::SharedObject)},
                    .fds = {0, 1}};
        case ReplyRule::kInflight:
            // Some leave the padding at its end out.
            return {.bytes = {sizeof(wire::Inflight) - sizeof(uint32_t), sizeof(wire::Inflight)},
                    .fds = {0, 1}};
        case ReplyRule::kCryptoSession:
            return {.bytes = {0, wire::kPayloadBytesMax}, .fds = {0, 0}};
        case ReplyRule::kShmemConfig:
            return {.bytes = {2 * sizeof(uint32_t), sizeof(wire::ShmemConfig)}, .fds = {0, 0}};
    }
    return {.bytes = {0, 0}, .fds = {0, 0}};
}

ReplyRule rule_of(FrontendRequest request) {
    const auto* row = wire::find_frontend_request(std::to_underlying(request));
    return row != nullptr ? row->reply : ReplyRule::kAck;
}

}  // namespace

std::string name_of(FrontendRequest request) {
    const auto* row = wire::find_frontend_request(std::to_underlying(request));
    return row != nullptr ? std::string(row->name)
                          : fmt::format("request {}", std::to_underlying(request));
}

bool has_own_reply(FrontendRequest request) {
    const ReplyRule rule = rule_of(request);
    return rule != ReplyRule::kAck && rule != ReplyRule::kAckOrBases;
}

size_t reply_fds_max(FrontendRequest request) {
    return shape_of(rule_of(request)).fds.most;
}

Result<void> check_reply(FrontendRequest request, bool acknowledges, const wire::Message& reply) {
    if (reply.header.request != std::to_underlying(request)) {
        return failure(complaint(
            request, fmt::format("a reply to {}", name_of(FrontendRequest{reply.header.request}))));
    }
    const ReplyShape shape = shape_of(acknowledges ? ReplyRule::kAck : rule_of(request));
    if (!shape.bytes.has(reply.payload.size())) {
        return failure(complaint(request,
                                 fmt::format("{} bytes, not {}{}",
                                             reply.payload.size(),
                                             shape.bytes.least,
                                             shape.bytes.most != shape.bytes.least
                                                 ? fmt::format(" to {}", shape.bytes.most)
                                                 : std::string())));
    }
    if (!shape.fds.has(reply.fds.size())) {
        return failure(complaint(request, fmt::format("{} descriptors", reply.fds.size())));
    }
    return {};
}

uint64_t u64_of(const wire::Message& reply) {
    return load<uint64_t>(reply);
}

wire::VringState vring_state_of(const wire::Message& reply) {
    return load<wire::VringState>(reply);
}

Result<uint32_t> parse_vring_base(const wire::Message& reply, uint32_t queue, bool packed) {
    const auto state = load<wire::VringState>(reply);
    if (state.index != queue) {
        return failure(complaint(FrontendRequest::kGetVringBase,
                                 fmt::format("ring {}, not {}", state.index, queue)));
    }
    if (!packed && state.num > UINT16_MAX) {
        return failure(complaint(FrontendRequest::kGetVringBase,
                                 fmt::format("index {} of a split ring", state.num)));
    }
    return state.num;
}

Result<std::vector<std::byte>> parse_config(const wire::Message& reply, uint32_t bytes) {
    if (reply.payload.empty()) {
        return {};  // "payload size zero": the specification's way to refuse
    }
    if (reply.payload.size() < sizeof(wire::ConfigHeader)) {
        return failure(
            complaint(FrontendRequest::kGetConfig, fmt::format("{} bytes", reply.payload.size())));
    }
    const auto header = load<wire::ConfigHeader>(reply);
    const size_t present = reply.payload.size() - sizeof header;
    if (header.size == 0 && present == 0) {
        return {};  // likewise, as some do it
    }
    if (header.offset != 0 || header.size != bytes || present != bytes) {
        return failure(
            complaint(FrontendRequest::kGetConfig,
                      fmt::format("{} bytes that say they are {} from {}, where {} were asked for",
                                  present,
                                  header.size,
                                  header.offset,
                                  bytes)));
    }
    const auto begin = reply.payload.begin() + sizeof header;
    return std::vector<std::byte>(begin, reply.payload.end());
}

Result<InflightBuffer> take_inflight(wire::Message& reply,
                                     uint16_t queue_count,
                                     uint16_t queue_size) {
    const auto description = load<wire::Inflight>(reply);
    if (reply.fds.empty()) {
        if (description.mmap_size == 0) {
            return InflightBuffer{};
        }
        return failure(complaint(FrontendRequest::kGetInflightFd, "a buffer and no descriptor"));
    }
    UniqueFd fd = std::move(reply.fds[0]);
    reply.fds.clear();
    if (description.queue_count != queue_count || description.queue_size != queue_size) {
        return failure(complaint(FrontendRequest::kGetInflightFd,
                                 fmt::format("{} queues of {}, where {} of {} were asked for",
                                             description.queue_count,
                                             description.queue_size,
                                             queue_count,
                                             queue_size)));
    }
    const uint64_t bytes_max = queue_count * kInflightQueueBytesMax;

    struct stat file {};

    // Only memory can be asked for seals. A file of a network or FUSE file system, which may be the
    // back end's own, would have us wait when we read it after a loss.
    const bool is_memory = ::fcntl(fd.get(), F_GET_SEALS) >= 0 && ::fstat(fd.get(), &file) == 0 &&
                           S_ISREG(file.st_mode);
    const auto file_bytes = is_memory && file.st_size > 0 ? static_cast<uint64_t>(file.st_size) : 0;
    if (description.mmap_size == 0 || description.mmap_size > bytes_max ||
        !range_fits(description.mmap_offset, description.mmap_size, file_bytes)) {
        return failure(
            complaint(FrontendRequest::kGetInflightFd,
                      fmt::format("{} bytes at {} of a {} of {} bytes; at most {} make sense",
                                  description.mmap_size,
                                  description.mmap_offset,
                                  is_memory ? "file" : "descriptor that is no shared memory",
                                  file_bytes,
                                  bytes_max)));
    }
    return InflightBuffer{.description = description, .fd = std::move(fd)};
}

Result<std::vector<uint64_t>> parse_shmem_config(const wire::Message& reply) {
    const auto config = load<wire::ShmemConfig>(reply);
    const size_t sizes_there = (reply.payload.size() - 2 * sizeof(uint32_t)) / sizeof(uint64_t);
    if (config.region_count > std::min(sizes_there, kSharedRegionsMax)) {
        return failure(complaint(FrontendRequest::kGetShmemConfig,
                                 fmt::format("{} regions", config.region_count)));
    }
    // Regions that are not used have the size 0, and ids need not be dense: the count is not where
    // the array ends.
    std::vector<uint64_t> sizes(config.sizes, config.sizes + sizes_there);
    const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    for (const uint64_t size : sizes) {
        if (size > kSharedRegionBytesMax || size % page_bytes != 0) {
            return failure(complaint(FrontendRequest::kGetShmemConfig,
                                     fmt::format("a region of {} bytes", size)));
        }
    }
    while (!sizes.empty() && sizes.back() == 0) {
        sizes.pop_back();
    }
    return sizes;
}

}  // namespace outrigger::vmm
