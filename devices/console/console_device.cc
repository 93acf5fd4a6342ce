// SPDX-License-Identifier: Apache-2.0
#include "devices/console/console_device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include <linux/virtio_console.h>

#include "devices/console/console_state.h"

namespace outrigger::console {
namespace {

constexpr uint32_t kVirtioIdConsole = 3;

/// Chains that are served before the worker's other queues have their turn.
constexpr int kBatch = 64;

constexpr size_t kControlReceive = 2;
constexpr size_t kControlTransmit = 3;

/// VIRTIO 1.3, 5.3.2: the first port's rings come before those for messages, all others behind.
constexpr size_t receive_queue(size_t port) {
    return port == 0 ? 0 : 2 + 2 * port;
}

constexpr size_t transmit_queue(size_t port) {
    return receive_queue(port) + 1;
}

constexpr size_t port_of(size_t queue) {
    return queue < kControlReceive ? 0 : queue / 2 - 1;
}

constexpr bool is_control(size_t queue) {
    return queue == kControlReceive || queue == kControlTransmit;
}

// What is noted of a chain, so that another process does not carry it out twice: a number that
// counts chains, messages or bytes.

std::span<const std::byte> bytes_of(const uint64_t& number) {
    return std::as_bytes(std::span(&number, 1));
}

/// What an earlier process noted of `chain`, if it came as far as `progress`.
std::optional<uint64_t> noted(const DescriptorChain& chain, EarlierProgress progress) {
    const EarlierRun earlier = chain.earlier_run();
    if (earlier.progress != progress || earlier.bytes.size() != sizeof(uint64_t)) {
        return std::nullopt;
    }
    uint64_t number = 0;
    std::memcpy(&number, earlier.bytes.data(), sizeof number);
    return number;
}

}  // namespace

Result<std::unique_ptr<ConsoleDevice>> ConsoleDevice::create(ConsoleSettings settings) {
    // NOLINTNEXTLINE(cppcoreguidelines-owning-memory): the constructor is nobody else's.
    std::unique_ptr<ConsoleDevice> device(
        new ConsoleDevice(settings, OUTRIGGER_TRY(HostThread::create())));
    HostEvents& events = *device;
    for (size_t i = 0; i < settings.ports.size(); ++i) {
        settings.ends[i].conduit = device->conduit_.get();
        device->ports_[i]->host = &device->host_->add_port(std::make_unique<HostPort>(
            i, settings.ports[i], std::move(settings.ends[i]), device->ports_[i]->stream, events));
    }
    return device;
}

ConsoleDevice::ConsoleDevice(ConsoleSettings& settings, std::unique_ptr<HostThread> host)
    : kept_(std::move(settings.kept)),
      conduit_(std::move(settings.conduit)),
      multiport_offered_(settings.multiport),
      control_(settings.ports, settings.resize_order),
      host_(std::move(host)) {
    for (size_t i = 0; i < settings.ports.size(); ++i) {
        ports_.push_back(std::make_unique<Port>(settings.ports[i],
                                                kept_ != nullptr ? kept_->port(i) : KeptPort{}));
    }
    if (kept_ != nullptr) {
        control_.keep(kept_->control());
    }
    queues_.resize(identity().queue_count);
}

ConsoleDevice::~ConsoleDevice() = default;

DeviceIdentity ConsoleDevice::identity() const {
    const size_t queues = multiport_offered_ ? 2 * ports_.size() + 2 : 2;
    return {.virtio_id = kVirtioIdConsole,
            .name = "console",
            .queue_count = static_cast<uint16_t>(queues),
            .config_bytes = sizeof(ConsoleConfig),
            .outcome_bytes = static_cast<uint16_t>(kept_ != nullptr ? sizeof(uint64_t) : 0)};
}

DeviceAbilities ConsoleDevice::abilities() const {
    return {.keeps_itself = kept_ != nullptr};
}

FeatureSet ConsoleDevice::offered_features() const {
    const auto features = FeatureSet::of({VIRTIO_CONSOLE_F_SIZE, VIRTIO_CONSOLE_F_EMERG_WRITE});
    return multiport_offered_ ? features.with(VIRTIO_CONSOLE_F_MULTIPORT) : features;
}

void ConsoleDevice::on_negotiated(FeatureSet agreed) {
    control_.negotiated(agreed.has(VIRTIO_CONSOLE_F_MULTIPORT));
}

void ConsoleDevice::on_frontend(std::shared_ptr<Frontend> frontend) {
    const std::lock_guard lock(frontend_mutex_);
    frontend_ = std::move(frontend);
}

void ConsoleDevice::read_config(ConfigOffset at, std::span<std::byte> out) const {
    const ConsoleConfig config = control_.config();
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::ranges::copy(bytes.subspan(static_cast<size_t>(at), out.size()), out.begin());
}

/// One character of a guest that can do no more than this. VIRTIO 1.3, 5.3.4.
Result<void, ConfigError> ConsoleDevice::write_config(ConfigOffset at,
                                                      std::span<const std::byte> in) {
    if (static_cast<size_t>(at) != offsetof(ConsoleConfig, emergency_write) || in.empty()) {
        return failure(ConfigError::kReadOnly);
    }
    Port& port = *ports_.front();
    port.counters.emergencies.add();
    port.stream.append_output(in.first(1));
    host_->wake();
    return {};
}

void ConsoleDevice::on_serving(std::span<Worker* const> workers) {
    workers.front()->post([this] { host_->start_from_worker(); });
}

// --- Queues -------------------------------------------------------------------------------------

Result<void> ConsoleDevice::start_queue(QueueIndex index, Virtqueue& queue, Worker& worker) {
    host_->start_from_worker();
    const std::lock_guard lock(queues_mutex_);
    queues_[static_cast<size_t>(index)] = {.ring = &queue, .worker = &worker};
    return {};
}

void ConsoleDevice::stop_queue(QueueIndex index, std::move_only_function<void()> drained) {
    {
        const std::lock_guard lock(queues_mutex_);
        queues_[static_cast<size_t>(index)] = {};
    }
    drained();
}

QueueProgress ConsoleDevice::process_queue(QueueIndex index) {
    const auto number = static_cast<size_t>(index);
    Virtqueue& ring = *queues_[number].ring;
    if (is_control(number)) {
        return number == kControlReceive ? give_messages(ring) : take_messages(ring);
    }
    const size_t port = port_of(number);
    return number == receive_queue(port) ? give_input(ring, port) : take_output(ring, port);
}

/// Anything that a queue waits for has come, or may have. Any thread.
void ConsoleDevice::wake_queue(size_t index) {
    const std::lock_guard lock(queues_mutex_);
    if (index >= queues_.size()) {
        return;
    }
    Queue& queue = queues_[index];
    if (queue.ring == nullptr || std::exchange(queue.wake_posted, true)) {
        return;
    }
    queue.worker->post([this, index, worker = queue.worker] {
        const std::lock_guard task_lock(queues_mutex_);
        Queue& now = queues_[index];
        if (now.worker == worker) {  // else it has left, and looks by itself where it starts
            now.wake_posted = false;
            now.ring->request_processing();
        }
    });
}

QueueProgress ConsoleDevice::give_input(Virtqueue& ring, size_t port) {
    Port& each = *ports_[port];
    QueueProgress progress = QueueProgress::kMore;
    for (int i = 0; i < kBatch && progress == QueueProgress::kMore; ++i) {
        // Buffers that an earlier process had are answered whatever there is.
        const bool has_input = control_.guest_open(port) && each.stream.has_input();
        if (!has_input && !ring.is_ending() && !ring.has_resumed()) {
            progress = QueueProgress::kWaiting;
            break;
        }
        auto chain = ring.pop();
        if (!chain) {
            progress = QueueProgress::kDrained;
            break;
        }
        if (const auto taken_to = noted(*chain, EarlierProgress::kOutcome)) {
            each.stream.note_input_taken(*taken_to);
            chain->complete(chain->earlier_run().written_bytes);
            continue;
        }
        ChainWriter writer = chain->take_writer();
        size_t given = 0;
        if (has_input) {
            given = each.stream.take_input(writer, [&](size_t bytes, uint64_t taken_to) {
                chain->note_outcome(bytes_of(taken_to), static_cast<uint32_t>(bytes));
            });
        }
        (given > 0 ? each.counters.chains_read : each.counters.empty_chains).add();
        chain->complete(static_cast<uint32_t>(given));
    }
    if (each.stream.take_input_wish()) {
        host_->wake();
    }
    return progress;
}

QueueProgress ConsoleDevice::take_output(Virtqueue& ring, size_t port) {
    Port& each = *ports_[port];
    QueueProgress progress = QueueProgress::kMore;
    bool any = false;
    for (int i = 0; i < kBatch; ++i) {
        if (!each.stream.has_room() && !ring.is_ending()) {
            each.counters.output_waits.add();
            progress = QueueProgress::kWaiting;
            break;
        }
        auto chain = ring.pop();
        if (!chain) {
            progress = QueueProgress::kDrained;
            break;
        }
        any = true;
        const auto number = noted(*chain, EarlierProgress::kIntent);
        if (number && each.stream.has_taken(*number)) {
            chain->complete(0);
            continue;
        }
        (chain->readable_bytes() > 0 ? each.counters.chains_written : each.counters.empty_chains)
            .add();
        each.stream.append_output(
            chain->take_reader(),
            [&](uint64_t next) { chain->note_intent(bytes_of(next)); },
            [&] { return ring.memory_was_lost(); });
        chain->complete(0);
    }
    if (any) {
        host_->wake();
    }
    return progress;
}

/// A buffer that is too small for a message comes back empty: the next one may do.
QueueProgress ConsoleDevice::give_messages(Virtqueue& ring) {
    for (int i = 0; i < kBatch; ++i) {
        if (!control_.has_message() && !ring.is_ending() && !ring.has_resumed()) {
            return QueueProgress::kWaiting;
        }
        auto chain = ring.pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        if (const auto message = noted(*chain, EarlierProgress::kOutcome)) {
            control_.note_delivered(*message);
            chain->complete(chain->earlier_run().written_bytes);
            continue;
        }
        ChainWriter writer = chain->take_writer();
        uint32_t written = 0;
        control_.take_message(writer.remaining(),
                              [&](std::span<const std::byte> message, uint64_t number) {
                                  writer.write(message);
                                  written = static_cast<uint32_t>(message.size());
                                  chain->note_outcome(bytes_of(number), written);
                              });
        chain->complete(written);
    }
    return QueueProgress::kMore;
}

QueueProgress ConsoleDevice::take_messages(Virtqueue& ring) {
    for (int i = 0; i < kBatch; ++i) {
        auto chain = ring.pop();
        if (!chain) {
            return QueueProgress::kDrained;
        }
        const auto number = noted(*chain, EarlierProgress::kIntent);
        if (number && *number < control_.handled()) {
            chain->complete(0);
            continue;
        }
        std::array<std::byte, sizeof(ControlMessage)> bytes{};
        ChainReader reader = chain->take_reader();
        const size_t count = reader.read(bytes);
        if (ring.memory_was_lost()) {
            chain->complete(0);
            continue;
        }
        // Nobody else handles any.
        const uint64_t next = control_.handled();
        chain->note_intent(bytes_of(next));
        const auto handled = control_.handle(std::span(bytes).first(count));
        chain->complete(0);
        switch (handled.change) {
            case PortControl::Change::kMessages:
                wake_queue(kControlReceive);
                break;
            case PortControl::Change::kOpened:
                wake_queue(receive_queue(handled.port));
                break;
            case PortControl::Change::kClosed:
            case PortControl::Change::kNone:
                break;
        }
    }
    return QueueProgress::kMore;
}

// --- The host's side ----------------------------------------------------------------------------

void ConsoleDevice::on_input(size_t port) {
    wake_queue(receive_queue(port));
}

void ConsoleDevice::on_room(size_t port) {
    wake_queue(transmit_queue(port));
}

void ConsoleDevice::on_host_open(size_t port, bool open) {
    if (control_.set_host_open(port, open)) {
        tell_driver(port);
    }
}

void ConsoleDevice::on_size(size_t port, TerminalSize size) {
    if (control_.set_size(port, size)) {
        tell_driver(port);
    }
}

void ConsoleDevice::tell_driver(size_t /*port*/) {
    if (control_.multiport()) {
        wake_queue(kControlReceive);
        return;
    }
    const std::lock_guard lock(frontend_mutex_);
    if (frontend_ != nullptr) {
        frontend_->config_changed();
    }
}

Result<void> ConsoleDevice::set_plugged(size_t port, bool plugged) {
    if (!multiport_offered_) {
        return failure(Error{.message = "without multiport there is one port, always"});
    }
    OUTRIGGER_TRY(control_.set_plugged(port, plugged));
    wake_queue(kControlReceive);
    return {};
}

// --- The driver's life --------------------------------------------------------------------------

void ConsoleDevice::reset() {
    control_.reset();
}

std::span<const StateSectionKind> ConsoleDevice::state_sections() const {
    return kConsoleSections;
}

Result<std::vector<StateSection>> ConsoleDevice::save_state() const {
    ConsoleState state{.control = control_.save()};
    for (const auto& port : ports_) {
        state.streams.push_back({.name = port->options.name, .saved = port->stream.save()});
    }
    return write_console_state(state);
}

Result<void> ConsoleDevice::load_state(std::span<const StateSection> sections) {
    ConsoleState state = OUTRIGGER_TRY(read_console_state(sections));
    if (state.streams.size() != ports_.size()) {
        return failure(Error{.message = "the console has another number of ports here"});
    }
    for (size_t i = 0; i < ports_.size(); ++i) {
        if (state.streams[i].name != ports_[i]->options.name) {
            return failure(Error{.message = "the port " + state.streams[i].name + " is called " +
                                            ports_[i]->options.name + " here"});
        }
    }
    control_.load(state.control);
    for (size_t i = 0; i < ports_.size(); ++i) {
        ports_[i]->stream.load(state.streams[i].saved);
    }
    host_->wake();
    return {};
}

}  // namespace outrigger::console
