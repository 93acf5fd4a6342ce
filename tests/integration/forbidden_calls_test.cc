// SPDX-License-Identifier: Apache-2.0
// What a daemon could do once a guest had taken it over: a library inside of the process
// (forbidden_calls_library.cc) tries it on every thread there is, and is refused.
#include "tests/integration/forbidden_calls.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/child_process.h"
#include "tests/support/temporary_image.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

struct Daemon {
    const char* name;                    ///< $OUTRIGGER_NAME_PROGRAM
    std::vector<std::string> arguments;  ///< DIR is a folder, IMAGE a file
    size_t threads_min;                  ///< with a guest: control thread, workers, helper threads
};

void PrintTo(const Daemon& daemon, std::ostream* out) {
    *out << daemon.name;
}

const std::vector<Daemon> kDaemons = {
    {"BLK", {"--blk-file=IMAGE", "--io-engine=threads"}, 3},
    {"BLK", {"--blk-file=IMAGE", "--queue-threads=2"}, 3},
    {"CONSOLE", {"--port=name=a,backend=unix,path=DIR/port,log=DIR/log"}, 3},
    {"FS", {"--shared-dir=DIR/share", "--inode-file-handles=never", "--keeper=none"}, 2},
    {"NET", {"--backend=loop", "--keeper=none"}, 2},
    {"RNG", {"--source=/dev/urandom"}, 3},
    {"VSOCK", {"--guest-cid=7", "--uds-path=DIR/v", "--keeper=none"}, 2},
};

/// What a thread got: by the name of what it tried.
using Outcomes = std::map<std::string, std::string>;

constexpr size_t kForbiddenMin = 20;

class ForbiddenCallsTest : public ::testing::TestWithParam<Daemon> {
  protected:
    void SetUp() override {
        std::string name = ::testing::TempDir() + "forbidden-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        ASSERT_TRUE(fs::create_directory(folder_ / "share"));
        listen_by_tcp();
    }

    void TearDown() override {
        daemon_.reset();
        fs::remove_all(folder_);
    }

    void listen_by_tcp() {
        listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        // SAFETY: sockets' addresses are passed so.
        auto* const raw = reinterpret_cast<sockaddr*>(&address);
        ASSERT_EQ(::bind(listener_.get(), raw, size), 0);
        ASSERT_EQ(::listen(listener_.get(), 8), 0);
        ASSERT_EQ(::getsockname(listener_.get(), raw, &size), 0);
        ASSERT_EQ(
            ::setenv("OUTRIGGER_OPEN_PORT", std::to_string(ntohs(address.sin_port)).c_str(), 1), 0);
    }

    /// With a guest whose driver has started a queue.
    void start(const std::string& sandbox) {
        const Daemon& daemon = GetParam();
        const char* const program =
            std::getenv((std::string("OUTRIGGER_") + daemon.name + "_PROGRAM").c_str());
        const char* const library = std::getenv("OUTRIGGER_FORBIDDEN_CALLS");
        ASSERT_TRUE(program != nullptr && library != nullptr);
        const std::string socket = folder_ / "s";
        std::vector<std::string> arguments = {"--socket-path=" + socket, "--sandbox=" + sandbox};
        for (std::string argument : daemon.arguments) {
            const std::pair<std::string, std::string> texts[] = {{"DIR", folder_},
                                                                 {"IMAGE", image_.path()}};
            for (const auto& [word, text] : texts) {
                for (size_t at = 0; (at = argument.find(word, at)) != std::string::npos;
                     at += text.size()) {
                    argument.replace(at, word.size(), text);
                }
            }
            arguments.push_back(argument);
        }
        ASSERT_EQ(::setenv("LD_PRELOAD", library, 1), 0);
        daemon_ =
            std::make_unique<ChildProcess>(program, ChildProcess::Options{.arguments = arguments});
        ASSERT_EQ(::unsetenv("LD_PRELOAD"), 0);
        ASSERT_TRUE(daemon_->wait_complained(": listening")) << daemon_->complained();
        frontend_.emplace(driver::Frontend::connect(socket, driver::after(kPatience)).value());
        auto up = driver::bring_up(*frontend_, memory_, {.queue_count = 1});
        ASSERT_TRUE(up.has_value()) << up.error().step;
        running_ = *std::move(up);
        if (std::string(daemon.name) == "RNG") {  // the source's thread begins with the first one
            const driver::Segment buffer{
                .address = memory_.allocate(64, 16).value(), .length = 64, .device_writable = true};
            EXPECT_TRUE(running_.queues[0]
                            .transact(std::span(&buffer, 1), driver::after(kPatience))
                            .has_value());
        }
        EXPECT_TRUE(eventually([&] { return threads().size() >= daemon.threads_min; }))
            << threads().size();
    }

