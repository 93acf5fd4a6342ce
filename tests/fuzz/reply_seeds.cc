// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <string>

#include "vhost-user-backend/wire/messages.h"

#include "tests/fuzz/descriptors.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

class ReplySeed final {
  public:
    template <class T>
    ReplySeed& reply(wire::FrontendRequest request,
                     const T& payload,
                     std::initializer_list<FdKind> fds = {}) {
        const auto number = static_cast<uint8_t>(request);
        uint8_t raw[sizeof payload];
        std::memcpy(raw, &payload, sizeof payload);
        script_.u8(number).u8(0).u8(number).u16(sizeof raw).bytes(raw).u8(fds.size());
        for (const FdKind kind : fds) {
            script_.op(kind);
        }
        return *this;
    }

    [[nodiscard]] ScriptWriter& script() { return script_; }

  private:
    ScriptWriter script_;
};

}  // namespace

void add_reply_seeds(Seeds& seeds) {
    using enum wire::FrontendRequest;
    const auto add = [&seeds](const char* name, ReplySeed& seed) {
        seeds[std::string("frontend-replies/") + name] = seed.script().script();
    };
    ReplySeed features;
    features.reply(kGetFeatures, uint64_t{1} << 32).reply(kGetQueueNum, uint64_t{2});
    add("features-and-queues", features);

    ReplySeed base;
    base.reply(kGetVringBase, wire::VringState{.index = 3, .num = 17}).script().u8(0).u8(3);
    add("base", base);

    struct Config {
        wire::ConfigHeader header;
        uint8_t bytes[8];
    };

    ReplySeed config;
    config.reply(kGetConfig, Config{.header = {.offset = 0, .size = 8, .flags = 0}, .bytes = {}})
        .script()
        .u8(7);
    add("configuration", config);

    ReplySeed inflight;
    inflight
        .reply(kGetInflightFd,
               wire::Inflight{.mmap_size = 4096,
                              .mmap_offset = 0,
                              .queue_count = 1,
                              .queue_size = 64,
                              .padding = 0},
               {FdKind::kMemfd})
        .script()
        .u16(1)
        .u16(64);
    add("in-flight-buffer", inflight);

    wire::ShmemConfig windows{};
    windows.region_count = 1;
    windows.sizes[0] = 65536;
    ReplySeed shmem;
    shmem.reply(kGetShmemConfig, windows)
        .script()
        .u8(0)
        .u64(0)
        .u64(4096)
        .u64(4096)
        .u8(1)
        .op(FdKind::kMemfd);
    add("shared-memory", shmem);
}

}  // namespace outrigger::fuzz
