// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_report.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/control/printable_text.h"

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

/// "10737418240 bytes (10.0 GiB)".
std::string size_text(uint64_t bytes) {
    constexpr std::array<std::string_view, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        return fmt::format("{} bytes", bytes);
    }
    double amount = static_cast<double>(bytes) / 1024;
    size_t unit = 0;
    while (amount >= 1024 && unit + 1 < kUnits.size()) {
        amount /= 1024;
        ++unit;
    }
    return fmt::format("{} bytes ({:.1f} {})", bytes, amount, kUnits[unit]);
}

std::string state_text(const v1::BlockDevice& block) {
    switch (block.state()) {
        case v1::BlockDevice::PAUSED:
            return "paused";
        case v1::BlockDevice::STOPPED:
            return "stopped";
        default:
            return block.changing() ? "changing" : "running";
    }
}

std::string intake_text(v1::Device::Intake intake) {
    switch (intake) {
        case v1::Device::DRAINING:
            return "draining";
        case v1::Device::DRAINED:
            return "drained";
        default:
            return "taken";
    }
}

std::string cache_text(const v1::BlockDevice& block, bool connected) {
    if (block.cache() == v1::WRITE_THROUGH) {
        return "writethrough";
    }
    return block.writes_through() && connected
               ? "writeback (writes are written through all the same)"
               : "writeback";
}

std::string policy_text(v1::ErrorPolicy policy) {
    switch (policy) {
        case v1::STOP:
            return "stop";
        case v1::STOP_ON_FULL:
            return "enospc";
        default:
            return "report";
    }
}

void append_row(std::string& out, std::string_view name, std::string_view value) {
    out += fmt::format("  {:<18} {}\n", name, value);
}

std::string limits_text(const v1::BlockDevice& block) {
    const v1::Limits& limits = block.limits();
    const std::array<std::pair<std::string_view, const v1::Rate*>, 6> rates = {{
        {"bytes", &limits.bytes()},
        {"read-bytes", &limits.read_bytes()},
        {"write-bytes", &limits.write_bytes()},
        {"ops", &limits.operations()},
        {"read-ops", &limits.read_operations()},
        {"write-ops", &limits.write_operations()},
    }};
    std::string out;
    for (const auto& [name, rate] : rates) {
        if (rate->per_second() == 0) {
            continue;
        }
        out += fmt::format("{}{}={}", out.empty() ? "" : " ", name, rate->per_second());
        if (rate->burst() != 0) {
            out += fmt::format(":{}", rate->burst());
        }
    }
    if (out.empty()) {
        out = "none";
    }
    return block.limit_group().empty() ? out
                                       : fmt::format("{} (group {})", out, block.limit_group());
}

void append_threads(std::string& out, const v1::Device& device) {
    for (int i = 0; i < device.threads_size(); ++i) {
        const v1::QueueThread& thread = device.threads(i);
        std::string text = fmt::format("busy for {:.3f} s, looked for work for {:.3f} s",
                                       static_cast<double>(thread.busy_nanoseconds()) / 1e9,
                                       static_cast<double>(thread.polling_nanoseconds()) / 1e9);
        for (int queue = 0; queue < thread.queues_size(); ++queue) {
            text += fmt::format("{}{}", queue == 0 ? ", queues " : " ", thread.queues(queue));
        }
        append_row(out, fmt::format("thread {}", i), text);
    }
    append_row(out,
               "queue moves",
               device.queue_moves_failed() == 0
                   ? fmt::format("{}", device.queue_moves())
                   : fmt::format(
                         "{}, and {} given up", device.queue_moves(), device.queue_moves_failed()));
}

std::string fill_text(const v1::FillProgress& fill) {
    if (fill.complete()) {
        return "complete: the image below is not needed any more";
    }
    const uint64_t cluster = fill.cluster_bytes();
    const auto done = static_cast<double>(fill.clusters_done());
    const auto total = static_cast<double>(fill.clusters_total());
    std::string out = fmt::format("{}, {:.1f} %: {} of {}",
                                  fill.running() ? "running" : "not running",
                                  total > 0 ? 100 * done / total : 100.0,
                                  size_text(fill.clusters_done() * cluster),
                                  size_text(fill.clusters_total() * cluster));
    if (fill.bytes_per_second() != 0) {
        out += fmt::format(", at most {} a second", size_text(fill.bytes_per_second()));
    }
    if (!fill.last_error().empty()) {
        out += fmt::format("; {}", fill.last_error());
    }
    return out;
}

