// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/pci/pci_bus.h"

#include <fmt/format.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

constexpr uint64_t kFirstSlot = 1;

bool inside(const AddressWindow& window, uint64_t address, uint64_t bytes) {
    return address >= window.start &&
           range_fits<uint64_t>(address - window.start, bytes, window.bytes);
}

/// What the specification lets a processor do: one to four bytes, aligned.
bool is_config_access(uint64_t at, size_t bytes) {
    return (bytes == 1 || bytes == 2 || bytes == 4) && at % bytes == 0;
}

}  // namespace

PciBus::PciBus(AddressWindow low, AddressWindow high)
    : low_(low),
      high_(high),
      ecam_(*this),
      low_window_(*this, low.start),
      high_window_(*this, high.start),
      next_address_(high.start) {}

Result<void> PciBus::add(PciFunction& function) {
    const std::lock_guard lock(mutex_);
    if (functions_.size() == kFunctionsMax) {
        return failure(Error{
            .message = fmt::format("a machine has at most {} devices", size_t{kFunctionsMax})});
    }
    for (PciFunction::Bar& bar : function.bars()) {
        const auto address = align_up(next_address_, bar.bytes);
        if (!address || !inside(high_, *address, bar.bytes)) {
            return failure(Error{.message = "the devices' memory does not fit their window"});
        }
        function.config().add_bar(bar.index, bar.bytes, *address);
        next_address_ = *address + bar.bytes;
    }
    functions_.push_back(&function);
    return {};
}

PciFunction* PciBus::function_at(uint64_t offset) const {
    // Bits 15 to 19 are the slot, 12 to 14 the function.
    const uint64_t slot = (offset >> 15U) & 31U;
    if (((offset >> 12U) & 7U) != 0 || slot < kFirstSlot ||
        slot - kFirstSlot >= functions_.size()) {
        return nullptr;
    }
    return functions_[slot - kFirstSlot];
}

PciBus::Target PciBus::find(uint64_t address, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    for (PciFunction* const function : functions_) {
        for (const PciFunction::Bar& bar : function->bars()) {
            if (bar.mapped_at && inside({*bar.mapped_at, bar.bytes}, address, bytes)) {
                return {function, bar.index, address - *bar.mapped_at};
            }
        }
    }
    return {};
}

bool PciBus::has_room(uint64_t address, const PciFunction::Bar& bar) const {
    if (!inside(low_, address, bar.bytes) && !inside(high_, address, bar.bytes)) {
        return false;
    }
    for (PciFunction* const function : functions_) {
        for (const PciFunction::Bar& other : function->bars()) {
            if (&other != &bar && other.mapped_at && address < *other.mapped_at + other.bytes &&
                *other.mapped_at < address + bar.bytes) {
                return false;
            }
        }
    }
    return true;
}

void PciBus::place_bars(PciFunction& function) {
    for (PciFunction::Bar& bar : function.bars()) {
        const uint64_t address = function.config().bar(bar.index);
        std::optional<uint64_t> place;
        if (function.config().memory_enabled() && has_room(address, bar)) {
            place = address;
        }
        if (place != bar.mapped_at) {
            bar.mapped_at = place;
            function.on_bar_moved(bar);
        }
    }
}

void PciBus::Ecam::read(uint64_t offset, std::span<std::byte> out) {
    const std::lock_guard lock(bus_.mutex_);
    PciFunction* const function = bus_.function_at(offset);
    if (function != nullptr && is_config_access(offset, out.size())) {
        function->read_config(static_cast<uint16_t>(offset & 0xFFFU), out);
    }
}

void PciBus::Ecam::write(uint64_t offset, std::span<const std::byte> in) {
    const std::lock_guard lock(bus_.mutex_);
    PciFunction* const function = bus_.function_at(offset);
    if (function != nullptr && is_config_access(offset, in.size())) {
        function->write_config(static_cast<uint16_t>(offset & 0xFFFU), in);
        bus_.place_bars(*function);
    }
}

void PciBus::Window::read(uint64_t offset, std::span<std::byte> out) {
    // Functions are never taken away while the guest runs, so the lock need not be kept.
    const Target target = bus_.find(start_ + offset, out.size());
    if (target.function != nullptr) {
        target.function->read_bar(target.bar, target.offset, out);
    }
}

void PciBus::Window::write(uint64_t offset, std::span<const std::byte> in) {
    const Target target = bus_.find(start_ + offset, in.size());
    if (target.function != nullptr) {
        target.function->write_bar(target.bar, target.offset, in);
    }
}

}  // namespace outrigger::vmm
