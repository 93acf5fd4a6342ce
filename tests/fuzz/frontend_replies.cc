// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: what the front end of vmm-lite makes of replies, each with any payload and any
/// descriptors. What comes out is what was promised, and no descriptor stays.
#include <algorithm>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/error.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"
#include "vmm-lite/frontend/device_kinds.h"
#include "vmm-lite/frontend/reply_rules.h"
#include "vmm-lite/frontend/shared_windows.h"

namespace outrigger::fuzz {
namespace {

using enum wire::FrontendRequest;

constexpr size_t kRepliesMax = 64;
constexpr size_t kFdsMax = 3;

class ReplyScript final {
  public:
    ReplyScript(const FdSet& fds, ScriptReader script) : fds_(fds), script_(script) {}

    void run() {
        for (size_t count = 0; count < kRepliesMax && !script_.at_end(); ++count) {
            const auto request = wire::FrontendRequest{script_.u8()};
            const bool acknowledges = (script_.u8() & 1) != 0;
            wire::Message reply = make_reply();
            if (vmm::check_reply(request, acknowledges, reply)) {
                OUTRIGGER_ASSERT(reply.header.request == std::to_underlying(request));
                OUTRIGGER_ASSERT(acknowledges ? reply.fds.empty()
                                              : reply.fds.size() <= vmm::reply_fds_max(request));
                if (!acknowledges) {
                    parse(request, reply);
                }
            }
        }
    }

  private:
    wire::Message make_reply() {
        wire::Message reply;
        reply.header.request = script_.u8();
        reply.header.flags = wire::kVersion | wire::kFlagReply;
        const auto bytes = script_.bytes(script_.u16() % (wire::kPayloadBytesMax + 1));
        std::ranges::transform(
            bytes, std::back_inserter(reply.payload), [](uint8_t byte) { return std::byte{byte}; });
        reply.header.size = static_cast<uint32_t>(reply.payload.size());
        for (size_t count = script_.pick(kFdsMax + 1); count > 0; --count) {
            const auto kind = script_.pick_enum<FdKind>(static_cast<size_t>(FdKind::kCount));
            reply.fds.emplace_back(::fcntl(fds_.get(kind), F_DUPFD_CLOEXEC, 0));
        }
        return reply;
    }

    void parse(wire::FrontendRequest request, wire::Message& reply) {
        switch (request) {
            case kGetVringBase:
                parse_base(reply);
                return;
            case kGetConfig: {
                const uint32_t asked = script_.u8() + uint32_t{1};
                const auto config = vmm::parse_config(reply, asked);
                OUTRIGGER_ASSERT(!config || config->empty() || config->size() == asked);
                return;
            }
            case kGetInflightFd:
                parse_inflight(reply);
                return;
            case kGetShmemConfig:
                parse_windows(reply);
                return;
            case kGetQueueNum:
                for (const vmm::DeviceKind& kind : vmm::device_kinds()) {
                    const auto count = vmm::queue_count_of(kind, vmm::u64_of(reply));
                    OUTRIGGER_ASSERT(!count || (*count > 0 && *count <= kind.queue_count_max));
                }
                return;
            default:
                return;
        }
    }

    void parse_base(const wire::Message& reply) {
        const bool packed = (script_.u8() & 1) != 0;
        const uint32_t ring = script_.u8();
        const auto base = vmm::parse_vring_base(reply, ring, packed);
        OUTRIGGER_ASSERT(!base || packed || *base <= UINT16_MAX);
        OUTRIGGER_ASSERT(!base || vmm::vring_state_of(reply).index == ring);
    }

    void parse_inflight(wire::Message& reply) {
        const uint16_t queues = script_.u16();
        const uint16_t size = script_.u16();
        const auto buffer = vmm::take_inflight(reply, queues, size);
        if (!buffer || !buffer->fd.valid()) {
            return;
        }

        struct stat file {};

        OUTRIGGER_ASSERT(::fstat(buffer->fd.get(), &file) == 0 && S_ISREG(file.st_mode));
        const wire::Inflight& description = buffer->description;
        OUTRIGGER_ASSERT(range_fits<uint64_t>(
            description.mmap_offset, description.mmap_size, static_cast<uint64_t>(file.st_size)));
        OUTRIGGER_ASSERT(description.queue_count == queues && description.queue_size == size);
        OUTRIGGER_ASSERT(description.mmap_size > 0 && queues > 0);
    }

    void parse_windows(const wire::Message& reply) {
        const auto sizes = vmm::parse_shmem_config(reply);
        if (!sizes || sizes->size() > 4) {
            return;
        }
        auto windows = vmm::SharedWindows::reserve(*sizes, 64);
        if (!windows) {
            return;
        }
        for (int i = 0; i < 4; ++i) {
            const wire::ShmemMap request{.shmid = script_.u8(),
                                         .padding = {},
                                         .fd_offset = script_.u64(),
                                         .shm_offset = script_.u64(),
                                         .length = script_.u64(),
                                         .flags = script_.u8()};
            const auto kind = script_.pick_enum<FdKind>(static_cast<size_t>(FdKind::kCount));
            UniqueFd file(::fcntl(fds_.get(kind), F_DUPFD_CLOEXEC, 0));
            const bool mapped = windows->map(request, std::move(file)).has_value();
            OUTRIGGER_ASSERT(!mapped ||
                             range_fits<uint64_t>(request.shm_offset,
                                                  request.length,
                                                  windows->region(request.shmid).size()));
            windows->look_at_files();
            if (i % 2 != 0) {
                windows->expect_anew();
            }
            (void)windows->unmap(request);
        }
    }

    const FdSet& fds_;
    ScriptReader script_;
};

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    static const FdSet fds;
    const size_t before = count_open_descriptors();
    ReplyScript(fds, ScriptReader(std::span(data, size))).run();
    OUTRIGGER_ASSERT(count_open_descriptors() == before);
    return 0;
}
