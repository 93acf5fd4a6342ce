// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <string_view>

#include <linux/virtio_console.h>

#include "tests/fuzz/console_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

/// A script, step by step.
class ConsoleSeed {
  public:
    explicit ConsoleSeed(bool waits = false) { script_.u8(waits ? 1 : 0); }

    ConsoleSeed& event(size_t port, size_t event, size_t value = 1) {
        script_.op(ConsoleOp::kEvent).u8(port).u8(event).u8(value);
        return *this;
    }

    ConsoleSeed& take(size_t times, size_t bytes_max = 79) {
        for (size_t i = 0; i < times; ++i) {
            script_.op(ConsoleOp::kTake).u8(bytes_max);
        }
        return *this;
    }

    ConsoleSeed& of_port(ConsoleOp op, size_t port, size_t value) {
        script_.op(op).u8(port).u8(value);
        return *this;
    }

    ConsoleSeed& size(size_t port, size_t columns, size_t rows) {
        script_.op(ConsoleOp::kSize).u8(port).u16(columns).u16(rows);
        return *this;
    }

    ConsoleSeed& negotiate() {
        script_.op(ConsoleOp::kNegotiate).u8(1);
        return *this;
    }

    ConsoleSeed& op(ConsoleOp op) {
        script_.op(op);
        return *this;
    }

    ConsoleSeed& bytes(ConsoleOp op, size_t count, size_t how = 0) {
        script_.op(op).u16(count).u8(how);
        return *this;
    }

    ConsoleSeed& read_output(size_t count) {
        script_.op(ConsoleOp::kReadOutput).u16(count);
        return *this;
    }

    ConsoleSeed& text(ConsoleOp op, std::string_view text) {
        op == ConsoleOp::kState ? script_.op(op).u16(text.size()) : script_.op(op).u8(text.size());
        for (const char each : text) {
            script_.u8(static_cast<uint8_t>(each));
        }
        return *this;
    }

    ConsoleSeed& damage(size_t which, size_t at, std::string_view text) {
        script_.op(ConsoleOp::kDamage).u8(which).u16(at).u8(text.size());
        for (const char each : text) {
            script_.u8(static_cast<uint8_t>(each));
        }
        return *this;
    }

    ConsoleSeed& set_up() {
        return negotiate()
            .event(0, VIRTIO_CONSOLE_DEVICE_READY)
            .take(2)
            .event(0, VIRTIO_CONSOLE_PORT_READY)
            .event(1, VIRTIO_CONSOLE_PORT_READY);
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

}  // namespace

void add_console_seeds(Seeds& seeds) {
    const auto add = [&](const std::string& name, const ConsoleSeed& seed) {
        seeds["console-port/" + name] = seed.script();
    };
    add("set-up", ConsoleSeed().set_up().take(8));
    add("opened-and-closed",
        ConsoleSeed()
            .set_up()
            .of_port(ConsoleOp::kHostOpen, 1, 1)
            .of_port(ConsoleOp::kHostOpen, 1, 0)
            .of_port(ConsoleOp::kHostOpen, 1, 1)
            .op(ConsoleOp::kKill)
            .event(1, VIRTIO_CONSOLE_PORT_OPEN)
            .take(10));
    add("resized",
        ConsoleSeed().set_up().size(0, 132, 50).size(0, 80, 25).op(ConsoleOp::kMove).take(8));
    add("plugged",
        ConsoleSeed()
            .set_up()
            .of_port(ConsoleOp::kPlug, 2, 1)
            .op(ConsoleOp::kKill)
            .of_port(ConsoleOp::kPlug, 2, 0)
            .of_port(ConsoleOp::kPlug, 1, 0)
            .of_port(ConsoleOp::kPlug, 1, 1)
            .take(10));
    add("buffer-too-small", ConsoleSeed().set_up().take(2, 7).take(2, 8).take(9));
    add("message-cut-short", ConsoleSeed().negotiate().text(ConsoleOp::kMessage, "1234567"));
    add("unknown-port", ConsoleSeed().set_up().event(3, VIRTIO_CONSOLE_PORT_OPEN));
    add("unknown-event", ConsoleSeed().set_up().event(0, 8));
    add("reset", ConsoleSeed().set_up().op(ConsoleOp::kReset).op(ConsoleOp::kKill).take(1));
    for (const bool waits : {false, true}) {
        add(waits ? "bytes-of-a-port" : "bytes-of-a-console",
            ConsoleSeed(waits)
                .bytes(ConsoleOp::kOutput, 50'000)
                .bytes(ConsoleOp::kHold, 40'000)
                .read_output(20'000)
                .op(ConsoleOp::kKill)
                .bytes(ConsoleOp::kOutput, 60'000)
                .read_output(65'000)
                .bytes(ConsoleOp::kInput, 30'000)
                .bytes(ConsoleOp::kInput, 30'000, 1)
                .op(ConsoleOp::kKill)
                .bytes(ConsoleOp::kReadInput, 45'000)
                .bytes(ConsoleOp::kReadInput, 45'000));
    }
    add("overrun",
        ConsoleSeed()
            .bytes(ConsoleOp::kOutput, 65'000)
            .bytes(ConsoleOp::kOutput, 65'000)
            .bytes(ConsoleOp::kOutput, 65'000)
            .bytes(ConsoleOp::kOutput, 65'000)
            .bytes(ConsoleOp::kOutput, 65'000)
            .op(ConsoleOp::kKill)
            .read_output(65'000));
    add("memory-lost", ConsoleSeed(true).bytes(ConsoleOp::kOutput, 100, 15).read_output(100));
    add("head-that-cannot-be",
        ConsoleSeed()
            .bytes(ConsoleOp::kOutput, 100)
            .damage(1, 64, std::string_view("\xff\xff\xff\xff\xff\xff\xff\xff", 8))
            .read_output(10));
    add("control-that-cannot-be", ConsoleSeed().set_up().damage(0, 0, "\xff\xff\xff\xff").take(1));
    add("state", ConsoleSeed().text(ConsoleOp::kState, std::string(40, '\1')));
    add("options",
        ConsoleSeed().text(ConsoleOp::kOptions, "name=a,backend=unix,path=/p,size=80x24"));
    add("size", ConsoleSeed().text(ConsoleOp::kOptions, "80x24"));
}

}  // namespace outrigger::fuzz
