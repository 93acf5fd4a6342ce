// SPDX-License-Identifier: Apache-2.0
// A daemon whose process is killed, as its front end sees it: with a keeper, not at all.
#include "tests/integration/keeper_test.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/daemon/sanitizers.h"

namespace outrigger::testing {
namespace {

TEST_F(KeeperTest, ServesARingOnWhenTheProcessIsKilled) {
    start();
    Guest guest(connect());
    for (int round = 0; round < 3; ++round) {
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round << daemon_->complained();
        kill_worker();
    }
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    const auto base = guest.frontend.get_vring_base(0);
    ASSERT_TRUE(base) << daemon_->complained();
    EXPECT_EQ(*base, guest.running.queues[0].base());
}

/// The writing end of the pipe that a process leaves to the next one: whoever holds it has I/O
/// under way, as the kernel may have when the process has ended.
UniqueFd hold_io_of(pid_t pid) {
    const fs::path folder = "/proc/" + std::to_string(pid) + "/fd";
    for (int number = 3; number < 64; ++number) {
        const fs::path fd = folder / std::to_string(number);
        std::error_code error;
        const std::string target = fs::read_symlink(fd, error).string();
        const auto access = fs::symlink_status(fd, error).permissions();
        const bool is_writable = (access & fs::perms::owner_write) != fs::perms::none;
        if (!error && target.starts_with("pipe:") && is_writable) {
            return UniqueFd(::open(fd.c_str(), O_WRONLY | O_CLOEXEC));
        }
    }
    return {};
}

TEST_F(KeeperTest, NextProcessWaitsForTheIoOfTheOneBefore) {
    start();
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    UniqueFd under_way = hold_io_of(worker());
    ASSERT_TRUE(under_way.valid());
    kill_worker();
    ASSERT_TRUE(daemon_->wait_complained("has not ended what the process before began"));
    // Killed while it waits, it leaves the wait to the one that follows.
    kill_worker();
    ASSERT_TRUE(guest.running.queues[0].try_add(std::span(&guest.buffer, 1), 0));
    guest.running.queues[0].publish_and_kick();
    EXPECT_EQ(guest.running.queues[0].wait_used(driver::after(std::chrono::milliseconds(300))),
              driver::WaitResult::kTimeout);
    under_way.reset();
    EXPECT_EQ(guest.running.queues[0].wait_used(driver::after(kPatience)),
              driver::WaitResult::kUsed)
        << daemon_->complained();
}

TEST_F(KeeperTest, ProcessThatWaitsForIoCanBeTold) {
    start();
    UniqueFd under_way = hold_io_of(worker());
    ASSERT_TRUE(under_way.valid());
    kill_worker();
    ASSERT_TRUE(daemon_->wait_complained("has not ended what the process before began"));
    daemon_->send_signal(SIGTERM);
    EXPECT_TRUE(daemon_->wait());
    EXPECT_FALSE(socket_exists());
}

TEST_F(KeeperTest, KeepsWhatEachMessageOfABringUpSaid) {
    start();
    Frontend frontend = connect();
    driver::GuestMemory memory = driver::GuestMemory::create(4 << 20).value();
    const auto agreement = driver::negotiate(frontend, {});
    ASSERT_TRUE(agreement);
    kill_worker();
    EXPECT_EQ(*frontend.get_features() != FeatureSet(), true);
    ASSERT_TRUE(driver::share_memory(frontend, memory, *agreement));
    kill_worker();
    auto queue = driver::create_queue(memory, *agreement, {}, 0);
    ASSERT_TRUE(queue);
    const wire::VringAddress address = queue->vring_address(memory);
    EXPECT_EQ(frontend.set_vring_num(0, 256), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_vring_base(0, 0), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_vring_addr(address), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_vring_call(0, queue->call_fd()), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_vring_kick(0, queue->kick_fd()), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_vring_enable(0, 1), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.set_status(15), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.get_status().value_or(0), 15U);
    driver::Segment buffer{
        .address = memory.allocate(512, 16).value(), .length = 512, .device_writable = true};
    EXPECT_TRUE(queue->transact(std::span(&buffer, 1), driver::after(kPatience)))
        << daemon_->complained();
    // What was taken away stays away.
    EXPECT_EQ(frontend.rem_mem_reg(memory, driver::RegionId{0}), Answer::kAccepted);
    kill_worker();
    EXPECT_EQ(frontend.add_mem_reg(memory, driver::RegionId{0}), Answer::kAccepted)
        << daemon_->complained();
}

// Wherever in a message the process dies: each is carried out, and answered once.
TEST_F(KeeperTest, AnswersEveryMessageOnceWhileTheProcessIsKilled) {
    start();
    Frontend frontend = connect();
    driver::GuestMemory memory = driver::GuestMemory::create(4 << 20).value();
    const auto agreement = driver::negotiate(frontend, {});
    ASSERT_TRUE(agreement);
    const FeatureSet features = *frontend.get_features();
    const auto call = Notifier::create();
    ASSERT_TRUE(call);
    constexpr int kKills = 40;
    std::atomic<bool> killing = true;
    std::atomic<bool> failed = false;
    std::atomic<int> rounds = 0;
    std::thread killer([&] {
        for (int i = 0; i < kKills && !failed; ++i) {
            // However long it takes to start: the fourth may come to one that is on its way up.
            const int before = rounds;
            while (i % 4 != 3 && rounds == before && !failed) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(3 + i * 7 % 40));
            if (const pid_t pid = worker(); pid > 0) {
                ::kill(pid, SIGKILL);
            }
        }
        killing = false;
    });
    bool there = false;
    for (; killing; ++rounds) {
        const uint64_t status = static_cast<uint64_t>(rounds) % 200 + 1;
        EXPECT_EQ(frontend.get_features().value_or(FeatureSet()), features);
        EXPECT_EQ(frontend.set_vring_call(0, call->write_fd()), Answer::kAccepted);
        EXPECT_EQ(there ? frontend.rem_mem_reg(memory, driver::RegionId{0})
                        : frontend.add_mem_reg(memory, driver::RegionId{0}),
                  Answer::kAccepted);
        there = !there;
        EXPECT_EQ(frontend.set_status(status), Answer::kAccepted);
        EXPECT_EQ(frontend.get_status().value_or(0), status);
        EXPECT_EQ(frontend.set_vring_num(7, 256), Answer::kRefused);
        if (HasFailure()) {
            failed = true;
            break;
        }
    }
    killer.join();
    EXPECT_FALSE(frontend.has_input()) << "an answer too many";
    EXPECT_FALSE(HasFailure()) << daemon_->complained();
}

// It does not wait for any answer, so that many messages are in the socket at a time.
TEST_F(KeeperTest, ServesAFrontEndThatWaitsForNothing) {
    start();
    for (int round = 0; round < 5; ++round) {
        Frontend frontend = connect();
        frontend.set_ack_policy(driver::AckPolicy::kNever);
        Guest guest(std::move(frontend));
        if (round % 2 == 1) {
            kill_worker();
        }
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round << daemon_->complained();
    }
}

TEST_F(KeeperTest, TakesMessagesThatComeInPieces) {
    start();
    Frontend frontend = connect();
    frontend.set_ack_policy(driver::AckPolicy::kNever);
    const wire::Header header{.request = 2, .flags = wire::kVersion, .size = 8};
    const uint64_t features = uint64_t{1} << 32;
    std::array<std::byte, 20> bytes{};
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &features, sizeof features);
    for (const std::byte each : bytes) {
        ASSERT_EQ(frontend.send_bytes(std::span(&each, 1)), Answer::kUnasked);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_EQ(frontend.send_bytes(std::span(bytes).first(7)), Answer::kUnasked);
    kill_worker();
    ASSERT_EQ(frontend.send_bytes(std::span(bytes).subspan(7)), Answer::kUnasked);
    EXPECT_TRUE(frontend.get_features()) << daemon_->complained();
}

TEST_F(KeeperTest, NobodyIsTurnedAwayWhileTheProcessStarts) {
    start();
    for (int i = 0; i < 5; ++i) {
        ASSERT_EQ(::kill(worker(), SIGKILL), 0);
        Frontend frontend = connect();
        EXPECT_TRUE(frontend.get_features()) << daemon_->complained();
        frontend.close();
        ASSERT_TRUE(eventually([this] { return worker() > 0; }));
    }
}

TEST_F(KeeperTest, ASessionThatEndsIsSeenToEnd) {
    start();
    Frontend frontend = connect();
    ASSERT_TRUE(frontend.get_features());
    kill_worker();
    const wire::Header nonsense{.request = 1, .flags = 2, .size = 0};
    EXPECT_EQ(frontend.send(nonsense), Answer::kUnasked);
    EXPECT_TRUE(frontend.wait_closed()) << daemon_->complained();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
}

TEST_F(KeeperTest, GivesUpWhenTheProcessIsKilledTooOften) {
    const fs::path metrics = folder_ / "metrics";
    start({"--keeper-restarts=2", "--metrics=unix:" + metrics.string()});
    Frontend frontend = connect();
    ASSERT_TRUE(frontend.get_features());
    kill_worker();
    ASSERT_TRUE(frontend.get_features());
    kill_worker();
    ASSERT_TRUE(frontend.get_features());
    ASSERT_TRUE(fs::exists(metrics));
    ASSERT_EQ(::kill(worker(), SIGKILL), 0);
    EXPECT_TRUE(frontend.wait_closed());
    EXPECT_EQ(daemon_->wait(), kFailed);
    EXPECT_FALSE(socket_exists());
    EXPECT_FALSE(fs::exists(metrics));
    EXPECT_NE(daemon_->complained().find("giving up"), std::string::npos);
}

TEST_F(KeeperTest, TheProcessEndsWithItsKeeper) {
    start();
    const pid_t process = worker();
    ASSERT_GT(process, 0);
    daemon_->send_signal(SIGKILL);
    EXPECT_EQ(daemon_->wait(), (Ended{.status = -1, .signal = SIGKILL}));
    EXPECT_TRUE(eventually([&] { return ::kill(process, 0) != 0; }));
    EXPECT_FALSE(socket_exists());
}

TEST_F(KeeperTest, IsConfinedUnlessItIsToldNotToBe) {
    if (kSanitized) {
        GTEST_SKIP() << "the sanitizers need more";
    }
    const auto seccomp = [this] {
        std::ifstream file("/proc/" + std::to_string(daemon_->pid()) + "/status");
        for (std::string line; std::getline(file, line);) {
            if (line.starts_with("Seccomp:")) {
                return line.back();
            }
        }
        return '?';
    };
    start();
    EXPECT_EQ(seccomp(), '2');
    start({kManyRestarts, "--sandbox=none"});
    EXPECT_EQ(seccomp(), '0');
}

TEST_F(KeeperTest, PassesSignalsAndExitStatusOn) {
    start();
    Frontend frontend = connect();
    ASSERT_TRUE(frontend.get_features());
    daemon_->send_signal(SIGTERM);
    EXPECT_TRUE(frontend.wait_closed());
    EXPECT_EQ(daemon_->wait(), kClean) << daemon_->complained();
    EXPECT_FALSE(socket_exists());

    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--keeper=fork",
                          "--socket-path=" + (folder_ / "nowhere" / "s").string()}});
    EXPECT_EQ(daemon_->wait(), kFailed) << daemon_->complained();
}