void append_block(std::string& out, const v1::BlockDevice& block, bool connected) {
    append_row(out, "image", block.image());
    append_row(out, "size", size_text(block.size_bytes()));
    append_row(out, "block size", fmt::format("{} bytes", block.block_bytes()));
    append_row(out,
               "read-only",
               block.image_read_only() ? "yes (the image)"
               : block.read_only()     ? "yes"
                                       : "no");
    append_row(out, "cache", cache_text(block, connected));
    append_row(out, "state", state_text(block));
    if (!block.stop_reason().empty()) {
        append_row(
            out,
            "stopped by",
            fmt::format("{}; requests held: {}", block.stop_reason(), block.held_requests()));
    }
    append_row(out, "on error", policy_text(block.error_policy()));
    append_row(out, "limits", limits_text(block));
    if (block.has_fill()) {
        append_row(out, "fill", fill_text(block.fill()));
    }
    const v1::BlockCounters& counters = block.counters();
    append_row(out, "reads", fmt::format("{}", counters.reads()));
    append_row(out, "bytes read", fmt::format("{}", counters.bytes_read()));
    append_row(out, "writes", fmt::format("{}", counters.writes()));
    append_row(out, "bytes written", fmt::format("{}", counters.bytes_written()));
    append_row(out, "flushes", fmt::format("{}", counters.flushes()));
    append_row(out, "discards", fmt::format("{}", counters.discards()));
    append_row(out, "zeroes written", fmt::format("{}", counters.write_zeroes()));
    append_row(out, "failed", fmt::format("{}", counters.failed()));
    append_row(out, "refused", fmt::format("{}", counters.refused()));
    append_row(out,
               "throttled",
               fmt::format("{} times, {:.3f} s",
                           counters.throttled_requests(),
                           static_cast<double>(counters.throttled_nanoseconds()) / 1e9));
    append_row(out, "held by errors", fmt::format("{}", counters.stops()));
    if (counters.fixed_memory_bytes() > 0 || counters.fixed_memory_refusals() > 0) {
        append_row(out,
                   "memory registered",
                   fmt::format("{} bytes; refused: {}",
                               counters.fixed_memory_bytes(),
                               counters.fixed_memory_refusals()));
    }
}

void append_console(std::string& out, const v1::ConsoleDevice& console) {
    for (const v1::ConsolePort& port : console.ports()) {
        std::string text = fmt::format("{}, {}, {} in the guest, {}",
                                       port.backend(),
                                       port.is_console() ? "console" : "plain",
                                       !port.plugged()     ? "not plugged"
                                       : port.guest_open() ? "open"
                                                           : "closed",
                                       port.host_open() ? "open here" : "closed here");
        if (port.columns() != 0) {
            text += fmt::format(", {}x{}", port.columns(), port.rows());
        }
        append_row(out, "port " + port.name(), text);
        append_row(out,
                   "",
                   fmt::format("viewers {}, turned away {}; written {}, missed {}; read {}, "
                               "ignored {}; waits {}",
                               port.viewers(),
                               port.viewers_turned_away(),
                               port.bytes_written(),
                               port.bytes_missed(),
                               port.bytes_read(),
                               port.input_ignored(),
                               port.output_waits()));
    }
}

std::string_view state_text(v1::SocketConnection::State state) {
    switch (state) {
        case v1::SocketConnection::ASKING_GUEST:
            return "asking the guest";
        case v1::SocketConnection::CALLING:
            return "calling";
        case v1::SocketConnection::OPEN:
            return "open";
        case v1::SocketConnection::RESETTING:
            return "resetting";
        case v1::SocketConnection::LINGERING:
            return "lingering";
        default:
            return "greeting";
    }
}

