// SPDX-License-Identifier: Apache-2.0
#include "tests/states/console_samples.h"

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <linux/virtio_console.h>

#include "vhost-user-backend/state/device_state.h"

#include "devices/console/console_state.h"
#include "devices/console/host_end.h"

namespace outrigger::testing {
namespace {

constexpr unsigned kVersion1 = 32;

std::vector<std::byte> bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

/// A driver that knows of two ports, has one of them open, and has yet to hear of a size.
console::ConsoleState console_state() {
    console::ConsoleState state;
    state.control.multiport = true;
    state.control.driver_ready = true;
    state.control.ports = {
        {.told = true, .ready = true, .guest_open = true, .size = {.columns = 80, .rows = 24}},
        {.plugged = false}};
    const console::ControlMessage resize{.id = 0, .event = VIRTIO_CONSOLE_RESIZE, .value = 0};
    const auto head = std::as_bytes(std::span(&resize, 1));
    std::vector<std::byte> message(head.begin(), head.end());
    for (const std::byte each : bytes_of(std::string_view("\x50\0\x18\0", 4))) {
        message.push_back(each);
    }
    state.control.pending = {std::move(message)};
    state.streams = {
        {.name = "hvc0",
         .saved = {.output = bytes_of("login: "), .input = bytes_of("typed and not read")}},
        {.name = "agent", .saved = {}}};
    return state;
}

}  // namespace

std::unique_ptr<console::ConsoleDevice> sample_console() {
    console::ConsoleSettings settings{
        .ports =
            console::parse_ports({"name=hvc0,backend=null", "name=agent,backend=null,plugged=off"})
                .value()};
    for (const console::PortOptions& port : settings.ports) {
        settings.ends.push_back(console::open_host_end(port).value());
    }
    return console::ConsoleDevice::create(std::move(settings)).value();
}

std::map<std::string, std::string> sample_console_states() {
    const auto device = sample_console();
    OUTRIGGER_ASSERT(device->load_state(console::write_console_state(console_state())).has_value());
    const DeviceState state{
        .device_id = device->identity().virtio_id,
        .features = device->offered_features() | FeatureSet::of({kVersion1}),
        .queues = {{.index = 0, .size = 128, .next_available = 32, .next_used = 0}},
        .sections = device->save_state().value()};
    return {{"v1/console.state", encode_state(state).value()}};
}

}  // namespace outrigger::testing
