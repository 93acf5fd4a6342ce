// SPDX-License-Identifier: Apache-2.0
// A daemon whose process is killed, as its front end sees it: with a keeper, not at all.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

using driver::Answer;
using driver::Frontend;

constexpr Ended kClean{.status = 0};
constexpr Ended kFailed{.status = 1};

/// More than any test here kills.
constexpr const char* kManyRestarts = "--keeper-restarts=1000";

class KeeperTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_RNG_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "keeper-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "rng.sock";
    }

    void TearDown() override {
        daemon_.reset();
        std::error_code ignored;  // a process that is about to end removes its socket itself
        fs::remove_all(folder_, ignored);
    }

    void start(std::vector<std::string> more = {kManyRestarts}) {
        more.push_back("--keeper=fork");
        more.push_back("--socket-path=" + socket_.string());
        daemon_ =
            std::make_unique<ChildProcess>(program_, ChildProcess::Options{.arguments = more});
        ASSERT_TRUE(daemon_->wait_complained("listening")) << daemon_->complained();
    }

    /// The process that serves: the keeper's one child. -1 while there is none.
    [[nodiscard]] pid_t worker() const {
        const std::string keeper = std::to_string(daemon_->pid());
        std::ifstream file("/proc/" + keeper + "/task/" + keeper + "/children");
        pid_t pid = -1;
        file >> pid;
        return file ? pid : -1;
    }

    /// Kills the process that serves; the next one is there when this returns.
    void kill_worker() const {
        const pid_t before = worker();
        ASSERT_GT(before, 0) << daemon_->complained();
        ASSERT_EQ(::kill(before, SIGKILL), 0);
        ASSERT_TRUE(eventually([&] {
            const pid_t now = worker();
            return now > 0 && now != before;
        })) << daemon_->complained();
    }

    [[nodiscard]] Frontend connect() const {
        return Frontend::connect(socket_, driver::after(kPatience)).value();
    }

    [[nodiscard]] bool socket_exists() const { return fs::exists(fs::symlink_status(socket_)); }

    std::string program_;
    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
};

/// A guest of the entropy device.
struct Guest {
    explicit Guest(Frontend connected) : frontend(std::move(connected)) {
        auto up = driver::bring_up(frontend, memory, {});
        EXPECT_TRUE(up.has_value()) << up.error().step;
        running = *std::move(up);
        buffer = {
            .address = memory.allocate(4096, 16).value(), .length = 4096, .device_writable = true};
    }

    /// Used length of one request.
    std::optional<uint32_t> draw() {
        const auto completion =
            running.queues[0].transact(std::span(&buffer, 1), driver::after(kPatience));
        EXPECT_TRUE(completion) << describe(running.queues[0].fault());
        return completion ? std::optional(completion->length) : std::nullopt;
    }

    Frontend frontend;
    driver::GuestMemory memory = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running;
    driver::Segment buffer;
};

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
    std::thread killer([&] {
        for (int i = 0; i < kKills; ++i) {
            // Also one that is on its way up.
            std::this_thread::sleep_for(std::chrono::milliseconds(3 + i * 7 % 40));
            if (const pid_t pid = worker(); pid > 0) {
                ::kill(pid, SIGKILL);
            }
        }
        killing = false;
    });
    bool there = false;
    int rounds = 0;
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
            break;
        }
    }
    killer.join();
    EXPECT_FALSE(frontend.has_input()) << "an answer too many";
    EXPECT_GT(rounds, kKills);
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
    start({"--keeper-restarts=2"});
    Frontend frontend = connect();
    ASSERT_TRUE(frontend.get_features());
    kill_worker();
    ASSERT_TRUE(frontend.get_features());
    kill_worker();
    ASSERT_TRUE(frontend.get_features());
    ASSERT_EQ(::kill(worker(), SIGKILL), 0);
    EXPECT_TRUE(frontend.wait_closed());
    EXPECT_EQ(daemon_->wait(), kFailed);
    EXPECT_FALSE(socket_exists());
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
    fs::rename(program_, folder_ / "old");
    const char* const impostor = std::getenv("OUTRIGGER_IMPOSTOR_PROGRAM");
    ASSERT_NE(impostor, nullptr);
    fs::copy_file(impostor, program_);
    daemon_->send_signal(SIGUSR2);
    EXPECT_TRUE(daemon_->wait_complained("going back")) << daemon_->complained();
    EXPECT_GT(guest.draw().value_or(0), 0U) << daemon_->complained();
    EXPECT_EQ(binary(), folder_ / "old");
}

