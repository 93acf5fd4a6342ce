// SPDX-License-Identifier: Apache-2.0
/// The fixture of the console's tests: ports as --port has them, a guest, and the host's side of
/// each in a folder of its own.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "devices/console/console_device.h"
#include "devices/console/host_end.h"
#include "devices/console/port_options.h"
#include "tests/support/console_guest.h"
#include "tests/support/session_host.h"

namespace outrigger::console {

struct DeviceOptions {
    bool multiport = true;
    ResizeOrder order = ResizeOrder::kSpecification;
    size_t workers = 1;
};

class ConsoleTest : public ::testing::TestWithParam<bool> {
  protected:
    using Guest = testing::ConsoleGuest;
    using HostUser = testing::HostUser;
    using Message = Guest::Message;

    void SetUp() override {
        std::string pattern = ::testing::TempDir() + "console-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }

    void TearDown() override {
        guest_.reset();
        host_.reset();
        device_.reset();
        std::filesystem::remove_all(folder_);
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    [[nodiscard]] std::string contents(const std::string& name) const {
        std::ifstream file(path(name));
        std::stringstream all;
        all << file.rdbuf();
        return all.str();
    }

    [[nodiscard]] static std::unique_ptr<ConsoleDevice> make_device(
        const std::vector<std::string>& texts, const DeviceOptions& options) {
        ConsoleSettings settings{.ports = parse_ports(texts).value(),
                                 .multiport = options.multiport,
                                 .resize_order = options.order};
        for (const PortOptions& port : settings.ports) {
            auto end = open_host_end(port);
            EXPECT_TRUE(end) << end.error().message;
            settings.ends.push_back(*std::move(end));
        }
        return ConsoleDevice::create(std::move(settings)).value();
    }

    /// `@` in a text stands for the folder.
    void serve(std::vector<std::string> texts, const DeviceOptions& options = {}) {
        open_host_ends(std::move(texts), options);
        begin_to_serve(options);
    }

    /// As serve(), in two steps: what somebody does at the host's ends in between is there when
    /// the device looks first.
    void open_host_ends(std::vector<std::string> texts, const DeviceOptions& options = {}) {
        for (std::string& text : texts) {
            for (size_t at = 0; (at = text.find('@', at)) != std::string::npos;) {
                text.replace(at, 1, folder_.string() + "/");
            }
        }
        ports_ = static_cast<uint16_t>(texts.size());
        multiport_ = options.multiport;
        device_ = make_device(texts, options);
    }

    void begin_to_serve(const DeviceOptions& options = {}) {
        host_ = std::make_unique<testing::SessionHost>(
            *device_, testing::SessionHostOptions{.worker_count = options.workers});
    }

    /// A guest that has negotiated everything, and has not spoken of ports yet.
    Guest& boot(Guest::Options options = {}) {
        options.ports = ports_;
        options.multiport = multiport_;
        options.packed = GetParam();
        guest_.emplace(host_->connect(), options);
        return *guest_;
    }

    /// ... and one that has set up and opened all of them.
    Guest& boot_and_open(const Guest::Options& options = {}) {
        Guest& guest = boot(options);
        guest.set_up(ports_);
        for (uint16_t port = 0; port < ports_; ++port) {
            guest.open(port);
        }
        return guest;
    }

    /// Somebody at a Unix socket whom the device knows of.
    [[nodiscard]] HostUser join(const std::string& name, size_t port = 0) {
        const uint64_t before = device_->host(port).counters().viewers.value();
        HostUser user = HostUser::connect(path(name));
        EXPECT_TRUE(testing::eventually(
            [&] { return device_->host(port).counters().viewers.value() > before; }));
        return user;
    }

    [[nodiscard]] static std::string pattern(size_t bytes, size_t seed = 0) {
        std::string text(bytes, '\0');
        for (size_t i = 0; i < bytes; ++i) {
            text[i] = static_cast<char>((i + seed) * 2654435761U >> 13);
        }
        return text;
    }

    std::filesystem::path folder_;
    uint16_t ports_ = 1;
    bool multiport_ = true;
    std::unique_ptr<ConsoleDevice> device_;
    std::unique_ptr<testing::SessionHost> host_;
    std::optional<Guest> guest_;
};

}  // namespace outrigger::console