TEST_F(KeeperTest, KeepsAnInheritedConnection) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    UniqueFd theirs(ends[1]);
    Frontend frontend{UniqueFd(ends[0])};
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{.arguments = {"--keeper=fork", "--fd=7", kManyRestarts},
                              .descriptors = {{theirs.get(), 7}}});
    theirs.reset();
    ASSERT_TRUE(frontend.get_features()) << daemon_->complained();
    kill_worker();
    ASSERT_TRUE(frontend.get_features()) << daemon_->complained();
    const wire::Header nonsense{.request = 1, .flags = 2, .size = 0};
    EXPECT_EQ(frontend.send(nonsense), Answer::kUnasked);
    EXPECT_TRUE(frontend.wait_closed()) << "somebody still has it";
    EXPECT_EQ(daemon_->wait(), kClean) << daemon_->complained();
}

// --- Another binary
// --------------------------------------------------------------------------------

class TakeOverTest : public KeeperTest {
  protected:
    fs::path copy_to(const std::string& name) {
        fs::path copy = folder_ / name;
        fs::copy_file(program_, copy);
        return copy;
    }

    /// Where the binary was there is another one from now on, which serves nobody.
    void put_impostor_in_place() {
        const char* const impostor = std::getenv("OUTRIGGER_IMPOSTOR_PROGRAM");
        ASSERT_NE(impostor, nullptr);
        fs::rename(program_, folder_ / "old");
        fs::copy_file(impostor, program_);
    }