TEST_F(TakeOverTest, WhoIsNoKeeperDoesNotAnswer) {
    ChildProcess asks(program_, {.arguments = {"--take-over=2147483000"}});
    EXPECT_EQ(asks.wait(), kFailed);
}

// --- The service manager
// ---------------------------------------------------------------------------

/// What systemd does for a service with FileDescriptorStoreMax=, as far as sd_notify(3) tells.
class ServiceManager final {
  public:
    explicit ServiceManager(const fs::path& path)
        : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
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
        }
    }

    bool ready = false;
    std::vector<std::string> names;
    std::vector<UniqueFd> fds;

  private:
    UniqueFd socket_;
};

class SystemdTest : public KeeperTest {
  protected:
    /// As a service whose store has what `manager` has.
    void start_service(ServiceManager& manager) {
        manager.ready = false;
        std::string names;
        ChildProcess::Options options;
        int number = 3;
        for (size_t i = 0; i < manager.fds.size(); ++i) {
            names += (names.empty() ? "" : ":") + manager.names[i];
            options.descriptors.emplace_back(manager.fds[i].get(), number++);
        }
        std::string command = "NOTIFY_SOCKET=" + notify_.string();
        if (!names.empty()) {
            command += " LISTEN_PID=$$ LISTEN_FDS=" + std::to_string(manager.fds.size()) +
                       " LISTEN_FDNAMES=" + names;
        }
        command += " exec " + program_ + " --keeper=systemd --socket-path=" + socket_.string();
        options.arguments = {"-c", command};
        daemon_ = std::make_unique<ChildProcess>("/bin/sh", options);
        ASSERT_TRUE(eventually([&] {
            manager.read();
            return manager.ready;
        })) << daemon_->complained();
    }

    fs::path notify_;
};

TEST_F(SystemdTest, TheStoreOfAServiceIsEnoughToGoOn) {
    notify_ = folder_ / "notify";
    ServiceManager manager(notify_);
    start_service(manager);
    Guest guest(connect());
    EXPECT_GT(guest.draw().value_or(0), 0U);
    // The same open file twice, which systemd would not store again.
    EXPECT_EQ(guest.frontend.set_vring_call(0, guest.running.queues[0].call_fd()),
              Answer::kAccepted);
    for (int round = 0; round < 3; ++round) {
        daemon_->send_signal(SIGKILL);
        ASSERT_TRUE(daemon_->wait());
        manager.read();
        // Numbers that the shell's own descriptors do not have.
        start_service(manager);
        EXPECT_GT(guest.draw().value_or(0), 0U) << "round " << round << daemon_->complained();
    }
    guest.frontend.close();
    EXPECT_TRUE(connect().get_features()) << daemon_->complained();
    daemon_->send_signal(SIGTERM);
    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_FALSE(socket_exists());
}

TEST_F(SystemdTest, WithoutAServiceManagerThereIsNone) {
    daemon_ = std::make_unique<ChildProcess>(
        program_,
        ChildProcess::Options{
            .arguments = {"--keeper=systemd", "--socket-path=" + socket_.string()}});
    EXPECT_EQ(daemon_->wait(), kFailed);
    EXPECT_NE(daemon_->complained().find("NOTIFY_SOCKET"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::testing
