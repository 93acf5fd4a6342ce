// SPDX-License-Identifier: Apache-2.0
/// The disk's driver over a ProxyHost: many requests in flight, each read compared with what was
/// written last.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include <linux/virtio_blk.h>

#include "tests/vmm/proxy_host.h"

namespace outrigger::testing {

class ProxiedDisk final {
  public:
    static constexpr uint32_t kBlockBytes = 4096;
    static constexpr uint64_t kBlocks = 128;
    static constexpr size_t kSlots = 16;  // of each queue

    ProxiedDisk(ProxyHost& host, uint16_t queue_count) : host_(host), slots_(queue_count) {
        for (auto& slots : slots_) {
            for (size_t i = 0; i < kSlots; ++i) {
                slots.push_back({.header = host.memory().allocate(16, 16).value(),
                                 .data = host.memory().allocate(kBlockBytes, 4096).value(),
                                 .status = host.memory().allocate(1, 1).value()});
            }
        }
    }

    /// Every block once, in any order, over all queues. False when a request was not answered, or
    /// not rightly.
    [[nodiscard]] bool write_all(uint8_t generation) {
        generation_ = generation;
        return run(VIRTIO_BLK_T_OUT);
    }

    [[nodiscard]] bool read_all() { return run(VIRTIO_BLK_T_IN); }

    [[nodiscard]] uint64_t wrong() const { return wrong_; }

    /// Runs `task` each time requests were made available and kicked, before any answer is looked
    /// for; nullptr ends it.
    void behind_each_kick(std::function<void()> task) { behind_each_kick_ = std::move(task); }

    /// Makes requests available, and does not kick.
    void submit_silently(size_t queue, uint64_t block) {
        submit(queue, block % kSlots, VIRTIO_BLK_T_OUT, block);
        host_.queue(queue).publish();
    }

  private:
    struct Slot {
        GuestAddr header{};
        GuestAddr data{};
        GuestAddr status{};
        uint64_t block = 0;
        bool busy = false;
    };

    [[nodiscard]] std::vector<std::byte> content(uint64_t block) const {
        std::vector<std::byte> bytes(kBlockBytes, static_cast<std::byte>(generation_));
        std::memcpy(bytes.data(), &block, sizeof block);
        return bytes;
    }

    void submit(size_t queue, size_t index, uint32_t type, uint64_t block) {
        Slot& slot = slots_[queue][index];
        slot.block = block;
        slot.busy = true;
        std::array<std::byte, 16> header{};
        const uint64_t sector = block * (kBlockBytes / 512);
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        host_.memory().write(slot.header, header);
        const bool reads = type == VIRTIO_BLK_T_IN;
        host_.memory().write(
            slot.data,
            reads ? std::vector<std::byte>(kBlockBytes, std::byte{0xee}) : content(block));
        const std::byte unset{0xff};
        host_.memory().write(slot.status, std::span(&unset, 1));
        const std::array<driver::Segment, 3> segments{{
            {slot.header, 16, false},
            {slot.data, kBlockBytes, reads},
            {slot.status, 1, true},
        }};
        EXPECT_TRUE(host_.queue(queue).try_add(segments, index));
    }

    size_t take(size_t queue, uint32_t type) {
        size_t count = 0;
        while (const auto used = host_.queue(queue).poll_used()) {
            Slot& slot = slots_[queue].at(static_cast<size_t>(used->token));
            std::byte status{};
            host_.memory().read(slot.status, std::span(&status, 1));
            bool right = slot.busy && status == std::byte{VIRTIO_BLK_S_OK};
            if (type == VIRTIO_BLK_T_IN) {
                std::vector<std::byte> data(kBlockBytes);
                host_.memory().read(slot.data, data);
                right = right && data == content(slot.block);
            }
            wrong_ += right ? 0 : 1;
            slot.busy = false;
            ++count;
        }
        return count;
    }

    bool run(uint32_t type) {
        std::vector<uint64_t> order(kBlocks);
        for (uint64_t i = 0; i < kBlocks; ++i) {
            order[i] = i;
        }
        std::shuffle(order.begin(), order.end(), random_);
        size_t answered = 0;
        size_t next = 0;
        const auto deadline = driver::after(kPatience);
        while (answered < kBlocks) {
            for (size_t queue = 0; queue < slots_.size(); ++queue) {
                for (size_t i = 0; i < kSlots && next < kBlocks; ++i) {
                    if (!slots_[queue][i].busy) {
                        submit(queue, i, type, order[next++]);
                    }
                }
                host_.queue(queue).publish_and_kick();
            }
            if (behind_each_kick_) {
                behind_each_kick_();
            }
            for (size_t queue = 0; queue < slots_.size(); ++queue) {
                if (host_.queue(queue).in_flight() == 0) {
                    continue;
                }
                if (host_.queue(queue).wait_used(deadline) != driver::WaitResult::kUsed) {
                    return false;
                }
                answered += take(queue, type);
            }
        }
        return wrong_ == 0;
    }

    ProxyHost& host_;
    std::vector<std::vector<Slot>> slots_;  // of each queue
    std::function<void()> behind_each_kick_;
    uint8_t generation_ = 0;
    uint64_t wrong_ = 0;
    std::mt19937 random_{7};
};

}  // namespace outrigger::testing
