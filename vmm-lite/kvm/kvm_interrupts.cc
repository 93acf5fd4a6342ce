// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/kvm/kvm_interrupts.h"

#include <sys/ioctl.h>

#include <fmt/format.h>

#include "vhost-user-backend/base/log.h"

#include "vmm-lite/kvm/counted_requests.h"

namespace outrigger::vmm {
namespace {

kvm_irqfd irqfd_request(uint32_t gsi, int eventfd, uint32_t flags) {
    kvm_irqfd request = {};
    request.fd = static_cast<uint32_t>(eventfd);
    request.gsi = gsi;
    request.flags = flags;
    return request;
}

}  // namespace

Result<uint32_t> RoutingTable::allocate() {
    uint32_t gsi = kIoApicPins;
    for (const auto& [used, slot] : messages_) {
        if (used != gsi) {
            break;
        }
        ++gsi;
    }
    if (gsi >= entries_max_) {
        return failure(Error{
            .message = fmt::format("all {} interrupts of the machine are used", entries_max_)});
    }
    messages_.emplace(gsi, Slot{});
    return gsi;
}

void RoutingTable::release(uint32_t gsi) {
    messages_.erase(gsi);
}

bool RoutingTable::set(uint32_t gsi, const MsiMessage& message) {
    const auto slot = messages_.find(gsi);
    if (slot == messages_.end() || (slot->second.has_message && slot->second.message == message)) {
        return false;
    }
    slot->second = {.has_message = true, .message = message};
    return true;
}

std::vector<kvm_irq_routing_entry> RoutingTable::entries() const {
    std::vector<kvm_irq_routing_entry> entries;
    entries.reserve(kIoApicPins + messages_.size());
    for (uint32_t pin = 0; pin < kIoApicPins; ++pin) {
        kvm_irq_routing_entry entry = {};
        entry.gsi = pin;
        entry.type = KVM_IRQ_ROUTING_IRQCHIP;
        entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        entry.u.irqchip.pin = pin;
        entries.push_back(entry);
    }
    for (const auto& [gsi, slot] : messages_) {
        if (slot.has_message) {
            kvm_irq_routing_entry entry = {};
            entry.gsi = gsi;
            entry.type = KVM_IRQ_ROUTING_MSI;
            entry.u.msi.address_lo = static_cast<uint32_t>(slot.message.address);
            entry.u.msi.address_hi = static_cast<uint32_t>(slot.message.address >> 32U);
            entry.u.msi.data = slot.message.data;
            entries.push_back(entry);
        }
    }
    return entries;
}

Result<void> KvmInterrupts::start() {
    const std::lock_guard lock(mutex_);
    return commit();
}

Result<uint32_t> KvmInterrupts::allocate() {
    const std::lock_guard lock(mutex_);
    return table_.allocate();
}

void KvmInterrupts::release(uint32_t gsi) {
    // The entry goes from KVM's table with the next commit; nothing is connected to it.
    const std::lock_guard lock(mutex_);
    table_.release(gsi);
}

Result<void> KvmInterrupts::route(uint32_t gsi, const MsiMessage& message) {
    const std::lock_guard lock(mutex_);
    if (!table_.set(gsi, message)) {
        return {};
    }
    return commit();
}

Result<void> KvmInterrupts::connect(uint32_t gsi, int eventfd) {
    kvm_irqfd request = irqfd_request(gsi, eventfd, 0);
    if (::ioctl(vm_fd_, KVM_IRQFD, &request) != 0) {
        return failure(error_from_errno("KVM_IRQFD"));
    }
    return {};
}

void KvmInterrupts::disconnect(uint32_t gsi, int eventfd) {
    kvm_irqfd request = irqfd_request(gsi, eventfd, KVM_IRQFD_FLAG_DEASSIGN);
    if (::ioctl(vm_fd_, KVM_IRQFD, &request) != 0) {
        log(LogLevel::kWarning, "{}", error_from_errno("KVM keeps an interrupt connected").message);
    }
}

Result<void> KvmInterrupts::commit() const {
    const auto request = counted_request<kvm_irq_routing_entry>(table_.entries());
    if (::ioctl(vm_fd_, kSetGsiRouting, request.data()) != 0) {
        return failure(error_from_errno("KVM_SET_GSI_ROUTING"));
    }
    return {};
}

}  // namespace outrigger::vmm
