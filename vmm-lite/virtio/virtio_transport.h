// SPDX-License-Identifier: Apache-2.0
/// What a driver does with the registers of virtio over PCI, and what becomes of it: features and
/// status, queues, vectors, resets. VIRTIO 1.3, 4.1.4.3; it knows nothing of BARs.
///
/// Nothing of it trusts the driver: queues outside of memory, vectors that do not exist and
/// features that were not offered are not taken. No call waits for the device. Thread: it locks;
/// the hooks of DeviceProxy::Observer come from the loop, everything else from vCPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/base/unique_fd.h"

#include "vmm-lite/kvm/connections.h"
#include "vmm-lite/mem/guest_memory.h"
#include "vmm-lite/pci/msix_table.h"
#include "vmm-lite/virtio/device_proxy.h"

namespace outrigger::vmm {

class VirtioTransport final : public DeviceProxy::Observer {
  public:
    static constexpr uint16_t kQueuesMax = 1024;
    static constexpr uint64_t kCommonBytes = 0x40;
    static constexpr uint64_t kNotifyStride = 4;

    /// All outlive this; `needs_reset` is called on the loop's thread, behind on_needs_reset().
    /// Errors: more queues than kQueuesMax, or the host has no more descriptors.
    [[nodiscard]] static Result<std::unique_ptr<VirtioTransport>> create(
        DeviceProxy& device,
        const GuestMemory& memory,
        MessageInterrupts& interrupts,
        Doorbells& doorbells,
        std::function<void()> needs_reset = {});
    ~VirtioTransport() override;
    VirtioTransport(const VirtioTransport&) = delete;
    VirtioTransport& operator=(const VirtioTransport&) = delete;

    [[nodiscard]] uint16_t vectors() const { return static_cast<uint16_t>(queues_.size() + 1); }

    // Common configuration. Any width and place: what is no field reads zeroes.
    void read_common(uint64_t at, std::span<std::byte> out);
    void write_common(uint64_t at, std::span<const std::byte> in);
    /// Reading it empties it.
    [[nodiscard]] uint8_t read_isr();
    void read_device_config(uint64_t at, std::span<std::byte> out);
    void write_device_config(uint64_t at, std::span<const std::byte> in);
    /// A kick that no doorbell took.
    void notify(uint64_t at);

    // MSI-X.
    void read_msix_table(uint64_t at, std::span<std::byte> out);
    void write_msix_table(uint64_t at, std::span<const std::byte> in);
    void read_msix_pending(uint64_t at, std::span<std::byte> out);
    void set_msix_control(bool enabled, bool function_masked);

    /// Where the doorbells are: queue i's at this + kNotifyStride * i. Nothing: nowhere.
    void place_doorbells(std::optional<uint64_t> address);

    void on_config_changed() override;
    void on_needs_reset() override;

  private:
    struct Queue {
        uint16_t size = 0;
        uint16_t vector = 0;
        bool enabled = false;
        bool has_doorbell = false;
        uint64_t descriptors = 0;
        uint64_t driver = 0;
        uint64_t device = 0;
        UniqueFd kick;
    };

    VirtioTransport(DeviceProxy& device,
                    const GuestMemory& memory,
                    Doorbells& doorbells,
                    MsixTable msix,
                    UniqueFd unread_call,
                    std::function<void()> needs_reset);

    [[nodiscard]] uint64_t read_field(uint64_t at) const;
    void write_field(uint64_t at, uint32_t value);
    [[nodiscard]] Queue* selected();
    [[nodiscard]] const Queue* selected() const;
    void write_queue_field(uint64_t at, uint32_t value);
    void write_driver_features(uint32_t value);
    void enable_queue(Queue& queue);
    [[nodiscard]] DeviceProxy::QueueSetup setup_of(const Queue& queue) const;
    [[nodiscard]] int call_fd(uint16_t vector) const;
    [[nodiscard]] uint16_t known_vector(uint32_t vector) const;
    void set_queue_vector(Queue& queue, uint32_t vector);
    void write_status(uint8_t value);
    [[nodiscard]] bool features_are_good() const;
    void activate();
    void begin_reset();
    void clear();
    void break_device();
    void ring_doorbells(bool wanted);
    void tell_config_changed();

    DeviceProxy& device_;
    const GuestMemory& memory_;
    Doorbells& doorbells_;
    const std::function<void()> needs_reset_;

    std::mutex mutex_;  // what follows
    MsixTable msix_;
    UniqueFd unread_call_;  // of queues without a vector
    std::vector<Queue> queues_;
    uint64_t driver_features_ = 0;
    uint32_t device_feature_select_ = 0;
    uint32_t driver_feature_select_ = 0;
    uint16_t queue_select_ = 0;
    uint16_t config_vector_;
    uint8_t status_ = 0;
    uint8_t isr_ = 0;
    bool activated_ = false;
    bool resetting_ = false;
    std::optional<uint64_t> doorbell_address_;
    LogLimiter slow_kicks_;
    std::shared_ptr<VirtioTransport*> self_;  // what the end of a reset holds weakly
};

}  // namespace outrigger::vmm
