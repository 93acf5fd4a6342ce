// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: what a console knows of its ports and their bytes. The script is the driver, the
/// host, an operator, and whoever kills the process. Messages that wait are bounded, each byte
/// comes out once and in order, the next process finds what this one had, and memory or a state
/// that anybody wrote is taken whole or not at all.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/uio.h>

#include "vhost-user-backend/base/error.h"

#include "devices/console/console_state.h"
#include "devices/console/port_control.h"
#include "devices/console/port_options.h"
#include "devices/console/port_stream.h"
#include "devices/console/size_teller.h"
#include "tests/fuzz/console_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using console::PortControl;
using console::PortStream;

constexpr size_t kOpsMax = 512;
/// That a script moves in all, so that it takes milliseconds.
constexpr size_t kBytesMax = 1 << 20;
/// Of what waits for the driver, for each port.
constexpr size_t kMessagesMax = 10;
constexpr size_t kReplayBytes = 100;

struct alignas(64) Line {
    std::array<std::byte, 64> bytes{};
};

std::vector<console::PortOptions> port_options() {
    return {{.name = "a", .console = true, .columns = 80, .rows = 24},
            {.name = "b"},
            {.name = "c", .console = true, .plugged = false}};
}

class ConsoleScript final {
  public:
    explicit ConsoleScript(ScriptReader script)
        : waits_((ScriptReader(script).u8() & 1) != 0),
          script_(skipped(script)),
          control_memory_(PortControl::kKeptBytes / sizeof(Line)),
          stream_memory_(PortStream::bytes(waits_, kReplayBytes) / sizeof(Line) + 1) {
        begin_process();
    }

    void run() {
        for (size_t count = 0; count < kOpsMax && !script_.at_end(); ++count) {
            step(next_op<ConsoleOp>(script_));
            OUTRIGGER_ASSERT(control_->save().pending.size() <= kMessagesMax * kConsolePorts);
        }
    }

  private:
    static ScriptReader skipped(ScriptReader script) {
        (void)script.u8();
        return script;
    }

    void begin_process() {
        control_.emplace(port_options(), console::ResizeOrder::kSpecification);
        control_->keep(std::as_writable_bytes(std::span(control_memory_)));
        stream_.emplace(waits_,
                        kReplayBytes,
                        std::as_writable_bytes(std::span(stream_memory_))
                            .first(PortStream::bytes(waits_, kReplayBytes)));
    }

    void step(ConsoleOp op) {
        switch (op) {
            case ConsoleOp::kMessage:
                (void)control_->handle(std::as_bytes(script_.bytes(script_.pick(20))));
                return;
            case ConsoleOp::kEvent: {
                const console::ControlMessage message{
                    .id = static_cast<uint32_t>(script_.pick(kConsolePorts + 1)),
                    .event = static_cast<uint16_t>(script_.pick(9)),
                    .value = static_cast<uint16_t>(script_.pick(3))};
                (void)control_->handle(std::as_bytes(std::span(&message, 1)));
                return;
            }
            case ConsoleOp::kTake:
                return take_message();
            case ConsoleOp::kHostOpen: {
                const size_t port = script_.pick(kConsolePorts);
                (void)control_->set_host_open(port, (script_.u8() & 1) != 0);
                return;
            }
            case ConsoleOp::kSize: {
                const size_t port = script_.pick(kConsolePorts);
                const uint16_t columns = script_.u16();
                (void)control_->set_size(port, {.columns = columns, .rows = script_.u16()});
                return;
            }
            case ConsoleOp::kPlug: {
                const size_t port = script_.pick(kConsolePorts);
                (void)control_->set_plugged(port, (script_.u8() & 1) != 0);
                return;
            }
            case ConsoleOp::kNegotiate:
                return control_->negotiated((script_.u8() & 1) != 0);
            case ConsoleOp::kReset:
                return control_->reset();
            case ConsoleOp::kMove:
                return move();
            case ConsoleOp::kKill:
                return kill();
            case ConsoleOp::kOutput:
                return output(read_count());
            case ConsoleOp::kInput:
                return input(read_count());
            case ConsoleOp::kReadInput:
                return read_input(read_count());
            case ConsoleOp::kReadOutput:
                return read_output(read_count());
            case ConsoleOp::kHold:
                return hold(script_.u16());
            case ConsoleOp::kDamage:
                return damage();
            case ConsoleOp::kState:
                return state(script_.bytes(script_.u16()));
            case ConsoleOp::kOptions:
                return options(script_.bytes(script_.u8()));
            case ConsoleOp::kCount:
                return;
        }
    }

