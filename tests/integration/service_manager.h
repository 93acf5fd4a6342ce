// SPDX-License-Identifier: Apache-2.0
/// A service manager with a store of descriptors, as a test plays it for a daemon.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/un.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

/// What systemd does for a service with FileDescriptorStoreMax=, as far as sd_notify(3) tells.
class ServiceManager final {
  public:
    explicit ServiceManager(const std::filesystem::path& path)
        : path_(path), socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
        // SAFETY: bind() takes every address type through this pointer type.
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
        const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
        EXPECT_EQ(::bind(socket_.get(), generic, sizeof address), 0);
    }

    /// Takes what has come.
    void read() {
        std::array<std::byte, 4096> bytes;
        while (true) {
            wire::ReceiveResult result = wire::receive_some(socket_.get(), bytes);
            if (result.status != wire::ReceiveStatus::kData) {
                return;
            }
            std::string text(result.bytes, '\0');
            std::memcpy(text.data(), bytes.data(), result.bytes);
            const size_t at = text.find("FDNAME=");
            const std::string name =
                at == std::string::npos ? "" : text.substr(at + 7, text.find('\n', at) - at - 7);
            if (text.starts_with("FDSTORE=1") && result.fds.size() == 1) {
                EXPECT_NE(text.find("FDPOLL=0"), std::string::npos);
                EXPECT_TRUE(std::ranges::none_of(fds,
                                                 [&](const UniqueFd& kept) {
                                                     return platform::is_same_open_file(
                                                         kept.get(), result.fds[0].get());
                                                 }))
                    << "systemd drops it: " << name;
                names.push_back(name);
                fds.push_back(std::move(result.fds[0]));
            } else if (text.starts_with("FDSTOREREMOVE=1")) {
                for (size_t i = names.size(); i-- > 0;) {
                    if (names[i] == name) {
                        names.erase(names.begin() + static_cast<ptrdiff_t>(i));
                        fds.erase(fds.begin() + static_cast<ptrdiff_t>(i));
                    }
                }
            }
            ready = ready || text.find("READY=1") != std::string::npos;
            const size_t status_at = text.find("STATUS=");
            if (status_at != std::string::npos) {
                status = text.substr(status_at + 7);
            }
        }
    }

    /// Starts the service with what the store has. Null when it does not get ready.
    [[nodiscard]] std::unique_ptr<ChildProcess> start(const std::string& program,
                                                      const std::string& arguments) {
        ready = false;
        std::string listed;
        ChildProcess::Options options;
        int number = 3;
        for (const auto& [name, fd] : sockets) {
            listed += (listed.empty() ? "" : ":") + name;
            options.descriptors.emplace_back(fd, number++);
        }
        for (size_t i = 0; i < fds.size(); ++i) {  // what it keeps, behind those
            listed += (listed.empty() ? "" : ":") + names[i];
            options.descriptors.emplace_back(fds[i].get(), number++);
        }
        std::string command = "NOTIFY_SOCKET=" + path_.string();
        if (!listed.empty()) {
            command += " LISTEN_PID=$$ LISTEN_FDS=" + std::to_string(number - 3) +
                       " LISTEN_FDNAMES=" + listed;
        }
        command += " exec " + program + " --keeper=" + keeper + " " + arguments;
        options.arguments = {"-c", command};
        auto service = std::make_unique<ChildProcess>("/bin/sh", options);
        const bool came = eventually([&] {
            read();
            return ready;
        });
        EXPECT_TRUE(came) << service->complained();
        return came ? std::move(service) : nullptr;
    }

    std::string keeper = "systemd";
    std::vector<std::pair<std::string, int>>
        sockets;  // of its own, which it passes first; borrowed
    bool ready = false;
    std::string status;  // as the service told it last
    std::vector<std::string> names;
    std::vector<UniqueFd> fds;

  private:
    std::filesystem::path path_;
    UniqueFd socket_;
};

}  // namespace outrigger::testing
