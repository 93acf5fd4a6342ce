// SPDX-License-Identifier: Apache-2.0
/// A machine without a processor: a loop on a thread, memory, and one remote device whose rings the
/// test drives over the descriptors that a transport would hand to KVM.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/wait.h"
#include "tools/driver/driver_queue.h"
#include "tools/driver/feature_bits.h"
#include "vmm-lite/frontend/remote_device.h"

namespace outrigger::testing {

class ProxyHost final : public vmm::DeviceProxy::Observer {
  public:
    struct Options {
        std::string kind = "blk";
        std::unique_ptr<vmm::BackendSource> source{};
        /// Or one that needs the loop, which does not run yet; and what ends with it, behind it.
        std::function<std::unique_ptr<vmm::BackendSource>(vmm::EventLoop&)> make_source{};
        std::function<void()> before_end{};
        std::function<void()> on_loop_thread{};  ///< before the loop runs
        uint64_t memory_bytes = uint64_t{32} << 20;
        bool shared_memory = false;
        vmm::GivenConfig given{};
        vmm::Deadlines deadlines{};
        vmm::ReconnectPolicy reconnect{};
    };

    explicit ProxyHost(Options options) : before_end_(std::move(options.before_end)) {
        if (options.make_source) {
            options.source = options.make_source(loop_);
        }
        memory_ = driver::GuestMemory::create(options.memory_bytes, GuestAddr{0x100000}).value();
        for (const driver::RegionId id : memory_.regions()) {
            const wire::MemoryRegion described = memory_.description(id);
            regions_.push_back({.guest_address = GuestAddr{described.guest_address},
                                .bytes = described.size,
                                .frontend_address = described.user_address,
                                .fd_offset = described.mmap_offset,
                                .fd = memory_.fd(id)});
        }
        device_ = std::make_unique<vmm::RemoteDevice>(
            loop_,
            regions_,
            vmm::RemoteDevice::Options{.name = options.kind + "0",
                                       .kind = *vmm::find_device_kind(options.kind),
                                       .source = std::move(options.source),
                                       .given = std::move(options.given),
                                       .shared_memory = options.shared_memory,
                                       .deadlines = options.deadlines,
                                       .reconnect = options.reconnect});
        device_->observe(this);
        thread_ = std::thread([this, begin = std::move(options.on_loop_thread)] {
            if (begin) {
                begin();
            }
            loop_.run();
        });
    }

    ProxyHost(const ProxyHost&) = delete;
    ProxyHost& operator=(const ProxyHost&) = delete;

    ~ProxyHost() override {
        loop_.stop();
        thread_.join();
        device_.reset();
        if (before_end_) {
            before_end_();
        }
    }

    void on_config_changed() override { ++config_changes_; }

    void on_needs_reset() override { ++needs_resets_; }

    [[nodiscard]] int config_changes() const { return config_changes_; }

    [[nodiscard]] int needs_resets() const { return needs_resets_; }

    [[nodiscard]] vmm::RemoteDevice& device() { return *device_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index) { return queues_.at(index); }

    [[nodiscard]] Result<void> connect() {
        return wait([this](auto done) { device_->connect(std::move(done)); });
    }

    /// What `begin` answers to the callback that it is given.
    template <class T = void, class Begin>
    Result<T> wait(Begin begin) {
        auto promise = std::make_shared<std::promise<Result<T>>>();
        auto future = promise->get_future();
        begin(std::move_only_function<void(Result<T>)>(
            [promise](Result<T> result) { promise->set_value(std::move(result)); }));
        if (future.wait_for(kPatience) != std::future_status::ready) {
            ADD_FAILURE() << "no answer";
            return failure(Error{.message = "no answer at all"});
        }
        return future.get();
    }

    /// The same, where `begin` may only be called on the loop's thread.
    template <class T = void, class Begin>
    Result<T> ask(Begin begin) {
        return wait<T>([&](auto done) {
            loop_.post([begin, done = std::move(done)]() mutable { begin(std::move(done)); });
        });
    }

    [[nodiscard]] Result<void> suspend() {
        return ask([this](auto done) { device_->suspend(std::move(done)); });
    }

    [[nodiscard]] Result<void> resume() {
        return ask([this](auto done) { device_->resume(std::move(done)); });
    }

    /// What `ask` says on the loop's thread.
    template <class T>
    T on_loop(std::function<T()> ask) {
        std::promise<T> promise;
        loop_.post([&] { promise.set_value(ask()); });
        return promise.get_future().get();
    }

    [[nodiscard]] vmm::RemoteDevice::Status status() {
        return on_loop<vmm::RemoteDevice::Status>([this] { return device_->status(); });
    }

    [[nodiscard]] bool reaches(vmm::RemoteDevice::Phase phase) {
        return eventually([&] { return status().phase == phase; });
    }

    struct Rings {
        uint16_t count = 1;
        uint16_t size = 64;
        bool packed = false;
        uint64_t features = ~uint64_t{0};
    };

    /// Makes rings and sets DRIVER_OK, as a driver does.
    void activate(const Rings& rings) {
        FeatureSet features = FeatureSet(device_->offered_features() & rings.features);
        if (!rings.packed) {
            features = features.without(driver::kRingPackedBit);
        }
        features = features.without(driver::kInOrderBit);
        queues_.clear();
        std::vector<std::optional<vmm::DeviceProxy::QueueSetup>> setups(rings.count);
        for (uint16_t i = 0; i < rings.count; ++i) {
            queues_.push_back(driver::DriverQueue::create(
                                  memory_,
                                  {.index = i,
                                   .packed = rings.packed,
                                   .ring = {.size = rings.size,
                                            .event_idx = features.has(driver::kEventIdxBit),
                                            .indirect_segments_max = 8}})
                                  .value());
            setups[i] = setup_of(i);
        }
        device_->activate(features.bits(), setups);
    }

    [[nodiscard]] vmm::DeviceProxy::QueueSetup setup_of(size_t index) const {
        const driver::DriverQueue& queue = queues_.at(index);
        const wire::VringAddress address =
            queue.vring_address(memory_, driver::RingAddressKind::kGuest);
        return {.size = queue.size(),
                .descriptors = GuestAddr{address.descriptor},
                .driver = GuestAddr{address.available},
                .device = GuestAddr{address.used},
                .kick_fd = queue.kick_fd(),
                .call_fd = queue.call_fd()};
    }

    /// Status 0: returns when the back end has let go.
    [[nodiscard]] bool reset() {
        return wait([this](auto done) {
                   device_->reset([done = std::move(done)]() mutable { done({}); });
               })
            .has_value();
    }

  private:
    std::function<void()> before_end_;
    driver::GuestMemory memory_;
    std::vector<vmm::MemoryRegion> regions_;
    std::atomic<int> config_changes_ = 0;
    std::atomic<int> needs_resets_ = 0;
    vmm::EventLoop loop_;
    std::vector<driver::DriverQueue> queues_;
    std::unique_ptr<vmm::RemoteDevice> device_;
    std::thread thread_;
};

}  // namespace outrigger::testing