    [[nodiscard]] size_t read_count() {
        const size_t count = std::min<size_t>(script_.u16(), bytes_left_);
        bytes_left_ -= count;
        return count;
    }

    void take_message() {
        const uint64_t bytes_max = script_.pick(80);
        const auto before = control_->save().pending;
        bool was_given = false;
        control_->take_message(bytes_max, [&](std::span<const std::byte> message, uint64_t) {
            was_given = true;
            OUTRIGGER_ASSERT(message.size() <= bytes_max);
            OUTRIGGER_ASSERT(std::ranges::equal(message, before.front()));
        });
        OUTRIGGER_ASSERT(control_->save().pending.size() + (was_given ? 1 : 0) == before.size());
    }

    /// All that there is goes on as it was.
    void kill() {
        const auto control = console::write_control(control_->save());
        const auto handled = control_->handled();
        const auto ends = stream_->output();
        const auto input_begin = stream_->input_bytes();
        const auto input_end = stream_->input_end();
        begin_process();
        OUTRIGGER_ASSERT(console::write_control(control_->save()) == control);
        OUTRIGGER_ASSERT(control_->handled() == handled);
        OUTRIGGER_ASSERT(stream_->output().begin == ends.begin &&
                         stream_->output().end == ends.end);
        OUTRIGGER_ASSERT(stream_->input_bytes() == input_begin &&
                         stream_->input_end() == input_end);
    }

    void move() {
        console::ConsoleState saved{.control = control_->save()};
        for (const auto& port : port_options()) {
            saved.streams.push_back({.name = port.name, .saved = stream_->save()});
        }
        const auto read = console::read_console_state(console::write_console_state(saved));
        OUTRIGGER_ASSERT(read.has_value());
        PortControl other(port_options(), console::ResizeOrder::kLegacy);
        other.load(read->control);
        OUTRIGGER_ASSERT(other.multiport() == control_->multiport());
        PortStream stream(waits_, kReplayBytes);
        stream.load(read->streams.front().saved);
        OUTRIGGER_ASSERT(stream.save().input == saved.streams.front().saved.input);
    }

    // --- Bytes: what is at a position is known, so that one which is lost or doubled shows
    // ---------

