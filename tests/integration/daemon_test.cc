// SPDX-License-Identifier: Apache-2.0
// The daemon shell as its users meet it: outrigger-rng as a process, from its command line to its
// exit status.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/unique_fd.h"
#include "vhost-user-backend/wire/fd_passing.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;

using driver::Frontend;

constexpr Ended kClean{.status = 0};
constexpr Ended kFailed{.status = 1};
constexpr Ended kUsage{.status = 2};

size_t lines_of(const std::string& text) {
    return static_cast<size_t>(std::ranges::count(text, '\n'));
}

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

/// SET_BACKEND_REQ_FD with `fd`, after whatever it needs. Whether it is taken is not asked.
void give_as_channel(Frontend& frontend, int fd) {
    const unsigned channel_bit = wire::bit(wire::ProtocolFeature::kBackendReq);
    ASSERT_TRUE(driver::negotiate(frontend, {.protocol_features = FeatureSet::of({channel_bit})}));
    ASSERT_TRUE(frontend.protocol_features().has(channel_bit));
    frontend.set_ack_policy(driver::AckPolicy::kNever);
    EXPECT_TRUE(driver::went_well(frontend.set_backend_req_fd(fd)));
}

/// ... and then it is gone.
void give_own_socket_as_channel(Frontend frontend) {
    give_as_channel(frontend, frontend.socket());
}

/// A guest that uses the device behind `frontend`.
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
        return completion ? std::optional(completion->length) : std::nullopt;
    }

    Frontend frontend;
    driver::GuestMemory memory = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running;
    driver::Segment buffer;
};

class DaemonTest : public ::testing::Test {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_RNG_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "daemon-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
        socket_ = folder_ / "rng.sock";
    }

    void TearDown() override {
        daemon_.reset();
        fs::remove_all(folder_);
    }

    void start(std::vector<std::string> arguments,
               std::vector<std::pair<int, int>> descriptors = {}) {
        if (std::ranges::none_of(arguments, [](auto& each) { return contains(each, "sandbox"); })) {
            arguments.emplace_back("--sandbox=log");
        }
        daemon_ = std::make_unique<ChildProcess>(
            program_,
            ChildProcess::Options{.arguments = std::move(arguments),
                                  .descriptors = std::move(descriptors)});
    }

    void start_listening(std::vector<std::string> more = {}) {
        more.push_back("--socket-path=" + socket_.string());
        start(std::move(more));
        ASSERT_TRUE(daemon_->wait_complained("listening"));
    }

    /// Runs the program to its end.
    Ended run(std::vector<std::string> arguments,
              std::vector<std::pair<int, int>> descriptors = {}) {
        start(std::move(arguments), std::move(descriptors));
        return daemon_->wait().value_or(Ended{});
    }

    [[nodiscard]] Frontend connect() const { return connect_to(socket_); }

    [[nodiscard]] static Frontend connect_to(const fs::path& path) {
        return Frontend::connect(path, driver::after(kPatience)).value();
    }

    [[nodiscard]] bool socket_exists() const { return fs::exists(fs::symlink_status(socket_)); }

    void expect_clean_end() {
        EXPECT_EQ(daemon_->wait(), kClean) << daemon_->complained();
        EXPECT_FALSE(socket_exists());
    }

    std::string program_;
    fs::path folder_;
    fs::path socket_;
    std::unique_ptr<ChildProcess> daemon_;
};

/// A socket file at `path`, listening or only bound.
UniqueFd make_socket(const fs::path& path, bool listening) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    // SAFETY: bind() takes every address type through this pointer type.
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    if (listening) {
        EXPECT_EQ(::listen(fd.get(), 1), 0);
    }
    return fd;
}

// --- Command line ------------------------------------------------------------------------------

TEST_F(DaemonTest, CapabilitiesAreJsonWhateverElseIsSaid) {
    EXPECT_EQ(run({"--bogus", "--print-capabilities", "--fd=x"}), kClean);

    EXPECT_EQ(daemon_->printed(), "{\"type\": \"rng\", \"features\": []}\n");
    EXPECT_EQ(daemon_->complained(), "");
}

TEST_F(DaemonTest, HelpGoesToStdout) {
    EXPECT_EQ(run({"--help"}), kClean);

    EXPECT_TRUE(contains(daemon_->printed(), "--socket-path=PATH"));
    EXPECT_EQ(daemon_->complained(), "");
}