void append_connection(std::string& out, const v1::SocketConnection& connection) {
    append_row(out,
               "connection",
               fmt::format("{} to {}:{}, {}{}, {}{}{}",
                           connection.guest_port(),
                           connection.peer_cid(),
                           connection.peer_port(),
                           connection.seqpacket() ? "seqpacket" : "stream",
                           connection.forwarded() ? " forwarded" : "",
                           state_text(connection.state()),
                           connection.guest_ended() ? ", guest ended" : "",
                           connection.peer_ended() ? ", peer ended" : ""));
    append_row(out,
               "",
               fmt::format("from guest {}, to guest {}; waiting {}; credit {} and {}",
                           connection.bytes_from_guest(),
                           connection.bytes_to_guest(),
                           connection.backlog_bytes(),
                           connection.guest_credit(),
                           connection.peer_credit()));
}

void append_socket_device(std::string& out, const v1::SocketDevice& socket) {
    append_row(out, "guest CID", fmt::format("{}", socket.guest_cid()));
    append_row(out,
               "connections",
               fmt::format("{} of {}", socket.connections(), socket.connections_max()));
    append_row(
        out,
        "opened",
        fmt::format(
            "{} by the guest, {} by the host", socket.opened_by_guest(), socket.opened_by_host()));
    append_row(out,
               "from guest",
               fmt::format("{} bytes, {} packets, {} pauses",
                           socket.bytes_from_guest(),
                           socket.packets_from_guest(),
                           socket.transmit_pauses()));
    append_row(out,
               "to guest",
               fmt::format("{} bytes, {} packets, {} transport resets",
                           socket.bytes_to_guest(),
                           socket.packets_to_guest(),
                           socket.transport_resets()));
    for (const v1::SocketEnds& ends : socket.ended()) {
        append_row(out, "ended", fmt::format("{}: {}", ends.reason(), ends.count()));
    }
    for (const v1::SocketFaults& faults : socket.malformed()) {
        append_row(out, "malformed", fmt::format("{}: {}", faults.fault(), faults.count()));
    }
    for (const v1::SocketConnection& connection : socket.shown()) {
        append_connection(out, connection);
    }
    if (socket.connections() > static_cast<uint32_t>(socket.shown_size())) {
        append_row(out,
                   "and",
                   fmt::format("{} more",
                               socket.connections() - static_cast<uint32_t>(socket.shown_size())));
    }
}

void append_entropy(std::string& out, const v1::EntropyDevice& entropy) {
    append_row(out, "source", entropy.source());
    const v1::EntropyLimit& limit = entropy.limit();
    append_row(out,
               "limits",
               limit.bytes_max() == 0
                   ? std::string("none")
                   : fmt::format(
                         "max-bytes={} period={}", limit.bytes_max(), limit.period_milliseconds()));
    append_row(out,
               "bytes given",
               fmt::format("{} of --source, {} of the kernel",
                           entropy.bytes_from_source(),
                           entropy.bytes_from_kernel()));
    append_row(out,
               "waits",
               fmt::format("for the source {}; for the limit {}, {:.3f} s",
                           entropy.source_waits(),
                           entropy.limit_waits(),
                           static_cast<double>(entropy.limit_wait_nanoseconds()) / 1e9));
    append_row(out, "source failures", fmt::format("{}", entropy.source_failures()));
    append_row(out, "empty requests", fmt::format("{}", entropy.empty_requests()));
}

std::string reasons_text(const google::protobuf::RepeatedPtrField<v1::ReasonCount>& counts) {
    std::string out;
    for (const v1::ReasonCount& each : counts) {
        out += fmt::format("{}{} {}", out.empty() ? "" : ", ", each.reason(), each.count());
    }
    return out.empty() ? "none" : out;
}