    [[nodiscard]] std::set<pid_t> threads() const {
        std::set<pid_t> ids;
        for (const auto& entry :
             fs::directory_iterator("/proc/" + std::to_string(daemon_->pid()) + "/task")) {
            ids.insert(std::stoi(entry.path().filename()));
        }
        return ids;
    }

    /// Call 0 is all of them.
    void let_try(pid_t thread, int call) const {
        siginfo_t info{};
        info.si_signo = try_signal();
        info.si_code = SI_QUEUE;
        info.si_pid = ::getpid();
        info.si_uid = ::getuid();
        info.si_value.sival_int = call;
        ASSERT_EQ(::syscall(SYS_rt_tgsigqueueinfo, daemon_->pid(), thread, try_signal(), &info), 0)
            << std::strerror(errno);
    }

    /// Waits until it has tried all.
    [[nodiscard]] Outcomes outcomes_of(const std::string& thread) const {
        const std::string begin = "FORBIDDEN " + thread + " ";
        EXPECT_TRUE(daemon_->wait_complained(begin + "end")) << daemon_->complained();
        Outcomes outcomes;
        std::istringstream lines(daemon_->complained());
        for (std::string line; std::getline(lines, line);) {
            if (!line.starts_with(begin) || line.starts_with(begin + "end")) {
                continue;
            }
            const std::string rest = line.substr(begin.size());
            for (const char* const outcome : {" refused by the filter", " error ", " works"}) {
                if (const size_t at = rest.rfind(outcome); at != std::string::npos) {
                    outcomes[rest.substr(0, at)] = rest.substr(at + 1);
                    break;
                }
            }
        }
        return outcomes;
    }

    TemporaryImage image_{16 << 20};
    fs::path folder_;
    UniqueFd listener_;
    std::unique_ptr<ChildProcess> daemon_;
    std::optional<driver::Frontend> frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running_;
};

TEST_P(ForbiddenCallsTest, AreRefusedOnEveryThread) {
    start("log");
    if (HasFatalFailure()) {
        return;
    }
    // These may, or get an error without a signal, because the C library goes on without.
    const std::set<std::string> without_signal = {
        "open /etc/shadow", "open /etc/shadow of the old root", "clone3"};
    for (const pid_t thread : threads()) {
        let_try(thread, 0);
        const Outcomes outcomes = outcomes_of(std::to_string(thread));
        EXPECT_GE(outcomes.size(), kForbiddenMin + without_signal.size()) << thread;
        for (const auto& [name, outcome] : outcomes) {
            EXPECT_NE(outcome, "works") << name << " on thread " << thread;
            if (!without_signal.contains(name)) {
                EXPECT_EQ(outcome, "refused by the filter") << name << " on thread " << thread;
            }
        }
    }
    frontend_.reset();
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 0})) << daemon_->complained();
}

// Capabilities, namespaces and Landlock, without the filter's help.
TEST_P(ForbiddenCallsTest, NamesAreOutOfReachBeforeTheFilter) {
    if (::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) <= 0) {
        GTEST_SKIP() << "the kernel has no Landlock: " << std::strerror(errno);
    }
    start("standard");
    if (HasFatalFailure()) {
        return;
    }
    const Outcomes outcomes = outcomes_of("unfiltered");
    EXPECT_GE(outcomes.size(), 13U);
    for (const auto& [name, outcome] : outcomes) {
        EXPECT_TRUE(outcome.starts_with("error ")) << name << ": " << outcome;
    }
}

TEST_P(ForbiddenCallsTest, OneOfThemEndsTheProcess) {
    constexpr int kSocket = 3;
    start("standard");
    if (HasFatalFailure()) {
        return;
    }
    const std::set<pid_t> all = threads();
    for (size_t i = 0; i < all.size(); ++i) {
        if (i > 0) {
            start("standard");
        }
        const std::set<pid_t> ids = threads();
        ASSERT_EQ(ids.size(), all.size());
        let_try(*std::next(ids.begin(), static_cast<std::ptrdiff_t>(i)), kSocket);
        EXPECT_EQ(daemon_->wait(), (Ended{.signal = SIGSYS})) << daemon_->complained();
        frontend_.reset();
    }
}

INSTANTIATE_TEST_SUITE_P(
    Of, ForbiddenCallsTest, ::testing::ValuesIn(kDaemons), [](const auto& instance) {
        return std::string(instance.param.name) + std::to_string(instance.index);
    });

}  // namespace
}  // namespace outrigger::testing
