// SPDX-License-Identifier: Apache-2.0
// Sockets that a service manager passes by name, for operators and for metrics: they are served,
// whoever is killed meanwhile, stay where they are, and what is wrong with them is said.
#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/keeper_test.h"
#include "tests/integration/service_manager.h"
#include "tests/support/passed_sockets.h"

namespace outrigger::testing {
namespace {

constexpr Ended kUsage{.status = 2};

/// What comes behind a request for metrics, or nothing.
std::string metrics_from(const sockaddr* address, socklen_t bytes) {
    const UniqueFd socket(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{.tv_sec = kPatience.count() / 1000, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    constexpr std::string_view kGet = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    if (::connect(socket.get(), address, bytes) != 0 ||
        ::send(socket.get(), kGet.data(), kGet.size(), MSG_NOSIGNAL) < 0) {
        return {};
    }
    std::string all;
    std::array<char, 4096> buffer{};
    ssize_t got = 0;
    while ((got = ::recv(socket.get(), buffer.data(), buffer.size(), 0)) > 0) {
        all.append(buffer.data(), static_cast<size_t>(got));
    }
    return all;
}

bool has_metrics(const std::string& answer) {
    return answer.find("outrigger_device_connected") != std::string::npos;
}

class ActivatedSocketsTest : public KeeperTest {
  protected:
    void SetUp() override {
        KeeperTest::SetUp();
        passed_.add_unix("vhost-user", socket_.string());
    }

    [[nodiscard]] std::string path(const std::string& name) const { return folder_ / name; }

    /// By a keeper, unless they say otherwise.
    void start_passed(std::vector<std::string> arguments) {
        if (!std::ranges::any_of(arguments, [](const std::string& argument) {
                return argument.starts_with("--keeper=");
            })) {
            arguments.insert(arguments.begin(), {"--keeper=fork", kManyRestarts});
        }
        daemon_ = passed_.start(program_, arguments);
    }

    void serve(std::vector<std::string> arguments) {
        start_passed(std::move(arguments));
        // It is ready, and its keeper knows it, a moment later.
        ASSERT_TRUE(connect().get_features()) << daemon_->complained();
    }

    void expect_refusal(const std::vector<std::string>& arguments, const std::string& why) {
        start_passed(arguments);
        EXPECT_EQ(daemon_->wait(), kUsage) << daemon_->complained();
        const std::string said = daemon_->complained();
        EXPECT_NE(said.find(why), std::string::npos) << said;
        EXPECT_EQ(std::ranges::count(said, '\n'), 1) << said;
    }

    /// What outriggerctl prints, if it ends so.
    std::string ask(std::vector<std::string> arguments,
                    const std::string& socket = "control",
                    const Ended& ended = kClean) {
        const char* const ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
        EXPECT_NE(ctl, nullptr) << "names outriggerctl";
        arguments.insert(arguments.begin(), "--socket=" + path(socket));
        ChildProcess asked(ctl != nullptr ? ctl : "", {.arguments = std::move(arguments)});
        EXPECT_EQ(asked.wait(), ended) << asked.complained() << daemon_->complained();
        return asked.printed() + asked.complained();
    }

    void expect_answers(const std::string& socket = "control") {
        EXPECT_NE(ask({"show"}, socket).find("rng"), std::string::npos);
    }

    [[nodiscard]] std::string metrics_at(const std::string& name) const {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path(name).c_str(), sizeof address.sun_path - 1);
        // SAFETY: sockets' addresses are passed so.
        return metrics_from(reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }

    [[nodiscard]] static std::string metrics_at_port(uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        // SAFETY: as above.
        return metrics_from(reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }

    void write_config(const std::string& text) const { std::ofstream(path("config")) << text; }

    PassedSockets passed_;
};

const std::string kFront = "--fd-name=vhost-user";
const std::string kControl = "--control-fd-name=control";

// --- The control socket ------------------------------------------------------------------------

TEST_F(ActivatedSocketsTest, TheControlSocketStaysAsItsUnitMadeIt) {
    passed_.add_unix("control", path("control"), SOCK_STREAM, 0640);
    serve({"--keeper=none", kFront, kControl});
    expect_answers();
    EXPECT_NE(ask({"show"}).find("fd-name vhost-user"), std::string::npos);
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    struct stat status = {};
    ASSERT_EQ(::stat(path("control").c_str(), &status), 0) << "it is the service manager's";
    EXPECT_EQ(status.st_mode & 0777, 0640U);
    serve({"--keeper=none", kFront, kControl});
    expect_answers();
}

TEST_F(ActivatedSocketsTest, TheControlSocketIsServedBehindEachKill) {
    passed_.add_unix("control", path("control"));
    serve({kFront, kControl});
    Guest guest(connect());
    for (int round = 0; round < 3; ++round) {
        kill_worker();
        expect_answers();
        EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    }
    EXPECT_NE(ask({"take-over"}).find("taken"), std::string::npos);
    expect_answers();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

TEST_F(ActivatedSocketsTest, OtherUsersAreRefusedWhateverTheUnitLetsIn) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can be somebody else";
    }
    ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
    passed_.add_unix("control", path("control"), SOCK_STREAM, 0666);
    serve({"--keeper=none", kFront, kControl});
    expect_answers();
    const char* const ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd said(ends[0]);
    const pid_t child = ::fork();
    if (child == 0) {
        constexpr uid_t kNobody = 65534;
        // Opened before: where the program lies may be for us alone.
        const int program = ::open(ctl, O_PATH);
        ::dup2(ends[1], STDERR_FILENO);
        if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) {
            ::_exit(2);
        }
        const std::string socket = "--socket=" + path("control");
        const std::array<const char*, 4> argv = {"outriggerctl", socket.c_str(), "show", nullptr};
        ::fexecve(program, const_cast<char**>(argv.data()), environ);
        ::_exit(3);
    }
    ::close(ends[1]);
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 1);
    std::array<char, 1024> text{};
    const ssize_t length = ::read(said.get(), text.data(), text.size());
    EXPECT_NE(std::string(text.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)))
                  .find("only the user of the program"),
              std::string::npos);
    expect_answers();
}