    static std::byte byte_at(uint64_t position) {
        return static_cast<std::byte>(position * 0x9e37'79b9'7f4a'7c15 >> 56);
    }

    static std::vector<std::byte> bytes_from(uint64_t position, size_t count) {
        std::vector<std::byte> bytes(count);
        for (size_t i = 0; i < count; ++i) {
            bytes[i] = byte_at(position + i);
        }
        return bytes;
    }

    void output(size_t count) {
        std::vector<std::byte> bytes = bytes_from(stream_->output().end, count);
        std::array<iovec, 2> segments{
            {{.iov_base = bytes.data(), .iov_len = count / 3},
             {.iov_base = bytes.data() + count / 3, .iov_len = count - count / 3}}};
        uint64_t chain = UINT64_MAX;
        const bool was_lost = script_.pick(16) == 15;
        stream_->append_output(
            ChainReader(segments, count),
            [&](uint64_t next) {
                chain = next;
                OUTRIGGER_ASSERT(!stream_knows_ || chain == *stream_knows_);
            },
            [&] { return was_lost; });
        stream_knows_ = chain + 1;
        OUTRIGGER_ASSERT(stream_->has_taken(chain) && !stream_->has_taken(chain + 1));
    }

    void input(size_t count) {
        count = std::min(count, stream_->input_room());
        const auto bytes = bytes_from(stream_->input_end(), count);
        if (script_.pick(2) == 0) {
            stream_->append_input(bytes);
            return;
        }
        const auto lock = stream_->lock_input();
        const uint64_t position = stream_->input_end();
        const auto pieces = stream_->input_space(position, count);
        OUTRIGGER_ASSERT(pieces.has_value());
        std::copy_n(bytes.begin(), (*pieces)[0].size(), (*pieces)[0].begin());
        std::copy_n(bytes.begin() + static_cast<ptrdiff_t>((*pieces)[0].size()),
                    (*pieces)[1].size(),
                    (*pieces)[1].begin());
        if (script_.pick(4) != 3) {  // else it was killed meanwhile
            stream_->commit_input(position, count);
        }
    }

    void read_input(size_t count) {
        std::vector<std::byte> bytes(count);
        std::array<iovec, 1> segment{{{.iov_base = bytes.data(), .iov_len = count}}};
        ChainWriter writer(segment, count);
        const uint64_t begin = stream_->input_bytes();
        uint64_t noted = 0;
        const size_t given =
            stream_->take_input(writer, [&](size_t, uint64_t position) { noted = position; });
        OUTRIGGER_ASSERT(noted == begin + given && stream_->input_bytes() == noted);
        for (size_t i = 0; i < given && !damaged_; ++i) {
            OUTRIGGER_ASSERT(bytes[i] == byte_at(begin + i));
        }
        if (script_.pick(4) == 3) {
            stream_->note_input_taken(script_.u16());
        }
    }

    void read_output(size_t count) {
        std::vector<std::byte> bytes(count);
        const auto ends = stream_->output();
        uint64_t position = viewer_;
        uint64_t missed = 0;
        const size_t got = stream_->copy_output(position, bytes, missed);
        OUTRIGGER_ASSERT(position + got <= ends.end && position == viewer_ + missed);
        for (size_t i = 0; i < got && !damaged_; ++i) {
            OUTRIGGER_ASSERT(bytes[i] == byte_at(position + i));
        }
        viewer_ = position + got;
    }

    void hold(size_t back) {
        const uint64_t end = stream_->output().end;
        const uint64_t position = end - std::min<uint64_t>(back, end);
        stream_->hold_from(script_.pick(2) == 0 ? std::optional(position) : std::nullopt, position);
        (void)stream_->has_room();
        (void)stream_->take_room_wish();
        OUTRIGGER_ASSERT(stream_->first_for_new_viewer() <= end);
    }

    // --- What anybody may have written
    // -------------------------------------------------------------

    void damage() {
        const bool of_control = script_.pick(2) == 0;
        const auto memory = std::as_writable_bytes(of_control ? std::span(control_memory_)
                                                              : std::span(stream_memory_));
        const size_t at = script_.u16() % memory.size();
        const auto bytes = std::as_bytes(script_.bytes(script_.pick(17)));
        const size_t count = std::min(bytes.size(), memory.size() - at);
        std::copy_n(bytes.begin(), count, memory.begin() + static_cast<ptrdiff_t>(at));
        damaged_ = true;
        stream_knows_.reset();
        begin_process();
        const auto ends = stream_->output();
        OUTRIGGER_ASSERT(ends.begin <= ends.end);
        OUTRIGGER_ASSERT(stream_->input_end() - stream_->input_bytes() <= PortStream::kInputBytes);
        OUTRIGGER_ASSERT(stream_->delivered() <= ends.end);
        viewer_ = std::clamp(viewer_, ends.begin, ends.end);
        if (control_->save().pending.size() > kMessagesMax * kConsolePorts) {
            control_->reset();
        }
    }

    static void state(std::span<const uint8_t> bytes) {
        const auto all = std::as_bytes(bytes);
        const size_t half = all.size() / 2;
        std::vector<StateSection> sections = console::write_console_state(
            {.control = PortControl(port_options(), console::ResizeOrder::kLegacy).save()});
        sections[0].bytes.assign(all.begin(), all.begin() + static_cast<ptrdiff_t>(half));
        sections[1].bytes.assign(all.begin() + static_cast<ptrdiff_t>(half), all.end());
        const auto read = console::read_console_state(sections);
        if (read && read->control.ports.size() == kConsolePorts) {
            PortControl(port_options(), console::ResizeOrder::kLegacy).load(read->control);
        }
    }

    static void options(std::span<const uint8_t> bytes) {
        std::string text;
        for (const uint8_t each : bytes) {
            text.push_back(static_cast<char>(each));
        }
        if (const auto port = console::parse_port(text, true)) {
            OUTRIGGER_ASSERT(!port->name.empty() && port->viewers_max > 0);
        }
        (void)console::parse_terminal_size(text);
    }

    const bool waits_;
    ScriptReader script_;
    std::vector<Line> control_memory_;
    std::vector<Line> stream_memory_;
    std::optional<PortControl> control_;
    std::optional<PortStream> stream_;
    std::optional<uint64_t> stream_knows_;  // which chain is the next one
    size_t bytes_left_ = kBytesMax;
    uint64_t viewer_ = 0;
    bool damaged_ = false;
};

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger::fuzz;
    ConsoleScript(ScriptReader({data, size})).run();
    return 0;
}
