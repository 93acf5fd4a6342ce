// SPDX-License-Identifier: Apache-2.0
#include "devices/console/console_state.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include <fmt/core.h>

#include "vhost-user-backend/base/little_endian.h"

namespace outrigger::console {
namespace {

// Bits of the bytes below. The others are 0.
constexpr uint8_t kMultiport = 1;
constexpr uint8_t kDriverReady = 2;

constexpr uint8_t kPlugged = 1;
constexpr uint8_t kTold = 2;
constexpr uint8_t kReady = 4;
constexpr uint8_t kGuestOpen = 8;
constexpr uint8_t kHostOpen = 16;

/// A handful for each port: see PortControl.
constexpr size_t kPendingMax = 16 * kPortsMax;
constexpr size_t kMessageBytesMax = sizeof(ControlMessage) + 64;
constexpr size_t kNameBytesMax = 64;
/// Of all streams, well below what a state may have.
constexpr size_t kOutputBytesMax = size_t{48} << 20;

class Writer final {
  public:
    template <class T>
    void number(T value) {
        const LittleEndian<T> field = value;
        raw(std::as_bytes(std::span(&field, 1)));
    }

    void raw(std::span<const std::byte> bytes) {
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }

    void counted(std::span<const std::byte> bytes) {
        number(static_cast<uint32_t>(bytes.size()));
        raw(bytes);
    }

    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

/// What is not there reads as 0, and failed() says so at the end.
class Reader final {
  public:
    explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

    template <class T>
    T number() {
        LittleEndian<T> field;
        const auto bytes = raw(sizeof field);
        if (!bytes.empty()) {
            std::memcpy(&field, bytes.data(), sizeof field);
        }
        return field;
    }

    std::span<const std::byte> raw(size_t count) {
        failed_ = failed_ || count > rest_.size();
        if (failed_) {
            return {};
        }
        const auto bytes = rest_.first(count);
        rest_ = rest_.subspan(count);
        return bytes;
    }

    std::vector<std::byte> counted(size_t bytes_max) {
        const size_t count = number<uint32_t>();
        failed_ = failed_ || count > bytes_max;
        const auto bytes = raw(failed_ ? 0 : count);
        return {bytes.begin(), bytes.end()};
    }

    /// Everything was there, and nothing more.
    [[nodiscard]] bool complete() const { return !failed_ && rest_.empty(); }

    [[nodiscard]] bool failed() const { return failed_; }

  private:
    std::span<const std::byte> rest_;
    bool failed_ = false;
};

std::unexpected<Error> damaged(const StateSection& section) {
    return failure(Error{.message = describe(section) + ", is not what a console writes"});
}

void write_port(const PortControl::PortState& port, Writer& out) {
    out.number(static_cast<uint8_t>((port.plugged ? kPlugged : 0) | (port.told ? kTold : 0) |
                                    (port.ready ? kReady : 0) | (port.guest_open ? kGuestOpen : 0) |
                                    (port.host_open ? kHostOpen : 0)));
    out.number(port.size.columns);
    out.number(port.size.rows);
}

PortControl::PortState read_port(Reader& in) {
    const auto bits = in.number<uint8_t>();
    const auto columns = in.number<uint16_t>();
    const auto rows = in.number<uint16_t>();
    return {.plugged = (bits & kPlugged) != 0,
            .told = (bits & kTold) != 0,
            .ready = (bits & kReady) != 0,
            .guest_open = (bits & kGuestOpen) != 0,
            .host_open = (bits & kHostOpen) != 0,
            .size = {.columns = columns, .rows = rows}};
}

Result<std::vector<ConsoleState::Stream>> read_streams(const StateSection& section, size_t ports) {
    Reader in(section.bytes);
    std::vector<ConsoleState::Stream> streams;
    for (size_t i = 0; i < ports && !in.failed(); ++i) {
        ConsoleState::Stream stream;
        for (const std::byte each : in.counted(kNameBytesMax)) {
            stream.name.push_back(static_cast<char>(each));
        }
        stream.saved.input = in.counted(PortStream::kInputBytes);
        stream.saved.output = in.counted(kOutputBytesMax);
        streams.push_back(std::move(stream));
    }
    if (!in.complete()) {
        return damaged(section);
    }
    return streams;
}

}  // namespace

std::optional<PortControl::Saved> read_control(std::span<const std::byte> bytes) {
    Reader in(bytes);
    PortControl::Saved saved;
    const auto bits = in.number<uint8_t>();
    saved.multiport = (bits & kMultiport) != 0;
    saved.driver_ready = (bits & kDriverReady) != 0;
    const size_t ports = in.number<uint32_t>();
    if (ports == 0 || ports > kPortsMax) {
        return std::nullopt;
    }
    for (size_t i = 0; i < ports; ++i) {
        saved.ports.push_back(read_port(in));
    }
    const size_t pending = in.number<uint32_t>();
    if (pending > kPendingMax) {
        return std::nullopt;
    }
    for (size_t i = 0; i < pending; ++i) {
        auto message = in.counted(kMessageBytesMax);
        ControlMessage head;
        if (message.size() < sizeof head) {
            return std::nullopt;
        }
        std::memcpy(&head, message.data(), sizeof head);
        if (head.id >= ports) {
            return std::nullopt;
        }
        saved.pending.push_back(std::move(message));
    }
    return in.complete() ? std::optional(std::move(saved)) : std::nullopt;
}

std::vector<std::byte> write_control(const PortControl::Saved& control) {
    Writer out;
    out.number(static_cast<uint8_t>((control.multiport ? kMultiport : 0) |
                                    (control.driver_ready ? kDriverReady : 0)));
    out.number(static_cast<uint32_t>(control.ports.size()));
    for (const auto& port : control.ports) {
        write_port(port, out);
    }
    out.number(static_cast<uint32_t>(control.pending.size()));
    for (const auto& message : control.pending) {
        out.counted(message);
    }
    return {out.bytes().begin(), out.bytes().end()};
}

std::vector<StateSection> write_console_state(const ConsoleState& state) {
    Writer streams;
    const size_t output_max = kOutputBytesMax / std::max<size_t>(state.streams.size(), 1);
    for (const auto& stream : state.streams) {
        streams.counted(std::as_bytes(std::span(stream.name)));
        streams.counted(stream.saved.input);
        const std::span<const std::byte> output = stream.saved.output;
        streams.counted(output.last(std::min(output.size(), output_max)));
    }
    return {make_section(kControlSection, write_control(state.control)),
            make_section(kStreamsSection, streams.bytes())};
}

Result<ConsoleState> read_console_state(std::span<const StateSection> sections) {
    const StateSection* const control = find_section(sections, kControlSection.id);
    const StateSection* const streams = find_section(sections, kStreamsSection.id);
    if (control == nullptr || streams == nullptr) {
        return failure(Error{.message = "a section of a console is missing"});
    }
    ConsoleState state;
    auto read = read_control(control->bytes);
    if (!read) {
        return damaged(*control);
    }
    state.control = *std::move(read);
    state.streams = OUTRIGGER_TRY(read_streams(*streams, state.control.ports.size()));
    return state;
}

}  // namespace outrigger::console
