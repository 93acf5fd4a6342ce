// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/virtio/virtio_pci_function.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

constexpr uint16_t kVirtioVendor = 0x1AF4;
constexpr uint16_t kFirstDevice = 0x1040;
constexpr uint16_t kSubsystem = 0x1100;

// The window through configuration space (VIRTIO 1.3, 4.1.4.9): which BAR, where, and how much are
// the guest's to say, and an access of the data is one of the BAR.
constexpr size_t kWindowBar = 4;
constexpr size_t kWindowOffset = 8;
constexpr size_t kWindowLength = 12;
constexpr size_t kWindowData = 16;

constexpr uint8_t kMsixEnable = 0x80;  // of the upper byte of message control
constexpr uint8_t kMsixFunctionMask = 0x40;
constexpr uint8_t kMsixControlBits = kMsixEnable | kMsixFunctionMask;

uint32_t class_code(uint16_t virtio_id) {
    switch (virtio_id) {
        case VIRTIO_ID_NET:
            return 0x020000;
        case VIRTIO_ID_BLOCK:
        case VIRTIO_ID_FS:
            return 0x018000;
        case VIRTIO_ID_CONSOLE:
            return 0x078000;
        case VIRTIO_ID_VSOCK:
            return 0x028000;
        default:
            return 0xFF0000;
    }
}

void append(std::vector<uint8_t>& out, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        out.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
}

/// struct virtio_pci_cap behind its first two bytes. VIRTIO 1.3, 4.1.4.
std::vector<uint8_t> virtio_capability(uint8_t kind,
                                       uint64_t offset,
                                       uint64_t bytes,
                                       size_t extra) {
    std::vector<uint8_t> out;
    out.push_back(static_cast<uint8_t>(16 + extra));
    out.push_back(kind);
    append(out, 0, 4);  // BAR 0, id 0, padding
    append(out, offset, 4);
    append(out, bytes, 4);
    return out;
}

/// The part of the BAR that an access lies in, with its offset there; nothing crosses an end.
std::optional<uint64_t> offset_in(uint64_t offset, size_t size, uint64_t start, uint64_t bytes) {
    if (offset < start || !range_fits<uint64_t>(offset - start, size, bytes)) {
        return std::nullopt;
    }
    return offset - start;
}

}  // namespace

Result<std::unique_ptr<VirtioPciFunction>> VirtioPciFunction::create(DeviceProxy& device,
                                                                     const GuestMemory& memory,
                                                                     MessageInterrupts& interrupts,
                                                                     Doorbells& doorbells,
                                                                     MemorySlots& slots,
                                                                     Alarms alarms) {
    auto transport = OUTRIGGER_TRY(VirtioTransport::create(
        device, memory, interrupts, doorbells, std::move(alarms.needs_reset)));
    auto shared = OUTRIGGER_TRY(SharedBar::create(device, slots, std::move(alarms.memory_lost)));
    return std::unique_ptr<VirtioPciFunction>(
        new VirtioPciFunction(device, std::move(transport), std::move(shared)));
}

VirtioPciFunction::VirtioPciFunction(const DeviceProxy& device,
                                     std::unique_ptr<VirtioTransport> transport,
                                     std::unique_ptr<SharedBar> shared)
    : PciFunction({.vendor = kVirtioVendor,
                   .device = static_cast<uint16_t>(kFirstDevice + device.virtio_id()),
                   .subsystem_vendor = kVirtioVendor,
                   .subsystem = kSubsystem,
                   .class_code = class_code(device.virtio_id()),
                   .revision = 1}),
      transport_(std::move(transport)),
      shared_(std::move(shared)) {
    add_bar(0, kBarBytes);
    add_capabilities(device);
    if (shared_ != nullptr) {
        add_bar(kSharedBar, shared_->bytes());
        add_shared_memory();
    }
}

/// struct virtio_pci_cap64 behind its first two bytes. VIRTIO 1.3, 4.1.4.7.
void VirtioPciFunction::add_shared_memory() {
    for (const SharedBar::Region& region : shared_->regions()) {
        std::vector<uint8_t> out = {24, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, kSharedBar, region.id};
        append(out, 0, 2);  // padding
        append(out, region.offset, 4);
        append(out, region.bytes, 4);
        append(out, region.offset >> 32U, 4);
        append(out, region.bytes >> 32U, 4);
        (void)config().add_capability(PCI_CAP_ID_VNDR, out);
    }
}

