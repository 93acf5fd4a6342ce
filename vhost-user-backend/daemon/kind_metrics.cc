// SPDX-License-Identifier: Apache-2.0
// The metrics of each kind of device, as its section of the control messages has them.
#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/daemon/metrics_text.h"

namespace outrigger {
namespace {

namespace v1 = control::v1;

void add_drops(MetricSamples& samples, std::string_view direction, const v1::NetworkFlow& flow) {
    for (const v1::NetworkDrops& drops : flow.drops()) {
        samples.add({{"direction", direction}, {"reason", drops.reason()}}, drops.frames());
    }
}

constexpr DeviceMetric kMetrics[] = {
    {.name = "outrigger_block_requests_total",
     .help = "Requests carried out, by operation",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 const auto& c = b.counters();
                 samples.add({{"operation", "read"}}, c.reads());
                 samples.add({{"operation", "write"}}, c.writes());
                 samples.add({{"operation", "flush"}}, c.flushes());
                 samples.add({{"operation", "discard"}}, c.discards());
                 samples.add({{"operation", "write-zeroes"}}, c.write_zeroes());
             }
         }},
    {.name = "outrigger_block_bytes_total",
     .help = "Bytes read and written",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({{"operation", "read"}}, b.counters().bytes_read());
                 samples.add({{"operation", "write"}}, b.counters().bytes_written());
             }
         }},
    {.name = "outrigger_block_requests_failed_total",
     .help = "Requests that the host failed",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.counters().failed());
             }
         }},
    {.name = "outrigger_block_requests_refused_total",
     .help = "Requests that were wrong in themselves",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.counters().refused());
             }
         }},
    {.name = "outrigger_block_throttled_requests_total",
     .help = "Waits for a limit",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.counters().throttled_requests());
             }
         }},
    {.name = "outrigger_block_throttled_seconds_total",
     .help = "Time in which a queue had work and no allowance",
     .is_nanoseconds = true,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.counters().throttled_nanoseconds());
             }
         }},
    {.name = "outrigger_block_stops_total",
     .help = "Requests that the error policy held",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.counters().stops());
             }
         }},
    {.name = "outrigger_block_held_requests",
     .help = "Requests that it holds",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.held_requests());
             }
         }},
    {.name = "outrigger_block_stopped",
     .help = "1 while the disk is paused, or stopped by its error policy",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.state() == v1::BlockDevice::RUNNING ? 0 : 1);
             }
         }},
    {.name = "outrigger_block_size_bytes",
     .help = "Size of the disk",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_block()) {
                 const auto& b = device.block();
                 samples.add({}, b.size_bytes());
             }
         }},
    {.name = "outrigger_rng_bytes_total",
     .help = "Random bytes that the guest was given, by where they came from: what --source names, "
             "or the kernel's generator",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({{"from", "source"}}, b.bytes_from_source());
                 samples.add({{"from", "kernel"}}, b.bytes_from_kernel());
             }
         }},
    {.name = "outrigger_rng_empty_requests_total",
     .help = "Requests without room for a byte",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({}, b.empty_requests());
             }
         }},
    {.name = "outrigger_rng_source_waits_total",
     .help = "Waits for bytes that the source did not have",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({}, b.source_waits());
             }
         }},
    {.name = "outrigger_rng_source_failures_total",
     .help = "Reads of a source that failed",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({}, b.source_failures());
             }
         }},
    {.name = "outrigger_rng_limit_waits_total",
     .help = "Waits of requests for the limit",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({}, b.limit_waits());
             }
         }},
    {.name = "outrigger_rng_limit_wait_seconds_total",
     .help = "Time of such waits, when they have ended",
     .is_nanoseconds = true,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_entropy()) {
                 const auto& b = device.entropy();
                 samples.add({}, b.limit_wait_nanoseconds());
             }
         }},
    {.name = "outrigger_vsock_connections",
     .help = "Connections",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({}, b.connections());
             }
         }},
    {.name = "outrigger_vsock_opened_total",
     .help = "Connections that were opened, by whom",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({{"by", "guest"}}, b.opened_by_guest());
                 samples.add({{"by", "host"}}, b.opened_by_host());
             }
         }},
    {.name = "outrigger_vsock_ended_total",
     .help = "Connections that ended otherwise than by both sides, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 for (const v1::SocketEnds& ends : b.ended()) {
                     samples.add({{"reason", ends.reason()}}, ends.count());
                 }
             }
         }},
    {.name = "outrigger_vsock_malformed_total",
     .help = "Packets of the guest that break the rules of packets, by what is wrong",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 for (const v1::SocketFaults& faults : b.malformed()) {
                     samples.add({{"fault", faults.fault()}}, faults.count());
                 }
             }
         }},
    {.name = "outrigger_vsock_bytes_total",
     .help = "Bytes of payload",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({{"direction", "from-guest"}}, b.bytes_from_guest());
                 samples.add({{"direction", "to-guest"}}, b.bytes_to_guest());
             }
         }},
    {.name = "outrigger_vsock_packets_total",
     .help = "Packets",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({{"direction", "from-guest"}}, b.packets_from_guest());
                 samples.add({{"direction", "to-guest"}}, b.packets_to_guest());
             }
         }},
    {.name = "outrigger_vsock_transport_resets_total",
     .help = "Events that told the driver that all connections are gone",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({}, b.transport_resets());
             }
         }},
    {.name = "outrigger_vsock_transmit_pauses_total",
     .help = "Waits of the guest's packets until it took our answers",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_socket_device()) {
                 const auto& b = device.socket_device();
                 samples.add({}, b.transmit_pauses());
             }
         }},
    {.name = "outrigger_console_bytes_total",
     .help = "Bytes that passed a port",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_console()) {
                 const auto& b = device.console();
                 for (const v1::ConsolePort& port : b.ports()) {
                     samples.add({{"port", port.name()}, {"direction", "from-guest"}},
                                 port.bytes_written());
                     samples.add({{"port", port.name()}, {"direction", "to-guest"}},
                                 port.bytes_read());
                 }
             }
         }},
    {.name = "outrigger_console_bytes_missed_total",
     .help = "Bytes that viewers and files were too slow for, or failed",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_console()) {
                 const auto& b = device.console();
                 for (const v1::ConsolePort& port : b.ports()) {
                     samples.add({{"port", port.name()}}, port.bytes_missed());
                 }
             }
         }},
    {.name = "outrigger_console_output_waits_total",
     .help = "Times that the guest had to wait",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_console()) {
                 const auto& b = device.console();
                 for (const v1::ConsolePort& port : b.ports()) {
                     samples.add({{"port", port.name()}}, port.output_waits());
                 }
             }
         }},
    {.name = "outrigger_console_viewers",
     .help = "Viewers of a port",
     .kind = MetricKind::kGauge,
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_console()) {
                 const auto& b = device.console();
                 for (const v1::ConsolePort& port : b.ports()) {
                     samples.add({{"port", port.name()}}, port.viewers());
                 }
             }
         }},
    {.name = "outrigger_console_viewers_turned_away_total",
     .help = "Viewers that came when there were too many",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_console()) {
                 const auto& b = device.console();
                 for (const v1::ConsolePort& port : b.ports()) {
                     samples.add({{"port", port.name()}}, port.viewers_turned_away());
                 }
             }
         }},
    {.name = "outrigger_net_frames_total",
     .help = "Frames of the guest's rings",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({{"direction", "from-guest"}}, b.from_guest().frames());
                 samples.add({{"direction", "to-guest"}}, b.to_guest().frames());
             }
         }},
    {.name = "outrigger_net_bytes_total",
     .help = "Bytes of these frames",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({{"direction", "from-guest"}}, b.from_guest().bytes());
                 samples.add({{"direction", "to-guest"}}, b.to_guest().bytes());
             }
         }},
    {.name = "outrigger_net_drops_total",
     .help = "Frames that were dropped, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 add_drops(samples, "from-guest", b.from_guest());
                 add_drops(samples, "to-guest", b.to_guest());
             }
         }},
    {.name = "outrigger_net_port_frames_total",
     .help = "Frames of the host's side",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({{"direction", "sent"}}, b.port().sent().frames());
                 samples.add({{"direction", "received"}}, b.port().received().frames());
             }
         }},
    {.name = "outrigger_net_port_bytes_total",
     .help = "Bytes of these frames",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({{"direction", "sent"}}, b.port().sent().bytes());
                 samples.add({{"direction", "received"}}, b.port().received().bytes());
             }
         }},
    {.name = "outrigger_net_port_drops_total",
     .help = "Frames that the host's side dropped, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 add_drops(samples, "sent", b.port().sent());
                 add_drops(samples, "received", b.port().received());
             }
         }},
    {.name = "outrigger_net_port_system_calls_total",
     .help = "System calls made to send and to receive",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.port().system_calls());
             }
         }},
    {.name = "outrigger_net_port_send_waits_total",
     .help = "Times that frames of the guest had to wait for the host",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.port().send_waits());
             }
         }},
    {.name = "outrigger_net_port_peers_total",
     .help = "Peers that were connected to",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.port().peers());
             }
         }},
    {.name = "outrigger_net_port_peers_lost_total",
     .help = "Peers that were lost",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.port().peers_lost());
             }
         }},
    {.name = "outrigger_net_uplink_frames_total",
     .help = "Frames of the way from a switch to the host",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network() && device.network().has_uplink()) {
                 const auto& b = device.network().uplink();
                 samples.add({{"direction", "sent"}}, b.host().sent().frames());
                 samples.add({{"direction", "received"}}, b.host().received().frames());
             }
         }},
    {.name = "outrigger_net_uplink_bytes_total",
     .help = "Bytes of these frames",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network() && device.network().has_uplink()) {
                 const auto& b = device.network().uplink();
                 samples.add({{"direction", "sent"}}, b.host().sent().bytes());
                 samples.add({{"direction", "received"}}, b.host().received().bytes());
             }
         }},
    {.name = "outrigger_net_uplink_drops_total",
     .help = "Frames that were dropped on that way, by why",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network() && device.network().has_uplink()) {
                 const auto& b = device.network().uplink();
                 add_drops(samples, "sent", b.host().sent());
                 add_drops(samples, "received", b.from_host());
             }
         }},
    {.name = "outrigger_net_finished_frames_total",
     .help = "Frames whose checksum or segments were made for the guest",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.finished_for_guest());
             }
         }},
    {.name = "outrigger_net_commands_total",
     .help = "Commands of the driver",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.commands());
             }
         }},
    {.name = "outrigger_net_commands_refused_total",
     .help = "Commands of the driver that were refused",
     .collect =
         [](const v1::Device& device, MetricSamples& samples) {
             if (device.has_network()) {
                 const auto& b = device.network();
                 samples.add({}, b.commands_refused());
             }
         }},
};

}  // namespace

std::span<const DeviceMetric> kind_metrics() {
    return kMetrics;
}

}  // namespace outrigger
