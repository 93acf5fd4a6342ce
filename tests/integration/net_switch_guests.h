// SPDX-License-Identifier: Apache-2.0
/// The fixture of the switch's tests: guests at one switch, each with a device and a session of its
/// own. What is at the switch beside them is the test's affair.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "devices/net/switch_port.h"
#include "tests/integration/net_traps.h"

namespace outrigger::net {

inline const std::string kEverybodyMac(6, '\xff');

/// Whose thread serves a guest: on one of all guests frames go straight from ring to ring.
struct SwitchRow {
    bool packed = false;
    bool shares_thread = false;
};

inline constexpr SwitchRow kSwitchRows[] = {
    {}, {.packed = true}, {.shares_thread = true}, {.packed = true, .shares_thread = true}};

inline std::string name_of_row(const ::testing::TestParamInfo<SwitchRow>& row) {
    return std::string(row.param.packed ? "Packed" : "Split") +
           (row.param.shares_thread ? "OneThread" : "");
}

class NetSwitchGuests : public ::testing::TestWithParam<SwitchRow> {
  protected:
    struct Station {
        SwitchPort* port = nullptr;
        std::unique_ptr<NetDevice> device{};
        std::unique_ptr<testing::SessionHost> host{};
        std::unique_ptr<NetGuest> guest{};
    };

    ~NetSwitchGuests() override {
        for (Station& each : stations_) {
            leave(each);
        }
    }

    static void leave(Station& station) {
        station.guest.reset();
        station.host.reset();
        station.device.reset();
    }

    /// Of guests that share one, and of what else is at the switch.
    Worker& worker() {
        if (worker_ == nullptr) {
            worker_ = Worker::start({.thread_name = "test-shared",
                                     .loop = testing::loop_under_test(),
                                     .cpu = std::nullopt})
                          .value();
        }
        return *worker_;
    }

    size_t join(const NetGuestOptions& guest = {}, std::span<const StateSection> state = {}) {
        auto port = std::make_unique<SwitchPort>(options_);
        Station station{.port = port.get()};
        station.device = std::make_unique<NetDevice>(device_options_, std::move(port));
        EXPECT_TRUE(state.empty() || station.device->load_state(state));
        station.host = std::make_unique<testing::SessionHost>(
            *station.device,
            testing::SessionHostOptions{.worker = GetParam().shares_thread ? &worker() : nullptr});
        NetGuestOptions options = guest;
        options.packed = GetParam().packed;
        station.guest = std::make_unique<NetGuest>(station.host->connect(), options);
        EXPECT_TRUE(station.guest->is_up());
        stations_.push_back(std::move(station));
        return stations_.size() - 1;
    }

    [[nodiscard]] static std::string mac(size_t station) {
        return std::string("\x52\x54\0\0\0", 5) + static_cast<char>(0x10 + station);
    }

    /// From one station to another, or to whomever the address says.
    [[nodiscard]] static std::string frame(const std::string& from,
                                           const std::string& to,
                                           const std::string& text,
                                           FrameOptions options = {}) {
        options.to_mac = to;
        std::string bytes = make_frame(text, options);
        bytes.replace(6, 6, from);
        return bytes;
    }

    void expect_sent(size_t from, const std::string& bytes) {
        ASSERT_TRUE(guest(from).send(bytes));
    }

    void expect_received(size_t station, const std::string& bytes) {
        const auto received = guest(station).receive();
        ASSERT_TRUE(received);
        EXPECT_EQ(received->bytes, bytes);
    }

    void expect_nothing(size_t station) {
        give_others_a_moment();
        EXPECT_FALSE(guest(station).receive_now());
    }

    [[nodiscard]] static std::string hello_of(size_t station) {
        return frame(mac(station), kEverybodyMac, "hello");
    }

    /// All other guests hear of it.
    void introduce(size_t station) {
        expect_sent(station, hello_of(station));
        for (size_t other = 0; other < stations_.size(); ++other) {
            if (other != station) {
                expect_received(other, hello_of(station));
            }
        }
    }

    NetGuest& guest(size_t station) { return *stations_.at(station).guest; }

    [[nodiscard]] uint64_t dropped(size_t station, DropReason reason) const {
        return stations_.at(station).port->counters().dropped.value(reason);
    }

    SwitchOptions options_{.name = "test"};
    NetOptions device_options_{.mtu = 65535};
    std::unique_ptr<Worker> worker_;
    std::vector<Station> stations_;
};

}  // namespace outrigger::net
