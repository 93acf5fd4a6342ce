// SPDX-License-Identifier: Apache-2.0
// Daemons that the machine starts itself: they serve, are started again when they die, say what is
// wrong when they cannot, and are gone when the machine is.
#include "vmm-lite/children.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vhost-user-backend/base/platform.h"

#include "tests/support/process_counts.h"
#include "tests/vmm/proxied_disk.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using Phase = vmm::RemoteDevice::Phase;

constexpr uint64_t kDiskBytes = ProxiedDisk::kBlocks * ProxiedDisk::kBlockBytes;

class ChildrenTest : public ::testing::Test {
  protected:
    void SetUp() override {
        ::signal(SIGPIPE, SIG_IGN);
        std::string name = ::testing::TempDir() + "children-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        std::ofstream(folder_ / "image").close();
        fs::resize_file(folder_ / "image", kDiskBytes);
    }

    void TearDown() override {
        host_.reset();
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    static std::string program(const char* variable) {
        const char* path = std::getenv(variable);
        EXPECT_NE(path, nullptr) << "names the program under test";
        return path != nullptr ? path : "";
    }

    [[nodiscard]] vmm::Children::Command blk(const std::string& image) const {
        auto command = vmm::blk_daemon("blk0", image, false);
        command.program = program("OUTRIGGER_BLK_PROGRAM");
        return command;
    }

    [[nodiscard]] Result<void> start(const vmm::Children::Command& command,
                                     const std::string& kind = "blk",
                                     const vmm::ReconnectPolicy& reconnect = {},
                                     const vmm::Deadlines& deadlines = {}) {
        host_ = std::make_unique<ProxyHost>(
            ProxyHost::Options{.kind = kind,
                               .make_source =
                                   [this, command](vmm::EventLoop& loop) {
                                       children_ = vmm::Children::start(loop).value();
                                       return children_->source(command);
                                   },
                               .before_end = [this] { children_.reset(); },
                               .deadlines = deadlines,
                               .reconnect = reconnect});
        return host_->connect();
    }

    [[nodiscard]] pid_t daemon(const std::string& name = "blk0") {
        return host_->on_loop<pid_t>([this, name] { return children_->process_of(name); });
    }

    /// Whether somebody listens at a socket of this name, as programs of the host find it.
    [[nodiscard]] bool listens(const std::string& name) const {
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        const std::string path = folder_ / name;
        if (path.size() >= sizeof address.sun_path) {
            return false;
        }
        std::memcpy(address.sun_path, path.data(), path.size());
        const UniqueFd socket = platform::open_unix_socket(SOCK_STREAM);
        // SAFETY: the socket interface takes every address by the type of their common head.
        const auto* const general = reinterpret_cast<const sockaddr*>(&address);
        return ::connect(socket.get(), general, sizeof address) == 0;
    }

    /// A device whose daemon has a socket for the host at `name`: there when it serves, and there
    /// again when it was killed, though the dead one could not take its socket away.
    void expect_that_it_listens_again(const vmm::Children::Command& command,
                                      const std::string& kind,
                                      uint16_t rings) {
        const auto started = start(command, kind);
        ASSERT_TRUE(started) << started.error().message;
        host_->activate({.count = rings});
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        EXPECT_TRUE(listens("host"));
        const pid_t pid = daemon(command.name);
        ASSERT_GT(pid, 0);
        ASSERT_EQ(::kill(pid, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] { return host_->status().losses == 1; }));
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        EXPECT_TRUE(listens("host"));
        EXPECT_EQ(host_->needs_resets(), 0);
    }

    fs::path folder_;
    std::unique_ptr<vmm::Children> children_;
    std::unique_ptr<ProxyHost> host_;
};

bool is_gone(pid_t pid) {
    return ::kill(pid, 0) != 0 && errno == ESRCH;
}

/// As /proc/PID/stat has it: 'T' is stopped. 0 when it is gone.
char state_of(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    const size_t name_end = text.rfind(") ");
    return name_end != std::string::npos && name_end + 2 < text.size() ? text[name_end + 2] : '\0';
}

TEST_F(ChildrenTest, ServesADisk) {
    const auto started = start(blk(folder_ / "image"));
    ASSERT_TRUE(started) << started.error().message;
    host_->activate({.count = 2});
    ProxiedDisk disk(*host_, 2);
    EXPECT_TRUE(disk.write_all(1));
    EXPECT_TRUE(disk.read_all());
    const pid_t pid = daemon();
    ASSERT_GT(pid, 0);
    host_.reset();
    EXPECT_TRUE(is_gone(pid));
}

TEST_F(ChildrenTest, ServesRandomBytes) {
    auto command = vmm::rng_daemon("rng0", "/dev/urandom");
    command.program = program("OUTRIGGER_RNG_PROGRAM");
    const auto started = start(command, "rng");
    ASSERT_TRUE(started) << started.error().message;
    host_->activate({.count = 1});
    const GuestAddr buffer = host_->memory().allocate(64, 64).value();
    const std::array<driver::Segment, 1> segments{{{buffer, 64, true}}};
    const auto used = host_->queue(0).transact(segments, driver::after(kPatience));
    ASSERT_TRUE(used);
    EXPECT_GT(used->length, 0U);
}

TEST_F(ChildrenTest, ServesSockets) {
    auto command = vmm::vsock_daemon("vsock0", folder_ / "host", 7);
    command.program = program("OUTRIGGER_VSOCK_PROGRAM");
    expect_that_it_listens_again(command, "vsock", 3);
    std::array<std::byte, 8> cid{};
    host_->device().read_config(0, cid);
    EXPECT_EQ(cid[0], std::byte{7});
}