TEST_F(DaemonTest, UsageErrorIsOneLineThatHelps) {
    EXPECT_EQ(run({"--socket-path=" + socket_.string(), "--bogus"}), kUsage);

    EXPECT_EQ(daemon_->complained(), "outrigger-rng: there is no option --bogus (see --help)\n");
    EXPECT_EQ(daemon_->printed(), "");
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, MissingSocketIsAUsageError) {
    EXPECT_EQ(run({}), kUsage);

    EXPECT_EQ(daemon_->complained(),
              "outrigger-rng: --socket-path is required: say where the front end connects (see "
              "--help)\n");
}

TEST_F(DaemonTest, CheckFindsNothingWrongAndOpensNothing) {
    const std::string config = socket_.string() + ".conf";
    std::ofstream(config) << "[a]\nsocket-path = " << socket_.string() << "\n";
    EXPECT_EQ(run({"--check", "--config=" + config, "--source=/nowhere"}), (Ended{.status = 0}));

    EXPECT_EQ(daemon_->complained() + daemon_->printed(), "");
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, CheckNamesTheLineOfWhatIsWrong) {
    const std::string config = socket_.string() + ".conf";
    std::ofstream(config) << "# a device\n[a]\nsocket-path = /s\nqueue-treads = 2\n";
    EXPECT_EQ(run({"--check", "--config=" + config}), kUsage);

    EXPECT_EQ(daemon_->complained(),
              "outrigger-rng: --config=" + config +
                  ": line 4: a device has no option queue-treads (see --help)\n");
}

TEST_F(DaemonTest, WrongSandboxModeIsAUsageErrorThatNamesTheModes) {
    EXPECT_EQ(run({"--socket-path=" + socket_.string(), "--sandbox=off"}), kUsage);

    EXPECT_EQ(daemon_->complained(),
              "outrigger-rng: --sandbox takes one of standard, strict, log, none, on, not 'off' "
              "(see --help)\n");
    EXPECT_EQ(daemon_->printed(), "");
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, ZeroQuotaIsAUsageError) {
    EXPECT_EQ(run({"--socket-path=" + socket_.string(), "--max-bytes=0"}), kUsage);
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, MissingSourceIsARunTimeErrorThatLeavesNothing) {
    EXPECT_EQ(run({"--socket-path=" + socket_.string(), "--source=/none/such"}), kFailed);

    EXPECT_EQ(lines_of(daemon_->complained()), 1U) << daemon_->complained();
    EXPECT_TRUE(contains(daemon_->complained(), "/none/such"));
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, LaterDeviceThatFailsTakesTheFirstSocketAlong) {
    EXPECT_EQ(run({"--device=socket-path=" + socket_.string(), "--device=socket-path=/none/s"}),
              kFailed);

    EXPECT_EQ(lines_of(daemon_->complained()), 1U) << daemon_->complained();
    EXPECT_FALSE(socket_exists());
}

TEST_F(DaemonTest, ProcessorThatDoesNotExistIsARunTimeError) {
    EXPECT_EQ(run({"--socket-path=" + socket_.string(), "--cpus=1023"}), kFailed);

    EXPECT_TRUE(contains(daemon_->complained(), "1023"));
    EXPECT_FALSE(socket_exists());
}

// --- Sockets -----------------------------------------------------------------------------------

TEST_F(DaemonTest, ServesAGuest) {
    start_listening();

    Guest guest(connect());

    EXPECT_EQ(guest.draw(), 4096U);
}

TEST_F(DaemonTest, ServesAGuestOnTheAsioLoop) {
    start_listening({"--io=asio"});

    Guest guest(connect());

    EXPECT_EQ(guest.draw(), 4096U);
}

TEST_F(DaemonTest, ServesAGuestWhilePolling) {
    start_listening({"--poll-us=100"});

    Guest guest(connect());

    EXPECT_EQ(guest.draw(), 4096U);
    EXPECT_EQ(guest.draw(), 4096U);
}

TEST_F(DaemonTest, StaleSocketIsReplaced) {
    { const UniqueFd gone = make_socket(socket_, true); }
    ASSERT_TRUE(socket_exists());

    start_listening();

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
}

TEST_F(DaemonTest, SocketOfAKilledDaemonIsReplaced) {
    start_listening();
    daemon_->send_signal(SIGKILL);
    ASSERT_EQ(daemon_->wait(), (Ended{.status = -1, .signal = SIGKILL}));
    ASSERT_TRUE(socket_exists());

    start_listening();

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
}

TEST_F(DaemonTest, LiveSocketIsLeftAloneAndUndisturbed) {
    start_listening({"--exit-on-disconnect"});
    ChildProcess second(program_, {.arguments = {"--socket-path=" + socket_.string()}});

    EXPECT_EQ(second.wait(), kFailed);

    EXPECT_TRUE(contains(second.complained(), "belongs to another running program"));
    EXPECT_EQ(lines_of(second.complained()), 1U);
    EXPECT_FALSE(contains(daemon_->complained(), "connected"));
    EXPECT_EQ(Guest(connect()).draw(), 4096U);
}

