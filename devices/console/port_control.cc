// SPDX-License-Identifier: Apache-2.0
#include "devices/console/port_control.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <linux/virtio_console.h>

#include "devices/console/console_state.h"

namespace outrigger::console {
namespace {

std::vector<std::byte> encode(size_t port,
                              uint16_t event,
                              uint16_t value,
                              std::span<const std::byte> more) {
    const ControlMessage head{.id = static_cast<uint32_t>(port), .event = event, .value = value};
    std::vector<std::byte> bytes(sizeof head + more.size());
    std::memcpy(bytes.data(), &head, sizeof head);
    std::ranges::copy(more, bytes.begin() + sizeof head);
    return bytes;
}

}  // namespace

PortControl::PortControl(const std::vector<PortOptions>& ports, ResizeOrder order) : order_(order) {
    for (const PortOptions& options : ports) {
        ports_.push_back({.name = options.name,
                          .console = options.console,
                          .state = {.plugged = options.plugged,
                                    .size = {.columns = options.columns, .rows = options.rows}}});
    }
    // Until anything was agreed on, a driver can only be one that knows nothing of ports.
    ports_.front().state.guest_open = true;
}

void PortControl::negotiated(bool multiport) {
    const std::lock_guard lock(mutex_);
    if (multiport == multiport_) {
        return;  // sent again while queues run
    }
    multiport_ = multiport;
    ports_.front().state.guest_open = !multiport;
    store();
}

void PortControl::reset() {
    const std::lock_guard lock(mutex_);
    pending_.clear();
    multiport_ = false;
    driver_ready_ = false;
    for (Port& port : ports_) {
        port.state.told = false;
        port.state.ready = false;
        port.state.guest_open = false;
    }
    ports_.front().state.guest_open = true;
    store();
}

PortControl::Handled PortControl::handle(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    const Handled handled = handle_locked(bytes);
    ++handled_;
    store();
    return handled;
}

uint64_t PortControl::handled() const {
    const std::lock_guard lock(mutex_);
    return handled_;
}

PortControl::Handled PortControl::handle_locked(std::span<const std::byte> bytes) {
    counters_.messages.add();
    ControlMessage message;
    if (bytes.size() < sizeof message) {
        counters_.cut_short.add();
        return {};
    }
    std::memcpy(&message, bytes.data(), sizeof message);
    if (message.event == VIRTIO_CONSOLE_DEVICE_READY) {
        if (message.value != 1) {
            counters_.failures.add();
            return {};
        }
        driver_ready_ = true;
        for (size_t port = 0; port < ports_.size(); ++port) {
            if (ports_[port].state.plugged) {
                begin_port(port);
            }
        }
        return {.change = Change::kMessages};
    }
    const uint32_t port = message.id;
    if (port >= ports_.size() || !ports_[port].state.told) {
        counters_.unknown_ports.add();
        return {};
    }
    return handle_known(message.event, port, message.value);
}

PortControl::Handled PortControl::handle_known(uint16_t event, size_t port, uint16_t value) {
    PortState& state = ports_[port].state;
    if (event == VIRTIO_CONSOLE_PORT_READY) {
        if (value != 1) {
            counters_.failures.add();
            state.ready = false;
            return {};
        }
        set_up_port(port);
        return {.change = Change::kMessages};
    }
    if (event == VIRTIO_CONSOLE_PORT_OPEN) {
        state.guest_open = value != 0;
        return {.change = state.guest_open ? Change::kOpened : Change::kClosed, .port = port};
    }
    counters_.unknown_events.add();
    return {};
}

/// The driver is to hear of it: what it knew of it before is void.
void PortControl::begin_port(size_t port) {
    PortState& state = ports_[port].state;
    state.told = true;
    state.ready = false;
    push(port, VIRTIO_CONSOLE_PORT_ADD, 1);
}

/// In the order of other devices: a driver makes the terminal before it is told of its user.
void PortControl::set_up_port(size_t port) {
    Port& each = ports_[port];
    each.state.ready = true;
    if (each.console) {
        push(port, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
    }
    push(port, VIRTIO_CONSOLE_PORT_NAME, 1, std::as_bytes(std::span(each.name)));
    if (each.console && each.state.size != TerminalSize{}) {
        push_size(port);
    }
    if (each.state.host_open) {
        push_open(port);
    }
}

void PortControl::push(size_t port,
                       uint16_t event,
                       uint16_t value,
                       std::span<const std::byte> more) {
    const auto waits = [&](const Pending& each) {
        return each.port == port && each.event == event && each.value == value;
    };
    if (event != VIRTIO_CONSOLE_PORT_OPEN && std::ranges::any_of(pending_, waits)) {
        return;
    }
    pending_.push_back({.port = static_cast<uint32_t>(port),
                        .event = event,
                        .value = value,
                        .bytes = encode(port, event, value, more),
                        .number = next_number_++});
}

/// Of what waits the last one counts, but a driver that has yet to hear of a close hears it, even
/// if somebody came meanwhile: its user has gone.
void PortControl::push_open(size_t port) {
    const bool open = ports_[port].state.host_open;
    const auto is_open = [&](const Pending& each) {
        return each.port == port && each.event == VIRTIO_CONSOLE_PORT_OPEN;
    };
    const auto count = std::ranges::count_if(pending_, is_open);
    const auto last = std::find_if(pending_.rbegin(), pending_.rend(), is_open);
    if (count > 0 && (last->value != 0) == open) {
        return;
    }
    if (count > 1) {
        pending_.erase(std::next(last).base());  // two changes that take one another back
        return;
    }
    push(port, VIRTIO_CONSOLE_PORT_OPEN, open ? 1 : 0);
}

void PortControl::push_size(size_t port) {
    const TerminalSize size = ports_[port].state.size;
    const bool columns_first = order_ == ResizeOrder::kSpecification;
    const Le16 numbers[2] = {columns_first ? size.columns : size.rows,
                             columns_first ? size.rows : size.columns};
    const auto waits = std::ranges::find_if(pending_, [&](const Pending& each) {
        return each.port == port && each.event == VIRTIO_CONSOLE_RESIZE;
    });
    if (waits != pending_.end()) {
        waits->bytes = encode(port, VIRTIO_CONSOLE_RESIZE, 0, std::as_bytes(std::span(numbers)));
        waits->number = next_number_++;  // it is another one
        return;
    }
    push(port, VIRTIO_CONSOLE_RESIZE, 0, std::as_bytes(std::span(numbers)));
}

/// All that a port which is taken away had yet to tell, but for an earlier removal.
void PortControl::forget_pending(size_t port) {
    std::erase_if(pending_, [&](const Pending& each) {
        return each.port == port && each.event != VIRTIO_CONSOLE_PORT_REMOVE;
    });
}

bool PortControl::has_message() const {
    const std::lock_guard lock(mutex_);
    return !pending_.empty();
}

void PortControl::note_delivered(uint64_t message) {
    const std::lock_guard lock(mutex_);
    std::erase_if(pending_, [&](const Pending& each) { return each.number == message; });
    store();
}

bool PortControl::guest_open(size_t port) const {
    const std::lock_guard lock(mutex_);
    return ports_[port].state.guest_open;
}

bool PortControl::set_host_open(size_t port, bool open) {
    const std::lock_guard lock(mutex_);
    PortState& state = ports_[port].state;
    if (state.host_open == open) {
        return false;
    }
    state.host_open = open;
    if (state.ready) {
        push_open(port);
    }
    store();
    return state.ready;
}

bool PortControl::set_size(size_t port, TerminalSize size) {
    const std::lock_guard lock(mutex_);
    Port& each = ports_[port];
    if (each.state.size == size) {
        return false;
    }
    each.state.size = size;
    const bool is_told = multiport_ && each.state.ready && each.console;
    if (is_told) {
        push_size(port);
    }
    store();
    return is_told || (!multiport_ && port == 0);
}

Result<void> PortControl::set_plugged(size_t port, bool plugged) {
    const std::lock_guard lock(mutex_);
    PortState& state = ports_[port].state;
    if (state.plugged == plugged) {
        return failure(Error{.message = "port " + ports_[port].name +
                                        (plugged ? " is there already" : " is not there")});
    }
    state.plugged = plugged;
    if (multiport_ && driver_ready_) {  // else it is told when it asks
        tell_plugged(port);
    }
    store();
    return {};
}

void PortControl::tell_plugged(size_t port) {
    PortState& state = ports_[port].state;
    const auto adds = [&](const Pending& each) {
        return each.port == port && each.event == VIRTIO_CONSOLE_PORT_ADD;
    };
    const bool has_heard = state.told && std::ranges::none_of(pending_, adds);
    if (state.plugged) {
        begin_port(port);
        return;
    }
    forget_pending(port);
    state.told = false;
    state.ready = false;
    state.guest_open = false;
    if (has_heard) {
        push(port, VIRTIO_CONSOLE_PORT_REMOVE, 1);
    }
}

PortControl::PortState PortControl::state(size_t port) const {
    const std::lock_guard lock(mutex_);
    return ports_[port].state;
}

bool PortControl::multiport() const {
    const std::lock_guard lock(mutex_);
    return multiport_;
}

ConsoleConfig PortControl::config() const {
    const std::lock_guard lock(mutex_);
    const TerminalSize size = ports_.front().state.size;
    return {.columns = size.columns,
            .rows = size.rows,
            .ports_max = static_cast<uint32_t>(ports_.size()),
            .emergency_write = 0};
}

PortControl::Saved PortControl::save() const {
    const std::lock_guard lock(mutex_);
    return save_locked();
}

PortControl::Saved PortControl::save_locked() const {
    Saved saved{.multiport = multiport_, .driver_ready = driver_ready_};
    for (const Port& port : ports_) {
        saved.ports.push_back(port.state);
    }
    for (const Pending& each : pending_) {
        saved.pending.push_back(each.bytes);
    }
    return saved;
}

/// Everything but the ports.
void PortControl::load_locked(const Saved& saved) {
    multiport_ = saved.multiport;
    driver_ready_ = saved.driver_ready;
    pending_.clear();
    for (const auto& bytes : saved.pending) {
        ControlMessage head;
        std::memcpy(&head, bytes.data(), sizeof head);
        pending_.push_back({.port = head.id,
                            .event = head.event,
                            .value = head.value,
                            .bytes = bytes,
                            .number = next_number_++});
    }
}

void PortControl::load(const Saved& saved) {
    const std::lock_guard lock(mutex_);
    load_locked(saved);
    for (size_t i = 0; i < ports_.size(); ++i) {
        PortState& state = ports_[i].state;
        const PortState& before = saved.ports[i];
        const bool open_here = state.host_open;
        const TerminalSize size_here = state.size;
        state = before;
        // The host's side is the one that is here.
        state.host_open = open_here;
        if (state.ready && before.host_open != open_here) {
            push_open(i);
        }
        if (size_here != TerminalSize{} && size_here != before.size) {
            state.size = size_here;
            if (state.ready && ports_[i].console) {
                push_size(i);
            }
        }
    }
    store();
}

// --- Another process ----------------------------------------------------------------------------

namespace {

/// Before the numbers of the messages that wait, and what PortControl::Saved is written as.
struct KeptHead {
    uint64_t handled = 0;
    uint64_t next_number = 0;
    uint64_t pending = 0;
};

}  // namespace

void PortControl::keep(std::span<std::byte> kept) {
    const std::lock_guard lock(mutex_);
    kept_.emplace(kept);
    std::span<const std::byte> bytes = kept_->load();
    KeptHead head;
    if (bytes.size() < sizeof head) {
        return;
    }
    std::memcpy(&head, bytes.data(), sizeof head);
    bytes = bytes.subspan(sizeof head);
    if (head.pending > bytes.size() / sizeof(uint64_t)) {
        return;
    }
    const auto numbers = bytes.first(head.pending * sizeof(uint64_t));
    const auto saved = read_control(bytes.subspan(numbers.size()));
    if (!saved || saved->ports.size() != ports_.size() || saved->pending.size() != head.pending) {
        return;
    }
    load_locked(*saved);
    for (size_t i = 0; i < ports_.size(); ++i) {
        ports_[i].state = saved->ports[i];
    }
    handled_ = head.handled;
    next_number_ = head.next_number;
    for (size_t i = 0; i < pending_.size(); ++i) {
        std::memcpy(&pending_[i].number, &numbers[i * sizeof(uint64_t)], sizeof(uint64_t));
    }
}

void PortControl::store() {
    if (!kept_) {
        return;
    }
    const KeptHead head{
        .handled = handled_, .next_number = next_number_, .pending = pending_.size()};
    std::vector<std::byte> bytes(sizeof head + pending_.size() * sizeof(uint64_t));
    std::memcpy(bytes.data(), &head, sizeof head);
    for (size_t i = 0; i < pending_.size(); ++i) {
        std::memcpy(
            &bytes[sizeof head + i * sizeof(uint64_t)], &pending_[i].number, sizeof(uint64_t));
    }
    const std::vector<std::byte> all = write_control(save_locked());
    bytes.insert(bytes.end(), all.begin(), all.end());
    kept_->store(bytes);
}

}  // namespace outrigger::console
