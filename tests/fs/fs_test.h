// SPDX-License-Identifier: Apache-2.0
/// The fixture of the share's integration tests: outrigger-fs as a process, a directory that it
/// shares, another one beside it that nobody may reach, and a guest that speaks FUSE by hand.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/fs/fuse_asks.h"
#include "tests/fs/fuse_guest.h"
#include "tests/fs/numbered.h"
#include "tests/fs/temporary_directory.h"
#include "tests/support/child_process.h"
#include "tests/support/wait.h"

namespace outrigger::testing {

class FsTest : public ::testing::Test {
  protected:
    struct Options {
        std::vector<std::string> arguments{};
        FuseGuest::Options guest{};
        uint64_t init_flags = kInitFlagsOfLinux;
        bool init = true;
        bool keeper = false;  ///< its process may be killed: kill()
    };

    FsTest() {
        std::filesystem::create_directory(share());
        home_.write("secret", kSecret);
    }

    ~FsTest() override {
        // Whatever the guest did, the daemon lives and ends when it is told to.
        if (daemon_) {
            EXPECT_EQ(::kill(daemon_->pid(), 0), 0) << daemon_->complained();
            daemon_->send_signal(SIGTERM);
            const auto ended = daemon_->wait();
            EXPECT_TRUE(ended.has_value());
            EXPECT_EQ(ended.value_or(Ended{}), (Ended{.status = 0})) << daemon_->complained();
        }
    }

    /// What lies beside the share.
    static constexpr std::string_view kSecret = "what no guest may see";

    [[nodiscard]] std::string share() const { return home_ / "share"; }

    [[nodiscard]] std::string in_share(std::string_view name) const {
        return share() + "/" + std::string(name);
    }

    void write_in_share(std::string_view name, std::string_view content) const {
        home_.write("share/" + std::string(name), content);
    }

    [[nodiscard]] std::string read_in_share(std::string_view name) const {
        return home_.read("share/" + std::string(name));
    }

    /// Has the daemon an option of that name?
    [[nodiscard]] static bool offers(const std::string& option) {
        const char* const program = std::getenv("OUTRIGGER_FS_PROGRAM");
        ChildProcess help(program, ChildProcess::Options{.arguments = {"--help"}});
        EXPECT_TRUE(help.wait().has_value());
        return help.printed().find(option) != std::string::npos;
    }

    /// Can files of the share be opened by handle, by somebody who is root?
    [[nodiscard]] bool has_handles() const {
        union {
            struct file_handle head;
            char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
        } handle{};

        handle.head.handle_bytes = MAX_HANDLE_SZ;
        int mount = 0;
        return ::getuid() == 0 &&
               ::name_to_handle_at(AT_FDCWD, share().c_str(), &handle.head, &mount, 0) == 0;
    }

    /// Starts the daemon, connects the guest, and says INIT.
    void serve(const Options& options) {
        const char* const program = std::getenv("OUTRIGGER_FS_PROGRAM");
        if (program == nullptr) {
            throw std::runtime_error("OUTRIGGER_FS_PROGRAM names no daemon");
        }
        std::vector<std::string> arguments = {"--shared-dir=" + share()};
        const bool names_devices = std::ranges::any_of(
            options.arguments,
            [](const std::string& argument) { return argument.starts_with("--device="); });
        if (!names_devices) {
            arguments.push_back("--socket-path=" + (home_ / "socket"));
        }
        arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
        if (options.keeper) {
            arguments.emplace_back("--keeper=fork");
            arguments.emplace_back("--keeper-restarts=1000000");
        } else {
            // Its descriptors are looked at.
            arguments.emplace_back("--keeper=none");
        }
        daemon_.emplace(program, ChildProcess::Options{.arguments = arguments});
        connect(options);
    }

    void serve() { serve(Options{}); }

    /// A guest of the daemon that runs; the one before is gone.
    void connect(const Options& options) {
        guest_.reset();
        guest_.emplace(home_ / "socket", options.guest);
        // Thrown, so that a test ends that has no guest to go on with.
        if (!guest_->trouble().empty()) {
            throw std::runtime_error(guest_->trouble() + "\n" + daemon_->complained());
        }
        if (options.init && guest_->init(options.init_flags).error() != 0) {
            throw std::runtime_error("INIT is refused\n" + daemon_->complained());
        }
    }

    /// Of the process that serves, the keeper's child; -1 while there is none.
    [[nodiscard]] pid_t serving() const { return daemon_->first_child(); }

    /// What is asked from now on waits for the next process.
    void kill() {
        const pid_t pid = serving();
        ASSERT_GT(pid, 0);
        ::kill(pid, SIGKILL);
        EXPECT_TRUE(eventually([&] { return serving() != pid && serving() > 0; }));
    }

    [[nodiscard]] FuseGuest& guest() { return *guest_; }

    [[nodiscard]] ChildProcess& daemon() { return *daemon_; }

    FuseAnswer call(const FuseRequest& request) { return guest_->call(request); }

    int error_of(const FuseRequest& request) { return guest_->call(request).error(); }

    /// The node of a name; 0 when there is none.
    uint64_t node_of(std::string_view name, uint64_t parent = FUSE_ROOT_ID) {
        const FuseAnswer answer = call(ask::lookup(parent, name));
        return answer.error() == 0 ? answer.as<fuse_entry_out>().nodeid : 0;
    }

    struct OpenFile {
        uint64_t node = 0;
        uint64_t fh = 0;
    };

    /// A file of that content in the share, open to read and write.
    OpenFile create(std::string_view name,
                    std::string_view content = {},
                    uint32_t flags = 2 /* O_RDWR */) {
        const FuseAnswer answer = call(ask::create(FUSE_ROOT_ID, name, flags));
        EXPECT_EQ(answer.error(), 0) << name;
        const OpenFile file = {.node = answer.as<fuse_entry_out>().nodeid,
                               .fh = answer.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
        if (!content.empty()) {
            EXPECT_EQ(error_of(ask::write(file.node, file.fh, 0, content)), 0);
        }
        return file;
    }

    /// The next good request is served: that is what a bad one must not have changed.
    void expect_alive() {
        const FuseAnswer answer = call(ask::getattr(FUSE_ROOT_ID));
        EXPECT_EQ(answer.error(), 0) << daemon_->complained();
        EXPECT_EQ(answer.as<fuse_attr_out>().attr.mode & 0170000U, 0040000U);
    }

    TemporaryDirectory home_;
    std::optional<ChildProcess> daemon_;
    std::optional<FuseGuest> guest_;
};

}  // namespace outrigger::testing
