// SPDX-License-Identifier: Apache-2.0
/// A guest's console driver as the specification has it, and somebody at the host's side of a port.
/// It shares no code with the device. VIRTIO 1.3, 5.3.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {

// VIRTIO 1.3, 5.3.6.2.
inline constexpr uint16_t kDeviceReady = 0;
inline constexpr uint16_t kDeviceAdd = 1;
inline constexpr uint16_t kDeviceRemove = 2;
inline constexpr uint16_t kPortReady = 3;
inline constexpr uint16_t kConsolePort = 4;
inline constexpr uint16_t kResize = 5;
inline constexpr uint16_t kPortOpen = 6;
inline constexpr uint16_t kPortName = 7;

class ConsoleGuest final {
  public:
    struct Options {
        uint16_t ports = 1;
        bool multiport = true;
        bool packed = false;
        uint16_t receive_buffers = 32;
        uint32_t receive_bytes = 4096;
        bool gives_control_buffers = true;
        FeatureSet protocol_features = driver::kUsualProtocolFeatures;
    };

    struct Message {
        uint32_t port = 0;
        uint16_t event = 0;
        uint16_t value = 0;
        std::string rest{};

        friend bool operator==(const Message&, const Message&) = default;
    };

    ConsoleGuest(driver::Frontend frontend, const Options& options)
        : options_(options), frontend_(std::move(frontend)) {
        memory_ = driver::GuestMemory::create(64 << 20).value();
        auto features = driver::kUsualFeatures;
        if (!options.multiport) {
            features = features.without(1);
        }
        auto running = driver::bring_up(
            frontend_,
            memory_,
            {.features = features,
             .protocol_features = options.protocol_features,
             .packed = options.packed,
             .queue_count = static_cast<uint16_t>(options.multiport ? 2 * options.ports + 2 : 2),
             .queue_size = 64});
        EXPECT_TRUE(running) << running.error().step;
        running_ = *std::move(running);
        for (uint16_t port = 0; port < options.ports; ++port) {
            give_buffers(receive_queue(port), options.receive_buffers, options.receive_bytes);
        }
        if (options.multiport) {
            if (options.gives_control_buffers) {
                give_buffers(2, 32, 128);
            }
            message_ = memory_.allocate(64, 16).value();
        }
        output_ = memory_.allocate(kOutputBytes, 16).value();
    }

    [[nodiscard]] driver::Frontend& frontend() { return frontend_; }

    [[nodiscard]] driver::GuestMemory& memory() { return memory_; }

    [[nodiscard]] driver::DriverQueue& queue(size_t index) { return running_.queues.at(index); }

    [[nodiscard]] driver::Agreement& agreement() { return running_.agreement; }

    static constexpr size_t receive_queue(size_t port) { return port == 0 ? 0 : 2 + 2 * port; }

    // --- Messages ------------------------------------------------------------------------------

    /// Any bytes on the control queue.
    void send_raw(std::string_view bytes) {
        memory_.write(message_, std::as_bytes(std::span(bytes)));
        const driver::Segment segment{.address = message_,
                                      .length = static_cast<uint32_t>(bytes.size())};
        EXPECT_TRUE(queue(3).transact(std::span(&segment, 1), driver::after(kPatience)));
    }

    void send(uint32_t port, uint16_t event, uint16_t value) {
        std::array<char, 8> bytes{};
        std::memcpy(bytes.data(), &port, 4);
        std::memcpy(bytes.data() + 4, &event, 2);
        std::memcpy(bytes.data() + 6, &value, 2);
        send_raw({bytes.data(), bytes.size()});
    }

    /// The next message of the device; nullopt when none comes within `patience`.
    std::optional<Message> next_message(std::chrono::milliseconds patience = kPatience) {
        const auto bytes = next_buffer(2, patience);
        if (!bytes || bytes->size() < 8) {
            return std::nullopt;
        }
        Message message;
        std::memcpy(&message.port, bytes->data(), 4);
        std::memcpy(&message.event, bytes->data() + 4, 2);
        std::memcpy(&message.value, bytes->data() + 6, 2);
        message.rest = bytes->substr(8);
        return message;
    }

    /// Messages up to one of that kind, of that port; nullopt when it does not come.
    std::optional<Message> wait_message(uint32_t port, uint16_t event) {
        while (auto message = next_message()) {
            if (message->port == port && message->event == event) {
                return message;
            }
        }
        return std::nullopt;
    }