// Other users look like root in a user namespace of the daemon's own: root is answered where nobody
// else gets as far as that.
TEST_F(ActivatedSocketsTest, RootIsAnsweredWhereNobodyElseMayConnect) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can be somebody else";
    }
    constexpr uid_t kSomebody = 64321;
    constexpr uid_t kNobody = 65534;  // like whom all look that have no number there

    struct Case {
        uid_t user;
        mode_t mode;
        uid_t owner;
        bool is_private;
    };

    // Where the program lies may be for us alone.
    ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
    fs::copy_file(program_, path("program"));
    for (const Case& one : {Case{kSomebody, 0600, kSomebody, true},
                            Case{kSomebody, 0644, kSomebody, true},
                            Case{kSomebody, 0660, kSomebody, false},
                            Case{kSomebody, 0666, kSomebody, false},
                            Case{kSomebody, 0600, 0, false},
                            Case{kNobody, 0600, kNobody, true},
                            Case{kNobody, 0666, kNobody, false}}) {
        const std::string user = std::to_string(one.user);
        SCOPED_TRACE(std::to_string(one.mode) + " of " + std::to_string(one.owner));
        const std::string name = std::to_string(one.mode) + "-" + std::to_string(one.owner);
        PassedSockets passed;
        passed.add_unix("vhost-user", path("front-" + name));
        passed.add_unix("control", path(name), SOCK_STREAM, one.mode);
        ASSERT_EQ(::chown(path(name).c_str(), one.owner, one.owner), 0);
        daemon_ = passed.start(
            "setpriv --reuid=" + user + " --regid=" + user + " --clear-groups " + path("program"),
            {"--keeper=none", kFront, kControl});
        ASSERT_TRUE(daemon_->wait_complained("control: listening")) << daemon_->complained();
        const std::string theirs = "/proc/" + std::to_string(daemon_->pid()) + "/ns/user";
        const bool can_tell_root =
            fs::read_symlink(theirs) == fs::read_symlink("/proc/self/ns/user");
        if (one.is_private || can_tell_root) {
            expect_answers(name);
        } else {
            EXPECT_NE(ask({"show"}, name, {.status = 1}).find("only the user of the program"),
                      std::string::npos);
            EXPECT_TRUE(daemon_->wait_complained(one.user == kNobody
                                                     ? "nobody may use the socket"
                                                     : "only this program's user may use it"))
                << daemon_->complained();
        }
        daemon_.reset();
    }
}