void VirtioPciFunction::add_capabilities(const DeviceProxy& device) {
    const auto add = [this](const std::vector<uint8_t>& body) {
        (void)config().add_capability(PCI_CAP_ID_VNDR, body);
    };
    add(virtio_capability(VIRTIO_PCI_CAP_COMMON_CFG, kCommon, VirtioTransport::kCommonBytes, 0));
    add(virtio_capability(VIRTIO_PCI_CAP_ISR_CFG, kIsr, 1, 0));
    auto notify = virtio_capability(
        VIRTIO_PCI_CAP_NOTIFY_CFG,
        kNotify,
        std::max<uint64_t>(1, device.queue_count()) * VirtioTransport::kNotifyStride,
        4);
    append(notify, VirtioTransport::kNotifyStride, 4);
    add(notify);
    if (device.config_bytes() != 0) {
        add(virtio_capability(VIRTIO_PCI_CAP_DEVICE_CFG,
                              kDeviceConfig,
                              std::min<uint64_t>(device.config_bytes(), kDeviceConfigBytes),
                              0));
    }
    auto window = virtio_capability(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
    append(window, 0, 4);
    std::vector<uint8_t> writable(window.size());
    writable[kWindowBar - 2] = 0xFF;
    std::fill(writable.begin() + (kWindowOffset - 2), writable.end(), uint8_t{0xFF});
    window_capability_ = config().add_capability(PCI_CAP_ID_VNDR, window, writable);

    std::vector<uint8_t> msix;
    append(msix, transport_->vectors() - 1U, 2);
    append(msix, kMsixTable, 4);
    append(msix, kMsixPending, 4);
    const std::array<uint8_t, 2> control = {0, kMsixControlBits};
    msix_capability_ = config().add_capability(PCI_CAP_ID_MSIX, msix, control);
}

std::optional<VirtioPciFunction::WindowAccess> VirtioPciFunction::window_access() {
    const auto at = [this](size_t field) {
        return static_cast<uint16_t>(window_capability_ + field);
    };
    const uint64_t offset = config().dword(at(kWindowOffset));
    const uint32_t bytes = config().dword(at(kWindowLength));
    if (config().byte(at(kWindowBar)) != 0 || (bytes != 1 && bytes != 2 && bytes != 4) ||
        offset % bytes != 0 || !range_fits<uint64_t>(offset, bytes, kBarBytes)) {
        return std::nullopt;
    }
    return WindowAccess{.offset = offset, .bytes = bytes};
}

void VirtioPciFunction::read_config(uint16_t at, std::span<std::byte> out) {
    const auto data_at = static_cast<uint16_t>(window_capability_ + kWindowData);
    if (at == data_at) {
        if (const auto access = window_access(); access) {
            std::array<std::byte, 4> data{};
            const auto part = std::span(data).first(access->bytes);
            read_bar(0, access->offset, part);
            config().write(data_at, part);
        }
    }
    PciFunction::read_config(at, out);
}

void VirtioPciFunction::write_config(uint16_t at, std::span<const std::byte> in) {
    PciFunction::write_config(at, in);
    if (at == window_capability_ + kWindowData) {
        const auto access = window_access();
        if (access && access->bytes <= in.size()) {
            write_bar(0, access->offset, in.first(access->bytes));
        }
    } else if (at >= msix_capability_ && at < msix_capability_ + 4) {
        const unsigned control = config().byte(static_cast<uint16_t>(msix_capability_ + 3));
        transport_->set_msix_control((control & kMsixEnable) != 0,
                                     (control & kMsixFunctionMask) != 0);
    }
}

void VirtioPciFunction::read_bar(unsigned bar, uint64_t offset, std::span<std::byte> out) {
    if (bar == kSharedBar) {
        shared_->read(offset, out);
        return;
    }
    std::ranges::fill(out, std::byte{0});
    if (const auto at = offset_in(offset, out.size(), kCommon, VirtioTransport::kCommonBytes)) {
        transport_->read_common(*at, out);
    } else if (offset == kIsr) {
        out[0] = std::byte{transport_->read_isr()};
    } else if (const auto config_at =
                   offset_in(offset, out.size(), kDeviceConfig, kDeviceConfigBytes)) {
        transport_->read_device_config(*config_at, out);
    } else if (const auto table_at = offset_in(offset, out.size(), kMsixTable, kMsixTableBytes)) {
        transport_->read_msix_table(*table_at, out);
    } else if (const auto bits_at =
                   offset_in(offset, out.size(), kMsixPending, kMsixPendingBytes)) {
        transport_->read_msix_pending(*bits_at, out);
    }
}

void VirtioPciFunction::write_bar(unsigned bar, uint64_t offset, std::span<const std::byte> in) {
    if (bar == kSharedBar) {
        shared_->write(offset, in);
        return;
    }
    if (const auto at = offset_in(offset, in.size(), kCommon, VirtioTransport::kCommonBytes)) {
        transport_->write_common(*at, in);
    } else if (const auto config_at =
                   offset_in(offset, in.size(), kDeviceConfig, kDeviceConfigBytes)) {
        transport_->write_device_config(*config_at, in);
    } else if (const auto notify_at = offset_in(offset, in.size(), kNotify, kNotifyBytes)) {
        transport_->notify(*notify_at);
    } else if (const auto table_at = offset_in(offset, in.size(), kMsixTable, kMsixTableBytes)) {
        transport_->write_msix_table(*table_at, in);
    }
}

void VirtioPciFunction::on_bar_moved(const Bar& bar) {
    if (bar.index == kSharedBar) {
        shared_->place(bar.mapped_at);
        return;
    }
    transport_->place_doorbells(bar.mapped_at ? std::optional(*bar.mapped_at + kNotify)
                                              : std::nullopt);
}

}  // namespace outrigger::vmm