TEST_F(DaemonTest, OtherFileIsLeftAlone) {
    std::ofstream(socket_) << "precious";

    EXPECT_EQ(run({"--socket-path=" + socket_.string()}), kFailed);

    EXPECT_TRUE(contains(daemon_->complained(), "is not a socket"));
    EXPECT_EQ(fs::file_size(socket_), 8U);
}

TEST_F(DaemonTest, InheritedListenerServesOneGuestAfterTheOther) {
    const UniqueFd listener = make_socket(socket_, true);
    start({"--fd=7"}, {{listener.get(), 7}});

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    daemon_->send_signal(SIGTERM);

    EXPECT_EQ(daemon_->wait(), kClean);
    EXPECT_TRUE(socket_exists()) << "its maker removes it";
}

TEST_F(DaemonTest, InheritedConnectionIsServedAndItsEndIsTheEnd) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    UniqueFd theirs(ends[1]);
    std::optional<Guest> guest;
    start({"--fd=9"}, {{theirs.get(), 9}});
    theirs.reset();
    guest.emplace(Frontend(UniqueFd(ends[0])));

    EXPECT_EQ(guest->draw(), 4096U);
    guest.reset();

    EXPECT_EQ(daemon_->wait(), kClean);
}

TEST_F(DaemonTest, ClosedDescriptorIsARunTimeError) {
    EXPECT_EQ(run({"--fd=77"}), kFailed);
    EXPECT_TRUE(contains(daemon_->complained(), "--fd=77 is not open"));
}

TEST_F(DaemonTest, TwoDevicesServeTwoGuests) {
    const fs::path other = folder_ / "other.sock";
    start({"--device=socket-path=" + socket_.string(),
           "--device=max-bytes=1M,socket-path=" + other.string()});

    Guest first(connect());
    Guest second(connect_to(other));

    EXPECT_EQ(first.draw(), 4096U);
    EXPECT_EQ(second.draw(), 4096U);
    daemon_->send_signal(SIGTERM);
    expect_clean_end();
    EXPECT_FALSE(fs::exists(other));
}

// --- Sessions ----------------------------------------------------------------------------------

TEST_F(DaemonTest, ListensAgainAfterADisconnect) {
    start_listening();

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    EXPECT_TRUE(contains(daemon_->complained(), "disconnected: "));
}

TEST_F(DaemonTest, SecondFrontEndWaitsForTheFirst) {
    start_listening();
    std::optional<Guest> first(connect());
    Frontend waiting = connect();
    EXPECT_EQ(first->draw(), 4096U);

    first.reset();

    EXPECT_EQ(Guest(std::move(waiting)).draw(), 4096U);
}

// Who holds the other end of a connection never sees it end: a front end that dies after it gave
// its own socket away as the back-end channel would keep the device for ever.
TEST_F(DaemonTest, FrontEndThatGivesItsOwnSocketAsChannelIsMissed) {
    start_listening();

    give_own_socket_as_channel(connect());

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
}

TEST_F(DaemonTest, FrontEndOfAnInheritedPairThatGivesItsOwnSocketAsChannelIsMissed) {
    if (kPortableBuild) {
        GTEST_SKIP() << "the ends of a pair have no names there";
    }
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    UniqueFd theirs(ends[1]);
    Frontend frontend{UniqueFd(ends[0])};
    start({"--fd=9"}, {{theirs.get(), 9}});
    theirs.reset();

    give_own_socket_as_channel(std::move(frontend));

    EXPECT_EQ(daemon_->wait(), kClean);
}

// Each session would hold the other one's end.
TEST_F(DaemonTest, FrontEndsThatGiveEachOthersSocketsAsChannelsAreMissed) {
    const fs::path other = folder_ / "other.sock";
    start({"--device=socket-path=" + socket_.string(), "--device=socket-path=" + other.string()});
    {
        Frontend first = connect();
        Frontend second = connect_to(other);
        give_as_channel(first, second.socket());
        give_as_channel(second, first.socket());
    }

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    EXPECT_EQ(Guest(connect_to(other)).draw(), 4096U);
}

TEST_F(DaemonTest, FrontEndsThatGiveTheirSocketsToAnotherDaemonAreMissed) {
    const fs::path other = folder_ / "other.sock";
    ChildProcess neighbour(program_, {.arguments = {"--socket-path=" + other.string()}});
    start_listening();
    {
        Frontend first = connect();
        Frontend second = connect_to(other);
        give_as_channel(first, second.socket());
        give_as_channel(second, first.socket());
    }

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
    EXPECT_EQ(Guest(connect_to(other)).draw(), 4096U);
    neighbour.send_signal(SIGTERM);
    EXPECT_EQ(neighbour.wait(), kClean);
}