    /// What Linux does when it loads its driver: every port that is added is set up. What else the
    /// device says is kept in `heard`.
    void set_up(size_t ports) {
        send(0xffff'ffff, kDeviceReady, 1);
        for (size_t named = 0; named < ports;) {
            const auto message = next_message();
            ASSERT_TRUE(message) << named << " ports are named";
            heard.push_back(*message);
            if (message->event == kDeviceAdd) {
                send(message->port, kPortReady, 1);
            }
            named += message->event == kPortName ? 1U : 0U;
        }
    }

    /// A process of the guest opens the port, or closes it.
    void open(uint32_t port, bool open = true) { send(port, kPortOpen, open ? 1 : 0); }

    // --- Data ----------------------------------------------------------------------------------

    /// One chain. False when the device did not take it within `patience`.
    bool write(size_t port,
               std::string_view bytes,
               std::chrono::milliseconds patience = kPatience) {
        EXPECT_LE(bytes.size(), kOutputBytes);
        memory_.write(output_, std::as_bytes(std::span(bytes)));
        const driver::Segment segment{.address = output_,
                                      .length = static_cast<uint32_t>(bytes.size())};
        return queue(receive_queue(port) + 1)
            .transact(std::span(&segment, 1), driver::after(patience))
            .has_value();
    }

    /// Everything, in chains of `piece` bytes.
    void write_all(size_t port, std::string_view bytes, size_t piece = 4096) {
        while (!bytes.empty()) {
            ASSERT_TRUE(write(port, bytes.substr(0, piece)));
            bytes.remove_prefix(std::min(piece, bytes.size()));
        }
    }

    /// Reads until there are `count` bytes, or nothing comes any more.
    std::string read(size_t port, size_t count) {
        std::string all = std::exchange(unread_[port], {});
        while (all.size() < count) {
            const auto bytes = next_buffer(receive_queue(port), kPatience);
            if (!bytes) {
                break;
            }
            all += *bytes;
        }
        if (all.size() > count) {
            unread_[port] = all.substr(count);
            all.resize(count);
        }
        return all;
    }

    /// What has come by now.
    std::string read_available(size_t port) {
        std::string all = std::exchange(unread_[port], {});
        while (const auto bytes = next_buffer(receive_queue(port), std::chrono::milliseconds(0))) {
            all += *bytes;
        }
        return all;
    }

    /// Does something come within `patience`?
    bool has_input(size_t port, std::chrono::milliseconds patience) {
        const auto bytes = next_buffer(receive_queue(port), patience);
        unread_[port] += bytes.value_or("");
        return bytes.has_value();
    }

    void give_buffers(size_t index, uint16_t count, uint32_t length) {
        for (uint16_t i = 0; i < count; ++i) {
            const driver::Segment segment{.address = memory_.allocate(length, 16).value(),
                                          .length = length,
                                          .device_writable = true};
            give(index, segment);
        }
        (void)queue(index).publish_and_kick();
    }

    std::vector<Message> heard;

  private:
    static constexpr uint32_t kOutputBytes = 4 << 20;

    void give(size_t index, const driver::Segment& segment) {
        const uint64_t token = next_token_++;
        buffers_[token] = segment;
        EXPECT_TRUE(queue(index).try_add(std::span(&segment, 1), token));
    }

    /// What came into the next buffer, which the device is given again.
    std::optional<std::string> next_buffer(size_t index, std::chrono::milliseconds patience) {
        auto used = queue(index).poll_used();
        if (!used && queue(index).wait_used(driver::after(patience)) == driver::WaitResult::kUsed) {
            used = queue(index).poll_used();
        }
        if (!used) {
            return std::nullopt;
        }
        const driver::Segment segment = buffers_.extract(used->token).mapped();
        EXPECT_LE(used->length, segment.length);
        std::string bytes(used->length, '\0');
        memory_.read(segment.address, std::as_writable_bytes(std::span(bytes)));
        give(index, segment);
        (void)queue(index).publish_and_kick();
        return bytes;
    }

    Options options_;
    driver::Frontend frontend_;
    driver::GuestMemory memory_;
    driver::RunningDevice running_;
    GuestAddr message_{};
    GuestAddr output_{};
    uint64_t next_token_ = 1;
    std::map<uint64_t, driver::Segment> buffers_;
    std::map<size_t, std::string> unread_;
};

/// A stream of the host: a connection, or one side of a terminal.
class HostUser final {
  public:
    explicit HostUser(UniqueFd fd) : fd_(std::move(fd)) {}

    [[nodiscard]] static HostUser connect(const std::string& path) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
        UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        // SAFETY: sockets' addresses are passed so.
        const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::connect(fd.get(), generic, sizeof address), 0) << path;
        return HostUser(std::move(fd));
    }

    [[nodiscard]] int fd() const { return fd_.get(); }

    void close() { fd_.reset(); }

    void write(std::string_view bytes) const {
        while (!bytes.empty()) {
            const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
            ASSERT_GT(count, 0);
            bytes.remove_prefix(static_cast<size_t>(count));
        }
    }

    /// Reads until there are `count` bytes, the end, or nothing for a long time.
    [[nodiscard]] std::string read(size_t count) const {
        std::string all;
        while (all.size() < count && readable(kPatience)) {
            std::array<char, 4096> piece{};
            const ssize_t got =
                ::read(fd_.get(), piece.data(), std::min(piece.size(), count - all.size()));
            if (got <= 0) {
                break;
            }
            all.append(piece.data(), static_cast<size_t>(got));
        }
        return all;
    }

    [[nodiscard]] bool readable(std::chrono::milliseconds patience) const {
        pollfd waits{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        return ::poll(&waits, 1, static_cast<int>(patience.count())) == 1;
    }

    /// The other side ended it.
    [[nodiscard]] bool at_end() const {
        char byte = 0;
        return readable(kPatience) && ::read(fd_.get(), &byte, 1) <= 0;
    }

  private:
    UniqueFd fd_;
};

}  // namespace outrigger::testing
