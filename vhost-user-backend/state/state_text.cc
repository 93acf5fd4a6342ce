// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/state/state_text.h"

#include <algorithm>
#include <span>

#include <fmt/core.h>

#include "vhost-user-backend/state/state_schema.h"

namespace outrigger {
namespace {

constexpr size_t kShownBytesMax = 256;
constexpr size_t kLineBytes = 16;

/// VIRTIO 1.3, 5: those that Outrigger has, or means to have.
std::string_view device_name(uint32_t virtio_id) {
    switch (virtio_id) {
        case 1:
            return "network";
        case 2:
            return "block";
        case 3:
            return "console";
        case 4:
            return "entropy";
        case 19:
            return "socket";
        case 26:
            return "file system";
        default:
            return "virtio";
    }
}

std::string queue_line(const SavedQueue& queue) {
    return fmt::format("queue {}: size {}, available {} (wrap {}), used {} (wrap {})\n",
                       queue.index,
                       queue.size,
                       queue.next_available,
                       queue.available_wrap ? 1 : 0,
                       queue.next_used,
                       queue.used_wrap ? 1 : 0);
}

std::string content_lines(std::span<const std::byte> bytes) {
    std::string out;
    const size_t shown = std::min(bytes.size(), kShownBytesMax);
    for (size_t at = 0; at < shown; at += kLineBytes) {
        out += fmt::format("  {:04x} ", at);
        for (const std::byte byte : bytes.subspan(at, std::min(kLineBytes, shown - at))) {
            out += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
        }
        out += '\n';
    }
    if (shown < bytes.size()) {
        out += fmt::format("  and {} bytes more\n", bytes.size() - shown);
    }
    return out;
}

}  // namespace

std::string state_text(const DeviceState& state) {
    std::string out = fmt::format("format {}, for readers from {}\ndevice {} ({})\n",
                                  state.format_version,
                                  state.min_reader,
                                  state.device_id,
                                  device_name(state.device_id));
    out += state.features ? fmt::format("features {:#018x}\n", state.features->bits())
                          : std::string("features none: no driver had begun\n");
    for (const SavedQueue& queue : state.queues) {
        out += queue_line(queue);
    }
    for (const StateSection& section : state.sections) {
        out += fmt::format("{}, {}, {} bytes, checksum {:#010x}\n",
                           describe(section),
                           section.critical ? "critical" : "not critical",
                           section.bytes.size(),
                           state::checksum(section));
        out += content_lines(section.bytes);
    }
    return out;
}

}  // namespace outrigger