void append_shared_directory(std::string& out, const v1::SharedDirectory& share) {
    append_row(out, "tag", share.tag().empty() ? "of the front end" : share.tag());
    append_row(out, "read-only", share.read_only() ? "yes" : "no");
    std::string requests;
    for (const v1::OperationCount& each : share.requests()) {
        requests +=
            fmt::format("{}{} {}", requests.empty() ? "" : ", ", each.operation(), each.count());
    }
    append_row(out, "operations", requests.empty() ? "none" : requests);
    append_row(out, "failed", reasons_text(share.failed()));
    append_row(out, "refused", reasons_text(share.refused()));
    append_row(out,
               "bytes",
               fmt::format("read {}, written {}, copied {}",
                           share.bytes_read(),
                           share.bytes_written(),
                           share.bytes_copied()));
    append_row(out,
               "waits",
               fmt::format("in the pool {}, in io_uring {}, for locks {}",
                           share.given_to_pool(),
                           share.given_to_kernel(),
                           share.lock_waits()));
    append_row(out, "taken up again", fmt::format("{}", share.taken_up_again()));
    append_row(out,
               "nodes",
               fmt::format("{}, listed as forgotten {}", share.nodes(), share.nodes_remembered()));
    append_row(out, "open files", fmt::format("{}", share.open_files()));
    append_row(out,
               "descriptors",
               fmt::format("{}, its own part {}", share.descriptors(), share.descriptors_max()));
    if (share.mappings() > 0) {
        append_row(out, "DAX mappings", fmt::format("{}", share.mappings()));
    }
}

std::string flow_text(const v1::NetworkFlow& flow) {
    std::string text = fmt::format("{} frames, {} bytes", flow.frames(), flow.bytes());
    for (const v1::NetworkDrops& drops : flow.drops()) {
        text += fmt::format("; dropped, {}: {}", drops.reason(), drops.frames());
    }
    return text;
}

std::string network_limits_text(const v1::NetworkPolicy& policy) {
    const std::array<std::pair<std::string_view, uint64_t>, 4> limits = {{
        {"send-bytes", policy.send_bytes()},
        {"send-frames", policy.send_frames()},
        {"receive-bytes", policy.receive_bytes()},
        {"receive-frames", policy.receive_frames()},
    }};
    std::string out;
    for (const auto& [name, per_second] : limits) {
        if (per_second != 0) {
            out += fmt::format("{}{}={}", out.empty() ? "" : " ", name, per_second);
        }
    }
    return out.empty() ? "none" : out;
}

std::string senders_text(const google::protobuf::RepeatedPtrField<std::string>& names) {
    std::string out;
    for (const std::string& name : names) {
        out += fmt::format("{}{}", out.empty() ? "" : " ", control::printable(name));
    }
    return out.empty() ? "any" : out;
}

std::string capture_text(const v1::NetworkCapture& capture) {
    return fmt::format("{}: frames {}, dropped {}, bytes written {}",
                       capture.state(),
                       capture.frames(),
                       capture.dropped(),
                       capture.bytes());
}

void append_network(std::string& out, const v1::NetworkDevice& network) {
    const v1::NetworkPort& port = network.port();
    append_row(out, "backend", network.backend());
    append_row(out, "queue pairs", fmt::format("{}", network.queue_pairs()));
    if (network.has_policy()) {  // older programs do not tell it
        append_row(out, "limits", network_limits_text(network.policy()));
        append_row(out, "allowed stations", senders_text(network.policy().macs()));
        append_row(out, "allowed addresses", senders_text(network.policy().addresses()));
    }
    append_row(out, "from the guest", flow_text(network.from_guest()));
    append_row(out, "to the guest", flow_text(network.to_guest()));
    append_row(out, "to the host", flow_text(port.sent()));
    append_row(out, "of the host", flow_text(port.received()));
    if (network.has_uplink()) {
        const v1::NetworkUplink& uplink = network.uplink();
        append_row(out, "uplink " + uplink.name(), flow_text(uplink.host().sent()));
        append_row(out, "", "of the host " + flow_text(uplink.host().received()));
        append_row(out, "", "to guests " + flow_text(uplink.from_host()));
        if (uplink.has_capture()) {
            append_row(out, "", "capture " + capture_text(uplink.capture()));
        }
    }
    append_row(out,
               "port",
               fmt::format("system calls {}, waits {}, peers {}, lost {}",
                           port.system_calls(),
                           port.send_waits(),
                           port.peers(),
                           port.peers_lost()));
    append_row(out,
               "guest",
               fmt::format("frames finished {}, announced {}; commands {}, refused {}",
                           network.finished_for_guest(),
                           network.announcements(),
                           network.commands(),
                           network.commands_refused()));
    if (network.has_capture()) {
        append_row(out, "capture", capture_text(network.capture()));
    }
}

}  // namespace

