// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/virtio_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <sys/eventfd.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"
#include "vhost-user-backend/base/notifier.h"

#include "vmm-lite/virtio/ring_layout.h"

namespace outrigger::vmm {
namespace {

constexpr uint16_t kNoVector = VIRTIO_MSI_NO_VECTOR;
constexpr uint8_t kIsrConfig = 2;
constexpr uint64_t kVersion1 = 1ULL << VIRTIO_F_VERSION_1;
constexpr uint64_t kPacked = 1ULL << VIRTIO_F_RING_PACKED;
/// Of the transport's features those that hold here. A doorbell drops the data that a kick could
/// carry, queues are reset together with their device, and there is no IOMMU.
constexpr uint64_t kTransportFeatures = (1ULL << 28U) | (1ULL << 29U) | kVersion1 | kPacked |
                                        (1ULL << VIRTIO_F_IN_ORDER) |
                                        (1ULL << VIRTIO_F_ORDER_PLATFORM);
constexpr uint64_t kTransportBits = ((1ULL << 50U) - 1) & ~((1ULL << 24U) - 1);

/// The fields, with their widths. VIRTIO 1.3, 4.1.4.3.
struct Field {
    uint8_t at;
    uint8_t bytes;
};

constexpr Field kFields[] = {
    {VIRTIO_PCI_COMMON_DFSELECT, 4},  {VIRTIO_PCI_COMMON_DF, 4},
    {VIRTIO_PCI_COMMON_GFSELECT, 4},  {VIRTIO_PCI_COMMON_GF, 4},
    {VIRTIO_PCI_COMMON_MSIX, 2},      {VIRTIO_PCI_COMMON_NUMQ, 2},
    {VIRTIO_PCI_COMMON_STATUS, 1},    {VIRTIO_PCI_COMMON_CFGGENERATION, 1},
    {VIRTIO_PCI_COMMON_Q_SELECT, 2},  {VIRTIO_PCI_COMMON_Q_SIZE, 2},
    {VIRTIO_PCI_COMMON_Q_MSIX, 2},    {VIRTIO_PCI_COMMON_Q_ENABLE, 2},
    {VIRTIO_PCI_COMMON_Q_NOFF, 2},    {VIRTIO_PCI_COMMON_Q_DESCLO, 4},
    {VIRTIO_PCI_COMMON_Q_DESCHI, 4},  {VIRTIO_PCI_COMMON_Q_AVAILLO, 4},
    {VIRTIO_PCI_COMMON_Q_AVAILHI, 4}, {VIRTIO_PCI_COMMON_Q_USEDLO, 4},
    {VIRTIO_PCI_COMMON_Q_USEDHI, 4},
};

const Field* field_at(uint64_t at) {
    const auto* const field =
        std::ranges::find(kFields, at, [](const Field& f) { return uint64_t{f.at}; });
    return field == std::end(kFields) ? nullptr : field;
}

void set_half(uint64_t& address, bool high, uint32_t value) {
    address = high ? (address & UINT32_MAX) | (uint64_t{value} << 32U)
                   : (address & ~uint64_t{UINT32_MAX}) | value;
}

UniqueFd new_eventfd() {
    return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

uint64_t offered_by(const DeviceProxy& device) {
    return (device.offered_features() & (~kTransportBits | kTransportFeatures)) | kVersion1;
}

}  // namespace

Result<std::unique_ptr<VirtioTransport>> VirtioTransport::create(
    DeviceProxy& device,
    const GuestMemory& memory,
    MessageInterrupts& interrupts,
    Doorbells& doorbells,
    std::function<void()> needs_reset) {
    if (device.queue_count() > kQueuesMax) {
        return failure(Error{.message = fmt::format("the device has {} queues; at most {} work",
                                                    device.queue_count(),
                                                    uint16_t{kQueuesMax})});
    }
    UniqueFd unread = new_eventfd();
    if (!unread.valid()) {
        return failure(error_from_errno("cannot create an eventfd"));
    }
    auto msix = OUTRIGGER_TRY(
        MsixTable::create(interrupts, static_cast<uint16_t>(device.queue_count() + 1)));
    return std::unique_ptr<VirtioTransport>(new VirtioTransport(
        device, memory, doorbells, std::move(msix), std::move(unread), std::move(needs_reset)));
}

VirtioTransport::VirtioTransport(DeviceProxy& device,
                                 const GuestMemory& memory,
                                 Doorbells& doorbells,
                                 MsixTable msix,
                                 UniqueFd unread_call,
                                 std::function<void()> needs_reset)
    : device_(device),
      memory_(memory),
      doorbells_(doorbells),
      needs_reset_(std::move(needs_reset)),
      msix_(std::move(msix)),
      unread_call_(std::move(unread_call)),
      queues_(device.queue_count()),
      config_vector_(kNoVector),
      self_(std::make_shared<VirtioTransport*>(this)) {
    clear();
    device_.observe(this);
}

VirtioTransport::~VirtioTransport() {
    device_.observe(nullptr);
    ring_doorbells(false);
}

void VirtioTransport::read_common(uint64_t at, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    const std::lock_guard lock(mutex_);
    const Field* const field = field_at(at);
    if (field == nullptr) {
        return;
    }
    // A 64-bit address may be read at once.
    const uint64_t value = read_field(at);
    const size_t bytes = std::min<size_t>(out.size(), field->bytes);
    std::memcpy(out.data(), &value, bytes);
    if (out.size() == 8 && field->bytes == 4 && field_at(at + 4) != nullptr) {
        const uint64_t high = read_field(at + 4);
        std::memcpy(out.data() + 4, &high, 4);
    }
}

void VirtioTransport::write_common(uint64_t at, std::span<const std::byte> in) {
    const std::lock_guard lock(mutex_);
    const Field* const field = field_at(at);
    if (field == nullptr || in.size() < field->bytes) {
        return;
    }
    uint32_t value = 0;
    std::memcpy(&value, in.data(), field->bytes);
    write_field(at, value);
    if (in.size() == 8 && field->bytes == 4 && field_at(at + 4) != nullptr) {
        std::memcpy(&value, in.data() + 4, 4);
        write_field(at + 4, value);
    }
}

uint8_t VirtioTransport::read_isr() {
    const std::lock_guard lock(mutex_);
    return std::exchange(isr_, uint8_t{0});
}

void VirtioTransport::read_device_config(uint64_t at, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    const std::lock_guard lock(mutex_);
    if (at < device_.config_bytes()) {
        device_.read_config(static_cast<uint32_t>(at), out);
    }
}

void VirtioTransport::write_device_config(uint64_t at, std::span<const std::byte> in) {
    const std::lock_guard lock(mutex_);
    if (range_fits<uint64_t>(at, in.size(), device_.config_bytes())) {
        device_.write_config(static_cast<uint32_t>(at), in);
    }
}

void VirtioTransport::notify(uint64_t at) {
    const std::lock_guard lock(mutex_);
    const uint64_t index = at / kNotifyStride;
    if (at % kNotifyStride == 0 && index < queues_.size() && queues_[index].kick.valid()) {
        (void)send_notification(queues_[index].kick.get());
    }
}

void VirtioTransport::read_msix_table(uint64_t at, std::span<std::byte> out) {
    const std::lock_guard lock(mutex_);
    msix_.read(at, out);
}

void VirtioTransport::write_msix_table(uint64_t at, std::span<const std::byte> in) {
    const std::lock_guard lock(mutex_);
    msix_.write(at, in);
}

void VirtioTransport::read_msix_pending(uint64_t at, std::span<std::byte> out) {
    const std::lock_guard lock(mutex_);
    msix_.read_pending(at, out);
}

void VirtioTransport::set_msix_control(bool enabled, bool function_masked) {
    const std::lock_guard lock(mutex_);
    msix_.set_control(enabled, function_masked);
}

void VirtioTransport::place_doorbells(std::optional<uint64_t> address) {
    const std::lock_guard lock(mutex_);
    ring_doorbells(false);
    doorbell_address_ = address;
    ring_doorbells(activated_);
}

void VirtioTransport::on_config_changed() {
    const std::lock_guard lock(mutex_);
    if ((status_ & VIRTIO_CONFIG_S_DRIVER) != 0) {
        tell_config_changed();
    }
}

void VirtioTransport::on_needs_reset() {
    {
        const std::lock_guard lock(mutex_);
        if (activated_) {
            break_device();
        }
    }
    if (needs_reset_) {
        needs_reset_();
    }
}

uint64_t VirtioTransport::read_field(uint64_t at) const {
    const Queue* const queue = selected();
    switch (at) {
        case VIRTIO_PCI_COMMON_DFSELECT:
            return device_feature_select_;
        case VIRTIO_PCI_COMMON_DF: {
            const uint64_t offered = offered_by(device_);
            return device_feature_select_ == 0   ? offered & UINT32_MAX
                   : device_feature_select_ == 1 ? offered >> 32U
                                                 : 0;
        }
        case VIRTIO_PCI_COMMON_GFSELECT:
            return driver_feature_select_;
        case VIRTIO_PCI_COMMON_GF:
            return driver_feature_select_ == 0   ? driver_features_ & UINT32_MAX
                   : driver_feature_select_ == 1 ? driver_features_ >> 32U
                                                 : 0;
        case VIRTIO_PCI_COMMON_MSIX:
            return config_vector_;
        case VIRTIO_PCI_COMMON_NUMQ:
            return queues_.size();
        case VIRTIO_PCI_COMMON_STATUS:
            return status_;
        case VIRTIO_PCI_COMMON_CFGGENERATION:
            return device_.config_generation();
        case VIRTIO_PCI_COMMON_Q_SELECT:
            return queue_select_;
        case VIRTIO_PCI_COMMON_Q_NOFF:
            return queue_select_;
        default:
            break;
    }
    if (queue == nullptr) {
        // A size of zero: there is no such queue. 4.1.4.3.1
        return at == VIRTIO_PCI_COMMON_Q_MSIX ? kNoVector : 0U;
    }
    switch (at) {
        case VIRTIO_PCI_COMMON_Q_SIZE:
            return queue->size;
        case VIRTIO_PCI_COMMON_Q_MSIX:
            return queue->vector;
        case VIRTIO_PCI_COMMON_Q_ENABLE:
            return queue->enabled ? 1 : 0;
        case VIRTIO_PCI_COMMON_Q_DESCLO:
            return queue->descriptors & UINT32_MAX;
        case VIRTIO_PCI_COMMON_Q_DESCHI:
            return queue->descriptors >> 32U;
        case VIRTIO_PCI_COMMON_Q_AVAILLO:
            return queue->driver & UINT32_MAX;
        case VIRTIO_PCI_COMMON_Q_AVAILHI:
            return queue->driver >> 32U;
        case VIRTIO_PCI_COMMON_Q_USEDLO:
            return queue->device & UINT32_MAX;
        case VIRTIO_PCI_COMMON_Q_USEDHI:
            return queue->device >> 32U;
        default:
            return 0;
    }
}

void VirtioTransport::write_field(uint64_t at, uint32_t value) {
    switch (at) {
        case VIRTIO_PCI_COMMON_DFSELECT:
            device_feature_select_ = value;
            break;
        case VIRTIO_PCI_COMMON_GFSELECT:
            driver_feature_select_ = value;
            break;
        case VIRTIO_PCI_COMMON_GF:
            write_driver_features(value);
            break;
        case VIRTIO_PCI_COMMON_MSIX:
            config_vector_ = known_vector(value);
            break;
        case VIRTIO_PCI_COMMON_STATUS:
            write_status(static_cast<uint8_t>(value));
            break;
        case VIRTIO_PCI_COMMON_Q_SELECT:
            queue_select_ = static_cast<uint16_t>(value);
            break;
        default:
            write_queue_field(at, value);
            break;
    }
}

VirtioTransport::Queue* VirtioTransport::selected() {
    return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

const VirtioTransport::Queue* VirtioTransport::selected() const {
    return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

void VirtioTransport::write_driver_features(uint32_t value) {
    if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0 || driver_feature_select_ > 1) {
        return;
    }
    set_half(driver_features_, driver_feature_select_ == 1, value);
}

void VirtioTransport::write_queue_field(uint64_t at, uint32_t value) {
    Queue* const queue = selected();
    if (queue == nullptr || resetting_) {
        return;
    }
    if (at == VIRTIO_PCI_COMMON_Q_MSIX) {
        set_queue_vector(*queue, value);
        return;
    }
    if (queue->enabled) {
        return;  // 4.1.4.3.2: a driver must not, and the back end knows it as it was
    }
    switch (at) {
        case VIRTIO_PCI_COMMON_Q_SIZE:
            queue->size = static_cast<uint16_t>(value);
            break;
        case VIRTIO_PCI_COMMON_Q_ENABLE:
            if (value == 1) {
                enable_queue(*queue);
            }
            break;
        case VIRTIO_PCI_COMMON_Q_DESCLO:
        case VIRTIO_PCI_COMMON_Q_DESCHI:
            set_half(queue->descriptors, at == VIRTIO_PCI_COMMON_Q_DESCHI, value);
            break;
        case VIRTIO_PCI_COMMON_Q_AVAILLO:
        case VIRTIO_PCI_COMMON_Q_AVAILHI:
            set_half(queue->driver, at == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
            break;
        case VIRTIO_PCI_COMMON_Q_USEDLO:
        case VIRTIO_PCI_COMMON_Q_USEDHI:
            set_half(queue->device, at == VIRTIO_PCI_COMMON_Q_USEDHI, value);
            break;
        default:
            break;
    }
}

void VirtioTransport::enable_queue(Queue& queue) {
    constexpr uint8_t kMayEnable = VIRTIO_CONFIG_S_FEATURES_OK;
    if ((status_ & kMayEnable) == 0 || activated_) {
        return;  // 3.1.1: between FEATURES_OK and DRIVER_OK
    }
    const bool packed = (driver_features_ & kPacked) != 0;
    const bool good_size = queue.size != 0 && queue.size <= device_.queue_size_max() &&
                           (packed || is_power_of_two(queue.size));
    if (!queue.kick.valid()) {
        queue.kick = new_eventfd();
    }
    if (!good_size || !queue.kick.valid() || !ring_is_in_memory(memory_, setup_of(queue), packed)) {
        break_device();
        return;
    }
    queue.enabled = true;
}

DeviceProxy::QueueSetup VirtioTransport::setup_of(const Queue& queue) const {
    return {.size = queue.size,
            .descriptors = GuestAddr{queue.descriptors},
            .driver = GuestAddr{queue.driver},
            .device = GuestAddr{queue.device},
            .kick_fd = queue.kick.get(),
            .call_fd = call_fd(queue.vector)};
}

int VirtioTransport::call_fd(uint16_t vector) const {
    const int fd = msix_.eventfd(vector);
    return fd >= 0 ? fd : unread_call_.get();
}

uint16_t VirtioTransport::known_vector(uint32_t vector) const {
    return vector < msix_.vectors() ? static_cast<uint16_t>(vector) : kNoVector;
}

void VirtioTransport::set_queue_vector(Queue& queue, uint32_t vector) {
    const uint16_t known = known_vector(vector);
    if (known == queue.vector) {
        return;
    }
    queue.vector = known;
    if (activated_ && queue.enabled) {
        device_.set_call(queue_select_, call_fd(known));
    }
}

void VirtioTransport::write_status(uint8_t value) {
    if (resetting_) {
        return;
    }
    if (value == 0) {
        begin_reset();
        return;
    }
    // Bits are only set; NEEDS_RESET is the device's.
    uint8_t wanted = static_cast<uint8_t>(value & ~VIRTIO_CONFIG_S_NEEDS_RESET & ~status_);
    if ((wanted & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !features_are_good()) {
        wanted &= static_cast<uint8_t>(~VIRTIO_CONFIG_S_FEATURES_OK);
    }
    status_ |= wanted;
    if ((wanted & VIRTIO_CONFIG_S_DRIVER_OK) == 0) {
        return;
    }
    if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
        status_ &= static_cast<uint8_t>(~VIRTIO_CONFIG_S_DRIVER_OK);
        return;
    }
    if ((status_ & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) {
        activate();
    }
}

bool VirtioTransport::features_are_good() const {
    return (driver_features_ & ~offered_by(device_)) == 0 && (driver_features_ & kVersion1) != 0;
}

void VirtioTransport::activate() {
    activated_ = true;
    ring_doorbells(true);
    std::vector<std::optional<DeviceProxy::QueueSetup>> setups(queues_.size());
    for (size_t i = 0; i < queues_.size(); ++i) {
        if (queues_[i].enabled) {
            setups[i] = setup_of(queues_[i]);
        }
    }
    device_.activate(driver_features_, setups);
}

void VirtioTransport::begin_reset() {
    ring_doorbells(false);
    if (!activated_) {
        clear();
        return;
    }
    activated_ = false;
    resetting_ = true;
    device_.reset([weak = std::weak_ptr<VirtioTransport*>(self_)] {
        if (const auto self = weak.lock()) {
            VirtioTransport& transport = **self;
            const std::lock_guard lock(transport.mutex_);
            transport.clear();
        }
    });
}

void VirtioTransport::clear() {
    resetting_ = false;
    status_ = 0;
    isr_ = 0;
    driver_features_ = 0;
    device_feature_select_ = 0;
    driver_feature_select_ = 0;
    queue_select_ = 0;
    config_vector_ = kNoVector;
    for (Queue& queue : queues_) {
        // What was rung before is not for the driver that comes next.
        UniqueFd kick = std::move(queue.kick);
        if (kick.valid()) {
            (void)drain_notification(kick.get());
        }
        queue = {.size = device_.queue_size_max(), .vector = kNoVector, .kick = std::move(kick)};
    }
}

void VirtioTransport::break_device() {
    status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
    tell_config_changed();
}

void VirtioTransport::ring_doorbells(bool wanted) {
    if (!doorbell_address_) {
        return;
    }
    for (size_t i = 0; i < queues_.size(); ++i) {
        Queue& queue = queues_[i];
        const uint64_t address = *doorbell_address_ + kNotifyStride * i;
        if (queue.has_doorbell && !wanted) {
            doorbells_.disconnect(address, queue.kick.get());
            queue.has_doorbell = false;
        } else if (!queue.has_doorbell && wanted && queue.enabled) {
            if (const auto connected = doorbells_.connect(address, queue.kick.get()); connected) {
                queue.has_doorbell = true;
            } else {
                // notify() takes the kicks then, an exit each.
                slow_kicks_.log(
                    LogLevel::kWarning, "kicks are slow: {}", connected.error().message);
            }
        }
    }
}

void VirtioTransport::tell_config_changed() {
    isr_ |= kIsrConfig;
    msix_.signal(config_vector_);
}

}  // namespace outrigger::vmm
