// SPDX-License-Identifier: Apache-2.0
/// What driver and device tell one another about ports: which there are, what they are called, who
/// has them open, how large their terminals are. VIRTIO 1.3, 5.3.6.2.
///
/// Messages to the driver wait here until it has a buffer for them. However often anything changes
/// meanwhile, each port has a handful of them: a message that says again what waits already is left
/// out, and of several sizes the last one counts.
///
/// Each change is stored in memory that outlives this process, where there is such: whoever goes on
/// has told the driver each message once, and taken each of its messages once.
///
/// Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost-user-backend/base/counters.h"
#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/base/little_endian.h"
#include "vhost-user-backend/base/result.h"

#include "devices/console/port_options.h"

namespace outrigger::console {

struct TerminalSize {
    uint16_t columns = 0;  ///< 0: not known
    uint16_t rows = 0;

    friend bool operator==(const TerminalSize&, const TerminalSize&) = default;
};

/// In which order RESIZE has its two numbers.
enum class ResizeOrder : uint8_t {
    kSpecification,  ///< columns first: VIRTIO 1.2 and later, Linux since 2025
    kLegacy,         ///< rows first: Linux before that
};

/// struct virtio_console_control.
struct ControlMessage {
    Le32 id;
    Le16 event;
    Le16 value;
};

static_assert(sizeof(ControlMessage) == 8);

/// struct virtio_console_config.
struct ConsoleConfig {
    Le16 columns;
    Le16 rows;
    Le32 ports_max;
    Le32 emergency_write;
};

static_assert(sizeof(ConsoleConfig) == 12);

class PortControl final {
  public:
    /// Of the driver's doing; written by the worker of its control queue.
    struct Counters {
        Counter messages;
        Counter cut_short;      ///< no whole message
        Counter unknown_ports;  ///< there is no port of that number, or not any more
        Counter unknown_events;
        Counter failures;  ///< the driver says that it could not set a port up
    };

    PortControl(const std::vector<PortOptions>& ports, ResizeOrder order);

    /// Of memory for it, however many ports there are.
    static constexpr size_t kKeptBytes = KeptRecord::bytes(size_t{64} << 10);

    /// `kept` is of kKeptBytes, zeroed or as another process left it: what that says is taken up.
    /// Before any other call.
    void keep(std::span<std::byte> kept);

    // --- The driver ------------------------------------------------------------------------------

    /// What was agreed on: without MULTIPORT there is one port, which is always open.
    void negotiated(bool multiport);

    /// The driver has gone: nobody has a port open, and nothing waits to be told.
    void reset();

    /// What a driver put into one buffer.
    enum class Change : uint8_t {
        kNone,
        kMessages,  ///< there are messages for it now
        kOpened,    ///< it takes input of Handled::port
        kClosed,
    };

    struct Handled {
        Change change = Change::kNone;
        size_t port = 0;
    };

    [[nodiscard]] Handled handle(std::span<const std::byte> bytes);

    /// How many were handled, by earlier processes, too.
    [[nodiscard]] uint64_t handled() const;

    [[nodiscard]] bool has_message() const;

    /// Gives `deliver` the next message for the driver, with a number for note_delivered(), if it
    /// has `bytes_max` bytes at most; else it stays. It goes when `deliver` returns.
    template <class Deliver>
    void take_message(uint64_t bytes_max, Deliver deliver);

    /// An earlier process delivered it.
    void note_delivered(uint64_t message);

    /// Does the driver take input of this port?
    [[nodiscard]] bool guest_open(size_t port) const;

    // --- The host. True: a message waits, or the configuration has changed
    // ------------------------

    bool set_host_open(size_t port, bool open);
    bool set_size(size_t port, TerminalSize size);
    /// Adds the port while the driver runs, or takes it away. An error: it is so already, or there
    /// is no MULTIPORT.
    [[nodiscard]] Result<void> set_plugged(size_t port, bool plugged);

    struct PortState {
        bool plugged = true;
        bool told = false;   ///< the driver knows of it
        bool ready = false;  ///< and has set it up
        bool guest_open = false;
        bool host_open = false;
        TerminalSize size{};
    };

    [[nodiscard]] PortState state(size_t port) const;
    [[nodiscard]] bool multiport() const;
    [[nodiscard]] ConsoleConfig config() const;

    [[nodiscard]] const Counters& counters() const { return counters_; }

    // --- Device state ----------------------------------------------------------------------------

    /// Says again what the driver of a state that was loaded may have heard differently.
    struct Saved {
        bool multiport = false;
        bool driver_ready = false;
        std::vector<PortState> ports{};
        std::vector<std::vector<std::byte>> pending{};
    };

    [[nodiscard]] Saved save() const;
    void load(const Saved& saved);

  private:
    struct Port {
        std::string name;
        bool console = false;
        PortState state{};
    };

    struct Pending {
        uint32_t port = 0;
        uint16_t event = 0;
        uint16_t value = 0;
        std::vector<std::byte> bytes{};
        uint64_t number = 0;  ///< of all messages
    };

    [[nodiscard]] Saved save_locked() const;
    void load_locked(const Saved& saved);
    void store();
    void push(size_t port, uint16_t event, uint16_t value, std::span<const std::byte> more = {});
    void push_open(size_t port);
    void push_size(size_t port);
    void begin_port(size_t port);
    void set_up_port(size_t port);
    void forget_pending(size_t port);
    [[nodiscard]] Handled handle_locked(std::span<const std::byte> bytes);
    void tell_plugged(size_t port);
    [[nodiscard]] Handled handle_known(uint16_t event, size_t port, uint16_t value);

    const ResizeOrder order_;
    Counters counters_;
    mutable std::mutex mutex_;  // what follows
    std::vector<Port> ports_;
    std::deque<Pending> pending_;
    bool multiport_ = false;
    bool driver_ready_ = false;
    uint64_t handled_ = 0;
    uint64_t next_number_ = 1;
    std::optional<KeptRecord> kept_;  // nothing: nobody goes on with it
};

template <class Deliver>
void PortControl::take_message(uint64_t bytes_max, Deliver deliver) {
    const std::lock_guard lock(mutex_);
    if (!pending_.empty() && pending_.front().bytes.size() <= bytes_max) {
        deliver(std::span<const std::byte>(pending_.front().bytes), pending_.front().number);
        pending_.pop_front();
        store();
    }
}

}  // namespace outrigger::console