// As --control-fd is, too: a connection that has gone with its process is no reason to end.
TEST_F(ActivatedSocketsTest, AControlConnectionEndsWithItsProcessAndTheProgramGoesOn) {
    std::array<int, 2> pair{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    const UniqueFd operators_end(pair[0]);
    passed_.add("control", UniqueFd(pair[1]));
    serve({kFront, kControl});
    passed_.forget();
    Guest guest(connect());
    kill_worker();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    char byte = 0;
    EXPECT_EQ(::recv(operators_end.get(), &byte, 1, 0), 0) << "nobody has the other end";
    kill_worker();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

// --- Metrics -----------------------------------------------------------------------------------

TEST_F(ActivatedSocketsTest, MetricsAreToldOnAUnixSocket) {
    passed_.add_unix("metrics", path("metrics"));
    serve({kFront, "--metrics-fd-name=metrics"});
    EXPECT_TRUE(has_metrics(metrics_at("metrics"))) << daemon_->complained();
    kill_worker();
    EXPECT_TRUE(has_metrics(metrics_at("metrics"))) << daemon_->complained();
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_TRUE(fs::exists(path("metrics"))) << "it is the service manager's";
}

// The sandbox has no network, and needs none for it.
TEST_F(ActivatedSocketsTest, MetricsAreToldOnATcpSocket) {
    const uint16_t port = passed_.add_tcp("metrics");
    serve({kFront, "--metrics-fd-name=metrics"});
    EXPECT_TRUE(has_metrics(metrics_at_port(port))) << daemon_->complained();
    kill_worker();
    EXPECT_TRUE(has_metrics(metrics_at_port(port))) << daemon_->complained();
}

// --- What is wrong -------------------------------------------------------------------------------

TEST_F(ActivatedSocketsTest, ASocketOfAnotherKindIsSaidToBe) {
    passed_.add_unix("datagrams", path("d"), SOCK_DGRAM);
    passed_.add_unix("packets", path("p"), SOCK_SEQPACKET);
    passed_.add_tcp("tcp");
    passed_.add("idle", UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));
    passed_.add("file", UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
    for (const std::string keeper : {"--keeper=none", "--keeper=fork"}) {
        for (const std::string name : {"datagrams", "packets", "tcp", "idle", "file"}) {
            expect_refusal({keeper, kFront, "--control-fd-name=" + name},
                           "--control-fd-name=" + name +
                               ": what the service manager passes is no Unix stream socket that "
                               "listens (ListenStream=PATH) or is connected");
        }
        for (const std::string name : {"datagrams", "packets", "idle", "file"}) {
            expect_refusal({keeper, kFront, "--metrics-fd-name=" + name},
                           "--metrics-fd-name=" + name +
                               ": what the service manager passes is no stream socket that "
                               "listens, Unix or TCP (ListenStream=)");
        }
        expect_refusal({keeper, "--fd-name=tcp"},
                       "--fd-name=tcp: what the service manager passes is no Unix stream socket");
    }
}

TEST_F(ActivatedSocketsTest, NamesAreOfOneSocketAndOneOption) {
    passed_.add_unix("twice", path("a"));
    passed_.add_unix("twice", path("b"));
    expect_refusal({kFront, "--control-fd-name=none"},
                   "--control-fd-name=none: the service manager passes no socket of that name; it "
                   "passes 'vhost-user:twice:twice'");
    expect_refusal({kFront, "--metrics-fd-name=twice"},
                   "--metrics-fd-name=twice: the service manager passes several sockets of that "
                   "name: give each its own");
    expect_refusal({kFront, "--control-fd-name=vhost-user"},
                   "--fd-name and --control-fd-name both take the socket vhost-user");
    expect_refusal({kFront, kControl, "--control-socket=" + path("control")},
                   "--control-socket, --control-fd and --control-fd-name exclude each other");
}

TEST_F(ActivatedSocketsTest, SocketsWithoutNamesAreSaidToHaveNone) {
    passed_.take_names_away();
    expect_refusal({"--keeper=none", kFront},
                   "--fd-name=vhost-user: the service manager passes sockets without names "
                   "($LISTEN_FDNAMES)");
}

// --- What nobody names -------------------------------------------------------------------------

TEST_F(ActivatedSocketsTest, DescriptorsThatNobodyNamesAreClosed) {
    for (const std::string keeper : {"--keeper=none", "--keeper=fork"}) {
        SCOPED_TRACE(keeper);
        std::array<int, 2> pair{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
        const UniqueFd ours(pair[0]);
        PassedSockets passed;
        // Of a keeper that another unit had before.
        passed.add("outrigger.l0", UniqueFd(::fcntl(pair[1], F_DUPFD_CLOEXEC, 3)));
        passed.add("other", UniqueFd(pair[1]));
        passed.add_unix("vhost-user", path("vhost-user" + keeper));
        passed.add_unix("control", path("control" + keeper));
        daemon_ = passed.start(program_, {keeper, kManyRestarts, kFront, kControl});
        ASSERT_TRUE(daemon_->wait_complained("control: listening")) << daemon_->complained();
        passed.forget();
        char byte = 0;
        EXPECT_EQ(::recv(ours.get(), &byte, 1, 0), 0) << "somebody has the other end";
        expect_answers("control" + keeper);
        if (keeper == "--keeper=fork") {
            ASSERT_TRUE(eventually([&] { return worker() > 0; }));
            Frontend frontend =
                Frontend::connect(path("vhost-user" + keeper), driver::after(kPatience)).value();
            ASSERT_TRUE(frontend.get_features());
            kill_worker();
            expect_answers("control" + keeper);
        }
        daemon_.reset();
    }
}

TEST_F(ActivatedSocketsTest, ANumberIsAsGoodAsAName) {
    passed_.add_unix("control", path("control"));
    serve({"--fd=3", "--control-fd=4"});
    expect_answers();
    kill_worker();
    expect_answers();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

// --- Several devices -----------------------------------------------------------------------------

TEST_F(ActivatedSocketsTest, EachDeviceHasItsOwnSocket) {
    passed_.add_unix("second", path("second"));
    serve({"--device=fd-name=vhost-user", "--device=fd-name=second,name=other"});
    EXPECT_TRUE(Frontend::connect(path("second"), driver::after(kPatience)).value().get_features());
    kill_worker();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
    EXPECT_TRUE(Frontend::connect(path("second"), driver::after(kPatience)).value().get_features());
    expect_refusal({"--device=fd-name=vhost-user", "--device=fd-name=vhost-user"},
                   "two devices have the same socket");
}

TEST_F(ActivatedSocketsTest, SectionsOfAFileNameThem) {
    passed_.add_unix("second", path("second"));
    passed_.add_unix("control", path("control"));
    write_config("[one]\nfd-name = vhost-user\n");
    serve({"--config=" + path("config"), kControl});
    Guest guest(connect());
    // One that nobody named when the keeper began.
    write_config("[one]\nfd-name = vhost-user\n[two]\nfd-name = second\n");
    daemon_->send_signal(SIGHUP);
    EXPECT_TRUE(daemon_->wait_complained("the new program has taken over"))
        << daemon_->complained();
    EXPECT_TRUE(Frontend::connect(path("second"), driver::after(kPatience)).value().get_features());
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    kill_worker();
    EXPECT_NE(ask({"show"}).find("two"), std::string::npos);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    EXPECT_TRUE(Frontend::connect(path("second"), driver::after(kPatience)).value().get_features());
    // Without a service manager there is nothing to look at.
    ChildProcess check(program_,
                       {.arguments = {"--check", "--config=" + path("config"), kControl}});
    EXPECT_EQ(check.wait(), kClean) << check.complained();
}

/// Connections, and who is at their other ends.
class PassedConnectionsTest : public ActivatedSocketsTest {
  protected:
    void pass(const std::string& name) {
        std::array<int, 2> ends{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        passed_.add(name, UniqueFd(ends[0]));
        peers_.emplace_back(ends[1]);
        sections_ += "[" + name + "]\nfd-name = " + name + "\n";
    }

    void reload(const std::string& sections) {
        write_config(sections);
        daemon_->send_signal(SIGHUP);
    }

    /// Do all of them see that they are connected to nobody?
    [[nodiscard]] bool are_hung_up() const {
        return std::ranges::all_of(peers_, [](const UniqueFd& peer) {
            pollfd entry{.fd = peer.get(), .events = 0, .revents = 0};
            return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLHUP) != 0;
        });
    }

    static constexpr const char* kOne = "[one]\nfd-name = vhost-user\n";
    std::vector<UniqueFd> peers_;
    std::string sections_;  // of the connections
};

// Their numbers are not those of anything else then.
TEST_F(PassedConnectionsTest, FileThatNamesThemNoMoreIsServed) {
    for (const char* const name : {"a", "b", "c", "d", "e", "f"}) {
        pass(name);
    }
    write_config(kOne + sections_);
    serve({"--config=" + path("config")});
    passed_.forget();
    reload(kOne);
    EXPECT_TRUE(eventually([&] { return are_hung_up(); })) << daemon_->complained();
    EXPECT_TRUE(daemon_->wait_complained("the new program has taken over"))
        << daemon_->complained();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

// --- Numbers -------------------------------------------------------------------------------------

/// A control socket that is passed under a number, which the file names or does not.
class ControlNumberTest : public ActivatedSocketsTest {
  protected:
    /// vhost-user has 3.
    static constexpr const char* kNamed = "control-fd = 4\n[one]\nfd-name = vhost-user\n";
    static constexpr const char* kUnnamed = "[one]\nfd-name = vhost-user\n";

    void serve_file(const std::string& text) {
        write_config(text);
        serve({"--config=" + path("config")});
        passed_.forget();
    }

    void reload(const std::string& text, const std::string& outcome) {
        const auto count = [&] {
            const std::string said = daemon_->complained();
            size_t found = 0;
            for (size_t at = 0; (at = said.find(outcome, at)) != std::string::npos; ++at) {
                ++found;
            }
            return found;
        };
        write_config(text);
        const size_t before = count();
        daemon_->send_signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count() > before; })) << daemon_->complained();
        EXPECT_TRUE(connect().get_features()) << daemon_->complained();
    }

    static constexpr const char* kTakenOver = "the new program has taken over";
    static constexpr const char* kGoneBack = "going back to the program before";
};

TEST_F(ControlNumberTest, OneThatIsNamedLaterIsServedAndKept) {
    passed_.add_unix("control", path("control"));
    serve_file(kUnnamed);
    reload(kNamed, kTakenOver);
    expect_answers();
    kill_worker();
    expect_answers();
    reload(kNamed, kTakenOver);
    expect_answers();
}

TEST_F(ControlNumberTest, OneThatIsNamedAgainIsRefused) {
    passed_.add_unix("control", path("control"));
    serve_file(kNamed);
    expect_answers();
    reload(kUnnamed, kTakenOver);
    reload(kNamed, kGoneBack);
    kill_worker();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

TEST_F(ControlNumberTest, ConnectionThatHasGoneIsNoneThatIsNamedAgain) {
    std::array<int, 2> pair{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    const UniqueFd operators_end(pair[0]);
    passed_.add("control", UniqueFd(pair[1]));
    serve_file(kNamed);
    reload(kNamed, kTakenOver);
    kill_worker();
    reload(kNamed, kTakenOver);
    reload(kUnnamed, kTakenOver);
    reload(kNamed, kGoneBack);
}

// --- The store of systemd ------------------------------------------------------------------------

class StoredTest : public ActivatedSocketsTest {
  protected:
    void start_service(ServiceManager& manager, const std::string& arguments) {
        daemon_ = manager.start(program_, arguments);
        ASSERT_NE(daemon_, nullptr);
    }

    void restart_service(ServiceManager& manager, const std::string& arguments) {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        manager.read();
        start_service(manager, arguments);
    }
};

TEST_F(StoredTest, WhatIsPassedIsNotStored) {
    ServiceManager manager(folder_ / "notify");
    PassedSockets own;
    manager.sockets = {
        {"vhost-user", own.add_unix("vhost-user", path("front"))},
        {"control", own.add_unix("control", path("control"))},
        {"metrics", own.add_unix("metrics", path("metrics"))},
    };
    const std::string arguments = kFront + " " + kControl + " --metrics-fd-name=metrics";
    start_service(manager, arguments);
    for (int round = 0; round < 2; ++round) {
        manager.read();
        for (const std::string& name : manager.names) {
            EXPECT_FALSE(name.starts_with("outrigger.l")) << name;
        }
        expect_answers();
        EXPECT_TRUE(has_metrics(metrics_at("metrics")));
        restart_service(manager, arguments);
    }
    EXPECT_TRUE(fs::exists(path("control")));
}

// An operator begins to have systemd make it, and restarts the service.
TEST_F(StoredTest, TheOneThatIsPassedTakesThePlaceOfTheOneThatWasMade) {
    ServiceManager manager(folder_ / "notify");
    const std::string front = "--socket-path=" + path("front");
    start_service(manager, front + " --control-socket=" + path("made"));
    expect_answers("made");
    PassedSockets own;
    manager.sockets = {{"control", own.add_unix("control", path("control"))}};
    restart_service(manager, front + " " + kControl);
    expect_answers();
    EXPECT_FALSE(fs::exists(path("made"))) << "nobody listens there";
    manager.sockets.clear();
    restart_service(manager, front + " --control-socket=" + path("made"));
    expect_answers("made");
    EXPECT_TRUE(fs::exists(path("control"))) << "it is the service manager's";
}

}  // namespace
}  // namespace outrigger::testing