    [[nodiscard]] fs::path binary() const {
        return fs::read_symlink("/proc/" + std::to_string(worker()) + "/exe");
    }
};

TEST_F(TakeOverTest, AnotherBinaryGoesOnWithTheSession) {
    start();
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    const fs::path other = copy_to("other");
    ChildProcess asks(other.string(),
                      {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
    EXPECT_EQ(asks.wait(), kClean) << asks.complained() << daemon_->complained();
    EXPECT_EQ(binary(), other);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    // And from now on it is the one that is started again.
    kill_worker();
    // Between fork() and exec() it has the keeper's name.
    EXPECT_TRUE(eventually([&] { return binary() == other; })) << binary();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(TakeOverTest, AnUpdateInPlaceIsTakenBySignal) {
    program_ = copy_to("daemon").string();
    start();
    Guest guest(connect());
    const pid_t before = worker();
    // As a package manager does it: the file that runs stays as it is, without a name.
    fs::rename(copy_to("new"), program_);
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(eventually([&] {
        const pid_t now = worker();
        return now > 0 && now != before && binary() == program_;
    })) << daemon_->complained();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(TakeOverTest, ABinaryThatDoesNotStartChangesNothing) {
    program_ = copy_to("daemon").string();
    start();
    Guest guest(connect());
    const pid_t before = worker();
    fs::rename(program_, folder_ / "old");
    std::ofstream(program_) << "#!/bin/sh\nexit 3\n";
    fs::permissions(program_, fs::perms::owner_all);
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(daemon_->wait_complained("the new program ended")) << daemon_->complained();
    EXPECT_EQ(worker(), before);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(TakeOverTest, ABinaryThatDoesNotServeIsTakenBack) {
    program_ = copy_to("daemon").string();
    start();
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(daemon_->wait_complained("going back")) << daemon_->complained();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    EXPECT_EQ(binary(), folder_ / "old");
}

// What it says that it has done with, the program before has not.
TEST_F(TakeOverTest, ABinaryThatDoesNotServeTakesNothingAway) {
    program_ = copy_to("forgets").string();
    start();
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(daemon_->wait_complained("going back")) << daemon_->complained();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << "where it listens is gone";
}

// It has nothing to do with how often the program was killed.
TEST_F(TakeOverTest, TheWayBackIsNoRestart) {
    program_ = copy_to("daemon").string();
    start({"--keeper-restarts=0"});
    Guest guest(connect());
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(daemon_->wait_complained("going back")) << daemon_->complained();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

// SIGTERM finds the old program gone, and the new one on its way up.
TEST_F(TakeOverTest, CanBeEndedInTheMidst) {
    program_ = copy_to("daemon").string();
    start();
    Guest guest(connect());
    const pid_t before = worker();
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    ASSERT_TRUE(eventually([&] { return ::kill(before, 0) != 0; }));
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean) << daemon_->complained();
    EXPECT_FALSE(socket_exists());
}

TEST_F(TakeOverTest, AProgramThatEndsByItselfMeanwhileIsTheEnd) {
    program_ = copy_to("quits").string();
    const fs::path other = copy_to("other");
    start();
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    ASSERT_TRUE(daemon_->wait_complained("has taken over")) << daemon_->complained();
    ChildProcess asks(other.string(),
                      {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
    EXPECT_EQ(asks.wait(), kFailed) << asks.complained();
    EXPECT_NE(asks.complained().find("does not take this program"), std::string::npos)
        << asks.complained();
    EXPECT_EQ(daemon_->wait(), (Ended{.status = 5})) << daemon_->complained();
}

// What an operator was answered counts, also where it crosses with the word to leave.
TEST_F(TakeOverTest, AProgramThatDepartsMeanwhileGoesOn) {
    program_ = copy_to("departs").string();
    const fs::path other = copy_to("other");
    start();
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    ASSERT_TRUE(daemon_->wait_complained("has taken over")) << daemon_->complained();
    const pid_t serves = worker();
    ChildProcess asks(other.string(),
                      {.arguments = {"--take-over=" + std::to_string(daemon_->pid())}});
    EXPECT_EQ(asks.wait(), kFailed) << asks.complained();
    // Longer than a program is waited for that is told to leave.
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(worker(), serves) << daemon_->complained();
    EXPECT_EQ(::kill(serves, 0), 0);
}

// A program that a guest has taken over may have given its way to the keeper to others.
TEST_F(TakeOverTest, WhoeverHasTheWayOfADeadProgramKeepsNobodyBusy) {
    program_ = copy_to("floods").string();
    start({"--keeper-restarts=1"});
    put_impostor_in_place();
    daemon_->send_signal(SIGUSR2);
    EXPECT_EQ(daemon_->wait(), kFailed) << daemon_->complained();
    EXPECT_NE(daemon_->complained().find("giving up"), std::string::npos) << daemon_->complained();
}

// --- outriggerctl take-over ----------------------------------------------------------------------

class CtlTakeOverTest : public TakeOverTest {
  protected:
    void SetUp() override {
        TakeOverTest::SetUp();
        const char* const ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
        ASSERT_NE(ctl, nullptr);
        ctl_ = ctl;
        program_ = copy_to("daemon").string();
        control_ = folder_ / "control.sock";
    }

    void start_controlled() { start({kManyRestarts, "--control-socket=" + control_.string()}); }

    [[nodiscard]] std::unique_ptr<ChildProcess> ask(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), "take-over");
        return std::make_unique<ChildProcess>(ctl_, ChildProcess::Options{.arguments = arguments});
    }

    [[nodiscard]] std::string by_socket() const { return "--socket=" + control_.string(); }

    std::string ctl_;
    fs::path control_;
};

TEST_F(CtlTakeOverTest, TakesAnUpdateInPlaceAndSaysHowItGoes) {
    start_controlled();
    Guest guest(connect());
    fs::rename(copy_to("new"), program_);
    for (int round = 0; round < 2; ++round) {
        const pid_t before = worker();
        const auto asks = ask({by_socket()});
        EXPECT_EQ(asks->wait(), kClean) << asks->complained() << daemon_->complained();
        EXPECT_EQ(asks->printed(), "taken\n");
        EXPECT_NE(asks->complained().find("the one before goes"), std::string::npos);
        EXPECT_NE(worker(), before);
        EXPECT_EQ(binary(), program_);
        EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    }
}

TEST_F(CtlTakeOverTest, TakesAProgramThatItIsGiven) {
    start_controlled();
    Guest guest(connect());
    const fs::path other = copy_to("other");
    const auto asks = ask({other.string(), "--keeper=" + std::to_string(daemon_->pid()), "--json"});
    EXPECT_EQ(asks->wait(), kClean) << asks->complained() << daemon_->complained();
    EXPECT_NE(asks->printed().find("\"outcome\": \"taken\""), std::string::npos) << asks->printed();
    EXPECT_EQ(binary(), other);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(CtlTakeOverTest, SaysThatNothingHasChanged) {
    start_controlled();
    Guest guest(connect());
    const pid_t before = worker();
    fs::rename(program_, folder_ / "old");
    std::ofstream(program_) << "#!/bin/sh\nexit 3\n";
    fs::permissions(program_, fs::perms::owner_all);
    const auto asks = ask({by_socket()});
    EXPECT_EQ(asks->wait(), kFailed) << daemon_->complained();
    EXPECT_EQ(asks->printed(), "unchanged\n");
    EXPECT_EQ(worker(), before);
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(CtlTakeOverTest, SaysThatTheProgramBeforeServesAgain) {
    start_controlled();
    Guest guest(connect());
    put_impostor_in_place();
    const auto asks = ask({by_socket(), "--json"});
    EXPECT_EQ(asks->wait(), (Ended{.status = 3})) << asks->complained();
    EXPECT_NE(asks->printed().find("\"outcome\": \"rolled-back\""), std::string::npos)
        << asks->printed();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
}

TEST_F(CtlTakeOverTest, OfADaemonWithoutAKeeperIsNot) {
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{.arguments = {"--keeper=none",
                                            "--socket-path=" + socket_.string(),
                                            "--control-socket=" + control_.string()}});
    ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    const auto asks = ask({by_socket()});
    EXPECT_EQ(asks->wait(), kFailed);
    EXPECT_NE(asks->complained().find("no keeper"), std::string::npos) << asks->complained();
}

TEST_F(TakeOverTest, WhoIsNoKeeperDoesNotAnswer) {
    ChildProcess asks(program_, {.arguments = {"--take-over=2147483000"}});
    EXPECT_EQ(asks.wait(), kFailed);
}

}  // namespace
}  // namespace outrigger::testing
