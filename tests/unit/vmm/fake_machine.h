// SPDX-License-Identifier: Apache-2.0
/// KVM and a device as the PCI and virtio rooms see them, written down instead of done.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "vmm-lite/kvm/connections.h"
#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

class FakeInterrupts final : public MessageInterrupts {
  public:
    Result<uint32_t> allocate() override {
        if (exhausted) {
            return failure(Error{.message = "no more"});
        }
        return next++;
    }

    void release(uint32_t gsi) override { released.insert(gsi); }

    Result<void> route(uint32_t gsi, const MsiMessage& message) override {
        routes[gsi] = message;
        return {};
    }

    Result<void> connect(uint32_t gsi, int eventfd) override {
        routed_first = routed_first && routes.contains(gsi);
        connected[gsi] = eventfd;
        return {};
    }

    void disconnect(uint32_t gsi, int /*eventfd*/) override { connected.erase(gsi); }

    uint32_t next = 24;
    bool exhausted = false;
    bool routed_first = true;
    std::map<uint32_t, MsiMessage> routes;
    std::map<uint32_t, int> connected;
    std::set<uint32_t> released;
};

class FakeDoorbells final : public Doorbells {
  public:
    Result<void> connect(uint64_t address, int eventfd) override {
        connected[address] = eventfd;
        return {};
    }

    void disconnect(uint64_t address, int /*eventfd*/) override { connected.erase(address); }

    std::map<uint64_t, int> connected;
};

class FakeSlots final : public MemorySlots {
  public:
    struct Shown {
        uint64_t address = 0;
        std::span<std::byte> memory;
        bool writable = false;
    };

    Result<uint32_t> show(uint64_t address, std::span<std::byte> memory, bool writable) override {
        if (shown.size() == slots_max) {
            return failure(Error{.message = "no slot"});
        }
        shown[next] = {.address = address, .memory = memory, .writable = writable};
        return next++;
    }

    void hide(uint32_t slot) override { shown.erase(slot); }

    [[nodiscard]] const Shown* at(uint64_t address) const {
        for (const auto& [slot, one] : shown) {
            if (one.address == address) {
                return &one;
            }
        }
        return nullptr;
    }

    uint32_t next = 1;
    size_t slots_max = 8;
    std::map<uint32_t, Shown> shown;
};

class FakeDevice final : public DeviceProxy {
  public:
    uint16_t virtio_id() const override { return 2; }

    uint64_t offered_features() const override { return features; }

    uint16_t queue_count() const override { return 2; }

    uint16_t queue_size_max() const override { return 256; }

    uint32_t config_bytes() const override { return 8; }

    void read_config(uint32_t at, std::span<std::byte> out) const override {
        for (size_t i = 0; i < out.size(); ++i) {
            out[i] = at + i < config.size() ? config[at + i] : std::byte{0};
        }
    }

    void write_config(uint32_t at, std::span<const std::byte> in) override {
        std::ranges::copy(in, config.begin() + at);
    }

    uint8_t config_generation() const override { return 7; }

    void activate(uint64_t agreed, std::span<const std::optional<QueueSetup>> setups) override {
        ++activations;
        agreed_features = agreed;
        queues.assign(setups.begin(), setups.end());
    }

    void set_call(uint16_t queue, int call_fd) override { calls.emplace_back(queue, call_fd); }

    void reset(std::move_only_function<void()> done) override { on_reset = std::move(done); }

    void observe(Observer* watcher) override { observer = watcher; }

    std::span<const uint64_t> shared_memory() const override { return shared_sizes; }

    void observe_shared_memory(SharedMemoryObserver* watcher) override {
        shared_observer = watcher;
    }

    uint64_t features = (1ULL << 32U) | (1ULL << 34U) | (1ULL << 29U) | 1U;
    std::vector<std::byte> config = std::vector<std::byte>(8, std::byte{0x5A});
    int activations = 0;
    uint64_t agreed_features = 0;
    std::vector<std::optional<QueueSetup>> queues;
    std::vector<std::pair<uint16_t, int>> calls;
    std::move_only_function<void()> on_reset;
    Observer* observer = nullptr;
    std::vector<uint64_t> shared_sizes;
    SharedMemoryObserver* shared_observer = nullptr;
};

}  // namespace outrigger::vmm