TEST_F(ChildrenTest, ServesAConsole) {
    auto command = vmm::console_daemon("console0", folder_ / "host");
    command.program = program("OUTRIGGER_CONSOLE_PROGRAM");
    expect_that_it_listens_again(command, "console", 2);
}

TEST_F(ChildrenTest, StartsTheDaemonAgainUnderLoad) {
    ASSERT_TRUE(start(blk(folder_ / "image")));
    host_->activate({.count = 2});
    ProxiedDisk disk(*host_, 2);
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(host_->reaches(Phase::kRunning));
        const pid_t pid = daemon();
        ASSERT_GT(pid, 0);
        // Either with all requests of a full ring before it, or with what it has just taken.
        const bool stopped = i % 2 == 0;
        if (stopped) {
            ASSERT_EQ(::kill(pid, SIGSTOP), 0);
            ASSERT_TRUE(eventually([pid] { return state_of(pid) == 'T'; }));
        }
        int kicks = 0;
        uint32_t in_flight = 0;
        disk.behind_each_kick([&] {
            if (++kicks == (stopped ? 1 : 3)) {
                EXPECT_EQ(::kill(pid, SIGKILL), 0);
                in_flight = host_->queue(0).in_flight() + host_->queue(1).in_flight();
            }
        });
        ASSERT_TRUE(disk.write_all(static_cast<uint8_t>(i)));
        disk.behind_each_kick(nullptr);
        EXPECT_GT(in_flight, 0U);
        ASSERT_TRUE(eventually([&] { return host_->status().losses == uint64_t(i) + 1; }));
        ASSERT_TRUE(disk.read_all());
    }
    EXPECT_EQ(host_->needs_resets(), 0);
    EXPECT_NE(host_->status().last_loss.find("was killed by signal 9"), std::string::npos)
        << host_->status().last_loss;
}

TEST_F(ChildrenTest, SaysWhyADaemonDidNotStart) {
    const auto started = start(blk(folder_ / "nothing"));
    ASSERT_FALSE(started);
    EXPECT_NE(started.error().message.find("ended with status"), std::string::npos)
        << started.error().message;
    EXPECT_NE(started.error().message.find("nothing"), std::string::npos)
        << started.error().message;
    EXPECT_EQ(started.error().message.find('\n'), std::string::npos);
}

TEST_F(ChildrenTest, SaysThatThereIsNoSuchProgram) {
    auto command = blk(folder_ / "image");
    command.program = "outrigger-nothing";
    const auto started = start(command);
    ASSERT_FALSE(started);
    EXPECT_NE(started.error().message.find("put it beside vmm-lite or into $PATH"),
              std::string::npos)
        << started.error().message;
}

TEST_F(ChildrenTest, GivesUpADaemonThatEndsAgainAndAgain) {
    // Long enough for the second try, however busy the machine is: the first end is a kill.
    ASSERT_TRUE(
        start(blk(folder_ / "image"), "blk", {.patience = std::chrono::milliseconds(2500)}));
    host_->activate({.count = 1});
    ASSERT_TRUE(host_->reaches(Phase::kRunning));
    fs::remove(folder_ / "image");
    ASSERT_EQ(::kill(daemon(), SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return host_->needs_resets() == 1; }));
    EXPECT_NE(host_->status().last_loss.find("ended with status"), std::string::npos)
        << host_->status().last_loss;
}

/// One that goes on behind the reset would write into pages that the driver uses for something
/// else.
TEST_F(ChildrenTest, NoResetEndsBeforeADaemonThatWasStopped) {
    ASSERT_TRUE(
        start(blk(folder_ / "image"), "blk", {}, {.drain = std::chrono::milliseconds(200)}));
    host_->activate({.count = 2});
    ProxiedDisk disk(*host_, 2);
    ASSERT_TRUE(disk.write_all(1));
    const pid_t pid = daemon();
    ASSERT_GT(pid, 0);
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    ASSERT_TRUE(eventually([pid] { return state_of(pid) == 'T'; }));
    ASSERT_TRUE(host_->reset());
    EXPECT_NE(state_of(pid), 'T') << "it was not ended";
    EXPECT_NE(host_->status().last_loss.find("GET_VRING_BASE"), std::string::npos)
        << host_->status().last_loss;
    host_->activate({.count = 2});
    EXPECT_TRUE(disk.read_all());
    EXPECT_NE(daemon(), pid);
}

TEST_F(ChildrenTest, EndWithAMachineThatIsKilled) {
    auto pipe = platform::open_pipe().value();
    const pid_t machine = ::fork();
    ASSERT_GE(machine, 0);
    if (machine == 0) {
        if (!start(blk(folder_ / "image"))) {
            ::_exit(1);
        }
        const pid_t pid = daemon();
        (void)!::write(pipe.write_end.get(), &pid, sizeof pid);
        ::pause();
        ::_exit(0);
    }
    pipe.write_end.reset();
    pid_t pid = 0;
    ASSERT_EQ(::read(pipe.read_end.get(), &pid, sizeof pid), ssize_t{sizeof pid});
    ASSERT_GT(pid, 0);
    ::kill(machine, SIGKILL);
    ::waitpid(machine, nullptr, 0);
    EXPECT_TRUE(eventually([pid] { return is_gone(pid); }));
}

TEST_F(ChildrenTest, LeaveNothingBehind) {
    const ProcessCounts before = ProcessCounts::now();
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(start(blk(folder_ / "image")));
        host_.reset();
    }
    EXPECT_TRUE(comes_down_to(before));
    EXPECT_LT(::waitpid(-1, nullptr, WNOHANG), 0) << "no child of ours is left";
}

}  // namespace
}  // namespace outrigger::testing