// In what a connection in the backlog was sent, nobody looks before the session is over.
TEST_F(DaemonTest, FrontEndThatSendsItsOwnSocketIntoTheBacklogIsMissed) {
    start_listening({"--message-timeout-ms=100"});
    {
        const Frontend frontend = connect();
        const Frontend waiting = connect();
        const std::array<std::byte, 1> byte{};
        const int own = frontend.socket();
        ASSERT_EQ(wire::send_some(waiting.socket(), byte, {}, {&own, 1}).status,
                  wire::SendStatus::kSent);
    }

    EXPECT_EQ(Guest(connect()).draw(), 4096U);
}

TEST_F(DaemonTest, FrontEndThatWaitsTooLongIsRefused) {
    start_listening({"--message-timeout-ms=100"});
    const Guest first(connect());
    Frontend waiting = connect();

    EXPECT_TRUE(waiting.wait_closed());

    EXPECT_TRUE(contains(daemon_->complained(), "refused another: the device is in use"));
}

TEST_F(DaemonTest, ExitOnDisconnectEndsCleanly) {
    start_listening({"--exit-on-disconnect"});

    EXPECT_EQ(Guest(connect()).draw(), 4096U);

    expect_clean_end();
}

TEST_F(DaemonTest, ExitOnDisconnectWaitsForEveryDevice) {
    const fs::path other = folder_ / "other.sock";
    start({"--exit-on-disconnect",
           "--device=socket-path=" + socket_.string(),
           "--device=socket-path=" + other.string()});
    { const Guest first(connect()); }
    ASSERT_TRUE(daemon_->wait_complained("disconnected"));

    EXPECT_EQ(Guest(connect_to(other)).draw(), 4096U);

    expect_clean_end();
}

TEST_F(DaemonTest, RunningOutOfDescriptorsOnlyDelaysAFrontEnd) {
    start_listening();
    rlimit before{};
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
    const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_NOFILE, &none, nullptr), 0);

    Frontend frontend = connect();
    ASSERT_TRUE(daemon_->wait_complained("cannot accept a front end"));
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_NOFILE, &before, nullptr), 0);

    EXPECT_EQ(Guest(std::move(frontend)).draw(), 4096U);
}

// --- Signals -----------------------------------------------------------------------------------

TEST_F(DaemonTest, SigtermEndsAnIdleDaemon) {
    start_listening();

    daemon_->send_signal(SIGTERM);

    expect_clean_end();
}

TEST_F(DaemonTest, SigintEndsAnIdleDaemon) {
    start_listening();

    daemon_->send_signal(SIGINT);

    expect_clean_end();
}

TEST_F(DaemonTest, SigtermEndsADaemonUnderLoad) {
    start_listening();
    Guest guest(connect());
    driver::DriverQueue& queue = guest.running.queues[0];
    for (uint64_t token = 0; queue.try_add(std::span(&guest.buffer, 1), token); ++token) {
    }
    (void)queue.publish_and_kick();

    daemon_->send_signal(SIGTERM);

    EXPECT_TRUE(guest.frontend.wait_closed());
    expect_clean_end();
    EXPECT_FALSE(contains(daemon_->complained(), "did not stop")) << daemon_->complained();
}

TEST_F(DaemonTest, SigtermEndsADaemonWhoseGuestWaitsForItsQuota) {
    start_listening({"--max-bytes=64", "--period=3600000"});
    Guest guest(connect());
    EXPECT_EQ(guest.draw(), 64U);
    driver::DriverQueue& queue = guest.running.queues[0];
    ASSERT_TRUE(queue.try_add(std::span(&guest.buffer, 1), 1));
    (void)queue.publish_and_kick();

    daemon_->send_signal(SIGTERM);

    expect_clean_end();
    EXPECT_FALSE(contains(daemon_->complained(), "did not stop")) << daemon_->complained();
}

TEST_F(DaemonTest, SigtermEndsADaemonInTheMiddleOfAMessage) {
    start_listening();
    Frontend frontend = connect();
    const std::array<std::byte, 5> beginning{};
    (void)frontend.send_bytes(beginning);
    ASSERT_TRUE(daemon_->wait_complained("connected"));

    daemon_->send_signal(SIGTERM);

    expect_clean_end();
}

TEST_F(DaemonTest, SecondSigtermChangesNothing) {
    start_listening();

    daemon_->send_signal(SIGTERM);
    daemon_->send_signal(SIGTERM);

    expect_clean_end();
}

}  // namespace
}  // namespace outrigger::testing