/// As deep as the schema, which has no loops.
void make_printable(google::protobuf::Message& message) {
    using Field = google::protobuf::FieldDescriptor;
    const google::protobuf::Reflection& reflection = *message.GetReflection();
    // What this program does not know is not printed either.
    reflection.MutableUnknownFields(&message)->Clear();
    std::vector<const Field*> fields;
    reflection.ListFields(message, &fields);
    for (const Field* const field : fields) {
        const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
        for (int i = 0; i < count && field->cpp_type() == Field::CPPTYPE_MESSAGE; ++i) {
            make_printable(field->is_repeated()
                               ? *reflection.MutableRepeatedMessage(&message, field, i)
                               : *reflection.MutableMessage(&message, field));
        }
        if (field->cpp_type() != Field::CPPTYPE_STRING) {
            continue;
        }
        if (!field->is_repeated()) {
            reflection.SetString(
                &message, field, control::printable(reflection.GetString(message, field)));
            continue;
        }
        for (int i = 0; i < count; ++i) {
            const std::string text = reflection.GetRepeatedString(message, field, i);
            reflection.SetRepeatedString(&message, field, i, control::printable(text));
        }
    }
}

std::string list_text(const v1::Program& program) {
    std::string out;
    for (const v1::Device& device : program.devices()) {
        out += fmt::format("{}  {}  {}", device.name(), device.type(), device.socket());
        out += device.connected() ? "  connected" : "  waiting";
        if (device.intake() != v1::Device::OPEN) {
            out += "  " + intake_text(device.intake());
        }
        if (device.has_block()) {
            const v1::BlockDevice& block = device.block();
            out += fmt::format("  {}  {}  {}  {}",
                               size_text(block.size_bytes()),
                               block.read_only() ? "read-only" : "writable",
                               state_text(block),
                               block.image());
        }
        out += '\n';
    }
    return out;
}

std::string show_text(const v1::Program& program) {
    const std::string keeper =
        program.keeper_pid() != 0 ? fmt::format(", keeper {}", program.keeper_pid()) : "";
    std::string out = fmt::format("{} {}, pid {}{}, log level {}\n",
                                  program.name(),
                                  program.version(),
                                  program.pid(),
                                  keeper,
                                  program.log_level());
    for (const v1::Device& device : program.devices()) {
        out += fmt::format("\n{}\n", device.name());
        append_row(out, "type", device.type());
        append_row(out, "socket", device.socket());
        append_row(out, "front end", device.connected() ? "connected" : "none");
        append_row(out, "requests", intake_text(device.intake()));
        append_row(out, "queues", fmt::format("{}", device.queues()));
        append_row(out, "kicks", fmt::format("{}", device.kicks()));
        append_row(out, "calls", fmt::format("{}", device.calls()));
        append_threads(out, device);
        if (device.has_block()) {
            append_block(out, device.block(), device.connected());
        }
        if (device.has_entropy()) {
            append_entropy(out, device.entropy());
        }
        if (device.has_socket_device()) {
            append_socket_device(out, device.socket_device());
        }
        if (device.has_console()) {
            append_console(out, device.console());
        }
        if (device.has_network()) {
            append_network(out, device.network());
        }
        if (device.has_shared_directory()) {
            append_shared_directory(out, device.shared_directory());
        }
    }
    return out;
}

std::string json_text(const v1::Reply& reply) {
    google::protobuf::util::JsonPrintOptions options;
    options.add_whitespace = true;
    options.always_print_primitive_fields = true;
    options.preserve_proto_field_names = true;
    std::string out;
    // A message of this schema always has a form in JSON.
    OUTRIGGER_ASSERT(google::protobuf::util::MessageToJsonString(reply, &out, options).ok());
    return out;
}

}  // namespace outrigger::ctl
